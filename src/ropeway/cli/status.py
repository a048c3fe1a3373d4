"""`ropeway status`: what is running, read from the hosts themselves."""

import os

import click

from ropeway.cli.detached_jobs import job_lines, jobs_json
from ropeway.cli.options import lang_option, screen_options
from ropeway.cli.target import Target, reached, target_options, tell_silent
from ropeway.errors import Exit
from ropeway.hosts.local import LocalHost
from ropeway.hosts.processes import find
from ropeway.launch.complete import parts_of
from ropeway.launch.detached import find_jobs
from ropeway.launch.labels import Reached, newest
from ropeway.launch.local.running import deployment_of, parts, reason_not_serving
from ropeway.launch.probe import unready
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.report.text import containers_table, status_table


@click.command()
@target_options
@lang_option
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
        with reached(target, acts=False) as service:
            ctx.exit(Exit.OK if _hosts_status(target, service, screen) else Exit.NO)
    ctx.exit(Exit.OK if _local_status(target, screen) else Exit.NO)


def _local_status(target: Target, screen: Screen) -> bool:
    """Show what runs on this machine; return whether it serves."""
    user = os.getuid()
    name = target.local_service(user, acts=False)
    processes = parts(find(name)) if name else ()
    if name is None or not processes:
        if name is None:
            target.tell_nothing_runs(screen)
        else:
            screen.answer(phrase("`{name}` is not running", name=name))
        screen.result(_document(name))
        return False
    deployment = deployment_of(name, user, LocalHost())
    reason = reason_not_serving(deployment, LocalHost())
    state = phrase("running" if reason else "serving")
    rows = [{**vars(part), "state": state, "npus": part.ranks or None} for part in processes]
    screen.answer(status_table(rows, screen.language))
    known: dict[str, object] = {}
    if deployment:
        known = {
            "url": deployment.url,
            "model": deployment.served_name,
            "layout": str(deployment.layout),
            "replicas": 1,
            "logs": deployment.logs,
        }
        state = phrase("does not serve: {reason}", reason=reason) if reason else phrase("serves")
        screen.answer(
            phrase(
                "{layout} of {model} at {url}: {state}",
                layout=deployment.layout,
                model=deployment.served_name,
                url=deployment.url,
                state=state,
            )
        )
    parts_json = [vars(part) for part in processes]
    screen.result(_document(name, why_not=reason or None, processes=parts_json, **known))
    return not reason


def _errors(service: Reached) -> list[dict[str, object]]:
    return [error.as_json() for error in service.failures.values()]


def _document(name: str | None, **known: object) -> dict[str, object]:
    """Return the JSON document; what is not known of the service is null or empty."""
    keys = (
        "url", "model", "layout", "replicas", "release", "brought_up_by", "since", "logs", "why_not"
    )  # fmt: skip
    lists = ("unreachable", "missing", "containers", "processes", "jobs")
    return {"name": name, **dict.fromkeys(keys), **{key: [] for key in lists}, **known}


def _hosts_status(target: Target, service: Reached, screen: Screen) -> bool:
    """Show what runs on the hosts; return whether all of it serves."""
    tell_silent(service.failures, screen)
    containers = service.containers
    jobs = find_jobs(service)
    for line in job_lines(jobs):
        screen.answer(line)
    if not containers:
        screen.answer(service.nothing_runs().what)
        known = {"unreachable": _errors(service), "jobs": jobs_json(jobs)}
        screen.result(_document(service.name, **known))
        return False
    reasons = unready(service)
    rows = [(container.summary(), reasons.get(container.name)) for container in containers]
    missing = [name for name in reasons if name not in {one.name for one in containers}]
    all_serving = not any(reasons.values()) and not service.failures
    last = newest(containers)
    layout, replicas = str(last.spec.serve.layout), last.spec.serve.replicas
    endpoint = parts_of(last.spec)[0 if replicas == 1 else -1].name  # of the head, or the router
    state = phrase("does not serve" if reasons.get(endpoint) else "serves in part")
    state = phrase("serves") if all_serving else state
    url = target.answers_at(last.url)
    table = containers_table([{**row, "why": reason} for row, reason in rows], screen.language)
    screen.answer(table)
    for name, reason in reasons.items():
        if reason:
            screen.answer(phrase("{name}: {reason}", name=name, reason=reason))
    screen.answer(
        phrase(
            "{layout} of {model} at {url}, vLLM-Ascend {release}: {state}",
            layout=f"{replicas} × {layout}" if replicas > 1 else layout,
            model=last.model,
            url=url,
            release=last.release,
            state=state,
        )
    )
    screen.answer(
        phrase("brought up by {who}, {when}", who=last.author.who, when=last.author.since)
    )
    screen.result(
        _document(
            service.name,
            url=url,
            model=last.model,
            layout=layout,
            replicas=replicas,
            release=last.release,
            brought_up_by=last.author.who,
            since=last.author.since,
            unreachable=_errors(service),
            missing=missing,
            containers=[{**row, "why_not": reason or None} for row, reason in rows],
            jobs=jobs_json(jobs),
        )
    )
    return all_serving
