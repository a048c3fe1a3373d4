"""What every vLLM has in common, whatever chip is under it: its flags and its log."""

import re
from collections.abc import Sequence
from math import ceil

from ropeway.engine_args import engine_argument_flags
from ropeway.engines.base import Deployment

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

# A log line's own furniture: Ray's and vLLM's process tags, level, time, file.
_TAGS = re.compile(
    r"^(?:\x1b\[[0-9;]*m|\([\w:-]+(?: [\w=]+)*(?:, ip=[\d.]+)?\)|\[rank\d+\]:|\s)*"
    r"(?:(?:ERROR|WARNING|INFO|CRITICAL)\s+\d\d-\d\d \d\d:\d\d:\d\d \[[^]]*\]\s*)?"
)
_CALM = re.compile(r"\b(?:DEBUG|INFO|WARNING) \d\d-\d\d \d\d:")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(
    r"^(?:[\w.]*(?:Error|Exception|Exit|Interrupt)(?:$|:[^\n]*)"
    r"|.*(?:Fatal Python error|Segmentation fault|SIGSEGV|SIGKILL|OOM|out of memory"
    r"|No space left on device|Address already in use|error: argument|error: unrecognized).*)$"
)
_RANK = re.compile(r"\((?:RayWorkerProc|RayWorkerWrapper|VllmWorker|Worker)[_ )]|\[rank\d+\]:")
# A rank that says so was left alone by the one that failed.
_LOST_PEER = re.compile(
    r"[Cc]onnection (?:closed|reset|refused)|a peer rank has gone|Broken pipe|DistNetworkError"
)
# Lines that only say that something else went wrong.
_ECHOES = re.compile(
    r"Engine core initialization failed|EngineCore failed|See root cause|died unexpectedly"
    r"|RayTaskError|ActorDiedError|WorkerCrashedError|Worker failed with error|EngineDeadError"
    r"|Failed core proc|resource_tracker|wait_for_init|CancelledError|KeyboardInterrupt|SystemExit"
)


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


def root_cause(log: str) -> str | None:
    """The line that names an error itself rather than its echo in another process.

    The earliest of a rank's, and only without one the earliest of the others: a rank fails first,
    and its lines come last, since Ray brings them.
    """
    lines = [_ESCAPES.sub("", line) for line in log.splitlines()]
    found = []
    for number, line in enumerate(lines):
        text = _plain(line)
        if _ERROR.match(text) and not _ECHOES.search(text) and not _CALM.search(line):
            distance = 2 if _LOST_PEER.search(text) else 0 if _RANK.search(line) else 1
            found.append((distance, number, text))
    if not found:
        return None
    _, number, text = min(found)
    return text + _detail(text, lines[:number], lines[number + 1 : number + 4])


def _detail(text: str, above: list[str], below: list[str]) -> str:
    """What the error leaves to the lines around it.

    Below a validation error stands what is wrong: vLLM checks its config in this way. Above a bare
    `AssertionError` stands the code that raised it, perhaps with a line of carets between.
    """
    if re.search(r"validation errors? for \w+$", text):
        said = next((line for line in below if "[type=" in line), "")
        return f": {_plain(said).partition('[type=')[0].strip()}" if said else ""
    if text.endswith("Error"):
        code = next(
            (plain for line in reversed(above[-2:]) if (plain := _plain(line)).strip("^~ ")), ""
        )
        return f": {code}" if code else ""
    return ""


def _plain(line: str) -> str:
    """The line without its furniture."""
    return _TAGS.sub("", line).strip()


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
