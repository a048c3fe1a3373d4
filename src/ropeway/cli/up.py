"""`ropeway up`: bring the model up and leave it running, or rehearse that on virtual hosts."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from ropeway.bench.record import new_run_dir
from ropeway.checkpoints.catalogue import RECIPES
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.bringup import SpecFlags, bring_up, deployment_for, read_spec, start_context
from ropeway.cli.call import current_call
from ropeway.cli.completion import one_of
from ropeway.cli.files import run_folder
from ropeway.cli.hosts_start import agree, keep_start, locking, save_log
from ropeway.cli.layout_choice import planned, planned_locally
from ropeway.cli.options import (
    config_option,
    dry_run_option,
    known_like,
    lang_option,
    passed_as,
    screen_options,
    yes_option,
)
from ropeway.cli.rehearsal import (
    Stage,
    refuse_unchecked,
    rehearsal_options,
    rehearse_up,
    rehearsed_spec,
)
from ropeway.cli.start_checks import check_before_start, skip_before_start
from ropeway.cli.target import checked_name
from ropeway.doctor.start import asked_before
from ropeway.errors import Refused
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import Hosts
from ropeway.hosts.interrupts import interruptible
from ropeway.launch import up as launching
from ropeway.launch.checks import Difference
from ropeway.launch.clock import SYSTEM_CLOCK
from ropeway.launch.local.steps import dry_run as local_script
from ropeway.launch.lock import current_author
from ropeway.launch.rollout import Service
from ropeway.launch.up import Caller, Outcome, Preparation, check_spec, prepare
from ropeway.models.task import PATHS, Task, curl_line, task_of, task_words
from ropeway.phrases import joined, phrase
from ropeway.report.console import Screen
from ropeway.sim.faults import FAULTS, LAUNCH_FAULTS
from ropeway.spec.model import Spec

# What the JSON document says of a service that was not started.
_NOT_STARTED: dict[str, object] = {
    "start_s": None, "folder": None, "script": None, "assumed": [], "notes": [],
}  # fmt: skip


def _up_hosts(
    spec: Spec,
    stage: Stage | None,
    *,
    screen: Screen,
    dry_run: bool,
    yes: bool,
    skip_checks: bool,
    ssh_config: str | None,
) -> None:
    """Bring the spec's service up on its hosts, or show how. `stage`: where they are virtual."""
    check_spec(spec, None if dry_run else os.environ)
    author = current_author()
    connect = current_call().connect or connected
    with interruptible(), connect(spec.cluster, ssh_config=ssh_config) as hosts:
        if dry_run:
            preparation = planned(prepare(spec, hosts, screen, may_fail=True))
            _show_script(*launching.dry_run_script(preparation, author), screen)
            return
        with locking(hosts, author, screen) as lock:
            asked = frozenset() if skip_checks else asked_before(spec)
            preparation = planned(prepare(spec, hosts, screen, may_fail=False, asked=asked))
            caller = _caller(preparation.spec, screen, yes=yes, skip_checks=skip_checks)
            outcome = launching.up(preparation, lock, caller)
            _show_outcome(outcome, preparation.hosts, screen, stage)


def _caller(spec: Spec, screen: Screen, *, yes: bool, skip_checks: bool) -> Caller:
    def check(preparation: Preparation, service: Service) -> Sequence[str]:
        if skip_checks:
            skip_before_start((service,), screen)
            return ()
        return check_before_start(preparation, (service,), screen)

    def confirm(differences: Sequence[Difference], count: str) -> None:
        same = phrase("the spec is the same; what runs differs from it")
        screen.say(joined(map(str, differences), "\n") if differences else same)
        question = phrase("replace {containers} of `{name}`?", containers=count, name=spec.name)
        agree(question, screen, yes=yes)

    def keep(script: str) -> None:
        """Keep what this run is about in its folder."""
        keep_start(run_folder("up"), spec, script)

    def save(name: str, text: str) -> str:
        return save_log(current_call().folder or Path(), screen, name, text)

    clock = current_call().clock or SYSTEM_CLOCK
    return Caller(screen, os.environ, check, confirm, keep, save, clock)


