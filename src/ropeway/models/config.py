"""Reads config.json: one meaning under many spellings, nested parts, lists with an item a layer."""

import json
from collections.abc import Mapping, Sequence

from ropeway.errors import ModelError
from ropeway.phrases import phrase

# Multimodal models keep the numbers of the language model one level down.
NESTED = ("text_config", "thinker_config", "llm_config", "language_config")


class Config:
    """The language model's part of a config, then the outer part, searched by spelling.

    `where` names the file in errors.
    """

    def __init__(self, config: Mapping[str, object], where: str) -> None:
        self.where = where
        self.outer = config
        self.inner = language_part(config)

    @property
    def model_type(self) -> str:
        """`model_type` of the language model, such as `qwen3_moe`, without a `_text` ending."""
        named = self.inner.get("model_type") or self.outer.get("model_type") or ""
        return str(named).removesuffix("_text")

    def find(self, names: Sequence[str], default: int = 0) -> int:
        """Return the first of `names` that is set, as a whole number.

        Of a list with a value for each layer, the largest, since memory must hold it.
        """
        for name in names:
            value = self.inner.get(name)
            if isinstance(value, list) and value:
                value = max((item for item in value if isinstance(item, int)), default=None)
            if value is not None:
                return self._whole(name, value)
        return default

    def need(self, meaning: str, names: Sequence[str]) -> int:
        """Return the same as `find`; raise ModelError where that is 0 or not set."""
        value = self.find(names)
        if value:
            return value
        raise self.missing(meaning, names)

    def missing(self, meaning: str, names: Sequence[str]) -> ModelError:
        """Return the error that says what config.json lacks."""
        return ModelError(
            phrase("`config.json` does not say: {meaning}", meaning=meaning),
            where=self.where,
            evidence=(
                phrase("looked for {names}", names=", ".join(f"`{name}`" for name in names)),
            ),
            hint="check that this is the model's own `config.json` (an adapter has another)",
        )

    def text(self, names: Sequence[str]) -> str:
        """Return the first of `names` that is text, in the inner part, then the outer."""
        for level in (self.inner, self.outer):
            for name in names:
                value = level.get(name)
                if isinstance(value, str):
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
        return tuple(value) if isinstance(value, list) else ()

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
        return Config(self.section(name), self.where)

    def _whole(self, name: str, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
        raise ModelError(
            phrase("`{name}` in `config.json` is not a whole number", name=name),
            where=self.where,
            evidence=(f"{name}: {json.dumps(value)}",),
        )


def language_part(config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the innermost mapping that describes the language model."""
    for name in NESTED:
        inner = config.get(name)
        if isinstance(inner, Mapping):
            return language_part(inner)
    return config
