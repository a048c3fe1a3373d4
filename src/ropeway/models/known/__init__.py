"""Models that can be planned before they are downloaded.

Beside this file lies one JSON file for each: `source` is where its config.json was read in public,
`config` the keys of it that shapes are made from, `note` what is to be said about it. `same_as`
in place of `config` names another that has the same dimensions (but for the keys in `without`), and
`note` why we think so.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources

from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.quantisation import is_scheme, precision_named
from ropeway.models.shape import ModelShape

# Named in public measurements, and no config.json of theirs was found in public repositories.
WITHOUT_CONFIG = ("DeepSeek-OCR-2", "LongCat-Flash-Lite", "Qwen3.8-27B")

# What publishers add to a name without changing a dimension. Quantisations are apart.
_ENDINGS = re.compile(
    r"-(instruct|chat|it|base|hf|thinking|preview|mtp|dynamic|static|pt|gguf|g?128g|\d{4}|\d+k|v0\.\d+|bf16|fp16)$"
)
_QUANTISED = re.compile(
    r"-((?:gptq-|awq-|auto-?round-)?int[48]|w\d+a\d+(?:c\d)?|awq|gptq|fp8|mxfp[48]|nvfp4|quantized)$"
)
# How the quantisations in names are called where bits are looked up.
_SCHEME = {"int4": "w4a16", "gptq-int4": "gptq", "awq-int4": "awq", "gptq-int8": "int8"}


@dataclass(frozen=True)
class KnownModel:
    """One entry: its published name, where its config was read, and what is to be said of it."""

    name: str
    source: str
    note: str
    config: dict[str, object]


def known(name: str) -> ModelShape:
    """The shape of a published model, by its name in any usual spelling.

    `Qwen/Qwen3-32B`, `qwen3-32b` and `Qwen3-32B-W8A8` are found; the last has the bits that its
    ending says. Raises ModelError with the nearest names when there is none.
    """
    key, scheme = _find(name)
    entry = entry_of(key)
    shape = read_shape(entry.config, where=f"the catalogue's `{entry.name}`")
    notes = (*shape.assumed, *((entry.note,) if entry.note else ()))
    shape = replace(shape, assumed=notes)
    return replace(shape, precision=precision_named(scheme, shape)) if scheme else shape


def published_name(name: str) -> str:
    """The published name of the model meant. Raises ModelError like `known`."""
    return _find(name)[0]


def known_names() -> tuple[str, ...]:
    """Published names of all known models, sorted."""
    return tuple(sorted(_files()))


def entry_of(name: str) -> KnownModel:
    """The entry with exactly this published name; what it is the same as has been followed."""
    text = resources.files(__name__).joinpath(_files()[name]).read_text(encoding="utf-8")
    raw = json.loads(text)
    config = raw.get("config") or entry_of(raw["same_as"]).config
    config = {key: value for key, value in config.items() if key not in raw.get("without", ())}
    note = raw.get("note", "")
    if "same_as" in raw:
        note = f"dimensions of `{raw['same_as']}`: {note}"
    return KnownModel(raw["name"], raw["source"], note, config)


def _find(name: str) -> tuple[str, str]:
    """The published name meant, and the quantisation in the ending, if any."""
    for candidate, scheme in _readings(_plain(name)):
        found = _by_plain_name().get(candidate)
        if found:
            return found, scheme
    raise _unknown(name)


def _readings(plain: str) -> Iterator[tuple[str, str]]:
    """The name, then with its endings taken off one by one, and the quantisation among them."""
    scheme = ""
    yield plain, scheme
    while match := _QUANTISED.search(plain) or _ENDINGS.search(plain):
        plain = plain[: match.start()]
        if match.re is _QUANTISED and not scheme:
            named = _SCHEME.get(match[1], match[1])
            scheme = named if is_scheme(named) else ""
        yield plain, scheme


def _plain(name: str) -> str:
    """Without organisation and case: `Qwen/Qwen3_32B` → `qwen3-32b`."""
    last = name.strip().rstrip("/").rsplit("/", maxsplit=1)[-1]
    return re.sub(r"[\s_]+", "-", last.lower())


@cache
def _files() -> dict[str, str]:
    """Published name → file: `Qwen__Qwen3-32B.json` holds `Qwen/Qwen3-32B`."""
    folder = resources.files(__name__)
    names = [item.name for item in folder.iterdir() if item.name.endswith(".json")]
    return {name.removesuffix(".json").replace("__", "/", 1): name for name in names}


@cache
def _by_plain_name() -> dict[str, str]:
    """Every reading of every published name; a full name wins over another's shortened one."""
    found: dict[str, str] = {}
    for depth in range(4):
        for name in sorted(_files()):
            readings = [reading for reading, _ in _readings(_plain(name))]
            if depth < len(readings):
                found.setdefault(readings[depth], name)
    return found


def _unknown(name: str) -> ModelError:
    plain = _plain(name)
    if plain in {_plain(item) for item in WITHOUT_CONFIG}:
        return ModelError(
            f"no config.json of `{name}` was found in public",
            hint="give the directory of the model, or its `config.json`",
        )
    near = get_close_matches(plain, _by_plain_name(), n=3, cutoff=0.6)
    names = tuple(dict.fromkeys(_by_plain_name()[item] for item in near))
    hint = f"did you mean {' or '.join(f'`{item}`' for item in names)}?" if names else None
    return ModelError(
        f"`{name}` is neither a path nor a model we know",
        hint=hint or "give the directory of the model, or its `config.json`",
    )
