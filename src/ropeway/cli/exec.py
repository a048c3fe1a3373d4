"""`ropeway exec`: a command inside of a service's containers."""

import click

from ropeway.cli.options import screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.errors import Exit, Refused
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.launch.containers import HEAD
from ropeway.launch.life import run_in, source_of
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

    Exit code 0: it ended well everywhere.

    \b
    Example:
      ropeway exec npu-smi info
      ropeway exec --all -- pip list
    """
    if not target.is_remote:
        raise Refused("exec is for services on real hosts, which have containers")
    with reached(target) as seen:
        found = [one for one in seen.state.found if one.state == "running"]
        which = found if everywhere else [one for one in found if one.role == HEAD][:1]
        if not which:
            raise Refused("nothing is running", hint="`ropeway status` shows what is")

        def run(host: Host) -> list[tuple[str, int, str, str]]:
            answers = []
            for one in which:
                if one.host == host.name:
                    result = run_in(seen.hosts, seen.runtime, one, command)
                    answers.append((source_of(one), result.exit_code, result.stdout, result.stderr))
            return answers

        outcomes = run_on_all(
            [seen.hosts[name] for name in dict.fromkeys(o.host for o in which)], run
        )
    rows = [row for one in outcomes for row in one.result or ()]
    for one in outcomes:
        if one.error is not None:
            raise one.error
    for source, code, out, err in rows:
        if len(rows) > 1:
            screen.say(source + (f" → exit {code}" if code else ""))
        screen.write(out)
        screen.write(err, aside=True)
    screen.result(
        {
            "answers": [
                {"source": source, "exit_code": code, "stdout": out, "stderr": err}
                for source, code, out, err in rows
            ]
        }
    )
    ctx.exit(Exit.NO if any(code for _, code, _, _ in rows) else Exit.OK)
