"""Quantities people write and read: bytes and seconds."""

import re

from ropeway.phrases import Phrase, count, phrase

_FACTORS = {
    "": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Read "64GB" (10^9), "64GiB" (2^30), "512 MB" or a bare number of bytes.

    Raises ValueError when it is none of these.
    """
    found = _BYTES.fullmatch(str(text))
    if not found:
        raise ValueError(
            phrase(
                "`{text}` is not a size; write it like 64GiB, 512MB or a number of bytes", text=text
            )
        )
    number, unit = found.groups()
    try:
        return int(float(number) * _FACTORS[(unit or "").lower()])
    except OverflowError:
        raise ValueError("too large a size") from None


def exact_bytes(count: int) -> str:
    """Print exactly the same size in the largest unit that divides it: 2^30 → "1GiB"."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def format_bytes(count: float) -> str:
    """Print bytes in binary units: 65833697280 → "61.3 GiB"."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def counted(number: int, noun: str) -> Phrase:
    """Print a number of things: `1 host`, `2,000 hosts`."""
    return count(number, f"{{n:,}} {noun}", f"{{n:,}} {noun}s")


def format_seconds(seconds: float) -> str:
    """Print a span of time: 0.0042 → "4.2 ms", 72 → "1 min 12 s"."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