def _show_script(script: str, service: Service, screen: Screen) -> None:
    for text in service.replicas[0].release.notes:
        screen.warn(text)
    screen.write(script)
    document = _document_of(service)
    screen.result({**document, "script": script, "assumed": list(service.assumed)})


def _tell_up(service: Service, hosts: Hosts, screen: Screen) -> None:
    """Say where the service is, and what can be done with it."""
    model = service.replicas[0].served_name
    screen.answer(phrase("{model} is up at {url}", model=model, url=service.url))
    if service.url.startswith("http://127."):
        port, head = service.spec.serve.port, hosts[service.head.name]
        screen.hint(
            phrase(
                "it listens on the loopback of {host}; from here:\n{command}",
                host=head.name,
                command=f"{head.by_hand} -N -L {port}:127.0.0.1:{port}",
            )
        )
    name = service.spec.serve.api_key_env
    key = f" --key-env {name}" if name else ""
    if service.task == "generate":
        screen.hint(f"ropeway chat --url {service.url}{key}\nropeway down --name {service.name}")
    else:
        _tell_question(service.task, service.url, model, name, screen)
        screen.hint(f"ropeway down --name {service.name}")


def _tell_question(task: Task, url: str, model: str, key_env: str | None, screen: Screen) -> None:
    """Say how a model that does not generate is asked; the shell puts in the key."""
    key = f' -H "Authorization: Bearer ${key_env}"' if key_env else ""
    command = curl_line(task, url.removesuffix("/v1") + PATHS[task], model) + key
    screen.hint(phrase("it {does}:\n{command}", does=task_words(task), command=command))


def _show_outcome(outcome: Outcome, hosts: Hosts, screen: Screen, stage: Stage | None) -> None:
    service, document = outcome.service, _document_of(outcome.service)
    if outcome.seconds is None:
        screen.answer(phrase("`{name}` is already up, and matches the spec", name=service.name))
        screen.result(document)
        return
    if stage:
        stage.tell(service.replicas[0].served_name, service.url, screen)
    else:
        _tell_up(service, hosts, screen)
    url = (stage and stage.url) or service.url
    folder = str(current_call().folder)
    started = {"start_s": round(outcome.seconds, 1), "folder": folder}
    screen.result({**document, "url": url, **started, "notes": list(outcome.notes)})


def _document_of(service: Service) -> dict[str, object]:
    """Return the JSON document of a service on hosts that has not been started."""
    replica = service.replicas[0]
    return {
        "name": service.name,
        "url": service.url,
        "model": replica.served_name,
        "layout": str(replica.layout),
        "replicas": len(service.replicas),
        "release": replica.release.version,
        "image": service.image,
        "task": service.task,
        **_NOT_STARTED,
        "notes": list(service.notes),
    }


_SPEC_FLAGS = (
    click.option(
        "--name", callback=checked_name, help="Name of the service, in place of the spec's."
    ),
    click.option(
        "--model", help="Checkpoint name or model directory, in place of the spec's.",
        shell_complete=one_of(lambda: RECIPES),
    ),
    click.option(
        "--model-config", metavar="FILE",
        help="The model's config.json here, for a dry run.",
    ),
    click.option("--layout", help="Parallel layout, in place of the spec's: `TP2×PP2+EP`, `tp4`."),
    click.option("--port", type=click.IntRange(1, 65_535), help="In place of `serve.port`."),
    click.option(
        "--release-like", metavar="VERSION", callback=known_like,
        help="The known release that is like the image's, in place of `serve.release_like`.",
    ),
)  # fmt: skip


