"""How long each request may take: the goals of `--slo ttft=2s,tpot=50ms`, and who met them."""

import re
from dataclasses import dataclass

from ropeway.bench.sending.answers import UNFINISHED
from ropeway.endpoint.stream import Timing
from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.suggest import did_you_mean

_NAMES = ("ttft", "tpot", "e2e")
_TIME = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s)", re.IGNORECASE)
_FORM = "write goals like `--slo ttft=2s,tpot=50ms,e2e=30s`"


@dataclass(frozen=True)
class Goals:
    """The longest that a request may take, in seconds; None: as long as it likes.

    Where requests are due at certain times, TTFT and e2e count from then, else from sending. A
    request of one token has no TPOT, and so none that is too long.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __str__(self) -> str:
        """`ttft=2s,tpot=50ms`, which `parse_goals` reads."""
        limits = zip(_NAMES, (self.ttft_s, self.tpot_s, self.e2e_s), strict=True)
        return ",".join(f"{name}={_short(limit)}" for name, limit in limits if limit is not None)

    def met(self, timing: Timing, *, from_due: bool) -> bool | None:
        """Return whether a request met every goal. One that failed did not.

        None: it was cut off when the run ended, and had missed none until then.
        """
        begin = timing.sent
        if from_due and timing.due is not None:
            begin = timing.due
        cut = timing.error is not None and timing.error.kind == UNFINISHED
        if timing.error is not None and not cut:
            return False
        first = timing.ended if timing.first_token is None else timing.first_token
        last = timing.ended if cut or timing.last is None else timing.last
        took = (
            (first - begin, self.ttft_s),
            (timing.tpot_s or 0.0, self.tpot_s),
            (last - begin, self.e2e_s),
        )
        if any(limit is not None and seconds > limit for seconds, limit in took):
            return False
        return None if cut else True


def parse_goals(text: str) -> Goals:
    """Read `ttft=2s,tpot=50ms,e2e=30s`, any of the three. Raises Refused."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, found, value = (piece.strip() for piece in part.partition("="))
        name = name.lower()
        if not found:
            raise Refused(phrase("`{part}` is no goal", part=part.strip()), hint=phrase(_FORM))
        if name not in _NAMES:
            names = joined(_NAMES, ", ")
            raise Refused(
                phrase("`{name}` is no goal; there are {names}", name=name, names=names),
                hint=did_you_mean(name, _NAMES) or phrase(_FORM),
            )
        if name in limits:
            raise Refused(phrase("`{name}` has two goals", name=name), hint=phrase(_FORM))
        limits[name] = _seconds(name, value)
    return Goals(limits.get("ttft"), limits.get("tpot"), limits.get("e2e"))


def _seconds(name: str, value: str) -> float:
    found = _TIME.fullmatch(value)
    if found is None:
        bare = re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", value) is not None
        hint = phrase(
            "say the unit: `{name}={value}ms` or `{name}={value}s`", name=name, value=value
        )
        raise Refused(
            phrase("`{name}={value}` is no time", name=name, value=value),
            hint=hint if bare else phrase(_FORM),
        )
    seconds = float(found[1]) / (1000 if found[2].lower() == "ms" else 1)
    if not 0 < seconds < 1e6:
        raise Refused(
            phrase("`{name}={value}` is no time that a request can take", name=name, value=value),
            hint=phrase(_FORM),
        )
    return seconds


def _short(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
