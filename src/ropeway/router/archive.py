"""The router as one file, copied to the head host and run by the engine image's Python.

`python3 router.pyz CONFIG.json`: a zip with this package under its own name, so that what runs
there is byte for byte what is tested here.
"""

import io
import zipfile
from collections.abc import Mapping
from importlib import resources

PACKAGE = "ropeway.router"
# What the router itself does not need.
_EXCLUDED = {"archive.py"}
_MAIN = b"import sys\n\nfrom ropeway.router.__main__ import main\n\nsys.exit(main())\n"
# The earliest time that a zip can hold, and no compression (zlib's bytes differ by version): the
# same source makes the same bytes on any machine.
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """Return the zip: the same bytes for the same source."""
    files = {"__main__.py": _MAIN, "ropeway/__init__.py": b""}
    for file in resources.files(PACKAGE).iterdir():
        if file.name.endswith(".py") and file.name not in _EXCLUDED:
            files[f"ropeway/router/{file.name}"] = file.read_bytes()
    return packed(files)


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files, by the paths that they have in it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=_TIMESTAMP)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, whatever system made it
            zipped.writestr(entry, files[name])
    return buffer.getvalue()
