"""The contract of an engine: what is the same for each, and what each must say of itself.

An engine is a subclass of Replica in a module of its own. It decides and never acts: it returns
commands and variables. Whatever starts one, in containers or as processes of this machine, asks for
these; what its log means is in vllm.py, as both engines are vLLM.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.errors import LayoutError
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.spec.model import Layout, Serve


@dataclass(frozen=True)
class Node:
    """One host of a replica. `npus` is how many of its NPUs the replica may use.

    nic      the interface that has `address`, where it matters to the engine
    devices  the numbers N of the /dev/davinciN it may use; none on a virtual host
    """

    name: str
    address: str
    npus: int
    nic: str = ""
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ports:
    """Where the processes of a replica meet, on its head.

    ray            Ray's own default
    master         torch's default; vLLM's for `--master-port` is the one above it
    data_parallel  of vLLM-Ascend's recipes (docs/source/tutorials/multi_node.md)
    """

    ray: int = 6379
    master: int = 29500
    data_parallel: int = 13389


@dataclass(frozen=True, kw_only=True)
class Replica(ABC):
    """One engine over `nodes` in rank order; the first is the head and serves the API.

    model    its directory, as the engine sees it
    address  where the API listens, on the head; port: at which port
    """

    nodes: tuple[Node, ...]
    model: str
    served_name: str
    layout: Layout
    serve: Serve
    address: str
    port: int
    ports: Ports = Ports()

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    @abstractmethod
    def uses_ray(self) -> bool:
        """Whether `ray start` runs on every node before the engine can place its ranks."""

    def check(self, shape: ModelShape) -> None:
        """Refuse what this engine cannot run. Raises LayoutError or Refused."""
        del shape
        check_size(self.layout, self.nodes)

    def notes(self, shape: ModelShape) -> tuple[str, ...]:
        """Return doubts about what `check` lets pass, and what was adapted to this engine."""
        del shape
        return ()

    @abstractmethod
    def ray_start_argv(self, node: Node) -> tuple[str, ...]:
        """Return `ray start` for this node; it ends when Ray is up."""

    @abstractmethod
    def serve_argv(self, node: Node) -> tuple[str, ...]:
        """Return the command that serves: the head's, or that of a follower without an API.

        Raises ValueError for a worker of Ray: its ranks are started by the head.
        """

    @abstractmethod
    def environment(self, node: Node) -> Mapping[str, str]:
        """Return the variables of everything that runs on this node; `serve.env` wins."""


def check_size(layout: Layout, nodes: tuple[Node, ...]) -> None:
    """Raise LayoutError when the layout takes more NPUs than the nodes have."""
    available = sum(node.npus for node in nodes)
    if available < layout.npus:
        raise LayoutError(
            phrase(
                "{layout} takes {npus} NPUs, and the hosts have {available}",
                layout=layout,
                npus=layout.npus,
                available=available,
            ),
            evidence=tuple(f"{node.name}: {node.npus}" for node in nodes),
            hint="a smaller `serve.layout`, or more hosts",
        )
