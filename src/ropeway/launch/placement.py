"""Which NPUs of which hosts each engine takes. Pure."""

from collections.abc import Sequence

from ropeway.engines.base import Node
from ropeway.errors import Refused
from ropeway.spec.model import Layout


def place(layout: Layout, replicas: int, hosts: Sequence[Node]) -> tuple[tuple[Node, ...], ...]:
    """Return the nodes of each replica, filled from the first host on.

    A replica lies on one host where one has room, else on as few as hold it, with the same number
    of NPUs on each: vLLM's own multi-host mode wants that, and so do tensor-parallel groups. A
    data-parallel rank that fits on one host is not cut. Raises Refused when there is no room.
    """
    free = [list(node.devices) for node in hosts]
    placed = []
    for number in range(replicas):
        shares = _shares(layout, [len(devices) for devices in free])
        if shares is None:
            raise _no_room(layout, replicas, number, hosts)
        nodes = []
        for host, count in shares:
            devices = tuple(free[host][:count])
            free[host] = free[host][count:]
            node = hosts[host]
            nodes.append(Node(node.name, node.address, count, node.nic, devices))
        placed.append(tuple(nodes))
    return tuple(placed)


def _shares(layout: Layout, free: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return the hosts to use, by number, with how many NPUs to take of each; None without room."""
    engine = layout.tensor * layout.pipeline
    whole = layout.npus
    for hosts in range(1, len(free) + 1):
        if whole % hosts:
            continue
        each = whole // hosts
        cut = each % engine if engine <= each else engine % each
        roomy = [number for number, count in enumerate(free) if count >= each]
        if not cut and len(roomy) >= hosts:
            return [(number, each) for number in roomy[:hosts]]
    return None


def _no_room(layout: Layout, replicas: int, placed: int, hosts: Sequence[Node]) -> Refused:
    sizes = ", ".join(f"{node.name}: {len(node.devices)}" for node in hosts)
    name = f"{replicas} replicas of {layout}" if replicas > 1 else str(layout)
    total = sum(len(node.devices) for node in hosts)
    room = f"there is room for {placed}" if placed else "no equal share of the hosts holds one"
    return Refused(
        f"{name} takes {replicas * layout.npus} NPUs, and {room}",
        where="serve.layout" if replicas == 1 else "serve.replicas",
        evidence=(f"{total} NPUs: {sizes}",),
        hint="take a smaller layout, fewer replicas, or more hosts; `ropeway plan` knows what fits",
    )
