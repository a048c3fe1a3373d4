"""What `npu-smi info -t TYPE` says of a card and its chips, where it is labelled lines.

A query without `-c` prints a heading for the card (NPU ID, Chip Count) and then each chip, whose
number stands before its values (310, 310B, and `common`) or behind them (all others).
Formats: github.com/hicann/driver, `npucli/src/npu_info_print.c`, `npu_card_info.c` and
`npu_chip_info_ext.c`, and recordings of npu-smi 22 to 26.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from ropeway.facts.labelled import Convert, Layout, integer, number, text_or_none

R = TypeVar("R")


def card_layout(
    make: Callable[..., R],
    labels: Mapping[str, tuple[str, Convert]],
    *,
    carried: frozenset[str] = frozenset({"npu", "chip_count"}),
    starts: frozenset[str] = frozenset(),
    others: str = "others",
) -> Layout[R]:
    """A query about cards: records with npu, chip, chip_count and a table of `others`."""
    place = {
        "NPU ID": ("npu", integer),
        "Chip ID": ("chip", integer),
        "Chip Count": ("chip_count", integer),
    }
    return Layout(
        make,
        {**place, **labels},
        index="npu",
        carried=carried,
        minor=frozenset({"chip", "chip_count", "chip_name"}),
        starts=starts,
        others=others,
        flags={"chip": "-c"},
        errors=False,
    )


@dataclass(frozen=True)
class Board:
    """`-t board`: of a card, or with `-c` of a chip. `others` holds labels that are not ours."""

    npu: int | None = None
    chip: int | None = None
    product_name: str | None = None
    model: str | None = None
    manufacturer: str | None = None
    serial_number: str | None = None
    npu_name: str | None = None
    chip_type: str | None = None
    chip_name: str | None = None
    chip_version: str | None = None
    software_version: str | None = None
    firmware_version: str | None = None
    compatibility: str | None = None
    board_id: str | None = None
    main_board_id: str | None = None
    pcb_id: str | None = None
    bom_id: str | None = None
    die_id: str | None = None
    vdie_id: str | None = None
    ndie_id: str | None = None
    chip_position_id: int | None = None
    pcie_bus_id: str | None = None
    slot_id: int | None = None
    class_id: str | None = None
    pci_vendor_id: str | None = None
    pci_device_id: str | None = None
    subsystem_vendor_id: str | None = None
    subsystem_device_id: str | None = None
    chip_count: int | None = None
    faulty_chip_count: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


BOARD = card_layout(
    Board,
    {
        "Product Name": ("product_name", text_or_none),
        "Model": ("model", text_or_none),
        "Manufacturer": ("manufacturer", text_or_none),
        "Serial Number": ("serial_number", text_or_none),
        "NPU Name": ("npu_name", text_or_none),
        "Chip Type": ("chip_type", text_or_none),
        "Chip Name": ("chip_name", text_or_none),
        "Chip Version": ("chip_version", text_or_none),
        "Software Version": ("software_version", text_or_none),
        "Firmware Version": ("firmware_version", text_or_none),
        "Compatibility": ("compatibility", text_or_none),
        "Board ID": ("board_id", text_or_none),
        "Main Board ID": ("main_board_id", text_or_none),
        "PCB ID": ("pcb_id", text_or_none),
        "BOM ID": ("bom_id", text_or_none),
        "Die ID": ("die_id", text_or_none),
        "DDie ID": ("die_id", text_or_none),
        "VDie ID": ("vdie_id", text_or_none),
        "NDie ID": ("ndie_id", text_or_none),
        "Chip Position ID": ("chip_position_id", integer),
        "PCIe Bus Info": ("pcie_bus_id", text_or_none),
        "Slot ID": ("slot_id", integer),
        "Class ID": ("class_id", text_or_none),
        "PCI Vendor ID": ("pci_vendor_id", text_or_none),
        "PCI Device ID": ("pci_device_id", text_or_none),
        "Vendor ID": ("pci_vendor_id", text_or_none),
        "Device ID": ("pci_device_id", text_or_none),
        "Subsystem Vendor ID": ("subsystem_vendor_id", text_or_none),
        "Subsystem Device ID": ("subsystem_device_id", text_or_none),
        "Module Vendor ID": ("subsystem_vendor_id", text_or_none),
        "Module ID": ("subsystem_device_id", text_or_none),
        "Faulty Chip Count": ("faulty_chip_count", integer),
        "Chip Fault": ("faulty_chip_count", integer),
    },
    carried=frozenset({"npu"}),
)


@dataclass(frozen=True)
class Usages:
    """`-t usages`: rates in percent; DDR is what 310 and 310B call memory."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    ddr_capacity_mb: int | None = None
    ddr_percent: int | None = None
    ddr_hugepages_total: int | None = None
    ddr_hugepages_percent: int | None = None
    hbm_capacity_mb: int | None = None
    hbm_percent: int | None = None
    aicore_percent: int | None = None
    aivector_percent: int | None = None
    aicpu_percent: int | None = None
    ctrlcpu_percent: int | None = None
    vectorcore_percent: int | None = None
    ddr_bandwidth_percent: int | None = None
    hbm_bandwidth_percent: int | None = None
    npu_percent: int | None = None
    aicube_percent: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


