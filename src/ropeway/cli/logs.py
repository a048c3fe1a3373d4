"""`ropeway logs`: what the engine wrote."""

import os
import time
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import only_service
from ropeway.cli.target import Reached, Target, reached, target_options
from ropeway.errors import Refused
from ropeway.hosts.local import LocalHost
from ropeway.launch.life import Line, follow, past
from ropeway.launch.local.status import deployment_of, running
from ropeway.report.console import Screen


@click.command()
@target_options
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@click.option("-f", "--follow", "going_on", is_flag=True, help="Go on until Ctrl-C or the end.")
@screen_options
def logs(*, target: Target, lines: int, going_on: bool, screen: Screen) -> None:
    """Show the last lines of the engine's log, of all ranks.

    On real hosts the logs of all containers are merged by time, each line with its host and role.

    \b
    Example:
      ropeway logs -n 20 -f
    """
    if target.is_remote:
        with reached(target) as seen:
            _hosts_logs(seen, lines, screen, going_on=going_on and not screen.json)
        return
    user = os.getuid()
    service = only_service(target.name, user)
    deployment = deployment_of(service, user, LocalHost()) if service else None
    if service is None or deployment is None:
        raise Refused(
            "nothing is running",
            hint="logs of earlier runs stay in their folders: `ls runs/*/engine.log`",
        )
    log = Path(deployment.engine_log)
    if not log.exists():
        raise Refused(f"`{service}` has written no log yet", where=str(log))
    with log.open(errors="replace") as file:
        text = file.read()
        shown = text.splitlines()[-lines:] if lines else []
        screen.result({"name": service, "log": str(log), "lines": shown})
        screen.write("".join(f"{line}\n" for line in shown))
        while going_on and not screen.json:
            if piece := file.read():
                screen.write(piece)
            elif not running(service):
                return
            else:
                time.sleep(0.3)


def _hosts_logs(seen: Reached, lines: int, screen: Screen, *, going_on: bool) -> None:
    for name, error in seen.state.failures.items():
        screen.warn(f"{name}: {error}")
    found = seen.state.found
    if not found:
        raise Refused(
            f"`{seen.name}` is not running" if seen.name else "nothing is running",
            hint="logs of starts that failed stay in their folders: `ls runs/*/*.log`",
        )
    before = past(seen.hosts, seen.runtime, found, lines)
    screen.result({"name": seen.name, "lines": [vars(line) for line in before]})
    for line in before:
        _write(screen, line)
    if going_on:
        follow(seen.hosts, seen.runtime, found, lambda line: _write(screen, line))


def _write(screen: Screen, line: Line) -> None:
    screen.write(f"{line.source} | {line.text}\n")
