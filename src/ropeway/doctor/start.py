"""The checks on which a start depends: of the hosts and NPUs that a service uses, and of the
network between the hosts of one engine. Pure, but for the pings."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ropeway.doctor.checks import CHECKS, GROUPS, examine
from ropeway.doctor.cluster import Cluster, Requirements
from ropeway.doctor.finding import Finding, Unchecked, format_locations
from ropeway.doctor.survey import ping_from, plan_pings, questions_of
from ropeway.errors import CheckFailed
from ropeway.facts.host import HostFacts
from ropeway.facts.question import Question
from ropeway.facts.questions import ALL
from ropeway.facts.script import Pings
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all_or_raise
from ropeway.phrases import joined, phrase
from ropeway.spec.model import Spec
from ropeway.units import counted

# Checks that no start depends on, or whose question `up` answers itself.
_LEFT_OUT = frozenset(
    (
        "host-reach",  # `up` has asked every host
        "host-ports",  # it knows which ports it will open on which host
        "host-disk",  # it knows which hosts will fetch the image
        "host-shm",  # containers have a /dev/shm of their own
        "ray-running",  # Ray in a container finds its own port
        "npu-count",  # it knows which NPUs it will use
        "npu-dropped",  # likewise
        "npu-container",  # it knows which containers are its own
        "image-there",  # it fetches the image
    )
)
_DEPENDED_ON = tuple(check for check in CHECKS if check.id not in _LEFT_OUT)
# Questions to each NPU take seconds: none is asked for the sake of a warning.
_ASKED = questions_of(check for check in _DEPENDED_ON if check.level == "fail")
_ASKED_ALONE = questions_of(
    check for check in _DEPENDED_ON if check.level == "fail" and check.min_hosts == 1
)
_OF_ONE_NPU = frozenset(question.key for question in ALL if question.each) - _ASKED
_CHECKS = tuple(check for check in _DEPENDED_ON if not questions_of((check,)) & _OF_ONE_NPU)
# Of these an engine's hosts are judged among themselves: those of another it never speaks to.
_WITHIN = frozenset(check for check in _CHECKS if check.between_hosts)
_OTHERS = frozenset(_CHECKS) - _WITHIN
# Each host pings the next one of its engine, all NPUs to all NPUs; `doctor` pings eight.
_PARTNERS = 1
_SECONDS = 300.0
_SHOWN = 8  # of checks that fail

Devices = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Start:
    """What is to be started, and what of it runs.

    engines     host → the NPUs that an engine uses there, for each engine
    containers  names of the service's containers that run
    held        host → the NPUs that these hold
    """

    engines: tuple[Devices, ...]
    requirements: Requirements
    containers: frozenset[str] = frozenset()
    held: Devices = field(default_factory=dict)


def asked_before(spec: Spec) -> frozenset[str]:
    """Return the keys of what a start asks; ports only where an engine may span several hosts.

    With a blank layout any engine may: the plan will choose.
    """
    sizes, serve = [host.npus for host in spec.cluster.hosts or ()], spec.serve
    spans = len(sizes) > 1 and (not serve.has_layout or serve.layout.npus > min(sizes))
    return _ASKED if spans else _ASKED_ALONE


def subjects_for(engines: Sequence[Devices]) -> tuple[str, ...]:
    """Return the subjects of the checks that a start of these engines would have."""
    hosts = {name for devices in engines for name in devices}
    sizes = {True: max(map(len, engines)), False: len(hosts)}
    return tuple(
        subject
        for subject, checks in GROUPS.items()
        if any(one in _CHECKS and sizes[one.between_hosts] >= one.min_hosts for one in checks)
    )


def check_start(
    start: Start, facts: Mapping[str, HostFacts], hosts: Mapping[str, Host]
) -> tuple[str, ...]:
    """Return what speaks against the start without forbidding it, and what nobody saw.

    The hosts of an engine ping each other first. Raises CheckFailed where a check fails.
    """
    engines = [_cluster(start, facts, devices) for devices in start.engines]
    engines = _with_pings(engines, hosts)
    used: dict[str, frozenset[int]] = {}
    for devices in start.engines:
        used |= {name: used.get(name, frozenset()) | own for name, own in devices.items()}
    service = _cluster(start, facts, used)
    examined = [examine(service, _OTHERS), *(examine(engine, _WITHIN) for engine in engines)]
    if failed := [finding for one in examined for finding in one.causes("fail")]:
        raise _failure(failed)
    return tuple(
        dict.fromkeys(
            (
                *(_line(finding) for one in examined for finding in one.causes("warn")),
                *(_gap(gap) for one in examined for gap in one.not_checked),
            )
        )
    )


def _cluster(start: Start, facts: Mapping[str, HostFacts], devices: Devices) -> Cluster:
    """Return some hosts, with the NPUs that are used there and without what is the service's."""
    hosts = tuple(
        _used(facts[name], own, start.held.get(name, frozenset()), start.containers)
        for name, own in devices.items()
    )
    return Cluster(start.requirements, hosts, names=tuple(devices))


