"""A set of ordinals in a bit each: ten million take 1.25 MB."""

from typing import Self


class Bitmap:
    """Which of `size` ordinals are in it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._bits = bytearray((size + 7) // 8)
        self._count = 0

    @classmethod
    def full(cls, size: int) -> Self:
        """Return one with all ordinals."""
        bitmap = cls(size)
        bitmap._bits[:] = b"\xff" * len(bitmap._bits)
        bitmap._count = size
        return bitmap

    def __contains__(self, ordinal: int) -> bool:
        return bool(self._bits[ordinal >> 3] >> (ordinal & 7) & 1)

    def __len__(self) -> int:
        return self._count

    def add(self, ordinal: int) -> bool:
        """Put an ordinal in; say whether it was not there before."""
        if not 0 <= ordinal < self.size:
            raise IndexError(f"row {ordinal} of {self.size}")
        place, bit = ordinal >> 3, 1 << (ordinal & 7)
        if self._bits[place] & bit:
            return False
        self._bits[place] |= bit
        self._count += 1
        return True

    def copy(self) -> Self:
        """Return one with the same ordinals, which goes its own way."""
        other = type(self)(self.size)
        other._bits[:] = self._bits
        other._count = self._count
        return other
