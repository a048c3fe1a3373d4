"""The memory of an NPU that vLLM-Ascend keeps for itself, release by release.

Nothing here was measured by us on NPU hardware. What counts was read in the plug-in
(vllm-project/vllm-ascend, vllm_ascend/worker/worker.py, `NPUWorker.determine_available_memory`);
`#N` is a start-up log in an issue or pull request there. tests/test_memory.py compares the sum
with such logs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from ropeway.engines.ascend_releases import order
from ropeway.engines.vllm import SEQUENCES, SEQUENCES_OF_LARGE, drafted_tokens
from ropeway.models.shape import ModelShape
from ropeway.spec.engine_flags import (
    batched_tokens,
    flag_settings,
    flag_value,
    numbers_in,
    positive,
    variable_number,
)
from ropeway.spec.model import Layout, Serve

_MIB = 2**20
_GIB = 2**30

# What the driver leaves of the nominal HBM: `total memory` in logs of NPUs of either size (#2473,
# #4594). It keeps 2.5 GiB of 32 and 3.0 of 64; the share is for sizes without a log.
_VISIBLE = {32 * _GIB: 31_662_800_896, 64 * _GIB: 65_452_113_920}
_VISIBLE_SHARE = 0.95

# In use on an NPU before the engine starts: 0.35 to 0.38 GiB (`Free memory on device (60.61/60.96
# GiB)`, #8289 and logs like it).
_IDLE = 370 * _MIB
# Of the process itself: 0.13 GiB (#8289) and 0.18 GiB (a 14B model) on one rank.
_CONTEXT = 160 * _MIB
# Each communicator has a send and a receive buffer (the manual of HCCL_BUFFSIZE,
# hiascend.com, CANN 8.5.0, hcclug_000076). The plug-in makes its own with 200 MiB, that of data
# parallel with 50 (vllm_ascend/utils.py, get_hccl_config_for_pg_options).
_BUFFERS = 2 * 200 * _MIB
_DATA_BUFFERS = 2 * 50 * _MIB
# MC2, which moves tokens to experts, takes the size from HCCL_BUFFSIZE, in MiB; 200 is CANN's
# default, and for many tokens too small (#2674, #4051).
_DISPATCH_DEFAULT = 200
_DISPATCH_STEP = 100
# The largest step that is captured as a graph unless flags say more, in sequences' tokens
# (VllmConfig._set_cudagraph_sizes). Only such steps go through MC2.
_LARGEST_GRAPH = 512
# Since then MC2 takes at most so many tokens of each tensor rank; before, a step without graphs was
# kept to 512 in all (set_mc2_tokens_capacity in vllm_ascend/ascend_forward_context.py).
_RANK_LIMIT_SINCE = "0.23.0rc1"
_RANK_LIMIT = 512
# Before, 512 tokens of each rank did (worker/model_runner_v1.py), for which 1,024 MiB were set.
_SMALL_DISPATCH_SINCE = "0.11.0rc1"
_DISPATCH_USUAL = 1024
# Flags and keys of `compilation-config` that say which steps are captured; the largest counts.
_GRAPH_FLAGS = ("cudagraph-capture-sizes", "max-cudagraph-capture-size", "cuda-graph-sizes")
_GRAPH_KEYS = ("cudagraph_capture_sizes", "max_cudagraph_capture_size")
# Keys that say how many experts are copied, and that a file does: at the top of `additional-config`
# or in its `eplb_config`, where they are since 0.14. vLLM's own flag is `eplb-config`.
_COPIES = ("num_redundant_experts", "init_redundancy_expert")
_COPIES_FILE = "expert_map_path"
# On 310P half of what is left is kept as room to work in (vllm_ascend/_310p/worker_310p.py). The
# first release that a log shows doing so (#10122); v0.10.2rc1 did not (#3316).
_HALVED_FROM = "0.20.2rc1"

# Since then only layers with an indexer have room for its keys (sparse_kv_cache_has_indexer in
# worker/model_runner_v1.py); before, 200,000 tokens in 79 layers needed 20.73 GiB (#10918).
_OWN_INDEX_SINCE = "0.23.0rc1"

# Ranks of an expert group from which MC2 is used, by family; elsewhere tokens are gathered
# (ascend_forward_context.py, select_moe_comm_method).
DISPATCH_FROM = {"A2": 16, "A3": 2, "950": 2}

# Captured graphs, the largest in logs: 0.04 to 0.5 GiB for dense models, 2.0 GiB for an MoE with
# full graphs over 16 ranks.
_GRAPHS = {"eager": 0, "piecewise": _GIB // 2, "full": _GIB // 2}
_GRAPHS_OF_EXPERTS = {"eager": 0, "piecewise": _GIB // 2, "full": 2 * _GIB}
# Two releases estimate graphs before the cache (#9865, taken back by #11562 before 0.23): 0.29 GiB
# where 0.23 were then captured, for an MoE with full graphs (#11514).
_ESTIMATES_GRAPHS = ("0.21.0rc1", "0.23.0rc1")
_ESTIMATED_GRAPHS = 300 * _MIB

# The attention mask of 310P is [context, context] in float16, made by the first prompt: beside the
# cache (docs/source/tutorials/hardwares/310p.md; vllm_ascend/_310p/attention/attention_mask.py).
# Since 0.21.0rc1 it is 2,048² where torch_npu has two operators; whether images have them is not
# known.
_MASK_BYTES = 2


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What the engine takes of one NPU, in bytes.

    context            of the process, taken out of the budget for the KV cache
    idle               in use before the process starts
    counts_idle        whether `idle` is taken out of the budget too
    graphs             captured after the KV cache was allocated
    graphs_of_experts  the same for an MoE
    counted_graphs     of that, what is taken out of the budget; the rest needs room beside it
    mask               of attention, for the square of the context; it needs room beside the budget
    buffers            of one communicator; data_buffers: of that for data parallelism
    dispatch_buffers   of MC2, from `dispatch_from` ranks of an expert group on; 0 is never
    gathers            whether experts see the tokens of all data-parallel ranks, even where they
                       are spread (elsewhere they are sent what is theirs)
    indexes_all        whether layers that read another's index (GLM-5.2) keep room for one too
    cache_share        the part of what is left that becomes KV cache
    block_size         tokens of a cache block
    fraction           of the HBM that the engine takes by default
    """

    context: int
    idle: int = 0
    counts_idle: bool = False
    graphs: int = 0
    graphs_of_experts: int = 0
    counted_graphs: int = 0
    mask: int = 0
    buffers: int = 0
    data_buffers: int = 0
    dispatch_buffers: int = 0
    dispatch_from: int = 0
    gathers: bool = True
    indexes_all: bool = False
    cache_share: float = 1.0
    block_size: int = 128
    fraction: float = 0.9