def _with_pings(engines: Sequence[Cluster], hosts: Mapping[str, Host]) -> list[Cluster]:
    """Return the engines with their hosts' clocks and the pings between them.

    All hosts ping at once. Raises HostError.
    """
    plans = [
        plan_pings(engine.names, engine.hosts, _PARTNERS) if len(engine.names) > 1 else None
        for engine in engines
    ]
    asks: dict[str, dict[Question[object] | Pings, None]] = {}
    for plan in filter(None, plans):
        for name, questions in plan.questions.items():
            asks.setdefault(name, {}).update(dict.fromkeys(questions))
    answers = run_on_all_or_raise(
        {name: hosts[name] for name in asks},
        lambda host: ping_from(host, asks[host.name], _SECONDS),
    )
    pinged = []
    for engine, its_plan in zip(engines, plans, strict=True):
        if its_plan is None:
            pinged.append(engine)
            continue
        roce, ethernet = its_plan.count({name: answers[name][1] for name in engine.names})
        timed = tuple(replace(host, clock_s=answers[host.name][0]) for host in engine.hosts)
        pinged.append(replace(engine, hosts=timed, roce=roce, ethernet=ethernet))
    return pinged


def _used(
    host: HostFacts, devices: frozenset[int], held: frozenset[int], containers: frozenset[str]
) -> HostFacts:
    npus = tuple(
        replace(npu, processes=(), hbm_used_mb=None) if npu.device in held else npu
        for npu in host.npus
        if npu.device in devices
    )
    docker = host.docker
    if docker is not None:
        others = tuple(one for one in docker.containers if one.name not in containers)
        docker = replace(docker, containers=others)
    return replace(host, npus=npus, docker=docker)


def without_service(
    host: HostFacts, is_own: Callable[[str], bool], ports: Collection[int]
) -> HostFacts:
    """Return the facts of a host as they would be without a service that is up there.

    `is_own` tells its containers by name. Where one runs, NPUs that it holds, Ray and these ports
    are the service's.
    """
    own = [one for one in (host.docker.containers if host.docker else ()) if is_own(one.name)]
    if not own:
        return host
    every = frozenset(npu.device for npu in host.npus)
    held = frozenset(device for one in own for device in one.devices)
    left = {port: program for port, program in host.ports.items() if port not in ports}
    host = _used(host, every, held, frozenset(one.name for one in own))
    return replace(host, ports=left, raylets=())


def _failure(findings: Sequence[Finding]) -> CheckFailed:
    """Return the error for checks that failed: causes, the worst first."""
    locations = dict.fromkeys(place for finding in findings for place in finding.locations)
    where = format_locations(locations)
    more = phrase("`ropeway doctor` says more; `--skip-checks` starts without these checks")
    fixes = [finding.fix for finding in findings if finding.fix]
    hint = joined(dict.fromkeys((*fixes, more)), "\n")
    if len(findings) == 1:
        (one,) = findings
        expected = phrase("expected: {expected}", expected=one.expected)
        evidence = tuple(filter(None, (one.evidence, expected)))
        return CheckFailed(one.title, where=where or None, evidence=evidence, hint=hint)
    return CheckFailed(
        phrase("{checks} of the hosts failed", checks=counted(len(findings), "check")),
        where=where or None,
        evidence=tuple(map(_line, findings[:_SHOWN])),
        hint=hint,
    )


def _line(finding: Finding) -> str:
    places = format_locations(finding.locations)
    parts = [finding.title, *filter(None, (places, finding.evidence))]
    return joined(parts, ": ")


def _gap(gap: Unchecked) -> str:
    return phrase("not checked: {subject} ({why})", subject=gap.subject, why=joined(gap.why))