def _spec_flags(verb: Callable[..., object]) -> Callable[..., object]:
    return passed_as("flags", SpecFlags, verb, _SPEC_FLAGS)


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@_spec_flags
@click.option("--ssh-config", metavar="FILE", help="Read in place of ~/.ssh/config.")
@rehearsal_options(lambda: FAULTS | LAUNCH_FAULTS)
@click.option("--keep", is_flag=True, help="With --rehearse: leave it up for the other verbs.")
@click.option("--skip-checks", is_flag=True, help="Start without `doctor`'s checks of the hosts.")
@yes_option
@dry_run_option
@lang_option
@screen_options
def up(
    *,
    config: Path,
    local: bool,
    flags: SpecFlags,
    ssh_config: str | None,
    rehearse: str | None,
    faults: Sequence[str],
    skip_checks: bool,
    keep: bool,
    yes: bool,
    dry_run: bool,
    screen: Screen,
) -> None:
    """Bring the model up in one parallel layout and serve it.

    It is up when it has generated a token. It then runs on without us, and on real hosts comes back
    by itself after a crash or a reboot; `ropeway down` ends it. When the start fails or is
    interrupted, everything that was started is undone. Called again with another spec, it shows
    what differs, asks, and replaces what changed.

    \b
    Example:
      ropeway up --local --layout tp2,pp2,ep
      ropeway up --dry-run >commands.sh
      ropeway up --rehearse
      ropeway up --rehearse 64x8-910B4 --fault never-joins:host7
    """
    on_hosts = partial(
        _up_hosts, screen=screen,
        dry_run=dry_run, yes=yes, skip_checks=skip_checks, ssh_config=ssh_config,
    )  # fmt: skip
    if keep and rehearse is None:
        raise Refused(
            phrase("`{flag}` is for virtual hosts", flag="--keep"), hint=phrase("add `--rehearse`")
        )
    if rehearse is not None:
        if skip_checks:
            refuse_unchecked(faults)
        spec, fleet, made_up = rehearsed_spec(rehearse, config, flags, faults, screen)
        if dry_run and made_up and flags.layout is None:
            screen.say(_spread_words(spec))
        rehearse_up(spec, fleet, on_hosts, screen, faults=faults, keeps=keep, dry_run=dry_run)
        return
    spec = flags.over(read_spec(config, local=local))
    if spec.cluster.is_local:
        _up_local(spec, screen, dry_run=dry_run)
    else:
        on_hosts(spec, None)


def _spread_words(spec: Spec) -> str:
    """Say that the layout of hosts that were made up is not what a plan would choose."""
    return phrase(
        "the layout is {layout}, over all of these hosts, so that each takes part: `ropeway plan` "
        "says which to run, and `--layout` rehearses it",
        layout=spec.serve.layout,
    )


def _up_local(spec: Spec, screen: Screen, *, dry_run: bool) -> None:
    """Bring the service up on this machine."""
    context = start_context(spec, screen, fetch=not dry_run)
    spec, notes = planned_locally(spec, context.shape, default_root(os.environ))
    context = replace(context, spec=spec)
    for note in notes:
        screen.say(phrase("note: {note}", note=note))
    folder = new_run_dir(Path("runs"), "up", datetime.now(UTC))
    deployment = deployment_for(context, spec.serve.layout, folder)
    if not dry_run:  # by now its name may be another's
        folder = run_folder("up")
        deployment = replace(deployment, logs=str(folder.absolute()))
    script = local_script(deployment)
    task = task_of(context.shape, spec.serve.engine_args)
    document = {
        "name": deployment.service,
        "url": deployment.url,
        "model": deployment.served_name,
        "layout": str(deployment.layout),
        "replicas": 1,
        "release": None,
        "image": None,
        "task": task,
        **_NOT_STARTED,
    }
    if dry_run:
        screen.write(script)
        screen.result({**document, "script": script})
        return
    screen.detail(script)
    seconds = bring_up(context, deployment, screen)
    try:
        keep_start(folder, spec, script)
    except Refused as error:  # it is up all the same
        screen.warn(error.what)
    screen.answer(
        phrase("{model} is up at {url}", model=deployment.served_name, url=deployment.url)
    )
    if task == "generate":
        screen.hint(
            f"ropeway chat --url {deployment.url}\nropeway down --name {deployment.service}"
        )
    else:
        name = spec.serve.api_key_env
        _tell_question(task, deployment.url, deployment.served_name, name, screen)
        screen.hint(f"ropeway down --name {deployment.service}")
    screen.result({**document, "start_s": round(seconds, 1), "folder": str(folder)})
