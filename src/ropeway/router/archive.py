"""The router as one file, to be put on the head host and run by the engine image's Python.

`python3 router.pyz CONFIG.json`: a zip with this package under its own name, so that what runs
there is byte for byte what is tested here.
"""

import io
import zipfile
from importlib import resources

PACKAGE = "ropeway.router"
# What Ropeway needs and the router does not.
_STAYS = {"archive.py"}
_MAIN = b"import sys\n\nfrom ropeway.router.__main__ import main\n\nsys.exit(main())\n"
# The earliest time a zip can tell, and nothing compressed (zlib's bytes differ by version): the
# same source makes the same bytes on any machine.
_WHEN = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """The zip; the same bytes for the same source."""
    found = {"__main__.py": _MAIN, "ropeway/__init__.py": b""}
    for file in resources.files(PACKAGE).iterdir():
        if file.name.endswith(".py") and file.name not in _STAYS:
            found[f"ropeway/router/{file.name}"] = file.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name in sorted(found):
            entry = zipfile.ZipInfo(name, date_time=_WHEN)
            entry.external_attr = 0o644 << 16
            entry.create_system = 3  # Unix, else it is the system that we run on
            zipped.writestr(entry, found[name])
    return buffer.getvalue()
