"""Where the search of `tune` begins and which steps it takes: settings, from the plan's figures.

Only what the load can feel is tried. A limit that no step of the engine reaches is not raised: no
more sequences than there are requests in flight, no more tokens a step than these have in all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from ropeway.phrases import Phrase, phrase
from ropeway.plan.candidate import Candidate, PlanRequest
from ropeway.plan.choose import choose
from ropeway.plan.fit import power_of_two, search_of
from ropeway.plan.writing import needs_key
from ropeway.spec.model import Layout, Spec
from ropeway.spec.setting import Graph, Setting, chooses_graphs

VARIED = ("layout", "max-sequences", "batched-tokens", "memory", "graph")
"""What may be varied, in the order in which it is."""

# vLLM wants room for one token of every sequence in a step; below this, prompts of usual length
# take so many steps that nothing is gained any more.
_FEWEST_TOKENS = 64
_MORE_MEMORY, _MOST_MEMORY = 0.02, 0.96
_USUAL_MEMORY, _USUAL_SEQUENCES = 0.9, 256  # vLLM's own
_KEYLESS = phrase(
    "replicas on several hosts are reached over the network and need a key: without"
    " `serve.api_key_env` only settings of one engine are tried"
)
_GRAPHS: tuple[Graph, ...] = ("full_decode_only", "eager")


@dataclass(frozen=True)
class Reach:
    """How far steps go.

    clients       requests in flight at most
    input_tokens  of the longest prompt
    usual_tokens  of a step by layout, where the flags leave that to the engine
    own           the spec's own setting
    varied        of `VARIED`, what is varied
    """

    clients: int
    input_tokens: int
    usual_tokens: Callable[[Layout], int]
    varied: frozenset[str]
    own: Setting | None = None

    def leaves_sequences(self, layout: Layout) -> bool:
        """Return whether the spec's own setting has this layout, and the engine's own number of
        sequences, under which that is tried."""
        own = self.own
        return own is not None and own.layout == layout and own.max_sequences is None

    def sequences(self, setting: Setting) -> int:
        """Return the requests in flight in one data-parallel rank."""
        return ceil(self.clients / (setting.layout.data * setting.replicas))

    def tokens(self, setting: Setting) -> int:
        """Return the tokens that the prompts of these have: a step has no use for more."""
        return self.sequences(setting) * self.input_tokens


def planned_starts(
    spec: Spec, request: PlanRequest, layouts: Iterable[Layout]
) -> tuple[list[Setting], tuple[Phrase, ...]]:
    """Return the settings that the plan ranks best first, and notes on what is left out.

    layouts  the only ones; empty: all that can run. Raises what `choose` raises.
    """
    ranked = _ranked(request, layouts)
    keyless = any(needs_key(spec.serve, one) for one in ranked)
    if keyless:
        ranked = _ranked(replace(request, replicas=1), layouts)
    notes = (_KEYLESS,) if keyless else ()
    return [_setting(spec, one) for one in ranked if not one.faults], notes


def starts_with(own: Setting | None, others: Iterable[Setting], most: int) -> list[Setting]:
    """Return at most so many settings to begin with, the spec's own first.

    own  None: the spec leaves the layout to the plan
    """
    first = [] if own is None else [own]
    rest = (one for one in others if own is None or _place(one) != _place(own))
    return list(dict.fromkeys((*first, *rest)))[:most]


def reach_of(spec: Spec, request: PlanRequest, varied: Iterable[str]) -> Reach:
    """Return how far steps go under the spec's workload, and what the spec allows to vary.

    Raises Refused for a context that the model cannot have.
    """
    may = set(varied)
    if spec.cluster.is_local:
        may -= {"memory", "graph"}  # a cache of fixed size, and no graphs
    if spec.serve.kv_cache is not None:
        may.discard("memory")
    if chooses_graphs(spec):
        may.discard("graph")
    work = spec.workload
    usual = search_of(replace(request, max_batched_tokens=None)).batched
    return Reach(work.clients, work.input_tokens, usual, frozenset(may), Setting.of(spec))


def steps(setting: Setting, reach: Reach) -> Iterator[Setting]:
    """Yield the settings one step away, of each value the step up before the step down."""
    useful, running = reach.sequences(setting), setting.max_sequences or _USUAL_SEQUENCES
    if "max-sequences" in reach.varied:
        if running < useful:
            more = min(2 * running, power_of_two(useful))
            left = more == _USUAL_SEQUENCES and reach.leaves_sequences(setting.layout)
            yield replace(setting, max_sequences=None if left else more)
        if running > 1:
            yield replace(setting, max_sequences=power_of_two(min(running, useful)) // 2 or 1)
    if "batched-tokens" in reach.varied:
        yield from _token_steps(setting, reach)
    memory = setting.memory or _USUAL_MEMORY
    if "memory" in reach.varied and running < useful:
        raised = round(memory + _MORE_MEMORY, 3)
        if raised <= _MOST_MEMORY:
            yield replace(setting, memory=raised)
    if "graph" in reach.varied and setting.graph is None:
        for graph in _GRAPHS:
            yield replace(setting, graph=graph)


def _ranked(request: PlanRequest, layouts: Iterable[Layout]) -> list[Candidate]:
    plans = [choose(replace(request, layout=one)) for one in layouts] or [choose(request)]
    return [one for plan in plans for one in plan.candidates]


def _token_steps(setting: Setting, reach: Reach) -> Iterator[Setting]:
    useful, least = reach.tokens(setting), max(setting.max_sequences or 1, _FEWEST_TOKENS)
    usual = reach.usual_tokens(setting.layout)
    now = setting.batched_tokens or usual
    if now < useful:
        more = min(2 * now, power_of_two(useful))
        # The engine's own number, where that is as good: it needs no flag.
        left = more == usual or usual >= more >= useful
        yield replace(setting, batched_tokens=None if left else more)
    fewer = power_of_two(min(now, useful)) // 2
    if fewer >= least:
        yield replace(setting, batched_tokens=fewer)


def _setting(spec: Spec, candidate: Candidate) -> Setting:
    memory = candidate.fraction if candidate.fraction and spec.serve.kv_cache is None else None
    return replace(
        Setting.of(spec),
        layout=candidate.layout,
        replicas=candidate.replicas,
        max_sequences=candidate.max_sequences,
        memory=memory or spec.serve.memory,
    )


def _place(setting: Setting) -> tuple[Layout, int]:
    return setting.layout, setting.replicas
