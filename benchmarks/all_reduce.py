"""How long an all-reduce takes: gloo against the plain TCP of `sim/npu_link.py`, in one run.

Ranks are processes on virtual hosts, as in the engine, one thread each. Half a minute:

    python benchmarks/all_reduce.py
"""

import argparse
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from running import conditions

from ropeway.sim.npu_communicator import NetworkCommunicator
from ropeway.sim.plugin import STOCK, SWITCH

HIDDEN = 576  # of the SmolLM2 checkpoints
TOKENS = (1, 16, 1024)
ROUNDS = 5
CALLS = 40


def main() -> None:
    """Print one table: the median over rounds of the mean of a round's calls."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"{conditions()}\n")
    print(
        "| ranks | tokens | bytes | gloo ms | plain TCP ms |\n|---:|---:|---:|---:|---:|",
        flush=True,
    )
    for ranks in (2, 4):
        mp.spawn(run_rank, (ranks, 29610 + ranks), ranks)


def run_rank(rank: int, ranks: int, port: int) -> None:
    """One process: both ways in turn, round after round; rank 0 prints."""
    os.environ |= {SWITCH: "1", "VLLM_HOST_IP": f"127.0.0.{2 + rank}", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    group = dist.group.WORLD
    communicator = NetworkCommunicator(group, torch.device("cpu"), group, "tp:0")
    for tokens in TOKENS:
        tensor = torch.ones(tokens, HIDDEN, dtype=torch.bfloat16)
        rounds: dict[str, list[float]] = {"gloo": [], "": []}
        for _ in range(ROUNDS):
            for stock, seconds in rounds.items():
                os.environ[STOCK] = stock
                seconds.append(measured(communicator, tensor))
        gloo, plain = (statistics.median(each) * 1e3 for each in rounds.values())
        if rank == 0:
            size = tensor.numel() * tensor.element_size()
            print(f"| {ranks} | {tokens} | {size:,} | {gloo:.2f} | {plain:.2f} |", flush=True)
    communicator.destroy()
    dist.destroy_process_group()


def measured(communicator: NetworkCommunicator, tensor: torch.Tensor) -> float:
    """Seconds for one call, on average; the first ones, which connect, do not count."""
    for _ in range(3):
        communicator.all_reduce(tensor.clone())
    dist.barrier()
    began = time.perf_counter()
    for _ in range(CALLS):
        communicator.all_reduce(tensor.clone())
    return (time.perf_counter() - began) / CALLS


if __name__ == "__main__":
    main()