def engine_memory(version: str, graph: str = "full", family: str = "A2") -> EngineMemory:
    """Return what a release (`0.11.0rc0`) takes on a family of chips (`A2`, `A3`, `310P`, `950`).

    Until 0.14 all memory in use on the device counted (the log says `Available memory`); since 0.15
    only what the process added (`Available KV cache memory`). vLLM's default fraction grew from 0.9
    to 0.92 in 0.20.2.
    """
    era = order(version)
    first, after = map(order, _ESTIMATES_GRAPHS)
    estimates = first <= era < after and graph != "eager"
    return EngineMemory(
        context=_CONTEXT,
        idle=_IDLE,
        counts_idle=era < order("0.15.0rc1"),
        graphs=_GRAPHS[graph],
        graphs_of_experts=_GRAPHS_OF_EXPERTS[graph],
        counted_graphs=_ESTIMATED_GRAPHS if estimates else 0,
        mask=_MASK_BYTES if family == "310P" else 0,
        buffers=_BUFFERS,
        data_buffers=_DATA_BUFFERS,
        dispatch_buffers=2 * _DISPATCH_USUAL * _MIB,
        dispatch_from=DISPATCH_FROM.get(family, 0),
        gathers=family in ("A2", "310P"),
        indexes_all=era < order(_OWN_INDEX_SINCE),
        cache_share=0.5 if family == "310P" and era >= order(_HALVED_FROM) else 1.0,
        fraction=0.92 if era >= order("0.20.2rc1") else 0.9,
    )


def engine_bytes(engine: EngineMemory, layout: Layout) -> int:
    """Return what the engine takes of the budget on one NPU besides weights and activations."""
    ranks = layout.expert_ranks
    total = engine.context + (engine.idle if engine.counts_idle else 0)
    total += engine.buffers * ((layout.tensor > 1) + (layout.pipeline > 1))
    if layout.data > 1:
        total += engine.data_buffers
    if layout.expert and ranks > 1:
        total += engine.buffers
        if engine.dispatch_from and ranks >= engine.dispatch_from:
            total += engine.dispatch_buffers
    return total


