"""What limits the speed of a step, in words with the numbers, and what would help."""

from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.models.phrases import Phrase, joined, phrase

# Parts of a step by what they wait for.
_GROUPS = {
    "host work": ("launch", "host", "requests"),
    "reading weights": ("weights",),
    "reading the KV cache": ("KV cache",),
    "arithmetic": ("arithmetic",),
    "moving tokens to experts": ("routing",),
    "the links between NPUs": ("all-reduce", "all-to-all", "send"),
}
_ROOM = 0.9  # share of the possible sequences below which more clients would help


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What is known of a step when its bottleneck is described. Times in seconds.

    seconds          by part
    running, room    sequences at once in a data-parallel rank, and how many it has room for
    graph            graph mode of the engine
    full             whether more requests come than can be served
    ceiling          output tokens/s if only memory, arithmetic and links took time
    """

    step: float
    seconds: Mapping[str, float]
    running: float
    room: float
    clients: int | None
    graph: str
    full: bool
    ceiling: float


def bottleneck_and_advice(limits: StepLimits) -> tuple[Phrase, Phrase]:
    """Return what limits the step, and what to try first; empty where nothing is known to help.

    The first is like `host work, 87 of 142 ms a step (hardware ceiling 9,429 tokens/s)`.
    """
    seconds, first = max(
        (sum([limits.seconds.get(part, 0.0) for part in parts]), name)
        for name, parts in _GROUPS.items()
    )
    bottleneck = phrase(
        "{what}, {part} of {step} ms a step (hardware ceiling {ceiling:,.0f} tokens/s)",
        what=first,
        part=_ms(seconds),
        step=_ms(limits.step),
        ceiling=limits.ceiling,
    )
    return bottleneck, _advice(limits, first)


def _advice(limits: StepLimits, first: str) -> Phrase:
    hints: list[str] = []
    if first == "host work" and limits.graph in ("eager", "piecewise"):
        hints.append(phrase("enable full graph mode, or use a release that has it"))
    if first in ("host work", "reading weights") and limits.clients is not None:
        if limits.running < _ROOM * limits.room:
            more = 2 ** max(1, (limits.clients * 3).bit_length() - 1)
            hints.append(
                phrase("raise concurrency to {n:,}: larger steps take little longer", n=more)
            )
        elif limits.full:
            hints.append(phrase("raise `max_sequences` if the cache has room: requests are queued"))
    if first == "reading weights":
        hints.append(phrase("quantise the weights"))
    if first == "reading the KV cache":
        hints.append(phrase("use an 8-bit KV cache or shorter contexts"))
    if first == "arithmetic":
        hints.append(
            phrase("let prompts share prefixes, or add DP ranks: prompts take most of the time")
        )
    if first == "the links between NPUs":
        hints.append(phrase("use fewer tensor ranks and more DP ranks, each within one host"))
    if first == "moving tokens to experts":
        hints.append(phrase("spread the experts over more DP ranks"))
    return joined(hints)


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"
