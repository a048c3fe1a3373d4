"""Checks of the model's directory on every host: there, whole, the same, of a kind that runs."""

from collections.abc import Iterable

from ropeway.doctor.cluster import Cluster, grouped, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.facts.host import HostFacts, ModelFiles
from ropeway.units import format_bytes

# What becomes of a checkpoint that was quantised for CUDA (vllm-ascend quantization guide; #4313:
# up to v0.11.0 such a checkpoint dies with a bare KeyError).
_ELSEWHERE = (
    "use the BF16 original, or one quantised for Ascend with ModelSlim (`quant_model_description"
    ".json`), and serve that with `--quantization ascend`"
)
ASCEND_SCHEMES = ("none", "ascend")


def there(cluster: Cluster) -> Iterable[Finding]:
    """The directory exists and can be read, with its config."""
    absent = [
        (Place(host.name), (model.path, model.problem or "no such directory"))
        for host, model in _models(cluster)
        if not model.there
    ]
    yield from grouped(
        absent,
        lambda places, seen: Finding(
            "model-there", "fail", "the model's directory is not there", places,
            len(cluster.hosts), f"`{seen[0]}`: {seen[1]}", "the same path on every host",
            "copy it there, or mount the shared storage: `mount | grep …` on a host that has it",
            "vllm-ascend ray.md: the same path and content on all nodes",
        ),
    )  # fmt: skip
    bare = [
        Place(host.name)
        for host, model in _models(cluster)
        if model.there and "config.json" not in model.sizes
    ]
    if bare:
        yield Finding(
            "model-config", "fail", "the model has no config.json", tuple(bare),
            len(cluster.hosts), "config.json is missing", "a whole checkpoint",
            "copy the directory again: `rsync -a --partial SOURCE/ HOST:TARGET/`",
        )  # fmt: skip


def whole(cluster: Cluster) -> Iterable[Finding]:
    """Every shard that the index names is there, and as long as its own header says."""
    gaps = [
        (Place(host.name), (len(model.missing), model.missing[0]))
        for host, model in _models(cluster)
        if model.missing
    ]
    yield from grouped(
        gaps,
        lambda places, seen: Finding(
            "model-shards", "fail", "shards of the model are missing", places, len(cluster.hosts),
            f"{seen[0]} missing, first `{seen[1]}`", "every shard that the index names",
            "copy again: `rsync -a --partial SOURCE/ HOST:TARGET/` goes on where it stopped",
            "model.safetensors.index.json",
        ),
    )  # fmt: skip
    cut = [
        (Place(host.name), (name, have, want))
        for host, model in _models(cluster)
        for name, (have, want) in model.short.items()
    ]
    yield from grouped(
        cut,
        lambda places, seen: Finding(
            "model-short", "fail", "a shard of the model is cut short", places,
            len(cluster.hosts), f"`{seen[0]}` has {format_bytes(seen[1])}",
            f"{format_bytes(seen[2])}, as its own header says",
            "copy it again: `rsync -a --partial SOURCE/ HOST:TARGET/`", "safetensors format",
        ),
    )  # fmt: skip


def same(cluster: Cluster) -> Iterable[Finding]:
    """The same files with the same sizes; with `--deep` the same bytes."""
    whole_models = [
        (host, model) for host, model in _models(cluster) if model.there and not model.missing
    ]
    names = sorted({name for _, model in whole_models for name in model.sizes})
    for name in names:
        found = odd((Place(host.name), model.sizes.get(name, -1)) for host, model in whole_models)
        if found:
            told = ", ".join(
                f"{'absent' if size == -1 else f'{size:,} bytes'} on {places[0]}"
                for size, places in found.others.items()
            )
            yield Finding(
                "model-same", "fail", f"`{name}` differs between hosts", found.places,
                len(whole_models), f"{told}; {found.usual:,} bytes on {found.count}",
                "the same file everywhere", "copy the model again from one host",
                "vllm-ascend ray.md: the same content on all nodes",
            )  # fmt: skip
    hashed = [(host, model) for host, model in whole_models if model.hashes]
    for name in sorted({name for _, model in hashed for name in model.hashes}):
        if found := odd((Place(host.name), model.hashes.get(name)) for host, model in hashed):
            yield Finding(
                "model-hash", "fail", f"`{name}` has other content on some hosts", found.places,
                len(hashed), f"sha256 {str(found.usual)[:12]}… on {found.count}",
                "the same sha256 everywhere", f"copy `{name}` again from one host",
            )  # fmt: skip


def quantisation(cluster: Cluster) -> Iterable[Finding]:
    """Checkpoints that were quantised for CUDA do not run on NPUs."""
    foreign = [
        (Place(host.name), (model.scheme, model.scheme_evidence))
        for host, model in _models(cluster)
        if model.scheme not in (None, *ASCEND_SCHEMES, "compressed-tensors")
    ]
    yield from grouped(
        foreign,
        lambda places, seen: Finding(
            "model-quantisation", "fail", f"the model is quantised for CUDA ({seen[0]})", places,
            len(cluster.hosts), str(seen[1]), "BF16, or quantised for Ascend", _ELSEWHERE,
            "vllm-ascend quantization guide; #4313, #1526",
        ),
    )  # fmt: skip


def _models(cluster: Cluster) -> Iterable[tuple[HostFacts, ModelFiles]]:
    return ((host, host.model) for host in cluster.hosts if host.model is not None)
