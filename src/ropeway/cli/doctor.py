"""`ropeway doctor`: is this cluster sound?"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from ropeway.cli.bringup import read_spec
from ropeway.cli.call import current_call
from ropeway.cli.files import write_page
from ropeway.cli.options import (
    Finite,
    config_option,
    lang_option,
    remote_host,
    screen_options,
    ssh_config_option,
)
from ropeway.cli.rehearsal import own_spec, rehearsal_options, virtual_fleet
from ropeway.doctor.checks import examine
from ropeway.doctor.cluster import Cluster as ClusterFacts
from ropeway.doctor.cluster import Requirements
from ropeway.doctor.pings import PARTNERS
from ropeway.doctor.start import without_service
from ropeway.doctor.survey import Effort, survey
from ropeway.errors import Exit, HostError, Refused
from ropeway.facts.bundle import SPEC, read_bundle
from ropeway.facts.gather import facts_of
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected, ssh_hosts
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.rollout import is_container_of
from ropeway.phrases import phrase
from ropeway.report.chinese import in_language
from ropeway.report.console import Screen
from ropeway.report.doctor import doctor_text
from ropeway.report.doctor_page import render_html
from ropeway.report.text import faults_table
from ropeway.sim.faults import FAULTS
from ropeway.sim.hosts import virtual_hosts
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Model, Spec, parse_spec
from ropeway.units import counted

_RAY_PORT = 6379
_PORT = 8000  # where vLLM serves by default


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@config_option
@ssh_config_option
@click.option("--model", "model_path", metavar="DIR", help="The model's directory on the hosts.")
@click.option("--image", help="The container image that is to run.")
@click.option("--deep", is_flag=True, help="Hash every file of the model: minutes, not seconds.")
@click.option(
    "--partners",
    type=click.IntRange(0, 4096),
    default=PARTNERS,
    show_default=True,
    help="How many other hosts each host pings, with all NPUs to all NPUs.",
)
@click.option(
    "--timeout", type=Finite(1), default=300.0, show_default=True, metavar="SECONDS",
    help="For each of the two rounds.",
)  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the ping matrix.")
@rehearsal_options(lambda: FAULTS)
@click.option("--list-faults", is_flag=True, help="Name the faults that can be rehearsed.")
@click.option(
    "--bundle", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Examine the hosts from what `ropeway bundle` collected; no host is contacted.",
)  # fmt: skip
@lang_option
@screen_options
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    hosts: Sequence[str],
    config: Path,
    ssh_config: str | None,
    model_path: str | None,
    image: str | None,
    deep: bool,
    partners: int,
    timeout: float,
    html: Path | None,
    rehearse: str | None,
    faults: Sequence[str],
    list_faults: bool,
    bundle: Path | None,
    screen: Screen,
) -> None:
    """Look at every host of the cluster and say what would go wrong, before anything starts.

    The hosts are those of the spec, or HOSTs given as `user@address:port`. Nothing on them is
    changed. Exit code 0: sound, perhaps with warnings. 1: something would fail.

    \b
    Example:
      ropeway doctor --rehearse 2x8-910B4 --fault link-down
    """
    if list_faults:
        _list_faults(screen)
        return
    if bundle is not None:
        if hosts or rehearse is not None or deep or model_path:
            raise Refused("`--bundle` contacts no host", hint="give `--bundle` and `--image` only")
        ctx.exit(_tell(screen, _bundled(bundle, image), str(bundle), html))
    effort = Effort(deep=deep, partners=partners, seconds=timeout)
    if rehearse is not None:
        if hosts:
            raise Refused("`--rehearse` makes its own hosts", hint="leave HOST out")
        selecting: AbstractContextManager[_Selection] = nullcontext(
            _rehearsed(rehearse, faults, config, model_path, screen)
        )
    else:
        selecting = _selected(hosts, config, ssh_config)
    with interruptible(), selecting as (title, reachable, requirements):
        path = model_path or requirements.model_path
        requirements = replace(requirements, image=image, model_path=path)
        cluster = _survey(reachable, requirements, effort, screen)
    ctx.exit(_tell(screen, cluster, title, html))


def _list_faults(screen: Screen) -> None:
    screen.answer(
        faults_table(
            (
                (name, in_language(fault.title, screen.language), fault.check)
                for name, fault in FAULTS.items()
            ),
            screen.language,
        )
    )
    screen.result(
        {
            "faults": [
                {"name": name, "title": fault.title, "check": fault.check}
                for name, fault in FAULTS.items()
            ]
        }
    )


def _requirements(spec: Spec | None) -> Requirements:
    """Return what a spec requires of its hosts, by their addresses; without one the defaults."""
    port = spec.serve.port if spec else _PORT
    return Requirements(
        npus={host.address: host.npus for host in (spec.cluster.hosts or () if spec else ())},
        release_like=spec.serve.release_like if spec else None,
        model_path=spec.model.path if spec else None,
        ports={_RAY_PORT: "Ray", 60000: "HCCL", port: phrase("the server")},
        runtime=spec.runtime.command if spec else "docker",
        service=spec.name if spec else None,
    )


def _bundled(path: Path, image: str | None) -> ClusterFacts:
    """Return the cluster as a bundle shows it. Raises Refused."""
    bundle = read_bundle(path)
    spec = parse_spec(bundle.spec, f"{path}:{SPEC}") if bundle.spec is not None else None
    hosts = tuple(facts_of(transcript) for transcript in bundle.transcripts)
    ways = {host.name: host.by_hand for host in ssh_hosts(spec.cluster, "")} if spec else {}
    failures = {
        name: HostError(
            text,
            where=name,
            hint=phrase("does it answer? try: {ssh} true", ssh=ways.get(name, f"ssh {name}")),
        )
        for name, text in bundle.failures.items()
    }
    names = (*(host.name for host in hosts), *failures)
    return ClusterFacts(replace(_requirements(spec), image=image), hosts, failures, names=names)


_Selection = tuple[str, Sequence[Host], Requirements]


def _rehearsed(
    rehearse: str, faults: Sequence[str], config: Path, model_path: str | None, screen: Screen
) -> _Selection:
    """Return the title of virtual hosts, them, and what is required of them. Raises Refused."""
    spec = own_spec(rehearse, config, screen)
    if spec and model_path:
        spec = spec.model_copy(update={"model": Model(path=model_path)})
    fleet = virtual_fleet(rehearse, spec, faults, screen, launch=False)
    npus = {machine.name: len(machine.chips) for machine in fleet.machines}
    if spec:
        npus = dict(zip(npus, (host.npus for host in spec.cluster.hosts or ()), strict=True))
    wanted = replace(_requirements(spec), npus=npus, model_path=fleet.model.path)
    title = phrase("rehearsal of {fleet}", fleet=str(config) if spec else rehearse)
    return title, virtual_hosts(fleet), wanted


@contextmanager
def _selected(
    addresses: Sequence[str], config: Path, ssh_config: str | None
) -> Iterator[_Selection]:
    """Yield the cluster's title, its hosts, and what is required of them. Raises Refused."""
    connect = current_call().connect or connected
    if addresses:
        cluster = Cluster(hosts=tuple(map(remote_host, addresses)))
        with connect(cluster, ssh_config=ssh_config) as hosts:
            yield ", ".join(addresses), hosts, _requirements(None)
        return
    spec = read_spec(config, without="name the hosts: `ropeway doctor root@192.168.0.147`")
    if spec.cluster.hosts is None:
        raise Refused(
            "the hosts of this spec are virtual, and this machine is what runs them",
            where=str(config),
            hint="`ropeway up` checks this machine by itself\n"
            "ropeway doctor --rehearse 2x8-910B4 shows what doctor says of real hosts",
        )
    with connect(spec.cluster, ssh_config=ssh_config) as hosts:
        # Where two hosts have one address, their names have the port, too.
        pairs = zip(hosts, spec.cluster.hosts, strict=True)
        npus = {host.name: remote.npus for host, remote in pairs}
        yield str(config), hosts, replace(_requirements(spec), npus=npus)


