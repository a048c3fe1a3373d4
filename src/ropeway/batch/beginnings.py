"""Which prompts begin alike: found in one pass over all of them, in memory that does not grow.

A prompt is cut at lengths that grow by half. At each cut the hash of all before it is noted, and at
the first that nobody had yet the noting ends, so that prompts with nothing in common take a single
note each. Afterwards a prompt belongs with those that share its longest cut which two have had, be
it a system prompt of a few hundred bytes or a document. Hashes that collide cost a cache hit, no
more.
"""

from zlib import crc32

_CUTS = (256, 384, 576, 864, 1296, 1944, 2916, 4374, 6561, 9841, 14762)
_CELLS = 2**22
_NEW, _SEEN, _SHARED = 0, 1, 2
_GROUP = 256
"""Rows from which a group is another one. What so many share is soon in every replica's cache, and
a group belongs to one replica: the rows of one system prompt must not all wait for the same."""
_MOST_GROUPS = 65536  # whose rows are counted at a time


class Beginnings:
    """What is known of how prompts begin.

    groups   different beginnings, of the shortest cut, which several have
    grouped  prompts that begin so
    """

    def __init__(self, cells: bytes = b"") -> None:
        self.cells = bytearray(cells or _CELLS)
        self.groups = self.grouped = 0
        self._mask = len(self.cells) - 1
        self._rows: dict[int, int] = {}

    def note(self, text: bytes) -> None:
        """Note how a prompt begins."""
        hashed = start = 0
        size = len(text)
        cells = self.cells
        for cut in _CUTS:
            if size < cut:
                return
            hashed = crc32(text[start:cut], hashed)
            cell = hashed & self._mask
            state = cells[cell]
            if not start and state:
                self.groups += state == _SEEN
                self.grouped += 3 - state  # the first one is counted with the second
            if state == _NEW:
                cells[cell] = _SEEN
                return
            cells[cell] = _SHARED
            start = cut

    def key(self, text: bytes) -> int:
        """Return what the prompts that belong together have in common, and others have not."""
        key = hashed = start = 0
        size = len(text)
        for cut in _CUTS:
            if size < cut:
                break
            hashed = crc32(text[start:cut], hashed)
            if self.cells[hashed & self._mask] != _SHARED:
                break
            key = cut << 32 | hashed
            start = cut
        if not key:
            return crc32(text[: _CUTS[0]])
        if len(self._rows) >= _MOST_GROUPS:
            self._rows.clear()
        number = self._rows[key] = self._rows.get(key, -1) + 1
        return number // _GROUP << 48 | key
