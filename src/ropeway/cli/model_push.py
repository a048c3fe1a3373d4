"""`ropeway model push`: a model's files from one host to all others."""

import posixpath
import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import click

from ropeway.cli.bringup import read_spec
from ropeway.cli.options import config_option, dry_run_option, screen_options
from ropeway.errors import Exit, Refused, RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.interrupts import interruptible
from ropeway.hosts.local import LocalHost
from ropeway.launch.author import current_author
from ropeway.report.console import Screen
from ropeway.spec.cluster import Cluster
from ropeway.units import format_bytes, format_seconds
from ropeway.weights.dry_run import forecast, steps
from ropeway.weights.errand import Errand, errand
from ropeway.weights.push import Progress, Pushed, push
from ropeway.weights.survey import Site, check_tools, choose_source, look
from ropeway.weights.trust import Left

HERE = "here"


@click.command(name="push")
@click.argument("path")
@click.option("--from", "source", metavar="HOST|here", help="Who has it; `here` is this machine.")
@click.option("--to", metavar="DIR", help="Where on the hosts, when it comes from here.")
@config_option
@dry_run_option
@screen_options
@click.pass_context
def push_(
    ctx: click.Context,
    *,
    path: str,
    source: str | None,
    to: str | None,
    config: Path,
    dry_run: bool,
    screen: Screen,
) -> None:
    """Bring the model in the folder PATH to every host of the spec, from one that has it.

    The source is the first host that has it whole, or else this machine. The hosts pass the files
    on among themselves, so that all of them take about the time of one copy, and compare every
    file's sha256 with the source's. What is there already is not sent again: after Ctrl-C, a lost
    connection or a failed host the same command goes on where it stopped.

    Exit code 0: every host has it. 1: some have not; the others have.

    \b
    Example:
      ropeway model push /data/models/Qwen3-32B
      ropeway model push ~/Qwen3-32B --from here --to /data/models/Qwen3-32B
      ropeway model push /data/models/Qwen3-32B --dry-run
    """
    cluster = read_spec(config, local=False).cluster
    here, there = _folders(path, source, to)
    with interruptible(), connected(cluster) as hosts:
        if cluster.hosts is None:
            raise Refused(
                "the hosts of this spec are virtual: they share this machine's disk",
                where=str(config),
                hint="`cluster.hosts` names real hosts",
            )
        found, failed = _look(hosts, cluster, there, screen)
        task = errand(*_choose(source, found, here, there))
        if not task.receivers:
            raise (
                failed[0]
                if failed
                else Refused(f"{task.source.name} is the only host, and has it", where=str(config))
            )
        check_tools(task.sites)
        if dry_run:
            _show(task, failed, screen)
            ok = not failed
        else:
            ok = _push(task, failed, screen)
    ctx.exit(Exit.OK if ok else Exit.NO)


def _folders(path: str, source: str | None, to: str | None) -> tuple[Path, str]:
    """The folder on this machine, and on the hosts. Raises Refused."""
    here = Path(path).expanduser().absolute()
    there = posixpath.normpath(to if to is not None else str(here))
    if not there.startswith("/") or there.strip("/") == "":
        raise Refused(f"`{there}` is no folder for a model", hint="it begins with `/`")
    if "\0" in there:
        raise Refused("a path has no NUL")
    if to is not None and source != HERE:
        raise Refused(
            "`--to` is for a model that comes from this machine",
            hint="a service has one path for its model, the same on all hosts: without `--to`\n"
            f"from this machine: add `--from {HERE}`",
        )
    return here, "/" + there.lstrip("/")


def _look(
    hosts: Sequence[Host], cluster: Cluster, root: str, screen: Screen
) -> tuple[tuple[Site, ...], tuple[RopewayError, ...]]:
    """The hosts that answer, and what the others' trouble is."""
    nics = {
        host.name: remote.nic or cluster.nic
        for host, remote in zip(hosts, cluster.hosts or (), strict=False)
    }
    with screen.step(f"look at {len(hosts)} hosts") as step:
        outcomes = run_on_all(hosts, lambda host: look(host, root, nics.get(host.name)))
        sites = tuple(one.result for one in outcomes if one.result is not None)
        failed = tuple(one.error for one in outcomes if one.error is not None)
        if failed:
            step.warn(f"{len(failed)} do not answer")
    if not sites:
        raise failed[0]
    return sites, failed


