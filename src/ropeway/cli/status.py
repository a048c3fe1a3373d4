"""`ropeway status`: what is running, read from the hosts themselves."""

import os

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import name_option, only_service
from ropeway.engines.base import Deployment
from ropeway.errors import Exit
from ropeway.hosts.base import run_command
from ropeway.hosts.local import LocalHost
from ropeway.launch.local.status import Part, deployment_of, parts, running
from ropeway.launch.local.steps import probe_of
from ropeway.report.console import Screen
from ropeway.report.text import status_table


@click.command()
@name_option
@screen_options
@click.pass_context
def status(ctx: click.Context, *, name: str | None, screen: Screen) -> None:
    """Show what is running, and whether it generates a token right now.

    Exit code 0: it serves. 1: it does not, or nothing is running.

    \b
    Example:
      ropeway status --json
    """
    user = os.getuid()
    service = only_service(name, user)
    found = parts(running(service)) if service else ()
    if service is None or not found:
        screen.answer("nothing is running" if service is None else f"`{service}` is not running")
        screen.result({"name": service, "serving": False, "parts": []})
        ctx.exit(Exit.NO)
    here = LocalHost()
    deployment = deployment_of(service, user, here)
    serving, why = _serving(deployment, here)
    screen.answer(status_table([_row(part, serving) for part in found]))
    if deployment:
        state = "serves" if serving else f"does not serve: {why}"
        screen.answer(
            f"{deployment.layout} of {deployment.served_name} at {deployment.url}: {state}"
        )
    screen.result(
        {
            "name": service,
            "serving": serving,
            "url": deployment.url if deployment else None,
            "layout": str(deployment.layout) if deployment else None,
            "model": deployment.served_name if deployment else None,
            "logs": deployment.logs if deployment else None,
            "parts": [vars(part) for part in found],
        }
    )
    ctx.exit(Exit.OK if serving else Exit.NO)


def _serving(deployment: Deployment | None, here: LocalHost) -> tuple[bool, str]:
    """Whether one token comes out now, and if not, why."""
    if deployment is None:
        return False, "no record of it"
    probe = probe_of(deployment, timeout=20.0).command(deployment.python)
    answer = run_command(here, probe, timeout=30.0)
    return answer.ok, answer.stderr.strip() or "no answer"


def _row(part: Part, serving: bool) -> dict[str, object]:
    state = "serving" if serving else "running"
    return {
        "host": part.host,
        "role": part.role,
        "state": state,
        "pids": part.pids,
        "npus": part.ranks or None,
        "memory_bytes": part.memory_bytes,
    }
