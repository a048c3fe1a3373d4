"""`ropeway up --rehearse`: the whole of `up`, on virtual hosts that end with this process."""

from collections.abc import Sequence
from pathlib import Path

from ropeway.errors import Refused
from ropeway.launch.life import service_state, take_down
from ropeway.report.console import Screen
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.launching import Rehearsal, rehearsal_spec
from ropeway.sim.virtual_engine import Pace
from ropeway.spec.model import Spec, load_spec

# Quick enough to watch, slow enough to see the steps; a real engine takes minutes.
_PACE = Pace(latency=0.05, pull=3.0, begin=0.5, join=0.5, start=6.0)


def rehearsal(fleet: str, faults: Sequence[str]) -> Rehearsal:
    """Return virtual hosts: `2x8-910B4`, with faults like `link-down:host2:3`. Raises Refused."""
    return Rehearsal(faulty_fleet(fleet, faults, launch=True), _PACE)


def rehearsed_spec(virtual: Rehearsal, config: Path | None) -> Spec:
    """Return the spec of `config`, or one that uses all of the hosts.

    Raises Refused or SpecError.
    """
    spec = load_spec(config) if config else rehearsal_spec(virtual.fleet)
    if spec.cluster.is_local:
        raise Refused(
            "`cluster.local` needs no rehearsal: it runs on this machine",
            where=str(config),
            hint="ropeway up",
        )
    return spec


def take_down_again(virtual: Rehearsal, spec: Spec, screen: Screen) -> None:
    """Take the service of a rehearsal down."""
    runtime = spec.runtime.command
    with (
        virtual.connected(spec.cluster) as every,
        screen.step(f"take `{spec.name}` down again") as step,
    ):
        hosts = {host.name: host for host in every}
        state = service_state(hosts, runtime, spec.name)
        count = take_down(hosts, runtime, spec.name, state)
        step.ok(f"{count} containers on {len(hosts)} virtual hosts, which end here")
