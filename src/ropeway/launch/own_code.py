"""Our own code as one file, for Python in an engine's image: what is in the wheel, not installed.

What it imports of others is there already: vLLM needs click, rich (by way of typer), pydantic,
PyYAML, aiohttp, Jinja2, msgspec and jsonschema (by way of mistral_common) itself.
"""

from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable

from ropeway.router.archive import packed

_ENDINGS = (".py", ".json", ".toml", ".yaml", ".j2")


def own_code() -> bytes:
    """Return a zip with the package, to be unpacked into a folder of `PYTHONPATH`."""
    return packed(dict(_files(resources.files("ropeway"), "ropeway")))


def _files(folder: Traversable, path: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        inner = f"{path}/{entry.name}"
        if entry.is_dir():
            yield from _files(entry, inner)
        elif entry.name.endswith(_ENDINGS):
            yield inner, entry.read_bytes()