@dataclass(frozen=True, slots=True)
class _Steps:
    """What the user's flags and variables say of the steps that go through MC2.

    decoding   tokens of a step in which every sequence of a data-parallel rank generates
    captured   tokens of the largest graph; 0 where flags do not say
    prompts    whether steps with prompts go through MC2 too
    batched    tokens of any step at most; 0 where flags do not say
    copies     experts beside the model's own
    unknown    whether the operator is one whose needs we do not know, a file says the copies, or
               sizes are given in a form that is not read
    """

    decoding: int
    captured: int
    prompts: bool
    batched: int
    copies: int
    unknown: bool


def dispatch_mebibytes(
    shape: ModelShape,
    layout: Layout,
    version: str,
    family: str,
    serve: Serve,
    *,
    eager: bool,
) -> int:
    """Return the HCCL_BUFFSIZE of a layout that uses MC2: the user's, else what it needs; else 0.

    The formulas are those of the operator's documents (aclnnMoeDistributeDispatchV3.md in CANN's
    ops-transformer): of A2 without hierarchy, and of A3. Each tensor rank sends its part of the
    tokens.
    """
    ranks, least = layout.expert_ranks, DISPATCH_FROM.get(family, 0)
    if not layout.expert or not shape.experts or not least or ranks < max(2, least):
        return 0
    if given := variable_number(serve.env, "HCCL_BUFFSIZE"):
        return given
    steps = _steps_of(serve, family)
    tokens, wide = _tokens_of_rank(steps, layout.tensor, version, eager=eager), shape.hidden_size
    local, visited = ceil((shape.experts + steps.copies) / ranks), shape.experts_per_token
    if family == "A2":
        needed = tokens * ranks * min(local, visited) * wide * 2 + 2 * _MIB
    else:
        sent = local * ranks * _up(_up(2 * wide, 32) + 64, 512)
        needed = tokens * (sent + (visited + 1) * _up(2 * wide, 512))
    rounded = max(_DISPATCH_DEFAULT, _up(ceil(2 * needed / _MIB), _DISPATCH_STEP))
    is_old = order(version) < order(_SMALL_DISPATCH_SINCE)
    return max(rounded, _DISPATCH_USUAL) if is_old or steps.unknown else rounded


def _tokens_of_rank(steps: _Steps, tensor: int, version: str, *, eager: bool) -> int:
    """Return the tokens that a tensor rank has of the largest step that goes through MC2.

    It is the largest that may be captured as a graph; larger ones are gathered or sent otherwise
    (set_mc2_tokens_capacity in vllm_ascend/ascend_forward_context.py).
    """
    limited = order(version) >= order(_RANK_LIMIT_SINCE)
    if steps.prompts:
        tokens = steps.batched or _RANK_LIMIT * tensor
    elif eager:
        tokens = steps.decoding if limited else min(steps.decoding, _LARGEST_GRAPH)
    else:
        tokens = steps.captured or min(2 * steps.decoding, _LARGEST_GRAPH)
    part = ceil(tokens / tensor)
    return min(part, _RANK_LIMIT) if limited else part


def _steps_of(serve: Serve, family: str) -> _Steps:
    args = serve.engine_args
    config, compilation = (
        flag_settings(args, f"{name}-config") for name in ("additional", "compilation")
    )
    balancing = config.get("eplb_config")
    copying = {
        **flag_settings(args, "eplb-config"),
        **config,
        **(balancing if isinstance(balancing, Mapping) else {}),
    }
    graphs = [
        numbers_in(size)
        for size in (
            *(compilation.get(key) for key in _GRAPH_KEYS),
            *(flag_value(args, name) for name in _GRAPH_FLAGS),
        )
        if size is not None
    ]
    fused = config.get("enable_fused_mc2") or (
        serve.env.get("VLLM_ASCEND_ENABLE_FUSED_MC2", "0") != "0"
    )
    sequences = serve.max_sequences or (SEQUENCES_OF_LARGE if family == "950" else SEQUENCES)
    return _Steps(
        decoding=sequences * (1 + drafted_tokens(args)),
        captured=max((max(sizes) for sizes in graphs if sizes), default=0),
        prompts=bool(config.get("enable_prefill_mc2")),
        batched=batched_tokens(args) or 0,
        copies=max(positive(copying.get(key)) or 0 for key in _COPIES),
        unknown=bool(fused or copying.get(_COPIES_FILE) or not all(graphs)),
    )


def _up(number: int, multiple: int) -> int:
    return ceil(number / multiple) * multiple


def visible_bytes(hbm_bytes: int) -> int:
    """Return what the driver leaves of an NPU's nominal memory; engines take a share of it."""
    return _VISIBLE.get(hbm_bytes, round(hbm_bytes * _VISIBLE_SHARE))
