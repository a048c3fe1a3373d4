"""Reads config.json: one meaning under many spellings, nested parts, lists with an item a layer."""

import json
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from ropeway.errors import ModelError
from ropeway.phrases import phrase

# Multimodal models keep the numbers of the language model one level down.
NESTED = ("text_config", "thinker_config", "llm_config", "language_config")
# `model_type` of those whose class makes a `text_config` of the keys at the top, where config.json
# has none (transformers 5.19, __post_init__ of their configuration_*.py).
_MAKES_TEXT_CONFIG = (
    "ernie4_5_moe_vl", "ernie4_5_vl_moe", "glm4v", "glm4v_moe", "glm_ocr", "hunyuan_vl",
    "paddleocr_vl", "qwen2_5_vl", "qwen2_vl",
)  # fmt: skip

_FILE, _OVERRIDES = "config.json", "hf-overrides"
IN_OVERRIDES = f"serve.engine_args, {_OVERRIDES}"
# No number or list of a model is longer; what is computed from them stays quick, and prints.
_LARGEST = 10**15
_LONGEST = 10_000


class Config:
    """The language model's part of a config, then the outer part, searched by spelling.

    `where` names the file in errors. `changed` is what `--hf-overrides` set in it: a fault of that
    is the spec's.
    """

    def __init__(
        self, config: Mapping[str, object], where: str, changed: Mapping[str, object] | None = None
    ) -> None:
        self.where = where
        self.outer = config
        self.inner = language_part(config)
        self._changed = changed or {}

    @property
    def model_type(self) -> str:
        """`model_type` of the language model, such as `qwen3_moe`, without a `_text` ending."""
        return self.text(("model_type",)).removesuffix("_text")

    def find(self, names: Sequence[str], default: int = 0, most: int = _LARGEST) -> int:
        """Return the first of `names` that is set, as a whole number; ModelError above `most`.

        Of a list with a value for each layer, the largest, since memory must hold it.
        """
        for name in names:
            value = self.inner.get(name)
            if isinstance(value, list):
                value = max((item for item in self.listed(name) if is_whole(item)), default=None)
            if value is not None:
                return self._whole(name, value, most)
        return default

    def need(self, meaning: str, names: Sequence[str], most: int = _LARGEST) -> int:
        """Return the same as `find`; raise ModelError where that is 0 or not set."""
        value = self.find(names, most=most)
        if value:
            return value
        raise self.missing(meaning, names)

    def missing(self, meaning: str, names: Sequence[str]) -> ModelError:
        """Return the error that says what config.json lacks."""
        file, where = self.place(*names)
        return ModelError(
            phrase("`{file}` does not say: {meaning}", file=file, meaning=meaning),
            where=where,
            evidence=(
                phrase("looked for {names}", names=", ".join(f"`{name}`" for name in names)),
            ),
            hint="check that this is the model's own `config.json` (an adapter has another)"
            if file == _FILE
            else phrase("remove it from `{file}`: the model's own counts then", file=file),
        )

    def text(self, names: Sequence[str]) -> str:
        """Return the first of `names` that is text, in the inner part, then the outer."""
        for level in (self.inner, self.outer):
            for name in names:
                value = level.get(name)
                if isinstance(value, str):
                    self.within(name, len(value), _LONGEST)
                    return value
        return ""

    def flag(self, name: str, default: bool = False) -> bool:
        """Return whether `name` is true in the language model's part, else in the outer one."""
        for level in (self.inner, self.outer):
            if level.get(name) is not None:
                return level[name] is True
        return default

    def listed(self, name: str) -> tuple[object, ...]:
        """Return a list, mostly with one item for each layer; empty where there is none."""
        value = self.inner.get(name)
        if not isinstance(value, list):
            return ()
        self.within(name, len(value), _LONGEST)
        return tuple(value)

    def item(self, name: str, layer: int) -> object:
        """Return the item of a list for this layer; None where there is none."""
        values = self.listed(name)
        return values[layer] if layer < len(values) else None

    def section(self, name: str) -> Mapping[str, object]:
        """Return a nested mapping of either part; empty where there is none."""
        for level in (self.inner, self.outer):
            value = level.get(name)
            if isinstance(value, Mapping):
                return value
        return {}

    def part(self, name: str) -> "Config":
        """Return a nested mapping as a Config; its errors name the same file."""
        changed = self._changed.get(name)
        return Config(
            self.section(name), self.where, changed if isinstance(changed, Mapping) else {}
        )

    def place(self, *names: str) -> tuple[str, str]:
        """Return what has one of these keys, the overrides or config.json, and where that is."""
        if language_part(self._changed).keys() & names:
            return _OVERRIDES, IN_OVERRIDES
        return _FILE, self.where

    def within(self, name: str, number: int, most: int) -> int:
        """Return the number; raise ModelError for more than any model has."""
        if number <= most:
            return number
        file, where = self.place(name)
        raise ModelError(
            phrase(
                "`{name}` in `{file}` is out of reach: no model has more than {most:,}",
                name=name,
                file=file,
                most=most,
            ),
            where=where,
            evidence=(f"{name}: {number:,}",),
        )

    def _whole(self, name: str, value: object, most: int) -> int:
        if is_whole(value) and value >= 0:
            return self.within(name, value, most)
        file, where = self.place(name)
        raise ModelError(
            phrase("`{name}` in `{file}` is not a whole number", name=name, file=file),
            where=where,
            evidence=(f"{name}: {json.dumps(value)[:120]}",),
        )


def with_made_part(config: Mapping[str, object]) -> dict[str, object]:
    """Return a config with the `text_config` that its class makes, which overrides then change."""
    made = {}
    if config.get("model_type") in _MAKES_TEXT_CONFIG and "text_config" not in config:
        made["text_config"] = {
            key: value for key, value in config.items() if not key.endswith("_config")
        }
    return {**config, **made}


def is_whole(value: object) -> TypeGuard[int]:
    """Say whether a value of JSON is a whole number; Python takes true for one."""
    return type(value) is int


def number(value: object) -> float:
    """Return a positive number of JSON, whole or not; 0 for all else, NaN and Infinity too."""
    if isinstance(value, int | float) and value is not True and 0 < value <= _LARGEST:
        return float(value)
    return 0.0


def language_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the innermost mapping that describes the language model."""
    inner: object = config
    while isinstance(inner, Mapping):
        config = inner
        inner = next((config[name] for name in NESTED if isinstance(config.get(name), Mapping)), 0)
    return config
