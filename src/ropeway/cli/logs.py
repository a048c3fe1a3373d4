"""`ropeway logs`: what the engine wrote."""

import os
import time
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import name_option, only_service
from ropeway.errors import Refused
from ropeway.hosts.local import LocalHost
from ropeway.launch.local.status import deployment_of, running
from ropeway.report.console import Screen


@click.command()
@name_option
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C or the engine ends.")
@screen_options
def logs(*, name: str | None, lines: int, follow: bool, screen: Screen) -> None:
    """Show the last lines of the engine's log; all ranks write into it.

    \b
    Example:
      ropeway logs -n 20 -f
    """
    user = os.getuid()
    service = only_service(name, user)
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
        while follow and not screen.json:
            if piece := file.read():
                screen.write(piece)
            elif not running(service):
                return
            else:
                time.sleep(0.3)
