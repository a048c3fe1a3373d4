"""How virtual NPUs talk: over the loopback network, as separate hosts would have to."""

import functools
import os

import torch
import torch.distributed as dist
from vllm.config import get_current_vllm_config
from vllm.distributed.device_communicators import shm_broadcast
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

from ropeway.sim.plugin import stock

stock_condition = shm_broadcast.SpinCondition


def sleep_while_waiting() -> None:
    """Let vLLM's processes sleep between steps instead of polling a flag for a second.

    On a laptop there are more processes than cores, and each poll takes the core from the rank
    that computes. Figures: docs/benchmarks.md, "Waiting without spinning".
    """
    if stock("spin"):
        return
    shm_broadcast.SpinCondition = functools.partial(stock_condition, busy_loop_s=0)


class GlooCommunicator(CpuCommunicator):
    """vLLM-CPU's communicator, kept to what hosts can do, with what data parallel MoE needs.

    Stock vLLM-CPU puts all ranks of one machine into shared memory. Two virtual hosts have none in
    common, so a group that spans hosts talks gloo. And ranks wait there by spinning: with more
    ranks than cores, each burns the time slice of the rank it waits for, so then all talk gloo.
    """

    def _all_group_ranks_share_shm_group_name(self) -> bool:
        if stock("shm"):
            return super()._all_group_ranks_share_shm_group_name()
        hosts = [""] * self.world_size
        dist.all_gather_object(hosts, os.environ.get("VLLM_HOST_IP", ""), group=self.device_group)
        ranks = get_current_vllm_config().parallel_config.world_size_across_dp
        return len(set(hosts)) == 1 and ranks <= len(os.sched_getaffinity(0))

    def all_gatherv(
        self,
        input_: torch.Tensor | list[torch.Tensor],
        dim: int = 0,  # noqa: ARG002 - rows are the only dimension that vLLM gathers so
        sizes: list[int] | None = None,
    ) -> torch.Tensor | list[torch.Tensor]:
        """Gather rows of unequal count from all ranks. vLLM-CPU 0.32.0 has no such method.

        input_: [rows of this rank, ...], or a list of such; sizes: rows per rank. Returns
        [sum(sizes), ...]. gloo gathers equal parts only, so each part is padded to the longest.
        """
        if isinstance(input_, list):
            return [self._gather_rows(part, sizes) for part in input_]
        return self._gather_rows(input_, sizes)

    def reduce_scatterv(
        self, input_: torch.Tensor, dim: int = -1, sizes: list[int] | None = None
    ) -> torch.Tensor:
        """Sum over ranks and keep this rank's rows: [sum(sizes), ...] → [sizes[rank], ...]."""
        total = input_.movedim(dim, 0).contiguous()
        sizes = sizes or [total.shape[0] // self.world_size] * self.world_size
        dist.all_reduce(total, group=self.device_group)
        start = sum(sizes[: self.rank_in_group])
        return total[start : start + sizes[self.rank_in_group]].movedim(0, dim).contiguous()

    def _gather_rows(self, part: torch.Tensor, sizes: list[int] | None) -> torch.Tensor:
        sizes = sizes or [part.shape[0]] * self.world_size
        padded = part.new_zeros((max(sizes), *part.shape[1:]))
        padded[: part.shape[0]] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.device_group)
        return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])
