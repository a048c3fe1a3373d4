"""`ropeway doctor`: is this cluster sound?"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.cli.bringup import interruptible, read_spec
from ropeway.cli.options import config_option, screen_options
from ropeway.doctor.checks import examine
from ropeway.doctor.cluster import Cluster as Seen
from ropeway.doctor.cluster import Requirements
from ropeway.doctor.finding import Examination
from ropeway.doctor.pings import PARTNERS
from ropeway.doctor.survey import Effort, survey
from ropeway.errors import Exit, Refused
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.report.console import Screen
from ropeway.report.doctor import doctor_text, render_html
from ropeway.report.text import faults_table
from ropeway.sim.faults import FAULTS, inject
from ropeway.sim.hosts import virtual_hosts
from ropeway.sim.machine import parse_fleet, sound_fleet
from ropeway.spec.cluster import Cluster, RemoteHost

_RAY_PORT = 6379
_PORT = 8000  # where vLLM serves when nothing is said


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@config_option
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
    "--timeout", type=click.FloatRange(1), default=300.0, show_default=True, metavar="SECONDS",
    help="For each of the two rounds.",
)  # fmt: skip
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the ping matrix.")
@click.option("--rehearse", metavar="FLEET", help="Virtual hosts: `2x8-910B4`, `64x8-910B3`.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[:HOST[:NPU]]",
    help="With --rehearse: what is wrong there; may be given several times.",
)  # fmt: skip
@click.option("--list-faults", is_flag=True, help="Name the faults that can be rehearsed.")
@screen_options
@click.pass_context
def doctor(
    ctx: click.Context,
    *,
    hosts: Sequence[str],
    config: Path,
    model_path: str | None,
    image: str | None,
    deep: bool,
    partners: int,
    timeout: float,
    html: Path | None,
    rehearse: str | None,
    faults: Sequence[str],
    list_faults: bool,
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
        screen.answer(faults_table((name, one.title, one.check) for name, one in FAULTS.items()))
        screen.result({"faults": {name: one.title for name, one in FAULTS.items()}})
        return
    if faults and rehearse is None:
        raise Refused("`--fault` is for virtual hosts", hint="add `--rehearse 2x8-910B4`")
    effort = Effort(deep=deep, partners=partners, seconds=timeout)
    title, asked = _asked(hosts, config, rehearse, faults)
    wanted = Requirements(
        image=image,
        model_path=model_path or asked.model_path,
        ports={_RAY_PORT: "Ray", 60000: "HCCL", asked.port: "the server"},
        runtime=asked.runtime,
    )
    with interruptible(), asked.hosts as reachable:
        wanted = replace(
            wanted,
            npus={host.name: npus for host, npus in zip(reachable, asked.npus, strict=False)},
        )
        cluster = _survey(reachable, wanted, effort, screen)
    seen = examine(cluster)
    _tell(screen, seen, cluster, title, html)
    ctx.exit(Exit.OK if seen.sound else Exit.NO)


_TARGET = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<address>[^@\s]+?)(?::(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class _Asked:
    """Which hosts, and what is wanted of them. `npus` in the order of the hosts; may be empty."""

    hosts: AbstractContextManager[Sequence[Host]]
    npus: tuple[int, ...]
    model_path: str | None
    port: int
    runtime: str = "docker"


def _asked(
    given: Sequence[str], config: Path, rehearse: str | None, faults: Sequence[str]
) -> tuple[str, _Asked]:
    """What to call the cluster, and the cluster. Nothing is spoken to yet. Raises Refused."""
    if rehearse is not None:
        if given:
            raise Refused("`--rehearse` makes its own hosts", hint="leave HOST out")
        fleet = sound_fleet(*parse_fleet(rehearse))
        for text in faults:
            fleet, _ = inject(fleet, text)
        npus = tuple(len(machine.chips) for machine in fleet.machines)
        hosts = nullcontext(virtual_hosts(fleet))
        return f"rehearsal of {rehearse}", _Asked(hosts, npus, fleet.model_path, _PORT)
    if given:
        cluster = Cluster(hosts=tuple(remote_host(text) for text in given))
        return ", ".join(given), _Asked(connected(cluster), (), None, _PORT)
    spec = read_spec(config, local=False)
    if spec.cluster.hosts is None:
        raise Refused(
            "the hosts of this spec are virtual, and this machine is what runs them",
            where=str(config),
            hint="`ropeway up` checks this machine by itself\n"
            "ropeway doctor --rehearse 2x8-910B4 shows what doctor says of real hosts",
        )
    npus = tuple(host.npus for host in spec.cluster.hosts)
    asked = _Asked(
        connected(spec.cluster), npus, spec.model.path, spec.serve.port, spec.runtime.command
    )
    return str(config), asked


def remote_host(text: str) -> RemoteHost:
    """`user@address:port` as a host of the spec. Raises Refused."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise Refused(f"`{text}` is not a host", hint="write it like `root@192.168.0.147:22`")
    port = found["port"]
    try:
        return RemoteHost(
            address=found["address"],
            npus=1,
            user=found["user"],
            port=int(port) if port else None,
        )
    except ValueError as error:
        raise Refused(f"`{text}` is not a host", evidence=str(error).splitlines()[1:3]) from None


def _survey(hosts: Sequence[Host], wanted: Requirements, effort: Effort, screen: Screen) -> Seen:
    """The two rounds, each with its progress."""
    with screen.step(f"ask {len(hosts)} hosts") as step:
        done: Counter[str] = Counter()

        def progress(phase: str) -> None:
            done[phase] += 1
            step.tick(f"{phase} {done[phase]}/{len(hosts)} hosts")

        cluster = survey(hosts, wanted, effort, progress)
        pings = cluster.roce.total if cluster.roce else 0
        step.ok(f"{len(cluster.hosts)} answered" + (f", {pings:,} pings" if pings else ""))
    return cluster


def _tell(screen: Screen, seen: Examination, cluster: Seen, title: str, html: Path | None) -> None:
    unread = [(host.name, f"{one.key}: {one.why}") for host in cluster.hosts for one in host.unread]
    screen.answer(doctor_text(seen, unread, verbose=screen.verbose > 0))
    if html is not None:
        when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page = render_html(seen, cluster.names, cluster.roce, title=title, when=when)
        html.write_text(page, encoding="utf-8")
        screen.say(f"page: {html}")
    screen.result(
        {
            "sound": seen.sound,
            "hosts": seen.hosts,
            "answered": seen.answered,
            "npus": seen.npus,
            "pings": seen.pings,
            "findings": [finding.as_json() for finding in seen.findings],
            "passed": list(seen.passed),
            "unread": [{"host": host, "why": why} for host, why in unread],
        }
    )
