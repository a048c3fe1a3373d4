"""`ropeway down`: take a service down, whole."""

import os
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import only_service
from ropeway.cli.target import Target, reached, target_options
from ropeway.cli.up_hosts import audited, author
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.life import take_down as take_down_hosts
from ropeway.launch.local.record import scratch_of
from ropeway.launch.local.takedown import take_down
from ropeway.launch.lock import locked
from ropeway.report.console import Screen


@click.command()
@target_options
@screen_options
def down(*, target: Target, screen: Screen) -> None:
    """Take a service down: its processes, its shared memory, its temporary files.

    Logs stay in their run folder. What is not there is no error.

    \b
    Example:
      ropeway down
      ropeway down --name qwen3 --host root@192.168.0.147
    """
    if target.is_remote:
        _down_hosts(target, screen)
        return
    user = os.getuid()
    service = only_service(target.name, user)
    if service is None:
        screen.answer("nothing is running")
        screen.result({"name": None, "processes": 0})
        return
    with screen.step(f"take `{service}` down") as step, uninterrupted():
        gone = take_down(service, scratch_of(service, user))
        step.ok(f"{gone.processes} processes, {len(gone.shared_memory)} shared-memory files")
    screen.answer(f"`{service}` is down" if not gone.nothing else f"`{service}` was not running")
    screen.result(
        {
            "name": service,
            "processes": gone.processes,
            "shared_memory": list(gone.shared_memory),
            "folders": [str(Path(folder)) for folder in gone.folders],
        }
    )


def _down_hosts(target: Target, screen: Screen) -> None:
    me = author()
    with reached(target) as seen, locked(seen.every, me) as lock:
        if seen.name is None:
            screen.answer("nothing is running")
            screen.result({"name": None, "containers": 0})
            return
        with (
            audited(seen.every, me, seen.name, "down", screen.warn),
            screen.step(f"take `{seen.name}` down on {len(seen.hosts)} hosts") as step,
            uninterrupted(),
        ):
            lock.check()
            count = take_down_hosts(seen.hosts, seen.runtime, seen.name, seen.anew().state)
            step.ok(f"{count} containers")
    screen.answer(f"`{seen.name}` is down" if count else f"`{seen.name}` was not running")
    screen.result({"name": seen.name, "containers": count, "hosts": list(seen.hosts)})
