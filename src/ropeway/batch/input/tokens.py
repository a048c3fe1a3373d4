"""Estimates of tokens, made of bytes alone: for sizes and for order, never for a bill.

English has about four characters to a token in the vocabularies in use, code and numbers fewer.
Chinese, Japanese and Korean take about 0.7 tokens a character, other scripts about half a token.
"""

import re
from dataclasses import dataclass, field

PICTURE = 1000
"""Tokens of a picture, of whose size nothing is known: models make from 64 to 16,000 of one."""
UNLIMITED = 256
"""Tokens that an answer without a limit is taken to have."""

_ASCII_BYTES = 4  # a token
_WIDE, _OTHER = 0.7, 0.5  # tokens of a character of three bytes or more, and of one of two
_ESCAPE = len(r"\u4e2d")
_EXACT = 2**16  # from which numbers are so many that those alike are counted as one
_ASCII = bytes(range(0x80))
_NOT_WIDE = bytes(range(0xE0))  # bytes with which no character of three bytes or more begins
_NOT_TWO = bytes((*range(0xC0), *range(0xE0, 0x100)))
# Base64 within a text, and what says that there is more than text.
_BASE64 = re.compile(rb'"data:[^"]*"|"data"\s*:\s*"[^"]*"')
_MEDIA = re.compile(rb'"(?:image|video|audio)_url"\s*:\s*[{"]|"input_audio"\s*:\s*\{')


def text_tokens(text: bytes) -> int:
    """Return the tokens of a text, or of a JSON value that holds it."""
    if text.isascii():
        escapes = text.count(b"\\u")
        if not escapes:
            return len(text) // _ASCII_BYTES + 1
        return int((len(text) - _ESCAPE * escapes) / _ASCII_BYTES + _WIDE * escapes) + 1
    beyond = len(text.translate(None, _ASCII))
    wide = _WIDE * len(text.translate(None, _NOT_WIDE))
    other = _OTHER * len(text.translate(None, _NOT_TWO))
    return int((len(text) - beyond) / _ASCII_BYTES + wide + other) + 1


def value_tokens(value: bytes) -> tuple[int, int]:
    """Return the tokens of a prompt's JSON (`messages`, `prompt`, `input`), and the fewest it has.

    The latter is no estimate but a bound, half of what its text alone is taken for. It is 0 for
    lists of texts, which the server takes one by one.
    """
    # Bytes are found with half the work by `find`: `in` asks first whether it is given a number.
    if value.startswith(b"["):
        if value.find(b'"') < 0:
            return value.count(b",") + 1, 0  # tokens themselves
        if value.find(b'"role"') < 0:
            return text_tokens(value), 0
        if value.find(b'"type"') >= 0:  # parts, which may be more than text
            text = text_tokens(_BASE64.sub(b'""', value))
            return text + PICTURE * len(_MEDIA.findall(value)), text // 2
    tokens = text_tokens(value)
    return tokens, tokens // 2


@dataclass
class Spread:
    """How numbers are spread: how often there is which, as exactly as it matters."""

    sizes: dict[int, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(self.sizes.values())

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(number * times for number, times in self.sizes.items())

    @property
    def most(self) -> int:
        """The largest; 0 where there is none."""
        return max(self.sizes, default=0)

    def add(self, number: int) -> None:
        """Count a number that is not negative; of large ones the first twelve bits."""
        if number >= _EXACT:
            shift = number.bit_length() - 12
            number = number >> shift << shift
        self.sizes[number] = self.sizes.get(number, 0) + 1

    def quantile(self, share: float) -> int:
        """Return the number that this share of them does not exceed; 0 where there is none."""
        left = share * self.count
        for number in sorted(self.sizes):
            left -= self.sizes[number]
            if left <= 0:
                return number
        return self.most
