"""The specs that `ropeway init` writes: for this machine, and for hosts."""

import re
from collections.abc import Sequence
from importlib import resources

from ropeway.spec.cluster import Cluster
from ropeway.spec.editing import Edit, apply_edits


def sample_text() -> str:
    """Return the annotated sample for this machine."""
    return _read("sample.yaml")


def hosts_sample_text() -> str:
    """Return the annotated sample for hosts with NPUs."""
    return _read("sample-hosts.yaml")


def filled(cluster: Cluster, path: str | None) -> str:
    """Return the sample for hosts with this cluster, and the model's directory if it is known."""
    known = cluster.model_dump(mode="json")
    keys = [key for key in ("hosts", "nic", "chip", "hbm") if key in known]
    edits = [Edit(("cluster", key), known[key]) for key in keys]
    text = hosts_sample_text()
    if path:
        edits.append(Edit(("model", "path"), path))
        folder = path.rstrip("/").rpartition("/")[2].lower()
        name = re.sub(r"[^a-z0-9]+", "-", folder).strip("-")[:31].strip("-")
        text = text.replace("name: my-service", f"name: {name or 'my-service'}", 1)
    return with_edits(text, edits)


def with_edits(sample: str, edits: Sequence[Edit]) -> str:
    """Return the sample with these values, each in place of the comment that is its example."""
    for _, key in (edit.path for edit in edits):
        sample = re.sub(rf"^  # {key}: .*\n(?:  #   .*\n)*", "", sample, flags=re.MULTILINE)
    return apply_edits(sample, edits)


def _read(name: str) -> str:
    return resources.files("ropeway.spec").joinpath(name).read_text(encoding="utf-8")
