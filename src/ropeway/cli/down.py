"""`ropeway down`: take down a whole service."""

import os
from collections.abc import Sequence

import click

from ropeway.cli.hosts_start import take_down
from ropeway.cli.options import lang_option, screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.errors import Refused
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.detached import find_jobs
from ropeway.launch.local import running as local_running
from ropeway.launch.local.steps import scratch_of
from ropeway.launch.lock import current_author, locked
from ropeway.phrases import count, phrase
from ropeway.report.console import Screen
from ropeway.sim.kept import find_kept
from ropeway.units import counted


@click.command()
@target_options
@lang_option
@screen_options
def down(*, target: Target, screen: Screen) -> None:
    """Take a service down: its processes, its shared memory, its temporary files.

    It is the spec's service, the one that `--name` names, or with `--local` that of
    `ropeway up --local`. Logs stay in their run folder. It is not an error if nothing runs.

    \b
    Example:
      ropeway down
      ropeway down --name qwen3 --host root@192.168.0.147
    """
    if target.rehearsal:
        _down_rehearsal(target, screen)
        return
    if target.is_remote:
        _down_hosts(target, screen)
        return
    user = os.getuid()
    service = target.local_service(user, acts=True)
    if service is None:
        target.tell_nothing_runs(screen)
        screen.result(_document(None))
        return
    with screen.step(phrase("take `{name}` down", name=service)) as step, uninterrupted():
        removed = local_running.take_down(service, scratch_of(service, user))
        step.ok(
            phrase(
                "{processes}, {files}",
                processes=count(removed.processes, "{n:,} process", "{n:,} processes"),
                files=counted(len(removed.shared_memory), "shared-memory file"),
            )
        )
    _tell_down(service, screen, nothing=removed.nothing)
    screen.result(_document(service, **vars(removed)))


def _tell_down(name: str, screen: Screen, *, nothing: bool) -> None:
    screen.answer(phrase("`{name}` was not running" if nothing else "`{name}` is down", name=name))


def _document(
    name: str | None,
    hosts: Sequence[str] = (),
    *,
    containers: int = 0,
    processes: int = 0,
    shared_memory: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> dict[str, object]:
    """Return the JSON document: where the service was, and what was removed."""
    return {
        "name": name,
        "hosts": list(hosts),
        "removed": {
            "containers": containers,
            "processes": processes,
            "shared_memory": list(shared_memory),
            "folders": list(folders),
        },
    }


def _down_rehearsal(target: Target, screen: Screen) -> None:
    """Take down what runs on the virtual hosts, and end the rehearsal.

    Raises Refused where another one was named.
    """
    screen.rehearsal = True
    kept = find_kept()
    if kept is None:
        screen.answer(phrase("no rehearsal is kept"))
        screen.result(_document(None))
        return
    if target.name not in (None, kept.spec.name):
        what = "the rehearsal that is kept is of `{kept}`, not of `{name}`"
        raise Refused(
            phrase(what, kept=kept.spec.name, name=target.name),
            hint=phrase("to end it: {command}", command="ropeway down --rehearsal"),
        )
    _down_hosts(target, screen)
    kept.end()
    screen.answer(phrase("the rehearsal has ended"))


def _down_hosts(target: Target, screen: Screen) -> None:
    author = current_author()
    with reached(target, acts=True) as service, locked(service.answering, author) as lock:
        name = service.name
        if name is None:
            screen.answer(phrase("nothing is running on these hosts"))
            screen.result(_document(None))
            return
        removed = take_down(service, lock, screen)
        for job in find_jobs(service):
            if job.exit_code is None:
                screen.warn(
                    phrase(
                        "the batch job {name} stays on {host}, and waits for the service half an"
                        " hour; to end it: `ropeway batch --stop --job {name}`",
                        name=job.name, host=job.container.host,
                    )
                )  # fmt: skip
    _tell_down(name, screen, nothing=not removed)
    screen.result(_document(name, list(service.hosts), containers=removed))