def _choose(
    source: str | None, sites: tuple[Site, ...], here: Path, there: str
) -> tuple[Site, tuple[Site, ...]]:
    """Who sends, who receives. Raises Refused."""
    if source == HERE:
        return _local(here), sites
    if source is not None:
        found = next((s for s in sites if source in (s.name, s.host.address)), None)
        if found is None:
            names = ", ".join(site.name for site in sites)
            raise Refused(f"no host that answers is called `{source}`", hint=f"there are: {names}")
        if found.fault is not None:
            raise Refused(f"the model there {found.fault}", where=f"{found.name}:{there}")
    else:
        found = choose_source(sites)
    if found is None and here.is_dir() and str(here) == there:
        return _local(here), sites
    if found is None:
        raise Refused(
            "no host has this model whole",
            where=there,
            evidence=[f"{site.name}: {site.fault}" for site in sites[:8]],
            hint=f"from this machine: `--from {HERE}`",
        )
    return found, tuple(site for site in sites if site is not found)


def _local(here: Path) -> Site:
    site = look(LocalHost("this machine"), str(here))
    if site.fault is not None:
        raise Refused(f"the model here {site.fault}", where=str(here))
    return site


def _show(task: Errand, failed: Sequence[RopewayError], screen: Screen) -> None:
    """`--dry-run`: the commands, in the order in which they would run."""
    shown = steps(task)
    copies = forecast(task)
    for step in shown:
        screen.answer(f"# {step.what}\n{step.host}$ {shlex.join(step.argv)}")
    screen.say(
        f"{format_bytes(task.size)} from {task.source.name} to {len(task.receivers)} hosts, in "
        f"about {copies:.2f} × the time of one copy over one host's link"
    )
    screen.result(
        {
            **_about(task),
            "copies": round(copies, 3),
            "commands": [
                {"host": step.host, "what": step.what, "argv": list(step.argv)} for step in shown
            ],
            "unreachable": [error.as_json() for error in failed],
        }
    )
    for error in failed:
        screen.error(error)


def _push(task: Errand, failed: Sequence[RopewayError], screen: Screen) -> bool:
    """Whether all is well."""
    for site in task.receivers:
        for name in task.extra(site)[:4]:
            screen.warn(f"{site.name} has `{name}`, which {task.source.name} has not; it stays")
    left: list[Left] = []
    who = f"{current_author().who}, since {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    name = f"push {format_bytes(task.size)} to {len(task.receivers)} hosts"
    try:
        with screen.step(name) as step:
            done = push(
                task,
                who=who,
                on_progress=lambda progress: step.tick(progress_text(progress)),
                on_fault=step.update,
                on_left=left.append,
            )
            whole = sum(one.error is None for one in done.deliveries)
            closing = f"{whole} of {len(done.deliveries)} have it, every sha256 as the source's"
            (step.ok if done.ok else step.fail)(closing)
    finally:
        for one in left:
            screen.warn(f"on {one.host} the key of this push may still lie: {one.error.what}")
            screen.hint(f"take it away with\n{one.command}")
    screen.result(_document(task, done, failed, left))
    for error in (*failed, *(one.error for one in done.deliveries if one.error)):
        screen.error(error)
    return done.ok and not failed and not left


def progress_text(progress: Progress) -> str:
    """`3.1 of 12.4 GiB, 512.0 MiB/s, 18 s left, 3 sending`."""
    parts = [f"{format_bytes(progress.done)} of {format_bytes(progress.total)}"]
    if progress.rate:
        parts.append(f"{format_bytes(progress.rate)}/s")
    if progress.seconds_left:
        parts.append(f"{format_seconds(max(1.0, progress.seconds_left))} left")
    if progress.sending:
        parts.append(f"{progress.sending} sending")
    elif progress.done >= progress.total:
        parts.append("comparing hashes")
    return ", ".join(parts)


def _about(task: Errand) -> dict[str, object]:
    return {
        "source": {"host": task.source.name, "path": task.source.root},
        "path": task.receivers[0].root if task.receivers else task.source.root,
        "bytes": task.size,
        "files": sum(len(piece.files) for piece in task.pieces),
        "hosts": [
            {"host": site.name, "address": site.address, "bytes_to_get": task.bytes_to_get(site)}
            for site in task.receivers
        ],
    }


def _document(
    task: Errand, done: Pushed, failed: Sequence[RopewayError], left: Sequence[Left]
) -> dict[str, object]:
    return {
        **_about(task),
        "ok": done.ok and not failed and not left,
        "seconds": round(done.seconds, 3),
        "sha256": dict(done.sha256),
        "deliveries": [
            {
                "host": one.host,
                "whole": one.error is None,
                "received_bytes": one.received,
                "extra": list(one.extra),
                "error": one.error.as_json() if one.error else None,
            }
            for one in done.deliveries
        ],
        "unreachable": [error.as_json() for error in failed],
        "left": [{"host": one.host, "command": one.command} for one in left],
    }
