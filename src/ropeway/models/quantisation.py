"""Bits per number: what config.json and quantisers' files say, and what the names of schemes mean.

Scales are counted with the numbers they belong to. Embeddings, head, router and norms stay in 16
bits in every scheme here unless its mark says otherwise.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Literal

from ropeway.errors import ModelError
from ropeway.models.config import NESTED, number
from ropeway.models.shape import COMPONENTS, Component, ModelShape, Precision
from ropeway.phrases import phrase

_LINEAR: tuple[Component, ...] = ("attention", "dense", "routed", "shared")
_ELEMENTS = {"float32": 32, "bfloat16": 16, "float16": 16, "": 16}

# A name of each component's matrix as `ignore` lists and patterns spell it; the layer is one of the
# middle, since lists that leave out single layers (the first, an MTP layer) leave the rest.
_SAMPLES: dict[Component, tuple[str, ...]] = {
    "attention": ("self_attn.o_proj", "linear_attn.out_proj", "mixer.out_proj"),
    "dense": ("mlp.down_proj",),
    "routed": ("mlp.experts.0.down_proj", "block_sparse_moe.experts.0.w2", "ffn.experts.0.w2"),
    "shared": ("mlp.shared_experts.down_proj", "mlp.shared_expert.down_proj"),
}
_PREFIXES = ("model.layers.", "language_model.model.layers.", "model.language_model.layers.")
_MIDDLE = 7

# Bits per number of block formats: OCP MX has an 8-bit scale for 32 numbers, NVFP4 one for 16.
_MXFP8, _MXFP4, _NVFP4 = 8.25, 4.25, 4.5
# Blocks of 128 × 128 with a 32-bit scale (DeepSeek's FP8).
_FP8_BLOCK = 8 + 32 / 128**2
# GPTQ and AWQ by default: 128 numbers share a 16-bit scale and a 4-bit zero point.
_GROUPED_4 = 4 + 20 / 128

# What published measurements call their checkpoints → bits of (attention, dense, routed, shared).
# ModelSlim's W4A8 for mixtures keeps all but the routed experts in 8 bits, and Moonshot's W4A16
# all but those in 16 (`ignore` in the config.json of Kimi-K2-Thinking); of a dense model it is the
# feed-forward part, or all. Per-channel scales are left out: 16 bits for thousands of numbers.
_NAMED: dict[str, tuple[float, float, float, float]] = {
    "bf16": (16, 16, 16, 16),
    "fp16": (16, 16, 16, 16),
    "fp32": (32, 32, 32, 32),
    "int8": (8, 8, 8, 8),
    "w8a8": (8, 8, 8, 8),
    "w8a16": (8, 8, 8, 8),
    "fp8": (_FP8_BLOCK, _FP8_BLOCK, _FP8_BLOCK, _FP8_BLOCK),
    "mxfp8": (_MXFP8, _MXFP8, _MXFP8, _MXFP8),
    "mxfp8-mxfp4": (_MXFP8, _MXFP8, _MXFP4, _MXFP8),
    "w4a8": (8, 4, 4, 8),
    "w4a4": (8, 4, 4, 8),
    "w4a16": (16, 16, 4.5, 16),
    "w4a16-dense": (_GROUPED_4, _GROUPED_4, _GROUPED_4, _GROUPED_4),
    "mxfp4": (16, 16, _MXFP4, 16),
    "nvfp4": (_NVFP4, _NVFP4, _NVFP4, _NVFP4),
    "awq": (_GROUPED_4, _GROUPED_4, _GROUPED_4, _GROUPED_4),
    "gptq": (_GROUPED_4, _GROUPED_4, _GROUPED_4, _GROUPED_4),
    # As Q4_K, and as NF4; nothing loads either on NPUs.
    "gguf": (_GROUPED_4, _GROUPED_4, _GROUPED_4, _GROUPED_4),
    "bitsandbytes": (_GROUPED_4, _GROUPED_4, _GROUPED_4, _GROUPED_4),
}
_SAME = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
# Bits of the KV cache in a scheme's name, as in `w8a8c8`.
CACHE_ENDING = re.compile(r"c(8|4)$")
# What else may stand behind the bits: sparse, compressed (for 310P), of two kinds.
_MANNER = re.compile(r"(?<=a\d)(sc?|mix)$")

# How LLM-Compressor's checkpoints are named: `-quantized.w8a8`. They are of another format.
_COMPRESSED = "quantized."

# none                no mark of any
# ascend              ModelSlim: made for NPUs
# compressed-tensors  LLM-Compressor
# cuda                a format of which only CUDA (or ROCm) has the kernels
# unknown             a `quant_method` that we do not know
Scheme = Literal["none", "ascend", "compressed-tensors", "cuda", "unknown"]

# vLLM's QUANTIZATION_METHODS from 0.9 to 0.32 (vllm/model_executor/layers/quantization/__init__.py)
# and transformers' QuantizationMethod, without those that Ascend loads.
_LOADED_AS: dict[str, Scheme] = dict.fromkeys(
    (
        "aqlm", "auto-round", "auto_awq", "auto_gptq", "auto_round", "awq", "awq_marlin", "bitblas",
        "bitnet", "bitsandbytes", "cpu_awq", "deepseek_v4_fp8", "deepspeedfp", "eetq", "exl2",
        "exl3", "experts_int8", "fbgemm_fp8", "fouroversix", "fp8", "fp8_per_block",
        "fp8_per_channel", "fp8_per_tensor", "fp_quant", "gguf", "gpt_oss_mxfp4", "gptq",
        "gptq_bitblas", "gptq_marlin", "gptq_marlin_24", "higgs", "hqq", "humming", "inc",
        "int8_per_channel_weight_only", "ipex", "marlin", "metal", "modelopt", "modelopt_fp4",
        "modelopt_mixed", "modelopt_mxfp8", "moe_wna16", "mxfp4", "mxfp8", "nvfp4",
        "nvfp4_per_token", "petit_nvfp4", "ptpc_fp8", "qqq", "quanto", "quark", "rtn", "sinq",
        "spqr", "squeezellm", "torchao", "tpu_int8", "vptq",
    ),
    "cuda",
)  # fmt: skip
_LOADED_AS |= dict.fromkeys(("ascend", "modelslim", "msmodelslim"), "ascend")
_LOADED_AS["compressed-tensors"] = "compressed-tensors"
# Files that quantisers for CUDA leave beside the weights.
_CUDA_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_DESCRIPTION = re.compile(r"quant_model_description[\w.-]{0,100}\.json")
_WEIGHTS = re.compile(r"quant_model_weights?[\w.-]{0,100}\.safetensors")
_KEPT_EVIDENCE = 8
# Published lists of exceptions have hundreds of names, and at most a dozen regular expressions.
_MOST_PATTERNS, _MOST_REGULAR = 10_000, 100
_REPEATS, _REPEATED_GROUP = re.compile(r"[*+{]"), re.compile(r"\)[*+{]")
# ModelSlim's types: `W8A8_DYNAMIC`, `W8A8SC`.
_MODELSLIM = re.compile(r"W(\d{1,2})A\d{1,2}(?:SC?(?![A-Z]))?")


def precision_named(name: str, shape: ModelShape) -> Precision:
    """Bits of a scheme by the name that people use: `bf16`, `w8a8`, `w4a8c8`, `mxfp8-mxfp4`, …

    `auto` is the model's own. Raises ModelError on an unknown name, with the list.
    """
    if name == "auto":
        return shape.precision
    plain = _plain_scheme(name.removeprefix(_COMPRESSED))
    bits = _MANNER.sub("", plain)
    key = "w4a16-dense" if bits == "w4a16" and not shape.experts else bits
    if key not in _NAMED:
        known = ", ".join(f"`{item}`" for item in _NAMED if item != "w4a16-dense")
        raise ModelError(
            phrase("`{name}` is not a quantisation that we know", name=name),
            hint=phrase("known are {known}", known=known),
        )
    if name.startswith(_COMPRESSED):
        kind = "float" if "fp" in plain else "int" if plain.endswith("a8") else "pack"
        plain = f"{kind}-quantized"
    return Precision(plain, *_NAMED[key])


def is_scheme(name: str) -> bool:
    """Whether `precision_named` knows it."""
    return _MANNER.sub("", _plain_scheme(name)) in _NAMED


def is_unread(precision: Precision) -> bool:
    """Whether a quantisation is known by name alone: its bits are those of the dtype."""
    bits = {precision.attention, precision.dense, precision.routed, precision.shared}
    return precision.scheme in _LOADED_AS and bits == {precision.norm}


def stored_precision(config: Mapping[str, object], dtype: str) -> Precision:
    """As config.json says that the weights are stored. `dtype` is the model's own type.

    The scheme is `unknown` where a mark is there that we cannot read; the bits are then those of
    `dtype`.
    """
    base = _ELEMENTS.get(dtype, 16)
    plain = Precision(_SAME.get(dtype, dtype or "bf16"), *(base,) * len(COMPONENTS))
    tables = _tables(config)
    return marked_precision(tables[0][1], plain, config.get("expert_dtype")) if tables else plain


def marked_precision(
    marks: Mapping[str, object], base: Precision, expert_dtype: object = None
) -> Precision:
    """As `quantization_config` says, or the like in a file of its own (`hf_quant_config.json`).

    `base` is what is left unquantised. `expert_dtype` is a key of DeepSeek-V4: fp4 experts amid
    FP8.
    """
    method = _format(marks)
    if method == "mixed_precision" or len(_table(marks, "config_groups")) > 1:
        return _mixed(marks, base)
    bits = _marked_bits(method, marks)
    if not bits:
        return replace(base, scheme=method if _LOADED_AS.get(method) == "cuda" else "unknown")
    patterns = _exceptions(marks)
    if patterns is None:
        return replace(base, scheme="unknown")
    left = _left_alone(patterns)
    parts: dict[str, float] = {part: bits for part in _LINEAR if part not in left}
    if method == "mxfp4":  # gpt-oss: the experts alone
        parts = {"routed": bits}
    if expert_dtype == "fp4":
        parts["routed"] = _MXFP4
    scheme = str(marks.get("format") or method) if method == "compressed-tensors" else method
    return replace(base, scheme=scheme, **parts)


def described_precision(table: Mapping[str, object], base: Precision) -> Precision:
    """From ModelSlim's `quant_model_description.json`: tensor name → `W8A8_DYNAMIC`, `FLOAT`, …

    Each component takes what most of its matrices have.
    """
    bits: list[tuple[str, float]] = []
    schemes: Counter[str] = Counter()
    for name, scheme in table.items():
        match = _MODELSLIM.match(str(scheme))
        if name.endswith(".weight") and (match or scheme == "FLOAT"):
            bits.append((name, float(match[1]) if match else 16.0))
            schemes.update([match[0].lower()] if match else [])
    scheme = schemes.most_common(1)[0][0] if schemes else base.scheme
    return _by_vote(bits, replace(base, scheme=scheme))


def counted_precision(kinds: Mapping[str, int], shape: ModelShape) -> Precision:
    """From how often each type stands in ModelSlim's `quant_model_description.json`.

    The type of the fewest bits names the scheme: a mixture's W4A8 has W8A8 in all but its experts.
    """
    types = {match[0].lower(): int(match[1]) for kind in kinds if (match := _MODELSLIM.match(kind))}
    named = [name for name in sorted(types, key=lambda name: types[name]) if is_scheme(name)]
    return precision_named(named[0], shape) if named else shape.precision


def component_of(name: str) -> Component:
    """The component of a tensor, by the usual names in checkpoints."""
    if "embed_tokens" in name or "wte" in name or name.startswith("embed"):
        return "embedding"
    if "lm_head" in name or name.startswith("head."):
        return "head"
    if "norm" in name:
        return "norm"
    if "shared_expert" in name or "share_expert" in name:
        return "shared"
    if ".experts." in name:
        return "routed"
    if re.search(r"\.(gate|router|classifier)\.", name):
        return "router"
    if re.search(r"attn|attention|mixer|indexer", name):
        return "attention"
    return "dense"


def _plain_scheme(name: str) -> str:
    lower = name.lower()
    return CACHE_ENDING.sub("", _SAME.get(lower, lower))


@dataclass(frozen=True)
class Quantisation:
    """What the marks of a checkpoint say. `evidence`: the marks, each with its place; the deciding
    one first."""

    scheme: Scheme
    evidence: tuple[str, ...] = ()


def recognise_quantisation(
    config: Mapping[str, object],
    files: Iterable[str] = (),
    kinds: Mapping[str, int] | None = None,
) -> Quantisation:
    """Decide by config.json and the files' names whether an NPU can load a checkpoint.

    `kinds` is how often each type stands in quant_model_description.json, where that was read.
    vLLM-Ascend loads ModelSlim's formats (with `--quantization ascend`) and, from 0.12,
    compressed-tensors; AWQ and GPTQ were never merged (pull request 6603 of vllm-ascend), and FP8
    needs the newest chips.
    """
    names = sorted(files)
    marks = _ascend_marks(config, names, kinds or {})
    for place, table in _tables(config):
        method = _method(table, place)
        mark = f"`{place}.quant_method` = {method}" if method else f"`{place}`"
        marks.append((_LOADED_AS.get(method, "unknown"), mark))
    marks += [("cuda", f"`{name}`") for name in _CUDA_FILES if name in names]
    if not marks:
        return Quantisation("none")
    evidence = tuple(dict.fromkeys(mark for _, mark in marks))[:_KEPT_EVIDENCE]
    return Quantisation(marks[0][0], evidence)


def _ascend_marks(
    config: Mapping[str, object], files: Sequence[str], kinds: Mapping[str, int]
) -> list[tuple[Scheme, str]]:
    marks: list[tuple[Scheme, str]] = []
    described = next(filter(_DESCRIPTION.fullmatch, files), None)
    if described and (not kinds or kinds.keys() - {"FLOAT"}):
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        marks.append(("ascend", f"`{described}`" + (f": {counts}" if counts else "")))
    if weights := next(filter(_WEIGHTS.match, files), None):
        marks.append(("ascend", f"`{weights}`"))
    for place, level in _levels(config):
        for key in ("quantize", "moe_quantize"):  # older exports of DeepSeek
            value = level.get(key)
            if isinstance(value, str) and value:
                marks.append(("ascend", f"`{place}{key}` = {value}"))
    return marks


def _levels(config: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the config and the parts of it that describe a language model, each with its path."""
    levels: list[tuple[str, Mapping[str, object]]] = [("", config)]
    for place, level in levels:
        for name in NESTED:
            inner = level.get(name)
            if isinstance(inner, Mapping) and len(levels) < 10:
                levels.append((f"{place}{name}.", inner))
    return levels


