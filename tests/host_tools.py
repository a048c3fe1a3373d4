"""`npu-smi` and `hccn_tool` as programs, for real hosts that have no NPU.

    python -S tests/host_tools.py 2x8-910B4,link-down:host2:3 1 hccn_tool -i 3 -link -g

The cluster is one that `ropeway doctor --rehearse` takes, with faults behind it where wanted; the
number says which of its hosts this one is, from 0. Output and exit code are those of the tool.
Started hundreds of times by one look at a host, this imports no more than it needs.
"""

import sys
from collections.abc import Sequence

from ropeway.sim import npu_smi
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hccn_tool import HccnTool
from ropeway.sim.machine import Fleet


def fleet_of(text: str) -> Fleet:
    """Read `2x8-910B4,link-down:host2:3`."""
    size, *faults = text.split(",")
    return faulty_fleet(size, faults)


def main(argv: Sequence[str]) -> int:
    """Print what the tool prints; returns its exit code."""
    text, number, program, *arguments = argv
    fleet = fleet_of(text)
    answer = {"npu-smi": npu_smi.answer, "hccn_tool": HccnTool(fleet).answer}[program]
    code, output = answer(fleet.machines[int(number)], arguments)
    sys.stdout.write(output)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
