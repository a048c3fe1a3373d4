"""Which prompts begin alike: found in one pass over all of them, in memory that does not grow.

A prompt is cut at lengths that grow by half. At each cut the hash of all before it is noted, and at
the first that nobody had yet the noting ends, so that prompts with nothing in common take a single
note each. Afterwards a prompt belongs with those that share its longest cut which two have had, be
it a system prompt of a few hundred bytes or a document.

Hashes are noted in a table of fixed size, where a new one replaces an old one that nobody shares.
What is lost in it, or taken for another, costs a hit of a cache and nothing else.
"""

from array import array
from zlib import crc32

_CUTS = (256, 384, 576, 864, 1296, 1944, 2916, 4374, 6561, 9841, 14762)
_CELL_BITS = 22  # of a hash, which say where it is noted; the other ten are what is noted there
_CELLS = 1 << _CELL_BITS
_SHARED = 1  # the last bit of a note; the one before it is set in each
_GROUP = 256
"""Rows from which a group is another one. What so many share is soon in every replica's cache, and
a group belongs to one replica: the rows of one system prompt must not all wait for the same."""
_MOST_GROUPS = 65536  # whose rows are counted at a time


class Beginnings:
    """What is known of how prompts begin.

    groups   different beginnings, of the shortest cut, which several have
    grouped  prompts that begin so

    Raises ValueError for what `kept` has not returned.
    """

    def __init__(self, kept: bytes = b"") -> None:
        self.groups = self.grouped = 0
        self._notes = array("H", kept or bytes(2 * _CELLS))
        if len(self._notes) != _CELLS:
            raise ValueError("not what `kept` has returned")
        self._rows: dict[int, int] = {}

    def kept(self) -> bytes:
        """Return all that `key` needs, to begin with another time."""
        return self._notes.tobytes()

    def note(self, text: bytes) -> None:
        """Note how a prompt begins."""
        hashed = start = 0
        size = len(text)
        notes = self._notes
        for cut in _CUTS:
            if size < cut:
                return
            hashed = crc32(text[start:cut], hashed)
            cell = hashed & (_CELLS - 1)
            mine = hashed >> _CELL_BITS << 2 | 2
            known = notes[cell]
            if known | _SHARED != mine | _SHARED:
                if not known & _SHARED:
                    notes[cell] = mine
                return
            if not start:
                self.groups += known == mine
                self.grouped += 2 if known == mine else 1  # the first is counted with the second
            notes[cell] = mine | _SHARED
            start = cut

    def key(self, text: bytes) -> int:
        """Return a number that the prompts have in common which belong together."""
        key = hashed = start = 0
        size = len(text)
        for cut in _CUTS:
            if size < cut:
                break
            hashed = crc32(text[start:cut], hashed)
            mine = hashed >> _CELL_BITS << 2 | 2 | _SHARED
            if self._notes[hashed & (_CELLS - 1)] != mine:
                break
            key = cut << 32 | hashed
            start = cut
        if not key:
            return crc32(text[: _CUTS[0]])
        if len(self._rows) >= _MOST_GROUPS:
            self._rows.clear()
        number = self._rows[key] = self._rows.get(key, -1) + 1
        return number // _GROUP << 48 | key
