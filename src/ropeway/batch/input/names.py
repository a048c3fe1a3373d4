"""Which names occur twice, among any number of them.

A name is kept as a hash of 8 bytes, in one of 1,024 runs by its last bits; when a million are in
memory they go to a file without a name in the job's folder. At the end each run is looked at by
itself. Ten million names take 80 MB of disk and about 10 MB of memory.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

_RUNS = 1024
_IN_MEMORY = 2**20


class Names:
    """Hashes of names; `hashed` is Python's own, with a key that nobody foresees."""

    def __init__(
        self, folder: Path, hashed: Callable[[str], int] = hash, in_memory: int = _IN_MEMORY
    ) -> None:
        self.hashed = hashed
        self._folder = folder
        self._in_memory = in_memory
        self._runs = [array("q") for _ in range(_RUNS)]
        self._count = 0
        self._file: BinaryIO | None = None
        self._pieces: list[list[tuple[int, int]]] = [[] for _ in range(_RUNS)]

    def __enter__(self) -> "Names":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, name: str) -> None:
        """Keep a name. Raises OSError when the disk is full."""
        number = self.hashed(name)
        self._runs[number & (_RUNS - 1)].append(number)
        self._count += 1
        if self._count >= self._in_memory:
            self._spill()

    def repeated(self) -> set[int]:
        """Return the hashes that were added more than once; two names may have the same."""
        found: set[int] = set()
        for run, pieces in zip(self._runs, self._pieces, strict=True):
            for place, size in pieces:
                file = cast(BinaryIO, self._file)
                file.seek(place)
                run.frombytes(file.read(size))
            if len(set(run)) < len(run):
                found.update(number for number, times in Counter(run).items() if times > 1)
            del run[:]
        return found

    def _spill(self) -> None:
        if self._file is None:
            self._file = cast(BinaryIO, TemporaryFile(dir=self._folder))  # noqa: SIM115 (see __exit__)
        for run, pieces in zip(self._runs, self._pieces, strict=True):
            data = run.tobytes()
            pieces.append((self._file.tell(), len(data)))
            self._file.write(data)
            del run[:]
        self._count = 0