USAGES = card_layout(
    Usages,
    {
        "DDR Capacity(MB)": ("ddr_capacity_mb", integer),
        "Memory Capacity(MB)": ("ddr_capacity_mb", integer),
        "DDR Usage Rate(%)": ("ddr_percent", integer),
        "Memory Usage Rate(%)": ("ddr_percent", integer),
        "DDR Hugepages Total(page)": ("ddr_hugepages_total", integer),
        "Hugepages Total(page)": ("ddr_hugepages_total", integer),
        "DDR Hugepages Usage Rate(%)": ("ddr_hugepages_percent", integer),
        "Hugepages Usage Rate(%)": ("ddr_hugepages_percent", integer),
        "HBM Capacity(MB)": ("hbm_capacity_mb", integer),
        "HBM Usage Rate(%)": ("hbm_percent", integer),
        "Aicore Usage Rate(%)": ("aicore_percent", integer),
        "Aivector Usage Rate(%)": ("aivector_percent", integer),
        "Aicpu Usage Rate(%)": ("aicpu_percent", integer),
        "Ctrlcpu Usage Rate(%)": ("ctrlcpu_percent", integer),
        "Vectorcore Usage Rate(%)": ("vectorcore_percent", integer),
        "DDR Bandwidth Usage Rate(%)": ("ddr_bandwidth_percent", integer),
        "Memory Bandwidth Usage Rate(%)": ("ddr_bandwidth_percent", integer),
        "HBM Bandwidth Usage Rate(%)": ("hbm_bandwidth_percent", integer),
        "NPU Utilization(%)": ("npu_percent", integer),
        "Aicube Usage Rate(%)": ("aicube_percent", integer),
    },
)


@dataclass(frozen=True)
class Common:
    """`-t common`. The controller of the card (`MCU`) is a record with a chip name."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    chip_name: str | None = None
    memory_percent: int | None = None
    hbm_percent: int | None = None
    aicore_percent: int | None = None
    aicore_freq_mhz: int | None = None
    aicore_current_freq_mhz: int | None = None
    aicore_count: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    rated_power_w: float | None = None
    others: Mapping[str, str] = field(default_factory=dict)


COMMON = card_layout(
    Common,
    {
        "Chip Name": ("chip_name", text_or_none),
        "Memory Usage Rate(%)": ("memory_percent", integer),
        "HBM Usage Rate(%)": ("hbm_percent", integer),
        "Aicore Usage Rate(%)": ("aicore_percent", integer),
        "Aicore Freq(MHZ)": ("aicore_freq_mhz", integer),
        "Aicore curFreq(MHZ)": ("aicore_current_freq_mhz", integer),
        "Aicore Count": ("aicore_count", integer),
        "Temperature(C)": ("temperature_c", integer),
        "NPU Real-time Power(W)": ("power_w", number),
        "Real-time Power(W)": ("power_w", number),
        "Chip Real-time Power(W)": ("power_w", number),
        "Power Dissipation(W)": ("power_w", number),
        "Rated Power Dissipation(W)": ("rated_power_w", number),
    },
    starts=frozenset({"chip", "chip_name"}),
)


@dataclass(frozen=True)
class Memory:
    """`-t memory`."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    ddr_total_mb: int | None = None
    ddr_capacity_mb: int | None = None
    ddr_clock_mhz: int | None = None
    hbm_capacity_mb: int | None = None
    hbm_clock_mhz: int | None = None
    hbm_temperature_c: int | None = None
    hbm_manufacturer_id: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


