"""How far measurements lie from a forecast: the interval that holds 80 % of them.

Nobody's document is ours, so every width was fitted to documents left out
(benchmarks/planner/intervals.py). Two spreads are joined. That of a step's time goes through the
queue: where a rate is kept up with, slower steps cost hardly any output, and near saturation a lot.
That of a figure by itself is what remains when steps take what was forecast: how a document counts.
"""

from dataclasses import dataclass
from functools import cache
from math import exp, hypot, log, sqrt
from typing import Literal

from ropeway.plan.correction import Correction
from ropeway.plan.load import Load
from ropeway.plan.machine import stored_constants
from ropeway.plan.question import Question

Figure = Literal["output", "tpot"]

# Standard deviations from the middle of a normal distribution that hold 80 % of it.
HOLD_80 = 1.2816
# Prompts of more tokens are long.
_LONG = 8192
# Standard deviation of ln(measured / predicted) on a machine that was measured by itself.
_OWN = 0.1


@dataclass(frozen=True, slots=True)
class Scatter:
    """What the spread of measurements is made of, as standard deviations of natural logarithms.

    similar  of the factors of similar measurements, as a share of what the correction says of it
    few      of the steps of one sequence, over the root of how many run at once: what is peculiar
             to one averages out, and the host's work, in which hosts differ, weighs less
    experts  of a step of a model with experts
    drafts, split, engine  of a step with speculative decoding, with prompts read by other NPUs, of
             another engine
    hosts    of a step with speculative decoding over several hosts, beside `drafts`
    long     of a step with drafts or other NPUs after a long prompt: how many drafts are kept
             there, and how much of a shared prompt is in the cache, is a guess
    output_clients, output_rate, tpot_clients, tpot_rate  of a figure by itself, by kind of load
    """

    similar: float
    few: float
    experts: float
    drafts: float
    hosts: float
    split: float
    long: float
    engine: float
    output_clients: float
    output_rate: float
    tpot_clients: float
    tpot_rate: float

    def step(self, question: Question, corrected: Correction, running: float) -> float:
        """Return the deviation of ln of the time of a step with so many sequences `running`."""
        if not question.machine.engine:
            return _OWN
        drafts, split = bool(question.setup.method), question.setup.split
        several = question.layout.npus > question.npus_per_host
        kinds = (
            self.experts * bool(question.shape.experts),
            self.drafts * drafts,
            self.hosts * (drafts and several and not split),
            self.split * split,
            self.long * ((drafts or split) and question.load.input_tokens > _LONG),
            self.engine * (question.machine.engine != "vLLM-Ascend"),
        )
        similar = self.similar * sqrt(corrected.variance)
        return hypot(similar, self.few / sqrt(max(1.0, running)), *kinds)

    def figure(self, name: Figure, question: Question) -> float:
        """Return the deviation of ln of a figure where steps take what was forecast."""
        load = question.load
        if not question.machine.engine:
            return 0.0
        if load.rate is None:
            return self.output_clients if name == "output" else self.tpot_clients
        if name == "tpot":
            return self.tpot_rate
        return hypot(self.output_rate, 1 / sqrt(arrivals(load)))


def arrivals(load: Load) -> float:
    """Return how many requests came in a run at a rate: random, they take longer or shorter."""
    if load.requests is not None:
        return load.requests
    return load.rate * load.window if load.rate and load.window else float("inf")


@cache
def scatter() -> Scatter:
    """Return the fitted spreads."""
    return Scatter(**stored_constants()["interval"])


def ends(value: float, others: tuple[float, float], own: float) -> tuple[float, float]:
    """Return the ends of an interval about a value.

    others  the value where steps are faster and slower; own: deviation of the figure by itself
    """
    if not value:
        return 0.0, 0.0
    down = max(0.0, *(log(value / other) for other in others))
    up = max(0.0, *(log(other / value) for other in others))
    return value * exp(-hypot(down, HOLD_80 * own)), value * exp(hypot(up, HOLD_80 * own))
