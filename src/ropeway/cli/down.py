"""`ropeway down`: take down a whole service."""

import os
from collections.abc import Sequence

import click

from ropeway.cli.options import screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch import running
from ropeway.launch.local.running import take_down
from ropeway.launch.local.steps import scratch_of
from ropeway.launch.lock import audited, current_author, locked
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.sim.kept import find_kept
from ropeway.units import counted


@click.command()
@target_options
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
    with screen.step(f"take `{service}` down") as step, uninterrupted():
        removed = take_down(service, scratch_of(service, user))
        shared = len(removed.shared_memory)
        step.ok(f"{removed.processes} processes, {shared} shared-memory files")
    state = "was not running" if removed.nothing else "is down"
    screen.answer(f"`{service}` {state}")
    screen.result(_document(service, **vars(removed)))


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
    """Take down what runs on the virtual hosts, and end the rehearsal."""
    screen.rehearsal = True
    kept = find_kept()
    if kept is None:
        screen.answer(phrase("no rehearsal is kept"))
        screen.result(_document(None))
        return
    _down_hosts(target, screen)
    kept.end()
    screen.answer(phrase("the rehearsal has ended"))


def _down_hosts(target: Target, screen: Screen) -> None:
    author = current_author()
    with reached(target, acts=True) as service, locked(service.answering, author) as lock:
        name = service.name
        if name is None:
            screen.answer("nothing is running on these hosts")
            screen.result(_document(None))
            return
        with (
            audited(service.answering, author, name, "down", screen.warn),
            screen.step(f"take `{name}` down on {counted(len(service.hosts), 'host')}") as step,
            uninterrupted(),
        ):
            lock.check()
            count = running.take_down(service.refreshed())
            step.ok(counted(count, "container"))
    screen.answer(f"`{name}` is down" if count else f"`{name}` was not running")
    screen.result(_document(name, list(service.hosts), containers=count))
