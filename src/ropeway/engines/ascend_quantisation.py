"""Which weights a release of vLLM-Ascend loads on which chips: by their format, and by the flag.

`#N` is an issue of vllm-project/vllm-ascend. Nothing here was verified on NPU hardware by us.
"""

import re
from dataclasses import dataclass, replace

from ropeway.engines.ascend_releases import changes, order
from ropeway.errors import Refused
from ropeway.models.shape import ModelShape
from ropeway.phrases import joined, phrase

_MODELSLIM = re.compile(r"w\d+a\d+|int8")
_PLAIN = ("bf16", "fp16", "fp32")
# The newest release whose methods were read in the plug-in's source.
_READ = "0.25.1rc1"


@dataclass(frozen=True)
class QuantisationFault:
    """Why a release cannot load a checkpoint, and the first that can; "" where none is known.

    asked  whether the flag that the user gave is in the way, and not the checkpoint
    """

    reason: str
    source: str
    since: str = ""
    asked: bool = False

    @property
    def hint(self) -> str:
        """What to do about it."""
        if self.asked:
            return phrase("remove `quantization`: the engine reads it from the checkpoint")
        if self.since:
            return phrase(
                "take vLLM-Ascend {release} or later, weights in bfloat16, or a ModelSlim "
                "checkpoint of the model",
                release=self.since,
            )
        return phrase("take weights in bfloat16, or a ModelSlim checkpoint of the model")

    def refused(self, version: str, model: str, more: str = "") -> Refused:
        """Return the error; `more` is a further line of its hint."""
        return Refused(
            self.reason,
            where=f"vLLM-Ascend {version}, {model}",
            evidence=(self.source,),
            hint=joined(filter(None, (self.hint, more)), "\n"),
        )


def scheme_of(shape: ModelShape) -> str | None:
    """Return how a model is quantised, as AscendReplica has it, by the name of its numbers."""
    name = shape.precision.scheme
    if name in _PLAIN:
        return None
    if _MODELSLIM.match(name):
        return "ascend"
    return "compressed-tensors" if name.endswith("-quantized") else name


def quantisation_fault(
    scheme: str | None, shape: ModelShape, version: str, family: str, asked: object = None
) -> QuantisationFault | None:
    """Return why this release cannot load a checkpoint of this scheme on these chips, if so.

    `scheme` is as facts name it ("none", "ascend", "compressed-tensors", "cuda", "unknown"), or the
    method's own name where that is known ("fp8"); `asked` what `--quantization` says.
    """
    fault = _stored_fault(scheme, shape, version, family)
    if fault is None and asked is not None:
        return _asked_fault(str(asked), scheme, version, family)
    return fault


def _asked_fault(
    asked: str, scheme: str | None, version: str, family: str
) -> QuantisationFault | None:
    """Return what speaks against a method that the flag names, for weights that are loaded."""
    if scheme not in (None, "none", "unknown"):
        words, own = (set(re.split("[-_]", name)) for name in (asked, scheme))
        if words <= own or own <= words:  # `fp8` is `deepseek_v4_fp8` too
            return None
        reason = phrase(
            "`quantization: {asked}` contradicts the weights, which are for `{scheme}`",
            asked=asked,
            scheme=scheme,
        )
        return QuantisationFault(reason, "_verify_quantization in vllm/config/model.py", asked=True)
    if asked == "ascend":  # a name or a config.json does not show ModelSlim's own file; a host does
        reason = phrase("`quantization: ascend` is for ModelSlim's weights, which these are not")
        source = "vllm_ascend/quantization/modelslim_config.py: maybe_update_config"
        return QuantisationFault(reason, source, asked=True) if scheme == "none" else None
    fault = _method_fault(asked, version, family, stored=False)
    return fault and replace(fault, asked=True)


def _stored_fault(
    scheme: str | None, shape: ModelShape, version: str, family: str
) -> QuantisationFault | None:
    if scheme in (None, "none", "unknown"):
        return None
    numbers = shape.precision.scheme
    if scheme == "ascend":
        return _modelslim_fault(numbers, shape.model_type, version, family)
    if scheme == "compressed-tensors" and (fault := _compressed_fault(shape, version, family)):
        return fault
    if scheme == "cuda" and scheme_of(shape) in changes()["method_since"]:
        scheme = numbers
    return _method_fault(scheme, version, family)


def _modelslim_fault(
    numbers: str, model_type: str, version: str, family: str
) -> QuantisationFault | None:
    since = changes()["modelslim_since"].get(model_type, "")
    if since and order(version) < order(since):
        return QuantisationFault(
            phrase(
                "ModelSlim checkpoints of `{model_type}` cannot be loaded in this release",
                model_type=model_type,
            ),
            "#4293; vllm_ascend/quantization: packed_modules_model_mapping",
            since,
        )
    source = "vllm_ascend/_310p/quantization: register_scheme"
    if order(version) > order(_READ):
        return None
    if family == "310P" and numbers.startswith("w") and not numbers.startswith("w8a8"):
        return QuantisationFault(phrase("`{scheme}` is not loaded on 310P", scheme=numbers), source)
    if family != "310P" and numbers.startswith("w8a8s"):
        return QuantisationFault(
            phrase("`{scheme}` is loaded on 310P only", scheme=numbers), source
        )
    return None


def _compressed_fault(shape: ModelShape, version: str, family: str) -> QuantisationFault | None:
    """Return what speaks against LLM-Compressor's numbers; the method itself has a row below."""
    numbers, source = shape.precision.scheme, "compressed_tensors_config.py: _detect_quant_type"
    if family == "310P":
        return QuantisationFault(
            phrase("this chip loads weights of ModelSlim only, and these are compressed-tensors"),
            "#10666",
        )
    if numbers.startswith(("nvfp4", "mxfp4", "marlin", "sparse")):
        return QuantisationFault(
            phrase("`{scheme}` quantisation is not supported on NPUs", scheme=numbers), source
        )
    if numbers == "float-quantized":
        return _method_fault(numbers, version, family)
    dense = min(shape.precision.attention, shape.precision.dense, shape.precision.shared)
    if numbers == "pack-quantized" and dense < 16 and order(version) <= order(_READ):
        return QuantisationFault(
            phrase("4-bit weights of compressed-tensors are loaded for routed experts only"),
            'vllm_ascend/quantization: register_scheme("W4A16", "moe")',
        )
    return None


def _method_fault(
    scheme: str, version: str, family: str, *, stored: bool = True
) -> QuantisationFault | None:
    since = changes()["method_since"].get(scheme, "")
    only_950 = bool(since) and scheme != "compressed-tensors" and family != "950"
    if since and not only_950 and order(version) >= order(since):
        return None
    reason = phrase(
        "`{scheme}` quantisation is not supported on this chip, only on 950"
        if only_950
        else "`{scheme}` quantisation is not supported in this release"
        if since
        else "`{scheme}` quantisation is not supported on NPUs",
        scheme=scheme,
    )
    source = "vllm_ascend/platform.py: supported_quantization"
    if stored and order(version) < order("0.13.0"):
        # The plug-in took every checkpoint with a quantization_config to be one of its own.
        reason = phrase("{reason}, and fails with a KeyError while loading", reason=reason)
        source += "; #4313"
    return QuantisationFault(reason, source, "" if only_950 else since)
