"""The longest context that vLLM lets a model have, and what `--hf-overrides` makes of its config.

As in `_get_and_verify_max_len` and `derive_max_model_len_and_key` of vLLM.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ropeway.models.config import Config, number

NOTHING: Mapping[str, object] = MappingProxyType({})

# The smallest of these counts.
_POSITIONS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
# Either name stands for the other: transformers 5 renamed it.
_ROPE = ("rope_parameters", "rope_scaling")
# Kinds of rope scaling whose factor is in `max_position_embeddings` already.
_SCALED = ("su", "longrope", "llama3")
_YARN = ("yarn", "deepseek_yarn", "deepseek_llama_scaling")


def stored_positions(config: Config) -> int:
    """Return how many positions config.json names; 0 for none."""
    return min(filter(None, (config.find((name,)) for name in _POSITIONS)), default=0)


def positions(config: Config) -> tuple[int, int]:
    """Return the longest context in tokens, now and in releases before vLLM 0.30; 0 for unknown.

    Until then the factor of YaRN was multiplied with `original_max_position_embeddings`; since
    then `max_position_embeddings` is taken as it is (vllm#56446; read in vLLM 0.30.0 and 0.32.0).
    """
    plain = stored_positions(config)
    if "roberta" in config.model_type:  # they begin after padding's (vLLM's RobertaEmbeddingModel)
        plain = max(0, plain - config.find(("pad_token_id",), 1) - 1)
    named = int(number(config.inner.get("model_max_length")))
    now = before = float(named or plain)
    if "gemma3" not in config.model_type:  # its positions are scaled already
        factor, earlier = 1.0, 1.0
        for rope in ropes(config.inner):
            if bad_factor(rope):
                continue  # the engine fails, and does not count it
            kind = rope.get("rope_type") or rope.get("type")
            original = number(rope.get("original_max_position_embeddings"))
            by = number(rope.get("factor"))
            if by and kind not in (*_SCALED, *_YARN):
                factor = by
            if by and kind not in _SCALED:
                earlier = by
            if kind == "yarn" and original:
                before = original
        now, before = now * factor, before * earlier
    # A context up to this key is let through too.
    limit = number(config.outer.get("model_max_length"))
    return int(max(now, limit)), int(max(before, limit))


def overridden(config: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the config as `--hf-overrides` changes it: keys replace others, parts are merged."""
    merged = dict(config)
    for key, value in overrides.items():
        old = config.get(key)
        if key in _ROPE:  # the new one counts, whatever the old one is called
            merged = {name: item for name, item in merged.items() if name not in _ROPE}
        is_part = isinstance(value, Mapping) and isinstance(old, Mapping) and key not in _ROPE
        merged[key] = overridden(old, value) if is_part else value  # type: ignore[arg-type]
    return merged


def bad_factor(rope: Mapping[str, object]) -> bool:
    """Whether the rope's settings have a factor that is no number above 0."""
    return "factor" in rope and not number(rope["factor"])


def ropes(config: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield the rope's settings, one for each kind of layers where these differ (Gemma 4)."""
    for name in _ROPE:
        settings = config.get(name)
        if not isinstance(settings, Mapping) or not settings:
            continue
        nested = [item for item in settings.values() if isinstance(item, Mapping)]
        yield from nested or [settings]
        return
