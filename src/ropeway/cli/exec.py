"""`ropeway exec`: a command inside a service's containers."""

import click

from ropeway.cli.options import screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.errors import Exit, Refused
from ropeway.launch.rollout import HEAD
from ropeway.launch.running import run_in_containers
from ropeway.report.console import Screen


@click.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@target_options
@click.option("--all", "everywhere", is_flag=True, help="In all containers, not the head alone.")
@screen_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def exec(
    ctx: click.Context,
    *,
    target: Target,
    everywhere: bool,
    command: tuple[str, ...],
    screen: Screen,
) -> None:
    """Run a command in the head's container, or with `--all` in every one, and show what it prints.

    Exit code 0: it succeeded everywhere.

    \b
    Example:
      ropeway exec npu-smi info
      ropeway exec --all -- pip list
    """
    target.check_remote(Refused("exec is for services on real hosts, which have containers"))
    with reached(target, acts=True) as service:
        running = [each for each in service.containers if each.state == "running"]
        heads = [each for each in running if each.role == HEAD]
        containers = running if everywhere else heads[:1]
        if not containers:
            raise service.nothing_runs()
        results = run_in_containers(service, containers, command)
    for container, result in results:
        if len(results) > 1 or not result.ok:
            code = f" → exit {result.exit_code}" if result.exit_code else ""
            screen.say(f"{container.source}{code}")
        screen.write(result.stdout)
        screen.write(result.stderr, aside=True)
    answers = [
        {
            "source": container.source,
            "exit_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
        }
        for container, result in results
    ]
    screen.result({"name": service.name, "answers": answers})
    ctx.exit(Exit.OK if all(result.ok for _, result in results) else Exit.NO)
