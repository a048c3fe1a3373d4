"""Checks of the model's directory on every host: there, whole, the same, of a kind that runs."""

from collections.abc import Iterator
from dataclasses import replace

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.rule import Check, Evidence, Hit, on_models, outlier_hits, unnamed_model
from ropeway.doctor.versions import tagged
from ropeway.engines.ascend_quantisation import QuantisationFault, quantisation_fault
from ropeway.engines.ascend_releases import ImageTag
from ropeway.errors import ModelError
from ropeway.facts.containers import ENGINE, IMAGES
from ropeway.facts.host import WEIGHTS, ModelFiles
from ropeway.facts.model_directory import HASHES, MODEL
from ropeway.models.build import read_shape
from ropeway.models.quantisation import counted_precision
from ropeway.phrases import joined, phrase
from ropeway.units import format_bytes

_COPY_AGAIN = "copy it again from a host where it is whole:\n$ ropeway model push"
_RUNS_ON_NPUS = ("none", "ascend", "compressed-tensors")


def _absent(cluster: Cluster) -> Iterator[Hit]:
    path = cluster.requirements.model_path
    for location, model in cluster.models():
        if not model.there:
            absent = phrase("`{path}`: no such directory", path=path)
            yield Hit((location,), model.problem or absent)


def _without_config(model: ModelFiles) -> Evidence:
    absent = model.there and "config.json" not in model.sizes
    return phrase("`{path}/config.json`: no such file", path=model.path) if absent else None


def _without_weights(model: ModelFiles) -> Evidence:
    if not model.there or model.missing or any(name.endswith(WEIGHTS) for name in model.sizes):
        return None
    return phrase(
        "none of {n:,} files is one of {kinds}", n=len(model.sizes), kinds=joined(WEIGHTS, ", ")
    )


def _missing_shards(model: ModelFiles) -> Evidence:
    if not model.missing:
        return None
    text = "{n:,} missing, the first is `{name}`"
    return phrase(text, n=len(model.missing), name=model.missing[0])


def _truncated_shards(cluster: Cluster) -> Iterator[Hit]:
    for location, model in cluster.models():
        for name, (size, full_size) in model.short.items():
            values = {"shard": name, "size": format_bytes(full_size)}
            yield Hit((location,), format_bytes(size), values)


def _different_sizes(cluster: Cluster) -> Iterator[Hit]:
    models = [(place, model) for place, model in cluster.models() if model.there]
    models = [(place, model) for place, model in models if not model.missing]
    for name in sorted({name for _, model in models for name in model.sizes}):
        sizes = ((place, model.sizes.get(name)) for place, model in models)
        texts = (
            (place, phrase("absent") if size is None else phrase("{n:,} bytes", n=size))
            for place, size in sizes
        )
        yield from outlier_hits(texts, file=name)


def _different_hashes(cluster: Cluster) -> Iterator[Hit]:
    models = [(place, model) for place, model in cluster.models() if not model.missing]
    for name in sorted({name for _, model in models for name in model.hashes}):
        hashes = [(place, model.hashes.get(name)) for place, model in models]
        yield from outlier_hits(
            ((place, f"{sha256[:12]}…" if sha256 else None) for place, sha256 in hashes), file=name
        )


def _unloadable(cluster: Cluster) -> Iterator[Hit]:
    """Yield hosts whose release cannot load the weights on its chips; CUDA's where none is known.

    What `up` and `plan` refuse is decided by the same function.
    """
    tags = {
        host.name: replace(tag, version=release.version) if release else tag
        for host, tag, release in tagged(cluster)
    }
    for location, model in cluster.models():
        tag, marks = tags.get(location.host), model.scheme_evidence or model.scheme or ""
        if tag is None or model.config is None:
            if model.scheme is not None and model.scheme not in _RUNS_ON_NPUS:
                yield Hit((location,), marks)
        elif fault := _fault(model, tag):
            yield Hit((location,), phrase("{marks}: {reason}", marks=marks, reason=fault.reason))


def _fault(model: ModelFiles, tag: ImageTag) -> QuantisationFault | None:
    try:
        shape = read_shape(model.config or {})
    except ModelError:
        return None
    shape = replace(shape, precision=counted_precision(model.kinds, shape))
    return quantisation_fault(model.scheme, shape, tag.version, tag.family)


_OF_FILES = (
    Check("model-there", "fail", "the model's directory is missing", _absent,
          reads=(MODEL,),
          expected="the same path on every host",
          fix="copy it with `ropeway model push`, or mount the shared storage as on the "
          "other hosts",
          source="vllm-ascend ray.md: the same path and content on all nodes"),
    Check("model-config", "fail", "the model has no config.json", on_models(_without_config),
          reads=(MODEL,),
          expected="a complete checkpoint",
          fix=_COPY_AGAIN),
    Check("model-weights", "fail", "the model has no weights", on_models(_without_weights),
          reads=(MODEL,),
          expected="a complete checkpoint",
          fix=_COPY_AGAIN),
    Check("model-shards", "fail", "shards of the model are missing", on_models(_missing_shards),
          reads=(MODEL,),
          expected="every shard that the index names",
          fix=_COPY_AGAIN,
          source="model.safetensors.index.json"),
    Check("model-short", "fail", "the shard `{shard}` is truncated", _truncated_shards,
          reads=(MODEL,),
          expected="{size}, as its header says",
          fix=_COPY_AGAIN,
          source="safetensors format"),
    Check("model-same", "fail", "`{file}` differs in size between hosts", _different_sizes,
          reads=(MODEL,),
          expected="the same file everywhere",
          fix=_COPY_AGAIN,
          source="vllm-ascend ray.md: the same content on all nodes"),
    Check("model-hash", "fail", "`{file}` differs in content between hosts", _different_hashes,
          reads=(MODEL, HASHES),
          expected="the same sha256 everywhere",
          fix="copy `{file}` again from one host"),
    Check("model-quantisation", "fail", "NPUs cannot load the model's weights", _unloadable,
          reads=(MODEL, ENGINE, IMAGES),
          expected="BF16, or quantised for these chips and this release",
          # Up to v0.11.0 such a checkpoint ends in a bare KeyError (#4313).
          fix="use the BF16 original, or a checkpoint that ModelSlim quantised for "
          "Ascend (it has a `quant_model_description.json`)",
          source="vllm-ascend quantization guide; #4313, #1526"),
)  # fmt: skip

CHECKS = tuple(replace(check, lacking=unnamed_model) for check in _OF_FILES)
