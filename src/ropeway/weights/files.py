"""A model's files as what is sent at once: pieces. And what a host says that it has of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

# A run of rsync costs a login, some tenths of a second. Shards are gigabytes; what is smaller than
# this goes together with others, as long as the names do not make the command line too long
# (Linux takes 128 KiB for one argument, and quoting can make four bytes of one).
_SMALL = 16 * 2**20
_BUNDLE = 64 * 2**20
_NAMES = 16 * 2**10
_LAST = ("config.json",)  # an engine takes a folder without it for no model


@dataclass(frozen=True)
class File:
    """`name` is relative to the model's folder, with `/` between folders; size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Piece:
    """Files that are sent in one go: a large one, or several small ones."""

    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def label(self) -> str:
        """How people call it."""
        first = self.files[0].name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


def pieces(files: Iterable[File]) -> tuple[Piece, ...]:
    """All files, each in one piece; the largest first."""
    ordered = sorted(files, key=lambda file: (-file.size, file.name))
    large = [Piece((file,)) for file in ordered if file.size > _SMALL]
    return (*large, *_bundles(file for file in ordered if file.size <= _SMALL))


def _bundles(files: Iterable[File]) -> Iterator[Piece]:
    held: list[File] = []
    for file in files:
        size = sum(one.size for one in held) + file.size
        names = sum(len(one.name.encode()) + 1 for one in held) + len(file.name.encode())
        if held and (size > _BUNDLE or names > _NAMES):
            yield Piece(tuple(held))
            held = []
        held.append(file)
    if held:
        yield Piece(tuple(held))


def in_final_order(names: Iterable[str]) -> tuple[str, ...]:
    """In which order verified files take their place: what makes a folder a model comes last."""
    return tuple(sorted(names, key=lambda name: (name in _LAST, name)))


def weights(names: Iterable[str]) -> tuple[str, ...]:
    """Of those, the ones that an engine would load as weights."""
    return tuple(sorted(name for name in names if name.endswith((".safetensors", ".bin", ".gguf"))))
