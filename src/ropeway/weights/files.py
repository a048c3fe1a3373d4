"""A model's files, grouped into the pieces that are sent. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A run of rsync costs a login, some tenths of a second. Shards are gigabytes; smaller files are
# bundled, as long as their names do not make the command line too long (Linux takes 128 KiB for one
# argument, and quoting can turn one byte into four).
_SMALL = 16 * 2**20
_BUNDLE = 64 * 2**20
_NAMES = 16 * 2**10
_LAST = ("config.json",)  # without it no engine takes a folder for a model


@dataclass(frozen=True)
class File:
    """A file; `name` is relative to the model's folder, with `/` between folders; size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Piece:
    """Files that are sent together: a large one alone, or several small ones."""

    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def label(self) -> str:
        """Return what to call the piece in messages."""
        first = self.files[0].name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


def split(files: Iterable[File]) -> tuple[Piece, ...]:
    """Put each file into one piece; the largest pieces come first."""
    ordered = sorted(files, key=lambda file: (-file.size, file.name))
    large = [Piece((file,)) for file in ordered if file.size > _SMALL]
    return (*large, *_bundles(file for file in ordered if file.size <= _SMALL))


def _bundles(files: Iterable[File]) -> Iterator[Piece]:
    bundle: list[File] = []
    for file in files:
        size = sum(other.size for other in bundle) + file.size
        names = sum(len(other.name.encode()) + 1 for other in (*bundle, file))
        if bundle and (size > _BUNDLE or names > _NAMES):
            yield Piece(tuple(bundle))
            bundle = []
        bundle.append(file)
    if bundle:
        yield Piece(tuple(bundle))


def in_publishing_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort verified files into the order in which they are moved into place, config.json last."""
    return tuple(sorted(names, key=lambda name: (name in _LAST, name)))
