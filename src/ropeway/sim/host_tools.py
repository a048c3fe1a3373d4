"""`npu-smi` and `hccn_tool` as programs, for real hosts that have no NPU.

    python -m ropeway.sim.host_tools FLEET NUMBER npu-smi info
    python -m ropeway.sim.host_tools 2x8-910B4,link-down:host2:3 1 hccn_tool -i 3 -link -g

FLEET is a cluster as `ropeway doctor --rehearse` takes it, with faults behind it where wanted;
NUMBER says which of its hosts this one is, from 0. Output and exit code are those of the tool.
Started hundreds of times by one look at a host, this imports no more than it needs.
"""

import sys
from collections.abc import Sequence

from ropeway.errors import Refused
from ropeway.sim import npu_smi
from ropeway.sim.faults import inject
from ropeway.sim.hccn_tool import HccnTool
from ropeway.sim.machine import Fleet, parse_fleet, sound_fleet


def fleet_of(text: str) -> Fleet:
    """Read `2x8-910B4,link-down:host2:3`. Raises Refused when it is not that."""
    size, *faults = text.split(",")
    fleet = sound_fleet(*parse_fleet(size))
    for fault in faults:
        fleet, _ = inject(fleet, fault)
    return fleet


def answer(fleet: Fleet, number: int, argv: Sequence[str]) -> tuple[int, str]:
    """Return exit code and output of `npu-smi …` or `hccn_tool …` on a host of the fleet.

    Raises Refused for another program, or a host that is not there.
    """
    if not 0 <= number < len(fleet.machines):
        raise Refused(f"no such host: {number}", hint=f"hosts are 0 to {len(fleet.machines) - 1}")
    machine = fleet.machines[number]
    match argv[0]:
        case "npu-smi":
            return npu_smi.answer(machine, argv[1:])
        case "hccn_tool":
            return HccnTool(fleet).answer(machine, argv[1:])
        case program:
            raise Refused(f"`{program}` is not a tool of this host", hint="npu-smi or hccn_tool")


def main(argv: Sequence[str]) -> int:
    """Print what the tool prints; returns its exit code, 2 for arguments that make no sense."""
    try:
        text, number, *command = argv
        code, output = answer(fleet_of(text), int(number), command or ("",))
    except (ValueError, Refused) as error:
        sys.stderr.write(f"error: {error}\nusage: FLEET NUMBER npu-smi|hccn_tool ARGS…\n")
        return Refused.exit_code
    sys.stdout.write(output)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