def _survey(
    hosts: Sequence[Host], requirements: Requirements, effort: Effort, screen: Screen
) -> ClusterFacts:
    """Ask in two rounds, each with its progress."""
    total = counted(len(hosts), "host")
    with screen.step(phrase("ask {hosts}", hosts=total)) as step:
        done: Counter[str] = Counter()

        def progress(phase: str) -> None:
            done[phase] += 1
            text = {"facts": "facts of {n:,} of {hosts}", "pings": "pings of {n:,} of {hosts}"}
            step.tick(phrase(text[phase], n=done[phase], hosts=total))

        cluster = survey(hosts, requirements, effort, progress)
        answered = phrase("{hosts} answered", hosts=counted(len(cluster.hosts), "host"))
        if cluster.roce and cluster.roce.total:
            pings = counted(cluster.roce.total, "ping")
            answered = phrase("{answered}, {pings}", answered=answered, pings=pings)
        step.ok(answered)
    return cluster


def _without_own(cluster: ClusterFacts, screen: Screen) -> ClusterFacts:
    """Return the cluster without what the spec's service holds there while it is up; say so."""
    required = cluster.requirements
    if required.service is None:
        return cluster
    is_own = partial(is_container_of, required.service)
    hosts = tuple(without_service(host, is_own, required.ports) for host in cluster.hosts)
    if hosts != cluster.hosts:
        screen.say(
            phrase(
                "`{name}` is up: what its containers hold is not counted as taken",
                name=required.service,
            )
        )
    return replace(cluster, hosts=hosts)


def _tell(screen: Screen, cluster: ClusterFacts, title: str, html: Path | None) -> Exit:
    """Report what is wrong, and what was not seen."""
    cluster = _without_own(cluster, screen)
    examination = examine(cluster)
    unread = [
        (host.name, f"{answer.name}: {answer.why}")
        for host in cluster.hosts
        for answer in host.unread
        if answer.state in ("partial", "unknown")
    ]
    screen.answer(doctor_text(examination, unread, screen.language, verbose=screen.verbose > 0))
    if html is not None:
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page = render_html(
            examination,
            cluster.names,
            cluster.roce,
            title=title,
            when=when,
            language=screen.language,
        )
        write_page(html, page, screen)
    screen.result(
        {
            **vars(examination),
            "findings": [asdict(finding) for finding in examination.findings],
            "not_checked": [vars(one) for one in examination.not_checked],
            "unread": [{"host": host, "why": why} for host, why in unread],
        }
    )
    return Exit.OK if examination.sound else Exit.NO
