"""Reads flags of the engine out of `serve.engine_args`, however they are written."""

import re
from collections.abc import Mapping

from ropeway.outside import MOST_DIGITS, parse_json
from ropeway.phrases import phrase

_WHOLE = re.compile(rf"\s*[-+]?[0-9]{{1,{MOST_DIGITS}}}\s*")
# human_readable_int of vllm/utils: `8k` is 8,000, `8K` 8,192, and only the first may be `1.5k`.
_READABLE = re.compile(r"\s*([0-9]{1,18})(?:([KMGT])|(\.[0-9]{1,18})?([kmgt]))\s*")
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}

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
    return positive(flag_value(engine_args, name))


def batched_tokens(engine_args: Mapping[str, object]) -> int | None:
    """Return the most tokens of a step that flags give; None where they leave it out."""
    return positive(tokens_of(flag_value(engine_args, "max-num-batched-tokens")))


def variable_number(env: Mapping[str, str], name: str) -> int | None:
    """Return a variable's number above 0; None without one."""
    return positive(env.get(name))


def whole(value: object) -> int | None:
    """Return a whole number, also where it is quoted; None for anything else, and for one of more
    than `MOST_DIGITS` digits."""
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    return value if type(value) is int and abs(value) < 10**MOST_DIGITS else None


def tokens_of(value: object) -> int | None:
    """Return a whole number, as vLLM's counts of tokens have it: also `8k`, `8K` and `1.5k`."""
    readable = _READABLE.fullmatch(value) if isinstance(value, str) else None
    if readable is None:
        return whole(value)
    digits, binary, fraction, decimal = readable.groups()
    if binary:
        return int(digits) << 10 * _POWER[binary.lower()]
    return int(float(digits + (fraction or "")) * 1000 ** _POWER[decimal])


def positive(value: object) -> int | None:
    """Return a number above 0, also where it is quoted; None for anything else."""
    number = whole(value)
    return number if number and number > 0 else None


def numbers_in(value: object) -> list[int]:
    """Return numbers above 0 of a list, of one as JSON or with blanks, or the only one; none where
    any is something else."""
    if isinstance(value, str):
        with_blanks = value.split()
        try:
            value = parse_json(value)
        except ValueError:
            value = with_blanks
    found = [positive(one) for one in (value if isinstance(value, list | tuple) else [value])]
    return [one for one in found if one] if all(found) else []


def layout_sizes(engine_args: Mapping[str, object]) -> dict[str, int]:
    """Return the sizes of the layout that flags give, by the keys of `spec.model.Layout`."""
    sizes = ((key, flag_number(engine_args, flag)) for flag, key in LAYOUT_KEY.items())
    return {key: size for key, size in sizes if size}


def flag_settings(engine_args: Mapping[str, object], name: str) -> dict[str, object]:
    """Return the keys of a flag that takes JSON; none where it is written wrongly."""
    try:
        return written_settings(engine_args, name)
    except ValueError:
        return {}


def written_settings(engine_args: Mapping[str, object], name: str) -> dict[str, object]:
    """Return the keys of a flag that takes JSON: a mapping, its text, or `flag.key` for each.

    Raises ValueError for what is no mapping; its first argument says why.
    """
    given = {key: value for key, value in engine_args.items() if sets_flag(key, name)}
    whole = [dict(_mapping(value)) for key, value in given.items() if "." not in key]
    found: dict[str, object] = whole[0] if whole else {}
    for key, value in given.items():
        _, dot, path = key.partition(".")
        if dot:
            _put(found, path.split("."), value)
    return found


def sets_flag(key: str, name: str) -> bool:
    """Whether a key of `serve.engine_args` sets this flag, or, as `flag.key`, a part of it."""
    return flag_name(key.partition(".")[0]) == name


def _mapping(value: object) -> Mapping[str, object]:
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError as error:
            raise ValueError(phrase("is not JSON: {error}", error=error)) from None
    if not isinstance(value, Mapping):
        raise ValueError(phrase("is not a mapping"))
    return value


def _put(found: dict[str, object], path: list[str], value: object) -> None:
    """Set the value at a path of keys, and leave the mappings of the spec as they are."""
    *parts, last = path
    for part in parts:
        inner = found.get(part)
        copied = dict(inner) if isinstance(inner, Mapping) else {}
        found[part] = copied
        found = copied
    found[last] = value


def config_overrides(engine_args: Mapping[str, object]) -> dict[str, object]:
    """Return what the flags change of the model's config.json, as vLLM's `--hf-overrides` has it.

    `--rope-scaling` is a flag of its own before vLLM 0.12.
    """
    found = flag_settings(engine_args, "hf-overrides")
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