MEMORY = card_layout(
    Memory,
    {
        "Total DDR Capacity(MB)": ("ddr_total_mb", integer),
        "Total Capacity(MB)": ("ddr_total_mb", integer),
        "DDR Capacity(MB)": ("ddr_capacity_mb", integer),
        "Capacity(MB)": ("ddr_capacity_mb", integer),
        "DDR Clock Speed(MHz)": ("ddr_clock_mhz", integer),
        "Clock Speed(MHz)": ("ddr_clock_mhz", integer),
        "HBM Capacity(MB)": ("hbm_capacity_mb", integer),
        "HBM Clock Speed(MHz)": ("hbm_clock_mhz", integer),
        "HBM Temperature(C)": ("hbm_temperature_c", integer),
        "HBM Manufacturer ID": ("hbm_manufacturer_id", text_or_none),
    },
)


@dataclass(frozen=True)
class Ecc:
    """`-t ecc`: errors since the driver was loaded, since ever (total), and pages taken out."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    hbm_single_bit_errors: int | None = None
    hbm_double_bit_errors: int | None = None
    hbm_single_bit_total: int | None = None
    hbm_double_bit_total: int | None = None
    hbm_single_bit_isolated_pages: int | None = None
    hbm_double_bit_isolated_pages: int | None = None
    hbm_single_bit_next_isolated_pages: int | None = None
    hbm_double_bit_next_isolated_pages: int | None = None
    ddr_single_bit_errors: int | None = None
    ddr_double_bit_errors: int | None = None
    ddr_single_bit_total: int | None = None
    ddr_double_bit_total: int | None = None
    ddr_single_bit_isolated_pages: int | None = None
    ddr_double_bit_isolated_pages: int | None = None
    ddr_single_bit_next_isolated_pages: int | None = None
    ddr_double_bit_next_isolated_pages: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


ECC = card_layout(
    Ecc,
    {
        "Single-bit Error Count": ("ddr_single_bit_errors", integer),
        "Double-bit Error Count": ("ddr_double_bit_errors", integer),
        **{
            f"{memory} {bits} Bit {printed}": (
                f"{memory.lower()}_{bits.lower()}_bit_{name}",
                integer,
            )
            for memory in ("HBM", "DDR")
            for bits in ("Single", "Double")
            for printed, name in (
                ("Error Count", "errors"),
                ("Aggregate Total Err Cnt", "total"),
                ("Isolated Pages Count", "isolated_pages"),
                ("Next-Isolated Pages Count", "next_isolated_pages"),
            )
        },
    },
)


@dataclass(frozen=True)
class SuperPod:
    """`-t spod-info`: the place of a chip in a super node, A3 and 950."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    sdid: int | None = None
    super_pod_size: int | None = None
    super_pod_id: int | None = None
    super_pod_type: int | None = None
    server_index: int | None = None
    chassis_id: int | None = None
    others: Mapping[str, str] = field(default_factory=dict)


SPOD = card_layout(
    SuperPod,
    {
        "SDID": ("sdid", integer),
        "Super Pod Size": ("super_pod_size", integer),
        "Super Pod ID": ("super_pod_id", integer),
        "Super Pod Type": ("super_pod_type", integer),
        "Server Index": ("server_index", integer),
        "Chassis ID": ("chassis_id", integer),
    },
)
