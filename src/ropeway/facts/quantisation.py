"""How a checkpoint is quantised, from its config.json and the names of its files.

What the marks mean on Ascend: vLLM-Ascend loads ModelSlim's formats (with `--quantization ascend`)
and, from 0.12, compressed-tensors; AWQ and GPTQ were never merged (pull request 6603 of
vllm-ascend), and FP8 needs the newest chips.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

# none                no mark of any
# ascend              ModelSlim: made for NPUs
# compressed-tensors  LLM-Compressor
# cuda                a format of which only CUDA (or ROCm) has the kernels
# unknown             a `quant_method` that we do not know
Scheme = Literal["none", "ascend", "compressed-tensors", "cuda", "unknown"]

# vLLM's QUANTIZATION_METHODS from 0.9 to 0.32 (vllm/model_executor/layers/quantization/__init__.py)
# and transformers' QuantizationMethod, without those that Ascend loads.
_CUDA = frozenset(
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
    )
)  # fmt: skip
_ASCEND = frozenset(("ascend", "modelslim", "msmodelslim"))
# Files that quantisers for CUDA leave beside the weights.
_CUDA_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
_NESTED = ("text_config", "thinker_config", "llm_config", "language_config")
_KEPT_EVIDENCE = 8


@dataclass(frozen=True)
class Quantisation:
    """What the marks say.

    method    as it calls itself: `gptq`, `W8A8_DYNAMIC`; None where nothing does
    evidence  the marks, each with its place; the deciding one first
    conflict  another mark that contradicts the first; vLLM then refuses or fails with a KeyError
    """

    scheme: Scheme
    method: str | None
    evidence: tuple[str, ...] = ()
    conflict: str | None = None


def recognise_quantisation(
    config: Mapping[str, object],
    files: Iterable[str] = (),
    kinds: Mapping[str, int] | None = None,
) -> Quantisation:
    """Decide from config.json and the files' names.

    `kinds` is how often each type stands in quant_model_description.json, where that was read.
    """
    marks = [*_ascend_marks(config, sorted(files), kinds or {}), *_config_marks(config)]
    marks += [
        (_scheme(method), method, f"`{name}`")
        for name, method in _CUDA_FILES.items()
        if name in set(files)
    ]
    if not marks:
        return Quantisation("none", None)
    scheme, _, _ = marks[0]
    method = next((named for kind, named, _ in marks if kind == scheme and named), None)
    other = next((what for kind, _, what in marks if kind != scheme), None)
    evidence = tuple(dict.fromkeys(what for _, _, what in marks))[:_KEPT_EVIDENCE]
    return Quantisation(scheme, method, evidence, other)


def name_hint(name: str) -> str | None:
    """What a model's name promises (`-AWQ`, `-FP8`, `-w8a8`): a hint, never a decision."""
    found = _HINT.search(name)
    return found[1] if found else None


_Mark = tuple[Scheme, str | None, str]


def _ascend_marks(
    config: Mapping[str, object], files: list[str], kinds: Mapping[str, int]
) -> list[_Mark]:
    marks: list[_Mark] = []
    described = [name for name in files if _DESCRIPTION.fullmatch(name)]
    if described:
        real = {kind: count for kind, count in kinds.items() if kind != "FLOAT"}
        main = max(real, key=lambda kind: real[kind], default=None)
        if real or not kinds:
            counted = (
                f": {', '.join(f'{k} {n}' for k, n in sorted(kinds.items()))}" if kinds else ""
            )
            marks.append(("ascend", main, f"`{described[0]}`{counted}"))
    weights = [name for name in files if _WEIGHTS.match(name)]
    if weights:
        marks.append(("ascend", None, f"`{weights[0]}`"))
    for level, place in _levels(config):
        for key in ("quantize", "moe_quantize"):  # older exports of DeepSeek
            value = level.get(key)
            if isinstance(value, str) and value:
                marks.append(("ascend", value, f"`{place}{key}` = {value}"))
    return marks


def _config_marks(config: Mapping[str, object]) -> list[_Mark]:
    marks: list[_Mark] = []
    for level, place in _levels(config):
        for key in ("quantization_config", "compression_config"):
            table = level.get(key)
            if not isinstance(table, Mapping) or not table:
                continue
            method = _method(table, key)
            said = f"`{place}{key}.quant_method` = {method}" if method else f"`{place}{key}`"
            marks.append((_scheme(method) if method else "unknown", method, said))
    return marks


def _levels(config: Mapping[str, object]) -> list[tuple[Mapping[str, object], str]]:
    """The config and the parts of it that describe a language model, each with its path."""
    found: list[tuple[Mapping[str, object], str]] = [(config, "")]
    for level, place in found:
        for name in _NESTED:
            inner = level.get(name)
            if isinstance(inner, Mapping) and len(found) < 10:
                found.append((inner, f"{place}{name}."))
    return found


def _method(table: Mapping[str, object], key: str) -> str | None:
    method = table.get("quant_method")
    if isinstance(method, str) and method:
        return method.lower()
    if table.get("load_in_4bit") is True or table.get("load_in_8bit") is True:
        return "bitsandbytes"
    if isinstance(table.get("quant_algo"), str) or isinstance(table.get("producer"), Mapping):
        return "modelopt"
    # LLM-Compressor writes these in place of a method into `compression_config`.
    if key == "compression_config" or "config_groups" in table:
        return "compressed-tensors"
    return None


def _scheme(method: str) -> Scheme:
    if method in _ASCEND:
        return "ascend"
    if method == "compressed-tensors":
        return "compressed-tensors"
    return "cuda" if method in _CUDA else "unknown"


_DESCRIPTION = re.compile(r"quant_model_description[\w.-]{0,100}\.json")
_WEIGHTS = re.compile(r"quant_model_weights?[\w.-]{0,100}\.safetensors")
_HINT = re.compile(
    r"[-_.](awq|gptq|gguf|exl[23]|bnb|fp8|nvfp4|mxfp[48]|fp4|int[48]|w4a16|w4a8|w8a8|w8a16|w4a4)"
    r"(?=$|[-_./])",
    re.IGNORECASE,
)
