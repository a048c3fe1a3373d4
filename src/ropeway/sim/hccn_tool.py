"""What `hccn_tool` of a virtual machine prints, and which of its pings arrive.

What it says to wrong usage: github.com/hicann/driver, `hccn/ascend910B/hccn_tool/cmd.c`.
"""

from collections.abc import Callable, Sequence

from ropeway.sim.machine import OUTPUTS, Chip, Fleet, Machine

PACKETS = 3
_NO_DEVICE = "Get invalid device id.\n"
_MORE = "Enter [ hccn_tool -h ] for more details.\n"


class HccnTool:
    """The tool of every machine of a fleet: the pings need to know all of them."""

    def __init__(self, fleet: Fleet) -> None:
        self._losses = fleet.losses
        self._ports = {
            chip.address: chip
            for machine in fleet.machines
            if machine.failure is None
            for chip in machine.chips
            if chip.address
        }

    def answer(self, machine: Machine, argv: Sequence[str]) -> tuple[int, str]:
        """Return exit code and output of `hccn_tool ARGV…`."""
        if "driver" in machine.missing:
            return 1, "Get device number failed, ret(-1).\n"
        if len(argv) < 2:
            return 1, f"Get invalid major cmd number. Please check your input.\n{_MORE}"
        if argv[0] != "-i":
            valid = 'The valid major cmd type should be "-a" or "-i".'
            return 1, f"Get invalid major cmd type. {valid}\n{_MORE}"
        option = argv[2] if len(argv) > 2 else ""
        if option != "-ping" and option not in _QUERIES:
            return 1, f"Get invalid major cmd.\n{_MORE}"
        chip = _chip(machine, argv[1])
        if chip is None:
            return 1, _NO_DEVICE
        usage, arguments = _USAGE.get(option, ("-g",)), argv[3:]
        if len(arguments) < len(usage):
            return 1, f"The total count of input parameters is wrong!\n{_needs(option, usage)}"
        if any(word not in (given, "%s") for word, given in zip(usage, arguments, strict=False)):
            return 1, f"Get unknown option!\n{_needs(option, usage)}"
        return self.ping(chip, arguments[2]) if option == "-ping" else (0, _QUERIES[option](chip))

    def ping(self, chip: Chip, address: str) -> tuple[int, str]:
        """Send three packets from a chip's RoCE port to an address."""
        received = PACKETS - round(PACKETS * self.loss(chip, address) / 100)
        lines = [f"device {chip.device} PING {address}"]
        lines += [
            f"recv seq={number},time={0.064 + number / 1000:.6f}ms"
            if number < received
            else f"recv time out seq={number}"
            for number in range(PACKETS)
        ]
        lost = (PACKETS - received) / PACKETS * 100
        lines.append(f"{PACKETS} packets transmitted, {received} received, {lost:.2f}% packet loss")
        return 0, "\n".join(lines) + "\n"

    def loss(self, chip: Chip, address: str) -> float:
        """Return the percentage of packets lost between a chip and an address."""
        other = self._ports.get(address)
        if other is None or chip.address is None or not (_on_air(chip) and _on_air(other)):
            return 100.0
        return self._losses.get((chip.address, address), 0.0)


def _needs(option: str, usage: Sequence[str]) -> str:
    needs = f"[ hccn_tool -i devid {option} ] needs the following parameters:"
    return f"{needs}\n   {' '.join(usage)}\n"


def _chip(machine: Machine, number: str) -> Chip | None:
    for chip in machine.chips:
        if str(chip.device) == number and not chip.dropped:
            return chip
    return None


def _on_air(chip: Chip) -> bool:
    return chip.link == "UP" and not chip.dropped


def _output(key: str) -> Callable[[Chip], str]:
    return lambda chip: OUTPUTS[key].format(chip=chip)


def _ip(chip: Chip) -> str:
    return _output("hccn-ip" if chip.address else "hccn-ip-unset")(chip)


def _gateway(chip: Chip) -> str:
    return _output("hccn-gateway" if chip.gateway else "hccn-gateway-unset")(chip)


def _lldp(chip: Chip) -> str:
    return "" if chip.link != "UP" else _output("hccn-lldp")(chip)


def _optical(chip: Chip) -> str:
    lost = "0xff" if chip.rx_power_mw < 0.1445 else "0x0"
    return OUTPUTS["hccn-optical"].format(chip=chip, lost=lost)


_COUNTERS = (
    "mac_tx_mac_pause_num",
    "mac_rx_mac_pause_num",
    "mac_tx_pfc_pkt_num",
    "mac_rx_pfc_pkt_num",
    "mac_rx_bad_pkt_num",
    "mac_rx_fcs_err_pkt_num",
    "roce_rx_err_pkt_num",
    "roce_out_of_order_num",
    "roce_new_pkt_rty_num",
    "roce_qp_status_err_num",
)


def _stat(chip: Chip) -> str:
    lines = [f"{name}:{chip.errors.get(name, 0)}" for name in _COUNTERS]
    return "\n".join(["packet statistics:", *lines, "nic_tx_all_pkg_num:122404"]) + "\n"


def _link_stat(chip: Chip) -> str:
    prefix = f"[devid {chip.device}]"
    lines = [
        f"{prefix}current time        : Mon Nov 23 10:00:00 2026",
        f"{prefix}link up count       : {chip.link_downs + (chip.link == 'UP')}",
        f"{prefix}link change records :",
    ]
    changes = ["LINK UP"] if chip.link == "UP" else []
    for _ in range(min(chip.link_downs, 5)):
        changes += ["LINK DOWN", "LINK UP"]
    lines += [f"{prefix}    Mon Nov 23 09:4{n % 10}:00 2026    {c}" for n, c in enumerate(changes)]
    return "\n".join(lines) + "\n"


def _vnic(chip: Chip) -> str:
    address = f"vnic ipaddr: 192.168.2.{199 - chip.device}\nvnic netmask: 255.255.255.0\n"
    return f"vnic link status: UP\n{address}"


_USAGE = {"-ping": ("-g", "address", "%s")}
_QUERIES = {
    "-ip": _ip,
    "-link": _output("hccn-link"),
    "-net_health": _output("hccn-net-health"),
    "-netdetect": lambda chip: f"netdetect address: {chip.netdetect or '0.0.0.0'}\n",
    "-gateway": _gateway,
    "-lldp": _lldp,
    "-tls": _output("hccn-tls"),
    "-optical": _optical,
    "-stat": _stat,
    "-link_stat": _link_stat,
    "-vnic": _vnic,
}
