"""What all vLLMs have in common, whatever the chip: layout flags, and the steps of a start."""

import re

from ropeway.phrases import phrase
from ropeway.spec.model import Layout

IMPORTING = phrase("importing vLLM")
KEY_VARIABLE = "VLLM_API_KEY"  # read where no `--api-key` is given
_LISTENING = r"Application startup complete"
# What a line of the log means to the person who waits, in the order of a start. The furthest step
# is the activity, not the last line: Ray delivers the lines of ranks seconds late. The patterns are
# those of vLLM 0.32.0.
_ACTIVITIES = (
    (r"non-default args", "reading the model's config"),
    (r"Initializing a V1 LLM engine", "starting the engine core"),
    (r"Connecting to existing Ray cluster|Connected to Ray cluster", "joining Ray"),
    (r"[Cc]reating a new placement group|Created placement group", "placing ranks on the hosts"),
    (r"rank \d+ in world size|world_size=\d+ rank=\d+", "connecting the ranks"),
    (r"Starting to load model", "loading weights"),
    (r"Loading safetensors checkpoint shards:\s+(?P<percent>\d+)%", "loading weights, {percent} %"),
    (r"Loading weights took", "weights loaded"),
    (r"KV cache size: (?P<tokens>[\d,]+) tokens", "KV cache: {tokens} tokens"),
    (r"init engine .* took", "warming up"),
    (r"Starting vLLM (?:API )?server", "opening the port"),
    (_LISTENING, "waiting for the first token"),
)
_COMPILED = tuple((re.compile(pattern), words) for pattern, words in _ACTIVITIES)


def parallel_flags(layout: Layout) -> tuple[str, ...]:
    """Return the flags of a layout; sizes of 1 are vLLM's default and left out."""
    sizes = (
        ("--pipeline-parallel-size", layout.pipeline),
        ("--tensor-parallel-size", layout.tensor),
        ("--data-parallel-size", layout.data),
    )
    flags = [word for flag, size in sizes if size > 1 for word in (flag, str(size))]
    return (*flags, *(("--enable-expert-parallel",) if layout.expert else ()))


def activity(log: str) -> str:
    """Say what vLLM is doing, from its log so far."""
    for pattern, words in reversed(_COMPILED):
        if matches := list(pattern.finditer(log)):
            return phrase(words, **matches[-1].groupdict())
    return IMPORTING


def listening(log: str) -> bool:
    """Whether the server says that it answers requests."""
    return re.search(_LISTENING, log) is not None
