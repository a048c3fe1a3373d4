"""What `npu-smi` of a virtual machine prints: the tables and lists of tool version 25."""

from collections.abc import Sequence

from ropeway.sim.machine import OUTPUTS, Chip, Machine

_NOT_LOADED = "dcmi module initialize failed. ret is -8005\n"
_NO_CARD = "Invalid card id.\nError parameter of -i\n"
_WIDTH = 99


def answer(machine: Machine, argv: Sequence[str]) -> tuple[int, str]:
    """Return exit code and output of `npu-smi ARGV…`."""
    if "driver" in machine.missing:
        return 1, _NOT_LOADED
    chips = [chip for chip in machine.chips if not chip.dropped]
    match tuple(argv):
        case ("info",):
            return 0, _table(machine, chips)
        case ("info", "-m"):
            return 0, _mapping(machine, chips)
        case ("info", "-l"):
            return 0, _listing(chips)
        case ("info", "-t", kind, "-i", number, *_):
            of_card = [chip for chip in chips if str(chip.npu) == number]
            template = OUTPUTS.get(f"npu-smi-{kind}")
            if not of_card or template is None:
                return 1, _NO_CARD
            texts = [template.format(machine=machine, chip=chip) for chip in of_card]
            return 0, texts[0] if kind == "board" else "".join(texts)
        case _:
            return 1, _NO_CARD


def _table(machine: Machine, chips: Sequence[Chip]) -> str:
    """`npu-smi info`: two rows a chip, then who holds memory."""
    two = machine.kind.dies > 1
    rule = "+---------------------------+---------------+" + "-" * 52 + "+"
    double = rule.replace("-", "=")
    banner = f"npu-smi {machine.driver}"
    lines = [
        "+" + "-" * (_WIDTH - 3) + "+",
        f"| {banner:<34}Version: {machine.driver:<51}|",
        rule,
        "| NPU   Name                | Health        | Power(W)    Temp(C)           "
        "Hugepages-Usage(page)|",
        f"| Chip{'  Phy-ID' if two else '':<22}| Bus-Id        | AICore(%)   Memory-Usage(MB)  "
        "HBM-Usage(MB)        |",
        double,
    ]
    for number, chip in enumerate(chips):
        power = "-" if chip.die else f"{88.0 + chip.device % 7:.1f}"
        used = f"{chip.hbm_used_mb:<5}/ {chip.hbm_mb}"
        phy = f"{chip.device}" if two else ""
        lines += [
            f"| {chip.npu:<6}{machine.kind.name:<20}| {chip.health:<14}"
            f"| {power:<12}{chip.temperature_c:<18}0    / 0             |",
            f"| {chip.die:<6}{phy:<20}| 0000:{0xC1 - chip.device:02X}:00.0  "
            f"| {chip.aicore:<12}0    / 0          {used:<21}|",
            double if number + 1 == len(chips) or chips[number + 1].npu != chip.npu else rule,
        ]
    lines += [
        rule,
        "| NPU     Chip              | Process id    | Process name             "
        "| Process memory(MB)      |",
        double,
    ]
    for npu in dict.fromkeys(chip.npu for chip in chips):
        lines += [
            f"| {npu:<8}{chip.die:<18}| {user.pid:<14}| {user.name:<25}| {user.memory_mb:<24}|"
            for chip in chips
            if chip.npu == npu
            for user in chip.processes
        ] or [f"| No running processes found in NPU {npu:<60}|"]
        lines.append(double)
    return "\n".join(lines) + "\n"


def _mapping(machine: Machine, chips: Sequence[Chip]) -> str:
    """`-m`. An A3 says Phy-ID, and has a controller as chip 2 of each NPU."""
    two = machine.kind.dies > 1
    rows = [["NPU ID", "Chip ID", "Chip Logic ID", *["Chip Phy-ID"] * two, "Chip Name"]]
    for chip in chips:
        numbers = [str(chip.device)] * (1 + two)
        rows.append([str(chip.npu), str(chip.die), *numbers, machine.kind.name])
        if chip.die == machine.kind.dies - 1:
            rows.append([str(chip.npu), str(chip.die + 1), *["-"] * len(numbers), "Mcu"])
    return "".join("\t" + "".join(f"{cell:<31}" for cell in row).rstrip() + "\n" for row in rows)


def _listing(chips: Sequence[Chip]) -> str:
    cards = dict.fromkeys(chip.npu for chip in chips)
    rows = [("Total Count", len(cards)), *(("NPU ID", npu) for npu in cards)]
    return "".join(f"\t{key:<31}: {value}\n" for key, value in rows)
