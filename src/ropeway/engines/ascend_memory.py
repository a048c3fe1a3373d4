"""The memory of an NPU that vLLM-Ascend keeps for itself, release by release.

Nothing here was measured by us on NPU hardware. What counts was read in the plug-in
(vllm-project/vllm-ascend, vllm_ascend/worker/worker.py, `NPUWorker.determine_available_memory`);
`#N` is a start-up log in an issue or pull request there. tests/test_memory.py compares the sum
with such logs.
"""

from dataclasses import dataclass

from ropeway.engines.ascend_releases import order
from ropeway.spec.model import Layout

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
# MC2, which moves tokens to experts, takes the size from HCCL_BUFFSIZE. Recipes with expert
# parallel set 1,024, and 200 is too small for it (#2674, #4051).
_DISPATCH_BUFFERS = 2 * 1024 * _MIB
# On 310P half of what is left is kept as room to work in (vllm_ascend/_310p/worker_310p.py). The
# first release that a log shows doing so (#10122); v0.10.2rc1 did not (#3316).
_HALVED_FROM = "0.20.2rc1"

# Ranks of an expert group from which MC2 is used, by family; elsewhere tokens are gathered
# (ascend_forward_context.py, select_moe_comm_method).
DISPATCH_FROM = {"A2": 16, "A3": 2, "950": 2}

# Captured graphs, the largest in logs: 0.04 to 0.5 GiB for dense models, 2.0 GiB for an MoE with
# full graphs over 16 ranks.
_GRAPHS = {"eager": 0, "piecewise": _GIB // 2, "full": _GIB // 2}
_GRAPHS_OF_EXPERTS = {"eager": 0, "piecewise": _GIB // 2, "full": 2 * _GIB}


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What the engine takes of one NPU, in bytes.

    context            of the process, taken out of the budget for the KV cache
    idle               in use before the process starts
    counts_idle        whether `idle` is taken out of the budget too
    graphs             captured after the KV cache was allocated
    graphs_of_experts  the same for an MoE
    counts_graphs      whether graphs are taken out of the budget; else they need room beside it
    buffers            of one communicator; data_buffers: of that for data parallelism
    dispatch_buffers   of MC2, from `dispatch_from` ranks of an expert group on; 0 is never
    gathers            whether experts see the tokens of all data-parallel ranks
    cache_share        the part of what is left that becomes KV cache
    block_size         tokens of a cache block
    fraction           of the HBM that the engine takes by default
    """

    context: int
    idle: int = 0
    counts_idle: bool = False
    graphs: int = 0
    graphs_of_experts: int = 0
    counts_graphs: bool = False
    buffers: int = 0
    data_buffers: int = 0
    dispatch_buffers: int = 0
    dispatch_from: int = 0
    gathers: bool = True
    cache_share: float = 1.0
    block_size: int = 128
    fraction: float = 0.9


def engine_memory(version: str, graph: str = "full", family: str = "A2") -> EngineMemory:
    """Return what a release (`0.11.0rc0`) takes on a family of chips (`A2`, `A3`, `310P`, `950`).

    Until 0.14 all memory in use on the device counted (the log says `Available memory`); since 0.15
    only what the process added (`Available KV cache memory`). Graphs are estimated before the cache
    since v0.21.0rc1 (#9865). vLLM's default fraction grew from 0.9 to 0.92 in 0.20.2.
    """
    era = order(version)
    return EngineMemory(
        context=_CONTEXT,
        idle=_IDLE,
        counts_idle=era < order("0.15.0rc1"),
        graphs=_GRAPHS[graph],
        graphs_of_experts=_GRAPHS_OF_EXPERTS[graph],
        counts_graphs=era >= order("0.21.0rc1"),
        buffers=_BUFFERS,
        data_buffers=_DATA_BUFFERS,
        dispatch_buffers=_DISPATCH_BUFFERS,
        dispatch_from=DISPATCH_FROM.get(family, 0),
        gathers=family in ("A2", "310P"),
        cache_share=0.5 if family == "310P" and era >= order(_HALVED_FROM) else 1.0,
        fraction=0.92 if era >= order("0.20.2rc1") else 0.9,
    )


def engine_bytes(engine: EngineMemory, layout: Layout) -> int:
    """Return what the engine takes of the budget on one NPU besides weights and activations."""
    ranks = layout.tensor * layout.data
    total = engine.context + (engine.idle if engine.counts_idle else 0)
    total += engine.buffers * ((layout.tensor > 1) + (layout.pipeline > 1))
    if layout.data > 1:
        total += engine.data_buffers
    if layout.expert and ranks > 1:
        total += engine.buffers
        if engine.dispatch_from and ranks >= engine.dispatch_from:
            total += engine.dispatch_buffers
    return total


def visible_bytes(hbm_bytes: int) -> int:
    """Return what the driver leaves of an NPU's nominal memory; engines take a share of it."""
    return _VISIBLE.get(hbm_bytes, round(hbm_bytes * _VISIBLE_SHARE))
