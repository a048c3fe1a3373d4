"""Models that can be planned before they are downloaded.

One JSON file for each lies beside this file: `source` is where its config.json was published,
`config` the keys that shapes are made from, `note` a remark for the user. `same_as` in place of
`config` names a model of the same kind (`model_type`) and dimensions, except the keys in `changes`;
`note` then says why we think so. `positions` is then its own longest context, with
`positions_source`; without it that of the other model is a guess. `pools`: its folder is one of
sentence-transformers (ModelShape).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources

from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.positions import NOTHING
from ropeway.models.quantisation import is_scheme, precision_named
from ropeway.models.shape import Component, ModelShape
from ropeway.models.task import as_loaded
from ropeway.phrases import joined, phrase
from ropeway.suggest import did_you_mean

# Models in public measurements whose config.json was not found in public repositories.
WITHOUT_CONFIG = ("DeepSeek-OCR-2", "LongCat-Flash-Lite", "Qwen3.8-27B")

_GIVE = phrase(
    "give the directory of the model, or its `config.json`:"
    " `plan --model FILE`, `up --model-config FILE`, or `config: FILE` below `model`"
)

_DRAFTS = phrase(
    "plan the model that it drafts for, and name this one there:"
    " `speculative-config: {{method: eagle3, model: /data/…}}`"
)

# What publishers add to a name without changing a dimension. Quantisations are apart.
_ENDINGS = re.compile(
    r"-(instruct|chat|it|base|hf|thinking|preview|mtp|dynamic|static|pt|g?128g|\d{4}|\d+k|v0\.\d+|bf16|fp16)$"
)
# Those after which the context is the same too.
_SAME_CONTEXT = re.compile(r"-(hf|mtp|dynamic|static|g?128g)(?=-|$)")
_FORMAT = (
    r"(?:(?:gptq|awq|auto-?round)-)?int[48]|w\d+a\d+(?:c\d|sc?|mix)?|awq|gptq|fp8|mxfp[48]|nvfp4"
    r"|fp4|(?:unsloth-)?bnb-[48]bit|b?f16|fp16|gguf|(?:ud-)?i?q\d(?:[-_]\w+)*|auto-?round|quantized"
)
# How a checkpoint was quantised, by whom and for what stands behind its format, in free words:
# `-w8a8-QuaRot`, `-W8A8-floatmtp`, `-w8a8sc-310-vllm-tp4`, `-w8a8-mtp-QuaRot`, `-quantized.w4a16`,
# `-Q4_K_M.gguf`.
_QUANTISED = re.compile(rf"[-.]({_FORMAT})(?=[-.]|$)([-.].*)?$")
# The same in a name as people write it.
_WRITTEN = re.compile(_QUANTISED.pattern.replace("[-.](", "[-_. ](", 1), re.IGNORECASE)
# Words for what is not the whole model any more, and for what drafts for one.
_DRAFT = r"eagle|specul|draft|dspark|dflash|medusa"
_PART = re.compile(rf"prun|pruing|puring|(?P<draft>{_DRAFT})|lora|adapter|reap")
_OF_GGUF = re.compile(r"gguf|(?:ud-)?i?q\d")
# Quantisations in names, by the names under which bits are looked up.
_SCHEME = {
    "int4": "w4a16", "gptq-int4": "gptq", "awq-int4": "awq", "gptq-int8": "gptq",
    "autoround": "gptq", "auto-round": "gptq", "fp4": "nvfp4", "f16": "fp16",
    "bnb-4bit": "bitsandbytes", "bnb-8bit": "bitsandbytes", "unsloth-bnb-4bit": "bitsandbytes",
}  # fmt: skip


@dataclass(frozen=True)
class KnownModel:
    """One entry: its published name, where its config was read, and a note for the user.

    `same_as` names the model whose config it is; `borrows_context`: the longest context too.
    """

    name: str
    source: str
    note: str
    config: dict[str, object]
    same_as: str = ""
    borrows_context: bool = False
    pools: bool = False


def known(name: str, overrides: Mapping[str, object] = NOTHING) -> ModelShape:
    """Return the shape of a published model, by its name in any usual spelling.

    `Qwen/Qwen3-32B`, `qwen3-32b` and `Qwen3-32B-W8A8` are known; the last has the bits that its
    ending says. Raises ModelError with the nearest names for an unknown one.
    """
    key, scheme = _find(name)
    entry = entry_of(key)
    shape = read_shape(entry.config, f"the catalogue's `{entry.name}`", overrides)
    shape = as_loaded(shape, pools=entry.pools)
    notes = (*shape.assumed, *((entry.note,) if entry.note else ()))
    shape = replace(shape, assumed=notes)
    borrowed = entry.borrows_context or _lineage(name) != _lineage(key)
    if borrowed and shape.max_positions:
        shape = replace(shape, positions_doubt=_doubt(name, entry, shape.max_positions))
    return replace(shape, precision=precision_named(scheme, shape)) if scheme else shape


def _doubt(name: str, entry: KnownModel, longest: int) -> str:
    """Say whose context was taken for a model that is planned as another one."""
    return phrase(
        "the longest context of `{name}` is not known here; {n:,} tokens are that of `{other}`",
        name=name.rstrip("/").rpartition("/")[2],
        n=longest,
        other=entry.same_as or entry.name,
    )


def _lineage(name: str) -> str:
    """Return a name without what leaves the context as it is."""
    return _SAME_CONTEXT.sub("", _QUANTISED.sub("", _plain(name)))


def without_formats(name: str) -> str:
    """Return a name without the number formats that it ends in: `X-AWQ-W8A8` → `X`."""
    while match := _WRITTEN.search(name):
        name = name[: match.start()]
    return name


def as_named(shape: ModelShape, name: str, *, unmarked: bool = False) -> ModelShape:
    """Return the shape with a note where the model's name says other numbers than its config.json.

    `unmarked`: the config lies alone, without the files in which a quantiser tells what it did;
    then the name is believed where the config says nothing.
    """
    scheme = next((one for _, one in _readings(_plain(name)) if one), "")
    if not scheme:
        return shape
    named, own = precision_named(scheme, shape), shape.precision
    part: Component = "routed" if shape.experts else "dense"
    if abs(getattr(named, part) - getattr(own, part)) < 1:
        return shape
    if unmarked and own.scheme in ("bf16", "fp16", "fp32"):
        note = phrase("its weights are {scheme}, by its name alone", scheme=named.scheme)
        return replace(shape, precision=named, assumed=(*shape.assumed, note))
    note = phrase(
        "its name says {named}, its config.json {own}: vLLM goes by config.json",
        named=named.scheme,
        own=own.scheme,
    )
    return replace(shape, assumed=(*shape.assumed, note))


def published_name(name: str) -> str:
    """Return the published name of a model named in any usual spelling. Raises ModelError."""
    return _find(name)[0]


def entry_of(name: str) -> KnownModel:
    """Return the entry with exactly this published name; `same_as` is resolved."""
    text = resources.files(__name__).joinpath(published_files()[name]).read_text(encoding="utf-8")
    raw = json.loads(text)
    config = raw.get("config") or entry_of(raw["same_as"]).config
    config = {**config, **raw.get("changes", {})}
    note, same_as = raw.get("note", ""), raw.get("same_as", "")
    if same_as:
        note = phrase("same dimensions as `{name}`: {why}", name=same_as, why=note)
    if "positions" in raw:
        config["max_position_embeddings"] = raw["positions"]
    borrows = bool(same_as) and "positions" not in raw
    return KnownModel(
        raw["name"], raw["source"], note, config, same_as, borrows, raw.get("pools", False)
    )


def _find(name: str) -> tuple[str, str]:
    """Return the published name, and the quantisation in the ending, if any."""
    readings = list(_readings(_plain(name)))
    for table, spelled in ((_by_plain_name(), str), (_by_joined_name(), _joined)):
        for candidate, scheme in readings:
            if published := table.get(spelled(candidate)):
                return published, scheme
    raise _unknown(name)


def _readings(plain: str) -> Iterator[tuple[str, str]]:
    """Yield the name, then with its endings removed one by one, each with the quantisation."""
    scheme = ""
    yield plain, scheme
    if (match := _QUANTISED.search(plain)) and not _PART.search(match[0]):
        plain, scheme = plain[: match.start()], _scheme_of(match[0])
        yield plain + (match[2] or ""), scheme  # `-FP8-Instruct`
        yield plain, scheme
    while match := _ENDINGS.search(plain):
        plain = plain[: match.start()]
        yield plain, scheme


def _scheme_of(ending: str) -> str:
    """Return the name of the numbers that an ending means; "" for those of the published model."""
    found = [
        _SCHEME.get(match, match)
        for match in re.findall(rf"(?<=[-.])({_FORMAT})(?=[-.]|$)", ending)
    ]
    if any(map(_OF_GGUF.match, found)):
        return "gguf"
    schemes = [one for one in found if is_scheme(one)]
    # `-w8a8-mxfp8` are MXFP8's numbers; `w8a8` alone are whole ones.
    scheme = next((one for one in schemes if not re.match(r"w\d+a\d+", one)), (*schemes, "")[0])
    return f"quantized.{scheme}" if scheme and "quantized" in found else scheme


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


@cache
def _by_joined_name() -> dict[str, str]:
    """Return the same where the name is spelled without hyphens: `GLM5`."""
    return {_joined(plain): name for plain, name in _by_plain_name().items()}


def _joined(plain: str) -> str:
    return plain.replace("-", "")


def _unknown(name: str) -> ModelError:
    plain = _plain(name)
    if plain in {_plain(item) for item in WITHOUT_CONFIG}:
        return ModelError(
            phrase("no config.json of `{name}` was found in public", name=name),
            hint=_GIVE,
        )
    if part := _PART.search(plain):
        return ModelError(
            phrase(
                "`{name}` is a part of a model or an addition to one by its name (`{word}`), and "
                "its own size is not known here",
                name=name,
                word=part[0],
            ),
            hint=joined((_DRAFTS, _GIVE), "\n") if part["draft"] else _GIVE,
        )
    meant = did_you_mean(without_formats(name), published_files(), most=3)
    return ModelError(
        phrase("`{name}` is neither a path nor a known model", name=name),
        hint=joined((*((meant,) if meant else ()), _GIVE), "\n"),
    )
