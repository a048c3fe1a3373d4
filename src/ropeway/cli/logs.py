"""`ropeway logs`: what the engine wrote."""

import os
from dataclasses import replace
from pathlib import Path

import click

from ropeway.cli.detached_jobs import find_job
from ropeway.cli.options import lang_option, screen_options
from ropeway.cli.target import Target, reached, target_options, tell_silent
from ropeway.errors import Refused
from ropeway.hosts.local import LocalHost
from ropeway.launch.labels import Reached
from ropeway.launch.local.running import deployment_of, new_log_text
from ropeway.launch.logs import Line, follow, recent_lines
from ropeway.phrases import phrase
from ropeway.report.console import Screen


@click.command()
@target_options
@click.option("-n", "--lines", type=click.IntRange(min=0), default=100, show_default=True)
@click.option("-f", "--follow", "following", is_flag=True, help="Go on until Ctrl-C or the end.")
@click.option("--job", metavar="NAME", help="Of a batch job on the head, in place of the engine.")
@lang_option
@screen_options
def logs(*, target: Target, lines: int, following: bool, job: str | None, screen: Screen) -> None:
    """Show the last lines of the engine's log, of all ranks.

    On real hosts the logs of all containers are merged by time, each line with its host and role.

    \b
    Example:
      ropeway logs -n 20 -f
    """
    following = following and not screen.json
    if target.is_remote:
        with reached(target, acts=False) as service:
            if job is not None:
                service = replace(service, containers=(find_job(service, job).container,))
            _show_hosts(service, lines, screen, following=following)
    else:
        _show_local(target, lines, screen, following=following)


def _show_local(target: Target, lines: int, screen: Screen, *, following: bool) -> None:
    user = os.getuid()
    service = target.local_service(user, acts=False)
    deployment = deployment_of(service, user, LocalHost()) if service else None
    if service is None or deployment is None:
        raise Refused(
            "nothing is running",
            hint="logs of earlier runs stay in their directories: `ls runs/*/engine.log`",
        )
    log = Path(deployment.engine_log)
    if not log.exists():
        raise Refused(phrase("`{service}` has written no log yet", service=service), where=str(log))
    content = log.read_bytes()
    last = content.decode(errors="replace").splitlines()[-lines:] if lines else []
    lines_json = [{"time": None, "source": str(log), "text": line} for line in last]
    screen.result({"name": service, "lines": lines_json})
    screen.write("".join(f"{line}\n" for line in last))
    if following:
        for text in new_log_text(log, len(content), service):
            screen.write(text)


def _show_hosts(service: Reached, lines: int, screen: Screen, *, following: bool) -> None:
    containers = service.containers
    if not containers:
        hint = "logs of starts that failed stay in their directories: `ls runs/*/*.log`"
        raise service.nothing_runs(hint)
    tell_silent(service.failures, screen)
    read = recent_lines(service, containers, max(lines, 1))  # `follow` begins after them
    recent = read[-lines:] if lines else ()
    screen.result({"name": service.name, "lines": [vars(line) for line in recent]})

    def write(line: Line) -> None:
        screen.write(f"{line.source} | {line.text}\n")

    for line in recent:
        write(line)
    if following:
        follow(service, read, write)