def _tables(config: Mapping[str, object]) -> list[tuple[str, Mapping[str, object]]]:
    """Return the tables of marks in a config, each with its path, the outermost first."""
    return [
        (f"{place}{key}", table)
        for place, level in _levels(config)
        for key in ("quantization_config", "compression_config")
        if isinstance(table := level.get(key), Mapping) and table
    ]


def _method(marks: Mapping[str, object], place: str = "") -> str:
    """Return the method as the marks call it, or as their other keys tell it; "" when none does."""
    method = marks.get("quant_method")
    if isinstance(method, str) and method:
        return method.lower()
    if marks.get("load_in_4bit") is True or marks.get("load_in_8bit") is True:
        return "bitsandbytes"
    if isinstance(marks.get("quant_algo"), str) or isinstance(marks.get("producer"), Mapping):
        return "modelopt"
    # LLM-Compressor writes these in place of a method into `compression_config`.
    if place.endswith("compression_config") or "config_groups" in marks:
        return "compressed-tensors"
    return ""


def _format(marks: Mapping[str, object]) -> str:
    """Return the format of the numbers; ModelOpt names it apart from the method."""
    method = _method(marks)
    algorithm = str(marks.get("quant_algo") or "").lower()
    return algorithm if algorithm and method == "modelopt" else method


