"""What runs on each host, release by release, for the six layouts of the two-host report.

`tests/golden/RELEASE.txt` has the commands and variables of all six; `tests/golden/*.sh` are two
whole scripts as `up --dry-run` prints them, one with Ray and one without. Both are to be read when
something in them changes: `ROPEWAY_GOLDEN=write pytest tests/test_launch_golden.py`, then
`git diff --word-diff tests/golden`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropeway.engines.base import Node, Replica
from ropeway.errors import RopewayError
from ropeway.hosts.base import Command, shell_line
from ropeway.launch.dry_run import dry_run
from ropeway.launch.lock import Author
from ropeway.launch.programs import NAMES
from ropeway.launch.rollout import Rollout, Service
from ropeway.spec.model import Model
from test_launch_commands import service_of, spec_of

GOLDEN = Path(__file__).parent / "golden"
RELEASES = (
    "0.9.1", "0.10.2rc1", "0.11.0rc0", "0.11.0", "0.12.0rc1", "0.13.0", "0.18.0", "0.20.2rc1",
    "0.23.0.post1", "0.30.0rc2", "0.30.0", "0.32.0rc1",
)  # fmt: skip
# Layout, model, scheme.
LAYOUTS = (
    ("TP8+EP", "Qwen3-30B-A3B", None),
    ("TP16", "Qwen3-30B-A3B", None),
    ("TP8×PP2", "Qwen3-30B-A3B", None),
    ("TP16+EP", "Qwen3-30B-A3B", None),
    ("TP8×PP2+EP", "Qwen3-30B-A3B", None),
    ("TP16", "Qwen3-235B-A22B", "ascend"),
)
SCRIPTS = {"with-ray": ("0.11.0rc0", "TP16+EP"), "without-ray": ("0.23.0.post1", "TP8×PP2+EP")}
AUTHOR = Author("somebody@laptop", "000000000000", "2026-01-01T00:00:00Z")


def service(release: str, layout: str, model: str, scheme: str | None) -> Service:
    """Raises RopewayError where the release cannot run it."""
    spec = spec_of(version=release, layout=layout)
    changes = {
        "name": "golden",
        "cluster": spec.cluster.model_copy(update={"chip": "910B2"}),
        "model": Model(path=f"/data/{model}", served_name="qwen3"),
    }
    return service_of(spec.model_copy(update=changes), model=model, scheme=scheme)


def commands(release: str) -> str:
    """The variables and commands of each node, layout by layout, or the kind of refusal."""
    blocks = []
    for layout, model, scheme in LAYOUTS:
        title = f"# {layout} of {model}" + (f", {scheme}" if scheme else "")
        try:
            (replica,) = service(release, layout, model, scheme).replicas
        except RopewayError as error:
            blocks.append([title, f"{type(error).__name__} at {error.where}"])
            continue
        blocks.append([title, *(row for node in replica.nodes for row in of_node(replica, node))])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def of_node(replica: Replica, node: Node) -> Iterator[str]:
    yield f"{node.name}: {' '.join(f'{k}={v}' for k, v in replica.environment(node).items())}"
    if replica.uses_ray:
        yield f"{node.name}: {shell_line(Command(replica.ray_start_argv(node)))}"
    if node == replica.head or not replica.uses_ray:
        yield f"{node.name}: {shell_line(Command(replica.serve_argv(node)))}"


def script(release: str, layout: str) -> str:
    """Return the whole script, without the programs in it, which are the same for all."""
    rollout = Rollout(service(release, layout, "Qwen3-30B-A3B", None))
    text = dry_run(rollout, rollout.service.image, AUTHOR)
    begin, _, rest = text.partition(f"cat >{NAMES[0]}.py")
    return f"{begin}…\n){rest.partition(f'chmod 644 {NAMES[-1]}.py{chr(10)})')[2]}"


def agreed(name: str, text: str) -> str:
    """The file as it was read and agreed on."""
    file = GOLDEN / name
    if os.environ.get("ROPEWAY_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize("release", RELEASES)
def test_commands_and_variables_of_a_release_are_those_agreed_on(release: str) -> None:
    text = commands(release)
    assert text == agreed(f"{release}.txt", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_whole_script_is_the_one_agreed_on(name: str) -> None:
    text = script(*SCRIPTS[name])
    assert text == agreed(f"{name}.sh", text)


def test_the_scripts_run_the_commands_and_set_the_variables() -> None:
    """So the files by release speak for the scripts, which only two of them show whole."""
    for release in RELEASES:
        for layout, model, scheme in LAYOUTS:
            try:
                rollout = Rollout(service(release, layout, model, scheme))
            except RopewayError:
                continue
            text = " ".join(
                dry_run(rollout, rollout.service.image, AUTHOR).replace("\\\n", " ").split()
            )
            (replica,) = rollout.service.replicas
            for row in (row for node in replica.nodes for row in of_node(replica, node)):
                host, _, command = row.partition(": ")
                if command.startswith(("ray start", "vllm serve")):
                    assert command in text, (release, layout, host)
                else:
                    variables = "".join(f"--env {each} " for each in command.split())
                    assert variables in text, (release, layout, host)
