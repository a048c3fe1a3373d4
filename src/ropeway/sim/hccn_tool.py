"""What `hccn_tool` of a virtual machine prints, and which of its pings arrive."""

from collections.abc import Callable, Sequence

from ropeway.sim.machine import OUTPUTS, Chip, Fleet, Machine

_PACKETS = 3


class HccnTool:
    """The tool of every machine of a fleet: the pings need to know all of them."""

    def __init__(self, fleet: Fleet) -> None:
        self._losses = fleet.losses
        self._ports = {
            chip.address: chip
            for machine in fleet.up.values()
            for chip in machine.chips
            if chip.address
        }

    def answer(self, machine: Machine, argv: Sequence[str]) -> tuple[int, str]:
        """Return exit code and output of `hccn_tool ARGV…`, of those that facts/ asks."""
        if "driver" in machine.missing:
            return 1, "Get device number failed, ret(-1).\n"
        chips = {str(chip.device): chip for chip in machine.chips if not chip.dropped}
        match tuple(argv):
            case ("-i", number, *_) if number not in chips:
                return 1, "Get invalid device id.\n"
            case ("-i", number, "-ping", "-g", "address", address):
                return 0, self._ping(chips[number], address)
            case ("-i", number, option, "-g") if option in _QUERIES:
                return 0, _QUERIES[option](chips[number])
            case _:
                return 1, "Get unknown option!\n"

    def _ping(self, chip: Chip, address: str) -> str:
        """Send three packets from a chip's RoCE port to an address."""
        received = _PACKETS - round(_PACKETS * self._loss(chip, address) / 100)
        loss = 1 - received / _PACKETS
        return (
            f"device {chip.device} PING {address}\n"
            f"{_PACKETS} packets transmitted, {received} received, {loss:.2%} packet loss\n"
        )

    def _loss(self, chip: Chip, address: str) -> float:
        """Return the percentage of packets lost between a chip and an address."""
        other = self._ports.get(address)
        if other is None or chip.address is None or not (_on_air(chip) and _on_air(other)):
            return 100.0
        return self._losses.get((chip.address, address), 0.0)


def _on_air(chip: Chip) -> bool:
    return chip.link == "UP" and not chip.dropped


def _output(key: str) -> Callable[[Chip], str]:
    return lambda chip: OUTPUTS[key].format(chip=chip)


def _set(key: str, field: str) -> Callable[[Chip], str]:
    """Return the output of a setting of a chip, which may not have been made."""
    return lambda chip: _output(key if getattr(chip, field) else f"{key}-unset")(chip)


def _optical(chip: Chip) -> str:
    lost = "0xff" if chip.rx_power_mw < 0.1445 else "0x0"
    return OUTPUTS["hccn-optical"].format(chip=chip, lost=lost)


def _link_stat(chip: Chip) -> str:
    ups = chip.link_downs + (chip.link == "UP")
    return OUTPUTS["hccn-link-stat"].format(chip=chip, ups=ups)


def _vnic(chip: Chip) -> str:
    address = f"vnic ipaddr: 192.168.2.{199 - chip.device}\nvnic netmask: 255.255.255.0\n"
    return f"vnic link status: UP\n{address}"


_QUERIES = {
    "-ip": _set("hccn-ip", "address"),
    "-link": _output("hccn-link"),
    "-net_health": _output("hccn-net-health"),
    "-netdetect": lambda chip: f"netdetect address: {chip.netdetect or '0.0.0.0'}\n",
    "-gateway": _set("hccn-gateway", "gateway"),
    "-lldp": lambda chip: _output("hccn-lldp")(chip) if chip.link == "UP" else "",
    "-tls": _output("hccn-tls"),
    "-optical": _optical,
    "-stat": _output("hccn-stat"),
    "-link_stat": _link_stat,
    "-vnic": _vnic,
}
