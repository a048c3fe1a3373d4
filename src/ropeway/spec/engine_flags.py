"""Reads flags of the engine out of `serve.engine_args`, however they are written."""

from collections.abc import Mapping

from ropeway.outside import parse_json

# Flags that belong to the layout, and are taken as a part of it: key of `Layout` by flag.
LAYOUT_KEY = {
    "prefill-context-parallel-size": "prefill_context",
    "pcp": "prefill_context",
    "decode-context-parallel-size": "decode_context",
    "dcp": "decode_context",
}


def flag_value(engine_args: Mapping[str, object], name: str) -> object:
    """Return what `serve.engine_args` gives a flag, in either spelling; None where it is left out.

    `name` is written with `-`.
    """
    return next((value for key, value in engine_args.items() if flag_name(key) == name), None)


def flag_number(engine_args: Mapping[str, object], name: str) -> int | None:
    """Return a flag's number above 0, also where it is quoted; None without one."""
    value = flag_value(engine_args, name)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    return value if type(value) is int and value > 0 else None


def layout_sizes(engine_args: Mapping[str, object]) -> dict[str, int]:
    """Return the sizes of the layout that flags give, by the keys of `spec.model.Layout`."""
    sizes = ((key, flag_number(engine_args, flag)) for flag, key in LAYOUT_KEY.items())
    return {key: size for key, size in sizes if size}


def flag_settings(engine_args: Mapping[str, object], name: str) -> dict[str, object]:
    """Return the keys of a flag that takes JSON: a mapping, its text, or `flag.key` for each."""
    value = flag_value(engine_args, name)
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = None
    found: dict[str, object] = dict(value) if isinstance(value, Mapping) else {}
    for key, one in engine_args.items():
        flag, dot, rest = key.partition(".")
        if dot and flag_name(flag) == name:
            found[rest] = one
    return found


def config_overrides(engine_args: Mapping[str, object]) -> dict[str, object]:
    """Return what the flags change of the model's config.json, as vLLM's `--hf-overrides` has it.

    `--rope-scaling` is a flag of its own before vLLM 0.12.
    """
    found: dict[str, object] = {}
    for key, value in flag_settings(engine_args, "hf-overrides").items():
        *parts, last = key.split(".")
        place = found
        for part in parts:
            inner = place.get(part)
            place[part] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[part]  # type: ignore[assignment]
        place[last] = value
    if scaling := flag_settings(engine_args, "rope-scaling"):
        found["rope_scaling"] = scaling
    return found


def flag_name(name: str) -> str:
    """Return a flag's name as vLLM documents it: vLLM takes `_` for `-`."""
    return name.replace("_", "-")


def asks_to_pool(engine_args: Mapping[str, object]) -> bool:
    """Whether the flags alone say that the engine generates nothing."""
    others = ("embed", "embedding", "classify", "score", "reward")
    asked = (flag_value(engine_args, name) for name in ("convert", "task"))
    return flag_value(engine_args, "runner") == "pooling" or any(one in others for one in asked)
