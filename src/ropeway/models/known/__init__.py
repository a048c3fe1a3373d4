"""Models that can be planned before they are downloaded.

One JSON file for each lies beside this file: `source` is where its config.json was published,
`config` the keys that shapes are made from, `note` a remark for the user. `same_as` in place of
`config` names a model with the same dimensions (except the keys in `without`); `note` then says why
we think so.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.quantisation import is_scheme, precision_named
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.suggest import did_you_mean

# Models in public measurements whose config.json was not found in public repositories.
WITHOUT_CONFIG = ("DeepSeek-OCR-2", "LongCat-Flash-Lite", "Qwen3.8-27B")

# What publishers add to a name without changing a dimension. Quantisations are apart.
_ENDINGS = re.compile(
    r"-(instruct|chat|it|base|hf|thinking|preview|mtp|dynamic|static|pt|gguf|g?128g|\d{4}|\d+k|v0\.\d+|bf16|fp16)$"
)
_QUANTISED = re.compile(
    r"-((?:gptq-|awq-|auto-?round-)?int[48]|w\d+a\d+(?:c\d)?|awq|gptq|fp8|mxfp[48]|nvfp4|quantized)$"
)
# Quantisations in names, by the names under which bits are looked up.
_SCHEME = {"int4": "w4a16", "gptq-int4": "gptq", "awq-int4": "awq", "gptq-int8": "int8"}


@dataclass(frozen=True)
class KnownModel:
    """One entry: its published name, where its config was read, and a note for the user."""

    name: str
    source: str
    note: str
    config: dict[str, object]


def known(name: str) -> ModelShape:
    """Return the shape of a published model, by its name in any usual spelling.

    `Qwen/Qwen3-32B`, `qwen3-32b` and `Qwen3-32B-W8A8` are known; the last has the bits that its
    ending says. Raises ModelError with the nearest names for an unknown one.
    """
    key, scheme = _find(name)
    entry = entry_of(key)
    shape = read_shape(entry.config, where=f"the catalogue's `{entry.name}`")
    notes = (*shape.assumed, *((entry.note,) if entry.note else ()))
    shape = replace(shape, assumed=notes)
    return replace(shape, precision=precision_named(scheme, shape)) if scheme else shape


def published_name(name: str) -> str:
    """Return the published name of a model named in any usual spelling. Raises ModelError."""
    return _find(name)[0]


def entry_of(name: str) -> KnownModel:
    """Return the entry with exactly this published name; `same_as` is resolved."""
    text = resources.files(__name__).joinpath(published_files()[name]).read_text(encoding="utf-8")
    raw = json.loads(text)
    config = raw.get("config") or entry_of(raw["same_as"]).config
    config = {key: value for key, value in config.items() if key not in raw.get("without", ())}
    note = raw.get("note", "")
    if "same_as" in raw:
        note = phrase("same dimensions as `{name}`: {why}", name=raw["same_as"], why=note)
    return KnownModel(raw["name"], raw["source"], note, config)


def _find(name: str) -> tuple[str, str]:
    """Return the published name, and the quantisation in the ending, if any."""
    for candidate, scheme in _readings(_plain(name)):
        published = _by_plain_name().get(candidate)
        if published:
            return published, scheme
    raise _unknown(name)


def _readings(plain: str) -> Iterator[tuple[str, str]]:
    """Yield the name, then with its endings removed one by one, each with the quantisation."""
    scheme = ""
    yield plain, scheme
    while match := _QUANTISED.search(plain) or _ENDINGS.search(plain):
        plain = plain[: match.start()]
        if match.re is _QUANTISED and not scheme:
            ending = _SCHEME.get(match[1], match[1])
            scheme = ending if is_scheme(ending) else ""
        yield plain, scheme


def _plain(name: str) -> str:
    """Remove organisation and case: `Qwen/Qwen3_32B` → `qwen3-32b`."""
    last = name.strip().rstrip("/").rsplit("/", maxsplit=1)[-1]
    return re.sub(r"[\s_]+", "-", last.lower())


@cache
def published_files() -> dict[str, str]:
    """Return the file of each published name: `Qwen__Qwen3-32B.json` holds `Qwen/Qwen3-32B`."""
    folder = resources.files(__name__)
    names = [item.name for item in folder.iterdir() if item.name.endswith(".json")]
    return {name.removesuffix(".json").replace("__", "/", 1): name for name in names}


def short_names() -> tuple[str, ...]:
    """Return the published names without their organisations, which may be left out."""
    return tuple(sorted({name.rpartition("/")[2] for name in published_files()}))


@cache
def _by_plain_name() -> dict[str, str]:
    """Return published names by every reading; a full name wins over another's shortened one."""
    by_reading: dict[str, str] = {}
    for depth in range(4):
        for name in sorted(published_files()):
            readings = [reading for reading, _ in _readings(_plain(name))]
            if depth < len(readings):
                by_reading.setdefault(readings[depth], name)
    return by_reading


def _unknown(name: str) -> ModelError:
    plain = _plain(name)
    if plain in {_plain(item) for item in WITHOUT_CONFIG}:
        return ModelError(
            phrase("no config.json of `{name}` was found in public", name=name),
            hint="give the directory of the model, or its `config.json`",
        )
    meant = did_you_mean(name, published_files(), most=3)
    return ModelError(
        phrase("`{name}` is neither a path nor a known model", name=name),
        hint=meant or "give the directory of the model, or its `config.json`",
    )
