"""`ropeway status`: what is running, read from the hosts themselves."""

import os

import click

from ropeway.cli.options import screen_options
from ropeway.cli.service import only_service
from ropeway.cli.target import Reached, Target, reached, target_options
from ropeway.engines.vllm_cpu import Deployment
from ropeway.errors import Exit
from ropeway.hosts.base import run_command
from ropeway.hosts.local import LocalHost
from ropeway.launch.labels import Found
from ropeway.launch.local.status import Part, deployment_of, parts, running
from ropeway.launch.local.steps import probe_of
from ropeway.launch.probe import serving
from ropeway.report.console import Screen
from ropeway.report.text import containers_table, status_table


@click.command()
@target_options
@screen_options
@click.pass_context
def status(ctx: click.Context, *, target: Target, screen: Screen) -> None:
    """Show what is running, and whether it generates a token right now.

    On real hosts it is read from the labels of containers: `--host` with any host of the service is
    enough, from any machine. Exit code 0: it serves. 1: it does not, or nothing is running.

    \b
    Example:
      ropeway status --json
      ropeway status --host root@192.168.0.147
    """
    if target.is_remote:
        with reached(target) as seen:
            ctx.exit(Exit.OK if _hosts_status(seen, screen) else Exit.NO)
    user = os.getuid()
    service = only_service(target.name, user)
    found = parts(running(service)) if service else ()
    if service is None or not found:
        screen.answer("nothing is running" if service is None else f"`{service}` is not running")
        screen.result({"name": service, "serving": False, "parts": []})
        ctx.exit(Exit.NO)
    here = LocalHost()
    deployment = deployment_of(service, user, here)
    serves, why = _serving(deployment, here)
    screen.answer(status_table([_row(part, serves) for part in found]))
    if deployment:
        state = "serves" if serves else f"does not serve: {why}"
        screen.answer(
            f"{deployment.layout} of {deployment.served_name} at {deployment.url}: {state}"
        )
    screen.result(
        {
            "name": service,
            "serving": serves,
            "url": deployment.url if deployment else None,
            "layout": str(deployment.layout) if deployment else None,
            "model": deployment.served_name if deployment else None,
            "logs": deployment.logs if deployment else None,
            "parts": [vars(part) for part in found],
        }
    )
    ctx.exit(Exit.OK if serves else Exit.NO)


def _hosts_status(seen: Reached, screen: Screen) -> bool:
    """Tell what runs on the hosts; whether all of it serves."""
    for name, error in seen.state.failures.items():
        screen.warn(f"{name}: {error}")
    found = seen.state.found
    if seen.name is None or not found:
        screen.answer(f"`{seen.name}` is not running" if seen.name else "nothing is running")
        screen.result({"name": seen.name, "serving": False, "containers": []})
        return False
    answers = serving(seen.hosts, seen.runtime, found)
    first = found[0]
    whole = not any(answers.values()) and not seen.state.failures
    rows = [(_container(one), answers.get(one.name)) for one in found]
    screen.answer(containers_table([{**row, "why": why} for row, why in rows]))
    state = "serves" if whole else "does not serve" if all(answers.values()) else "serves in part"
    spec = first.spec
    many = f"{spec.serve.replicas} × " if spec.serve.replicas > 1 else ""
    screen.answer(
        f"{many}{spec.serve.layout} of {first.model} at {first.url}, vLLM-Ascend {first.release}:"
        f" {state}"
    )
    screen.answer(f"brought up by {first.author.who}, {first.author.since}")
    screen.result(
        {
            "name": seen.name,
            "serving": whole,
            "url": first.url,
            "layout": str(spec.serve.layout),
            "replicas": spec.serve.replicas,
            "model": first.model,
            "release": first.release,
            "by": first.author.who,
            "since": first.author.since,
            "unreachable": list(seen.state.failures),
            "containers": [{**row, "why_not": why or None} for row, why in rows],
        }
    )
    return whole


def _container(one: Found) -> dict[str, object]:
    return {
        "host": one.host,
        "name": one.name,
        "role": one.role,
        "replica": one.replica,
        "rank": one.rank,
        "devices": list(one.devices),
        "state": one.state,
        "exit_code": one.exit_code,
        "restarts": one.restarts,
        "started": one.started,
        "image": one.image,
    }


def _serving(deployment: Deployment | None, here: LocalHost) -> tuple[bool, str]:
    """Whether one token comes out now, and if not, why."""
    if deployment is None:
        return False, "no record of it"
    probe = probe_of(deployment, timeout=20.0).command(deployment.python)
    answer = run_command(here, probe, timeout=30.0)
    return answer.ok, answer.stderr.strip() or "no answer"


def _row(part: Part, serves: bool) -> dict[str, object]:
    state = "serving" if serves else "running"
    return {
        "host": part.host,
        "role": part.role,
        "state": state,
        "pids": part.pids,
        "npus": part.ranks or None,
        "memory_bytes": part.memory_bytes,
    }
