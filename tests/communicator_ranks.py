"""One rank of a group that tries every collective: run as a program, one process per rank.

usage: communicator_ranks.py RANK RANKS PORT
Each rank knows what every rank puts in, so each checks its own result. Exit code 1: one was wrong.
"""

import sys
from collections.abc import Sequence
from functools import reduce
from operator import add

import torch
import torch.distributed as dist

from ropeway.sim.npu_communicator import NetworkCommunicator


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:])
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    group = dist.group.WORLD
    communicator = NetworkCommunicator(group, torch.device("cpu"), group, "tp:0")
    for dtype in (torch.float32, torch.bfloat16):
        check(communicator, rank, ranks, dtype)
    communicator.destroy()
    dist.destroy_process_group()
    print("all as they should be")


def check(communicator: NetworkCommunicator, rank: int, ranks: int, dtype: torch.dtype) -> None:
    def inputs(seed: int, shapes: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return [torch.randn(shape).to(dtype) for shape in shapes]

    for shape in ((1, 576), (7, 3, 5), (513, 576)):
        each = inputs(1, [shape] * ranks)
        expect("all_reduce", communicator.all_reduce(each[rank].clone()), reduce(add, each))
        for dim in (0, -1, 1):
            got = communicator.all_gather(each[rank], dim)
            expect(f"all_gather {dim}", got, torch.cat(each, dim))
    rows = [0, 3, 1][:ranks]
    each = inputs(2, [(count, 576) for count in rows])
    ids = [torch.full((count, 2), 7 + at, dtype=torch.int32) for at, count in enumerate(rows)]
    expect("all_gatherv", communicator.all_gatherv(each[rank], sizes=rows), torch.cat(each))
    both = communicator.all_gatherv([each[rank], ids[rank]], sizes=rows)
    expect("all_gatherv of a list", both[0], torch.cat(each))
    expect("all_gatherv of a list", both[1], torch.cat(ids))
    each = inputs(3, [(sum(rows), 576)] * ranks)
    mine = reduce(add, each)[sum(rows[:rank]) : sum(rows[: rank + 1])]
    expect("reduce_scatterv", communicator.reduce_scatterv(each[rank], 0, rows), mine)
    each = inputs(4, [(5, 2 * ranks)] * ranks)
    mine = reduce(add, each)[:, 2 * rank : 2 * rank + 2]
    expect("reduce_scatterv of columns", communicator.reduce_scatterv(each[rank], -1), mine)


def expect(what: str, got: torch.Tensor, wanted: torch.Tensor) -> None:
    if got.shape != wanted.shape or got.dtype != wanted.dtype or not torch.equal(got, wanted):
        sys.exit(f"{what}: {got.shape} {got.dtype}, wanted {wanted.shape} {wanted.dtype}")


main()
