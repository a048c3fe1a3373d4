"""What all vLLMs have in common, whatever the chip: layout flags, and the steps of a start."""

import re
from collections.abc import Mapping
from dataclasses import replace

from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.spec.engine_flags import flag_number, flag_settings
from ropeway.spec.model import Layout, Serve

# Running at once in a data-parallel rank, where nothing says how many (EngineArgs, on a device
# below 70 GiB and above, behind the server).
SEQUENCES = 256
SEQUENCES_OF_LARGE = 1024
IMPORTING = phrase("importing vLLM")
KEY_VARIABLE = "VLLM_API_KEY"  # read where no `--api-key` is given
# vLLM refuses a context beyond the model's, unless this variable is set.
_ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
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


def served_shape(shape: ModelShape, serve: Serve, *, multiplies_yarn: bool) -> ModelShape:
    """Return the model with the longest context that this vLLM lets it have.

    multiplies_yarn  it multiplies YaRN's factor, which later ones take as written
    """
    if multiplies_yarn:
        shape = replace(shape, max_positions=shape.earlier_positions)
    if serve.env.get(_ALLOW_LONG, "").strip().lower() not in ("1", "true"):
        return shape
    doubt = phrase(
        "`{name}` allows a context beyond the model's {n:,} tokens, where it may answer noise",
        name=_ALLOW_LONG,
        n=shape.max_positions,
    )
    return replace(shape, positions_doubt=doubt)


def context_doubt(shape: ModelShape, context: int | None) -> tuple[str, ...]:
    """Say what speaks against a context, or against the model's own where it is left blank."""
    doubtful = shape.positions_doubt and (context is None or context > shape.max_positions)
    return (shape.positions_doubt,) if doubtful else ()


def unknown_context(shape: ModelShape, context: int | None) -> tuple[str, ...]:
    """Say that a blank context is the engine's to find, where config.json, or what was published of
    it, does not say how long it may be."""
    if context is not None or shape.max_positions:
        return ()
    return (
        phrase(
            "`serve.context` is blank, and the model's longest, which the engine takes, is not "
            "known here: memory is counted for the workload's requests"
        ),
    )


def parallel_flags(layout: Layout) -> tuple[str, ...]:
    """Return the flags of a layout; sizes of 1 are vLLM's default and left out."""
    sizes = (
        ("--pipeline-parallel-size", layout.pipeline),
        ("--tensor-parallel-size", layout.tensor),
        ("--data-parallel-size", layout.data),
        ("--prefill-context-parallel-size", layout.prefill_context),
        ("--decode-context-parallel-size", layout.decode_context),
    )
    flags = [word for flag, size in sizes if size > 1 for word in (flag, str(size))]
    return (*flags, *(("--enable-expert-parallel",) if layout.expert else ()))


def drafted_tokens(engine_args: Mapping[str, object]) -> int:
    """Return how many tokens speculative decoding guesses in each step; 0 without it."""
    return (
        flag_number(flag_settings(engine_args, "speculative-config"), "num-speculative-tokens") or 0
    )


def drafts_with_mtp(engine_args: Mapping[str, object]) -> bool:
    """Whether the model's own MTP layers guess them: `mtp`, `deepseek_mtp`, `qwen3_next_mtp`, …

    Other methods have a model of their own (`eagle3`), or none (`ngram`).
    """
    settings = flag_settings(engine_args, "speculative-config")
    return str(settings.get("method") or "").endswith("mtp")


def activity(log: str) -> str:
    """Say what vLLM is doing, from its log so far."""
    for pattern, words in reversed(_COMPILED):
        if matches := list(pattern.finditer(log)):
            return phrase(words, **matches[-1].groupdict())
    return IMPORTING


def listening(log: str) -> bool:
    """Whether the server says that it answers requests."""
    return re.search(_LISTENING, log) is not None
