"""The name of a parallel layout, `TP2×PP2+EP`, as the numbers it stands for."""

import re
import unicodedata

_PART = re.compile(r"(tp|pp|dp) *=? *([0-9]{1,5})|(ep)")
_KEY = {"tp": "tensor", "pp": "pipeline", "dp": "data"}


def layout_numbers(text: str) -> dict[str, int | bool]:
    """The keys of `spec.Layout` that the name gives. Raises ValueError for what is no name."""
    plain = unicodedata.normalize("NFKC", text).lower().strip()
    found: dict[str, int | bool] = {}
    for part in re.split(r"\s*[×x*,+]\s*|(?<=[0-9p])\s+(?=[tpde]p)", plain):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(_complaint(text, part))
        key = "expert" if match[3] else _KEY[match[1]]
        if key in found:
            raise ValueError(f"`{text}` gives {key} parallel twice")
        found[key] = True if match[3] else int(match[2])
        if found[key] == 0:
            raise ValueError(f"`{text}`: {key} parallel must be at least 1")
        if found[key] > 65_536:
            raise ValueError(f"`{text}`: {key} parallel is at most 65536")
    return found


def _complaint(text: str, part: str) -> str:
    if re.fullmatch(r"ep *=? *[0-9]+", part):
        why = "expert parallel takes no number: experts go over all tensor and data ranks"
        return f"`{text}`: {why}; write `EP`"
    return f"`{text}` is not a layout; write it like `TP4`, `DP2×TP2` or `TP2×PP2+EP`"
