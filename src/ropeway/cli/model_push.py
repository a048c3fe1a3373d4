"""`ropeway model push`: a model's files from one host to all others."""

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from ropeway.cli.bringup import read_spec
from ropeway.cli.options import config_option, dry_run_option, screen_options, ssh_config_option
from ropeway.errors import Exit, Refused, RopewayError
from ropeway.hosts.connect import connected
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.lock import current_author
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.model import Spec
from ropeway.units import counted, format_bytes
from ropeway.weights.dry_run import forecast, steps
from ropeway.weights.plan import PushPlan, plan_push
from ropeway.weights.push import push
from ropeway.weights.source import choose_source, folders
from ropeway.weights.survey import check_tools, survey_hosts
from ropeway.weights.trust import Leftover

# What the JSON document says of a push that was only shown, and of one that has no plan to show.
_NOT_SENT: dict[str, object] = {
    "copies": None, "commands": [], "duration_s": None, "sha256": {}, "deliveries": [], "left": [],
}  # fmt: skip


@click.command(name="push")
@click.argument("path", metavar="[DIR]", required=False)
@click.option("--from", "source", metavar="HOST|here", help="Who has it; `here` is this machine.")
@click.option("--to", metavar="DIR", help="Its directory on the hosts, when it comes from here.")
@config_option
@ssh_config_option
@dry_run_option
@screen_options
@click.pass_context
def push_(
    ctx: click.Context,
    *,
    path: str | None,
    source: str | None,
    to: str | None,
    config: Path,
    ssh_config: str | None,
    dry_run: bool,
    screen: Screen,
) -> None:
    """Copy the model in the directory DIR to every host of the spec.

    Without DIR it is the spec's `model.path`. The source is the first host with a complete copy, or
    else this machine. The hosts pass the files on to each other, so that all copies together take
    about as long as one, and every file's sha256 is compared with the source's. What a host has
    already is not sent again: after Ctrl-C, a lost connection or a failed host the same command
    continues where it stopped.

    Exit code 0: every host has it. 1: some hosts do not; the others do.

    \b
    Example:
      ropeway model push
      ropeway model push /data/models/Qwen3-32B
      ropeway model push ~/Qwen3-32B --from here --to /data/models/Qwen3-32B
      ropeway model push /data/models/Qwen3-32B --dry-run
    """
    spec = read_spec(config, without=None)
    cluster = spec.cluster
    here, root = folders(path or _path_of(spec, config), source, to)
    with interruptible(), connected(cluster, ssh_config=ssh_config) as hosts:
        if cluster.hosts is None:
            raise Refused(
                "the hosts of this spec are virtual: they share this machine's disk",
                where=str(config),
                hint="`cluster.hosts` names real hosts",
            )
        with screen.step(f"look at {counted(len(hosts), 'host')}") as step:
            peers, unreachable = survey_hosts(hosts, cluster, root)
            if unreachable:
                step.warn(f"{len(unreachable)} do not answer")
        plan = plan_push(*choose_source(source, peers, here, root))
        if not plan.receivers:
            alone = phrase("{name} is the only host, and has it", name=plan.source.name)
            raise unreachable[0] if unreachable else Refused(alone, where=str(config))
        check_tools(plan.peers)
        document, errors = (_show if dry_run else _push)(plan, screen)
    errors = (*unreachable, *errors)
    ok = not errors and not document.get("left")
    failures = [error.as_json() for error in unreachable]
    screen.result({**plan.as_json(), **_NOT_SENT, **document, "unreachable": failures})
    for error in errors:
        screen.error(error)
    ctx.exit(Exit.OK if ok else Exit.NO)


def _path_of(spec: Spec, config: Path) -> str:
    """Return the directory of the spec's model. Raises Refused."""
    if spec.model.path is None:
        what = phrase("which directory to copy is not said: the spec has no `model.path`")
        raise Refused(what, where=str(config), hint="ropeway model push /data/…")
    return spec.model.path


def _show(plan: PushPlan, screen: Screen) -> tuple[dict[str, object], Sequence[RopewayError]]:
    """Print the commands in their order; return the JSON document, and no errors."""
    commands, copies = steps(plan), forecast(plan)
    for step in commands:
        screen.answer(f"# {step.what}\n{step.host}$ {shlex.join(step.argv)}")
    hosts = counted(len(plan.receivers), "host")
    screen.say(
        f"{format_bytes(plan.size)} from {plan.source.name} to {hosts}, in "
        f"about {copies:.2f} × the time of one copy over one host's link"
    )
    return {"copies": round(copies, 3), "commands": [vars(step) for step in commands]}, ()


def _push(plan: PushPlan, screen: Screen) -> tuple[dict[str, object], Sequence[RopewayError]]:
    """Push, and report what is left over; return the JSON document, and the hosts' errors."""
    for peer in plan.receivers:
        for name in plan.extra(peer)[:4]:
            screen.warn(f"{peer.name} has `{name}`, which {plan.source.name} lacks; it stays")
    leftovers: list[Leftover] = []
    began = datetime.now().astimezone()
    try:
        with screen.step(
            f"push {format_bytes(plan.size)} to {counted(len(plan.receivers), 'host')}"
        ) as step:
            result = push(
                plan,
                who=f"{current_author().who}, since {began:%Y-%m-%d %H:%M %Z}",
                on_progress=lambda progress: step.tick(str(progress)),
                on_fault=step.update,
                on_leftover=leftovers.append,
            )
            hosts = len(plan.receivers)
            closing = f"{hosts - len(result.errors)} of {hosts} have it, and every sha256 matches"
            (step.fail if result.errors else step.ok)(closing)
    finally:
        for one in leftovers:
            screen.warn(f"the key of this push may still be on {one.host}: {one.error.what}")
            screen.hint(f"remove it with\n{one.command}")
    left = [{"host": one.host, "command": one.command} for one in leftovers]
    return {**result.as_json(), "left": left}, result.errors
