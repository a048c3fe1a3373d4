"""What `up --dry-run` prints, release by release, for the six layouts of the two-host report.

The files in tests/golden/up are to be read when something changes in them:
`ROPEWAY_GOLDEN=write pytest tests/test_launch_golden.py`, then `git diff tests/golden`.
"""

import os
from pathlib import Path

import pytest

from ropeway.engines.ascend_releases import release_of
from ropeway.errors import RopewayError
from ropeway.launch.complete import Known, complete
from ropeway.launch.dry_run import EVERY_HOST, dry_run
from ropeway.launch.image import image_name
from ropeway.launch.labels import Author
from ropeway.models.known import known
from ropeway.spec.model import Spec, parse_spec

GOLDEN = Path(__file__).parent / "golden" / "up"
RELEASES = (
    "0.9.1", "0.10.2rc1", "0.11.0rc0", "0.11.0", "0.12.0rc1", "0.13.0", "0.18.0", "0.20.2rc1",
    "0.23.0.post1", "0.30.0rc2",
)  # fmt: skip
# Name → layout, model, quantisation.
LAYOUTS = {
    "single-tp8-ep": ("TP8+EP", "Qwen3-30B-A3B", None),
    "tp16": ("TP16", "Qwen3-30B-A3B", None),
    "tp8-pp2": ("TP8×PP2", "Qwen3-30B-A3B", None),
    "tp16-ep": ("TP16+EP", "Qwen3-30B-A3B", None),
    "tp8-pp2-ep": ("TP8×PP2+EP", "Qwen3-30B-A3B", None),
    "quantised-tp16": ("TP16", "Qwen3-235B-A22B", "ascend"),
}
AUTHOR = Author("somebody@laptop", "000000000000", "2026-01-01T00:00:00Z")


def spec(release: str, layout: str, model: str) -> Spec:
    return parse_spec(
        f"""
name: golden
cluster:
  hosts:
    - {{address: 192.168.0.147, npus: 8}}
    - {{address: 192.168.0.35, npus: 8}}
  nic: enp67s0f5
  chip: 910B2
model: {{path: /data/{model}, served_name: qwen3}}
serve:
  version: {release}
  layout: {layout}
  context: 32768
  memory: 0.9
""",
        "spec",
    )


def printed(release: str, name: str) -> str:
    """The script, without the programs at its end, which are the same for all; or the refusal."""
    layout, model, quantisation = LAYOUTS[name]
    row = release_of(release)
    assert row is not None
    asked = spec(release, layout, model)
    image = image_name(row, "A2", asked.runtime)
    names = tuple(host.address for host in asked.cluster.hosts or ())
    try:
        service = complete(asked, names, Known({}, {}, image, known(model), quantisation))
    except RopewayError as error:
        lines = (f"refused: {error.what}", f"at {error.where}", *error.evidence, str(error.hint))
        return "".join(f"# {line}\n" for line in lines)
    return dry_run(service, image, AUTHOR).partition(EVERY_HOST)[0].rstrip() + "\n"


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("release", RELEASES)
def test_the_commands_are_those_that_were_read_and_agreed_on(release: str, name: str) -> None:
    file = GOLDEN / release / f"{name}.sh"
    text = printed(release, name)
    if os.environ.get("ROPEWAY_GOLDEN") == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
