"""What every vLLM has in common, whatever chip is under it: its flags, and how a start goes on."""

import re
from collections.abc import Sequence
from math import ceil

from ropeway.engines.base import Deployment
from ropeway.spec.engine_args import engine_argument_flags

_LISTENING = r"Application startup complete"
# What a line of the log means to the person who waits, in the order of a start. The furthest one
# reached is the activity, not the last line: Ray brings lines of the ranks seconds late. The texts
# are those of vLLM 0.32.0.
_ACTIVITIES = (
    (r"non-default args", "reading the model's config"),
    (r"Initializing a V1 LLM engine", "starting the engine core"),
    (r"Connecting to existing Ray cluster|Connected to Ray cluster", "joining Ray"),
    (r"[Cc]reating a new placement group|Created placement group", "placing ranks on the hosts"),
    (r"rank \d+ in world size|world_size=\d+ rank=\d+", "ranks meet"),
    (r"Starting to load model", "loading weights"),
    (r"Loading safetensors checkpoint shards:\s+(\d+)%", r"loading weights, \1 %"),
    (r"Loading weights took", "weights are loaded"),
    (r"KV cache size: ([\d,]+) tokens", r"KV cache: \1 tokens"),
    (r"init engine .* took", "warming up"),
    (r"Starting vLLM (?:API )?server", "opening the port"),
    (_LISTENING, "waiting for the first token"),
)
_COMPILED = tuple((re.compile(pattern), words) for pattern, words in _ACTIVITIES)


def layout_flags(deployment: Deployment) -> tuple[str, ...]:
    """The flags of the parallel layout; sizes of 1 are vLLM's default and left out."""
    layout = deployment.layout
    flags: list[str] = []
    if layout.tensor > 1:
        flags += ["--tensor-parallel-size", str(layout.tensor)]
    if layout.pipeline > 1:
        flags += ["--pipeline-parallel-size", str(layout.pipeline)]
    if layout.data > 1:
        flags += ["--data-parallel-size", str(layout.data)]
        flags += ["--data-parallel-size-local", str(_data_ranks_on_head(deployment))]
        flags += ["--data-parallel-backend", "ray"]
        flags += ["--data-parallel-address", deployment.head.address]
    if layout.expert:
        flags += ["--enable-expert-parallel"]
    if deployment.uses_ray:
        flags += ["--distributed-executor-backend", "ray"]
    return tuple(flags)


def all_flags(deployment: Deployment, extra: tuple[str, ...]) -> tuple[str, ...]:
    """Model, name, address, `extra`, then the user's own flags: what is said last counts."""
    serve = deployment.serve
    return (
        "--model", deployment.model,
        "--served-model-name", deployment.served_name,
        "--host", serve.address,
        "--port", str(serve.port),
        "--max-model-len", str(deployment.context),
        "--dtype", serve.dtype,
        *layout_flags(deployment),
        *(("--max-num-seqs", str(many)) if (many := serve.max_sequences) else ()),
        "--disable-uvicorn-access-log",
        *extra,
        *engine_argument_flags(serve.engine_args),
    )  # fmt: skip


def activity(log: str) -> str:
    """What vLLM is doing, from its log so far."""
    for pattern, words in reversed(_COMPILED):
        if found := list(pattern.finditer(log)):
            return found[-1].expand(words)
    return "importing vLLM"


def listening(log: str) -> bool:
    """Whether the server answers requests."""
    return re.search(_LISTENING, log) is not None


def data_ranks_that_fit(engine: int, sizes: Sequence[int]) -> int:
    """How many data ranks of `engine` NPUs vLLM can place on hosts of `sizes` NPUs.

    CoreEngineActorManager.create_dp_placement_groups (vllm/v1/engine/utils.py): a data rank lives
    on one host (`strict`, `fill`), or, larger than any host, on whole hosts of equal size (`span`).
    ParallelConfig.nnodes_within_dp says the same without Ray. Unequal hosts are cut to one size in
    the way that serves best, since a placement may leave NPUs and hosts out.
    """
    on_one_host = sum(size // engine for size in sizes)
    on_whole_hosts = (
        sum(size >= cut for size in sizes) // ceil(engine / cut) for cut in set(sizes)
    )
    return max(on_one_host, *on_whole_hosts)


def _data_ranks_on_head(deployment: Deployment) -> int:
    """How many whole data-parallel ranks the head's NPUs hold, at least one.

    vLLM puts these on the head and looks for room for the others on the other nodes.
    """
    layout = deployment.layout
    return max(1, min(layout.data, deployment.head.npus // (layout.tensor * layout.pipeline)))
