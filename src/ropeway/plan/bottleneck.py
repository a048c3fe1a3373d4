"""What bounds a step, in words with the numbers, and what would help."""

from collections.abc import Mapping
from dataclasses import dataclass

# Parts of a step by what they wait for.
_GROUPS = {
    "the host": ("launch", "host", "requests"),
    "reading weights": ("weights",),
    "reading the KV cache": ("KV cache",),
    "arithmetic": ("arithmetic",),
    "moving tokens to experts": ("routing",),
    "the links between NPUs": ("all-reduce", "all-to-all", "send"),
}
_SPENT = {
    "the host": "on the host",
    "the links between NPUs": "on the links between NPUs",
    "arithmetic": "multiplying",
}


@dataclass(frozen=True, slots=True)
class Bound:
    """A step as words need it. `seconds` by part; `room` is what a replica could run at once."""

    step: float
    seconds: Mapping[str, float]
    running: float
    room: float
    clients: int | None
    graph: str
    full: bool
    output: float
    ceiling: float

    def groups(self) -> list[tuple[str, float]]:
        """What the step waits for and how long, the longest first."""
        found = [
            (name, sum(self.seconds.get(part, 0.0) for part in parts))
            for name, parts in _GROUPS.items()
        ]
        return sorted(found, key=lambda item: -item[1])


def bottleneck(bound: Bound) -> str:
    """`102 ms a step, 9.5 of them reading weights: bound by the host (58 ms); at most …`."""
    (first, most), (second, next_most), *_ = bound.groups()
    told = "reading weights"
    spent = bound.seconds.get("weights", 0.0)
    if first == told:
        told, spent = second, next_most
    return (
        f"{_ms(bound.step)} ms a step, {_ms(spent)} of them {_SPENT.get(told, told)}: "
        f"bound by {first} ({_ms(most)} ms); without that and other losses at most "
        f"{bound.ceiling:,.0f} tokens/s"
    )


def advice(bound: Bound) -> str:
    """What to try first."""
    first = bound.groups()[0][0]
    hints: list[str] = []
    if first == "the host" and bound.graph in ("eager", "piecewise"):
        hints.append("turn whole-step graphs on, or take an engine release that has them")
    if first in ("the host", "reading weights") and bound.clients is not None:
        if bound.running < 0.9 * bound.room:
            more = 2 ** max(1, (bound.clients * 3).bit_length() - 1)
            hints.append(
                f"raise concurrency to {more:,}: a step of more sequences takes little longer"
            )
        elif bound.full:
            hints.append("raise `max_sequences`, if the cache has room: requests wait for a place")
    if first == "reading weights":
        hints.append("quantise the weights")
    if first == "reading the KV cache":
        hints.append("an 8-bit KV cache, or shorter contexts")
    if first == "arithmetic":
        hints.append("let prompts share prefixes, or add replicas: prompts take most of it")
    if first == "the links between NPUs":
        hints.append("fewer tensor ranks and more replicas, each within one host")
    if first == "moving tokens to experts":
        hints.append("expert parallel over more replicas")
    return "; ".join(hints)


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"
