"""Reads the name of a parallel layout, `TP2×PP2+EP`."""

import re
import unicodedata

from ropeway.phrases import phrase

_PART = re.compile(r"(tp|pp|dp|pcp|dcp) *=? *([0-9]{1,5})|(ep)")
_KEY = {
    "tp": "tensor",
    "pp": "pipeline",
    "dp": "data",
    "pcp": "prefill_context",
    "dcp": "decode_context",
}


def layout_numbers(text: str) -> dict[str, int | bool]:
    """Return the keys of `spec.model.Layout` that the name gives. Raises ValueError."""
    plain = unicodedata.normalize("NFKC", text).lower().strip()
    numbers: dict[str, int | bool] = {}
    for part in re.split(r"\s*[×x*,+]\s*|(?<=[0-9p])\s+(?=(?:[tpde]|[pd]c)p)", plain):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(_complaint(text, part))
        key = "expert" if match[3] else _KEY[match[1]]
        if key in numbers:
            raise ValueError(phrase("`{text}` gives {key} parallelism twice", text=text, key=key))
        numbers[key] = True if match[3] else int(match[2])
        if numbers[key] == 0:
            raise ValueError(
                phrase("`{text}`: {key} parallelism must be at least 1", text=text, key=key)
            )
        if numbers[key] > 65_536:
            raise ValueError(
                phrase("`{text}`: {key} parallelism must be at most 65536", text=text, key=key)
            )
    return numbers


def _complaint(text: str, part: str) -> str:
    if re.fullmatch(r"ep *=? *[0-9]+", part):
        return phrase(
            "`{text}`: expert parallelism takes no number, since it uses all tensor and data "
            "ranks; write `EP`",
            text=text,
        )
    return phrase(
        "`{text}` is not a layout; write it like `TP4`, `DP2×TP2` or `TP2×PP2+EP`", text=text
    )