def _table(marks: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a nested table of the marks; empty where there is none."""
    table = marks.get(name)
    return table if isinstance(table, Mapping) else {}


def _listed(marks: Mapping[str, object], name: str) -> list[object]:
    value = marks.get(name)
    return value if isinstance(value, list) else []


def _mixed(marks: Mapping[str, object], base: Precision) -> Precision:
    """Different formats for different modules, each named (`quantized_layers`, or the groups)."""
    named: list[tuple[str, float]] = []
    for name, how in _table(marks, "quantized_layers").items():
        if isinstance(how, Mapping):
            named.append((f"{name}.weight", _marked_bits(_format(how), how)))
    for how in _table(marks, "config_groups").values():
        if isinstance(how, Mapping) and (bits := _group_bits(how, marks)):
            named += [(f"{name}.weight", bits) for name in _listed(how, "targets")]
    if not named:
        return replace(base, scheme="unknown")
    compressed = _method(marks) == "compressed-tensors"
    scheme = "mixed-quantized" if compressed else "modelopt_mixed"
    return _by_vote(named, replace(base, scheme=scheme))


def _by_vote(named: list[tuple[str, float]], base: Precision) -> Precision:
    """Each component takes the bits that most of its matrices have."""
    votes: dict[Component, Counter[float]] = {}
    for name, bits in named:
        votes.setdefault(component_of(name), Counter())[bits] += 1
    parts: dict[str, float] = {
        part: count.most_common(1)[0][0] for part, count in votes.items() if part != "norm"
    }
    return replace(base, scheme=base.scheme, **parts)


def _marked_bits(method: str, marks: Mapping[str, object]) -> float:
    """Bits of a quantised number, its share of the scales included; 0 where nothing says."""
    for name, bits in (("nvfp4", _NVFP4), ("mxfp4", _MXFP4), ("mxfp8", _MXFP8)):
        if name in method:
            return bits
    if "fp8" in method:
        return _FP8_BLOCK if marks.get("weight_block_size") else 8
    if method == "compressed-tensors" or marks.get("config_groups"):
        first = next(iter(_table(marks, "config_groups").values()), None)
        return _group_bits(first, marks) if isinstance(first, Mapping) else 0
    if method == "bitsandbytes":
        return 8 if marks.get("load_in_8bit") else 4.5
    match = re.match(r"w(\d{1,2})a\d{1,2}", method)
    bits = number(marks.get("bits") or marks.get("w_bit")) or (float(match[1]) if match else 0)
    group = number(marks.get("group_size") or marks.get("q_group_size"))
    return bits + (16 + bits) / group if bits and group >= 1 else bits


def _group_bits(group: Mapping[str, object], marks: Mapping[str, object]) -> float:
    weights = _table(group, "weights")
    bits, size = number(weights.get("num_bits")), number(weights.get("group_size"))
    if size < 1:
        return bits
    formats = f"{group.get('format')} {marks.get('format')}"
    floating = weights.get("type") == "float" or weights.get("scale_dtype") == "torch.uint8"
    tiny = "fp4" in formats or floating
    return bits + (8 if tiny else 16) / size


def _exceptions(marks: Mapping[str, object]) -> Sequence[str] | None:
    """Return what the lists of modules left alone hold; None where it would take too long to match.

    Python's matcher takes for ever over `(a+)+` and the like, and a config comes from anywhere.
    """
    patterns: list[str] = []
    for key in ("modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"):
        patterns += map(str, _listed(marks, key)[:_MOST_PATTERNS])
    patterns = list(dict.fromkeys(patterns))
    regular = [item for item in patterns if item.startswith("re:")]
    slow = any(len(item) > 200 or len(_REPEATS.findall(item)) > 4 for item in regular)
    nested = any(_REPEATED_GROUP.search(item) for item in regular)
    too_many = len(patterns) >= _MOST_PATTERNS or len(regular) > _MOST_REGULAR
    return None if slow or nested or too_many else patterns


def _left_alone(patterns: Sequence[str]) -> set[Component]:
    """Return the components that exceptions name as a whole.

    Routed experts only by their name: an `mlp` in the list is the dense part beside them.
    """
    return {
        part
        for pattern in patterns
        for part, names in _SAMPLES.items()
        if (part != "routed" or "expert" in pattern)
        and any(
            _matches(pattern, f"{prefix}{_MIDDLE}.{name}") for prefix in _PREFIXES for name in names
        )
    }


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except (re.error, OverflowError, RecursionError):
            return False
    if "*" in pattern:
        return fnmatch(name, pattern) or fnmatch(name, f"{pattern}.*")
    parts = name.split(".")
    return name == pattern or name.startswith(f"{pattern}.") or pattern in (parts[-1], parts[-2])
