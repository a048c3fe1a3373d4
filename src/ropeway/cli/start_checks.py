"""doctor's checks before `up` starts something: what the launch knows, in doctor's terms."""

from collections.abc import Sequence

from ropeway.doctor.cluster import Requirements
from ropeway.doctor.start import Devices, Start, check_start, subjects_for
from ropeway.launch.rollout import Service
from ropeway.launch.up import Preparation
from ropeway.phrases import joined, phrase
from ropeway.report.console import Screen
from ropeway.units import counted


def skip_before_start(services: Sequence[Service], screen: Screen) -> None:
    """Say what is not checked, where the user wants no checks."""
    subjects = joined(subjects_for(_engines(services)), ", ")
    screen.warn(phrase("not checked: {subjects}", subjects=subjects))


def check_before_start(
    preparation: Preparation, services: Sequence[Service], screen: Screen
) -> Sequence[str]:
    """Examine the hosts and NPUs of a service, and the network between those of each engine.

    services  the same one in each way in which it is to be started

    Returns what speaks against the start without forbidding it. Raises CheckFailed for the rest.
    """
    held: dict[str, frozenset[int]] = {}
    for one in preparation.running:
        held[one.host] = held.get(one.host, frozenset()) | frozenset(one.devices)
    service = services[0]
    start = Start(
        engines=_engines(services),
        requirements=Requirements(
            image=service.image,
            release_like=service.spec.serve.release_like,
            model_path=service.spec.model.path,
            runtime=service.spec.runtime.command,
        ),
        containers=frozenset(one.name for one in preparation.running),
        held=held,
    )
    hosts = {site.name for one in services for site in one.sites}
    with screen.step(phrase("check {hosts}", hosts=counted(len(hosts), "host"))) as step:
        lines = check_start(start, preparation.facts, preparation.hosts)
        step.ok(counted(len(lines), "note") if lines else "")
    return lines


def _engines(services: Sequence[Service]) -> tuple[Devices, ...]:
    """Return what each engine uses, each such set once."""
    every = [
        {node.name: frozenset(node.devices) for node in replica.nodes}
        for service in services
        for replica in service.replicas
    ]
    return tuple(one for number, one in enumerate(every) if one not in every[:number])
