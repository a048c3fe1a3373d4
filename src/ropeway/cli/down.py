"""`ropeway down`: take a service down, whole."""

import os
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import name_option, only_service
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.local.record import scratch_of
from ropeway.launch.local.takedown import take_down
from ropeway.report.console import Screen


@click.command()
@name_option
@screen_options
def down(*, name: str | None, screen: Screen) -> None:
    """Take a service down: its processes, its shared memory, its temporary files.

    Logs stay in their run folder. What is not there is no error.

    \b
    Example:
      ropeway down
      ropeway down --name qwen3
    """
    user = os.getuid()
    service = only_service(name, user)
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
