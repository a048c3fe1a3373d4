"""npu-smi: what its tables and its labelled lines say, chip by chip and version by version."""

from typing import Any

import pytest

from facts_recordings import expected_of, recorded, shown, text_of
from ropeway.facts.base import Reading, ToolError
from ropeway.facts.catalogue import BY_NAME
from ropeway.facts.npu_smi import Chip, NpuProcess, NpuTable, chip_family, parse_npu_smi_info
from ropeway.facts.npu_smi_cards import BOARD, COMMON, ECC, MEMORY, SPOD, USAGES, Common
from ropeway.facts.npu_smi_details import (
    DeviceProcess,
    DeviceProcesses,
    FaultEvent,
    FaultEvents,
    Health,
    parse_fault_events,
    parse_health,
    parse_help,
    parse_proc_mem,
)
from ropeway.facts.npu_smi_lists import (
    Card,
    Cards,
    ChipMapping,
    TopologyRow,
    parse_list,
    parse_mapping,
    parse_topo,
)

HEADER = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 25.2.0                   Version: 25.2.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
"""
ROWS = """\
| 0     910B4               | OK            | 82.6        32                0    / 0             |
| 0                         | 0000:C1:00.0  | 7           0    / 0          32061/ 32768         |
+===========================+===============+====================================================+
"""
CHIP = Chip(
    npu=0,
    chip=0,
    name="910B4",
    health="OK",
    power_w=82.6,
    temperature_c=32,
    hugepages_used=0,
    hugepages_total=0,
    bus_id="0000:C1:00.0",
    aicore_percent=7,
    memory_used_mb=0,
    memory_total_mb=0,
    hbm_used_mb=32061,
    hbm_total_mb=32768,
)
PROCESSES = """\
+---------------------------+---------------+----------------------------------------------------+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
"""
BUSY = "| 0       0                 | 45382         | python           | 29259             |\n"


def value_of(reading: Reading[Any]) -> Any:
    assert reading.state == "ok", reading
    return reading.value


def table(*parts: str) -> NpuTable:
    found: NpuTable = value_of(parse_npu_smi_info("".join(parts)))
    return found


@pytest.mark.parametrize("name", recorded("npu_smi"))
def test_a_recording_says_what_a_reader_sees(name: str) -> None:
    expected = expected_of(name)
    output = BY_NAME[expected["output"]]
    assert shown(output, output.parse(text_of(name))) == expected


# The table


def test_a_chip_is_two_rows() -> None:
    assert table(HEADER, ROWS) == NpuTable("25.2.0", "25.2.0", (CHIP,), None, None)


def test_rows_are_read_without_their_header() -> None:
    assert table(ROWS) == NpuTable(None, None, (CHIP,), None, None)


def test_a_950_has_one_cell_more_and_no_chip_number() -> None:
    text = """\
| npu-smi x.x.x                           Version: x.x.x                                          |
| NPU ID | Name             | Health        | Power(W)    Temp(C)           Hugepages-Usage(page) |
|        |                  | Bus-Id        | NPU Util(%) Memory-Usage(MB)  HBM-Usage(MB)         |
+========+==================+===============+=====================================================+
| 0      | xxx              | OK            | 204.4       56                0     / 0             |
|        |                  | NA            | 12          0    / 0          4439  / 86016         |
+========+==================+===============+=====================================================+
| NPU ID                    | Process id    | Process name             | Process memory(MB)       |
| 0                          | 4321          | python                   | 1234                    |
"""
    chip = Chip(
        npu=0,
        name="xxx",
        health="OK",
        power_w=204.4,
        temperature_c=56,
        hugepages_used=0,
        hugepages_total=0,
        npu_percent=12,
        memory_used_mb=0,
        memory_total_mb=0,
        hbm_used_mb=4439,
        hbm_total_mb=86016,
    )
    process = NpuProcess(npu=0, chip=None, pid=4321, name="python", memory_mb=1234)
    assert table(text) == NpuTable("x.x.x", "x.x.x", (chip,), (process,), ())


def test_the_first_chips_have_a_device_number_and_names_made_of_digits() -> None:
    text = """\
| NPU     Name         | Health          | Power(W)     Temp(C)      Hugepages-Usage(page) |
| Chip    Device       | Bus-Id          | AICore(%)    Memory-Usage(MB)                   |
+----------------------|-----------------|-------------------------------------------------+
| 0       310          | OK              | 12.8         61           0     / 969           |
| 0       3            | NA              | 0            NA / 15609                         |
[WARNING]The driver package may not be completely installed, please reinstall it.
"""
    chip = Chip(
        npu=0,
        chip=0,
        device=3,
        name="310",
        health="OK",
        power_w=12.8,
        temperature_c=61,
        hugepages_used=0,
        hugepages_total=969,
        aicore_percent=0,
        memory_total_mb=15609,
    )
    warning = "The driver package may not be completely installed, please reinstall it."
    assert table(text) == NpuTable(None, None, (chip,), None, None, (warning,))


def test_columns_are_found_by_their_header() -> None:
    text = """\
| NPU     Name      | Health          | Power(W)     Temp(C)                      |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)             |
| 0       910       | OK              | 67.9         45                           |
| 0       0         | 0000:C1:00.0    | 0            577  / 15171                 |
"""
    chip = table(text).chips[0]
    assert (chip.power_w, chip.temperature_c, chip.hugepages_total) == (67.9, 45, None)
    assert (chip.memory_used_mb, chip.memory_total_mb, chip.hbm_total_mb) == (577, 15171, None)


@pytest.mark.parametrize(
    ("row", "hbm"),
    [
        ("| 0 | 0000:C2:00.0 | 0  0 / 0  3448 / 655", (3448, None)),
        ("| 0 | 0000:C2:00.0 | 0  0 / 0  3448 /", (3448, None)),
        ("| 0 | 0000:C2:00.0 | 0  0 / 0  34", (None, None)),
        ("| 0 | 0000:C2:00.0 | 0  0 /", (None, None)),
        ("| 0 | 0000:C", (None, None)),
    ],
)
def test_of_a_row_that_was_cut_the_last_number_is_not_believed(
    row: str, hbm: tuple[int | None, int | None]
) -> None:
    first = "| 1 910B4 | OK | 82.6 32 0 / 0 |\n"
    reading = parse_npu_smi_info(HEADER + ROWS + first + row)
    assert reading.state == "partial"
    assert reading.value is not None
    assert reading.value.chips[0] == CHIP
    assert reading.value.chips[1].npu == 1
    assert (reading.value.chips[1].hbm_used_mb, reading.value.chips[1].hbm_total_mb) == hbm


def test_a_filter_leaves_chips_without_their_second_row() -> None:
    reading = parse_npu_smi_info(
        "| 0 910B3 | OK | 97.6 52 0 / 0 |\n| 1 910B3 | Alarm | 9 5 0 / 0 |\n"
    )
    assert reading.state == "partial"
    assert reading.value is not None
    assert [(chip.npu, chip.health, chip.bus_id) for chip in reading.value.chips] == [
        (0, "OK", None),
        (1, "Alarm", None),
    ]


def test_rows_that_a_narrow_terminal_broke_are_joined() -> None:
    wrapped = "".join(f"{line[:70]}\n{line[70:]}\n" for line in ROWS.splitlines()[:2])
    assert table(HEADER, wrapped).chips == (CHIP,)


def test_a_second_table_is_left_unread() -> None:
    reading = parse_npu_smi_info((HEADER + ROWS) * 2)
    assert reading.state == "partial"
    assert reading.value == table(HEADER, ROWS)
    assert "910B4" in "".join(reading.unread)


def test_rows_of_another_table_are_no_chips() -> None:
    text = "| 1 | foo | bar | baz |\n| 2 apples | many | 3 |\n| 3 pears | 4 | 5 / 6 |\n"
    assert parse_npu_smi_info(text).state == "unknown"


# Its processes


def test_memory_in_bytes_becomes_megabytes() -> None:
    header = PROCESSES.replace("(MB)", "(B) ")
    found = table(HEADER, ROWS, header, BUSY.replace("29259", "3145728"))
    assert found.processes == (NpuProcess(0, 0, 45382, "python", 3.0),)


def test_a_container_has_numbers_of_its_own() -> None:
    header = (
        "| NPU Chip | Process id | Process name | Process memory(MB) | Process id in container |\n"
    )
    found = table(HEADER, ROWS, header, "| 0 0 | 45382 | python | 29259 | 17 |\n")
    assert found.processes == (NpuProcess(0, 0, 45382, "python", 29259, 17),)


def test_npus_without_processes_are_named() -> None:
    idle = "| No running processes found in NPU 0                                      |\n"
    assert table(HEADER, ROWS, PROCESSES, idle).idle_npus == (0,)


def test_a_process_table_that_leaves_an_npu_out_has_been_cut() -> None:
    reading = parse_npu_smi_info(HEADER + ROWS + PROCESSES)
    assert reading.state == "partial"
    assert reading.value == NpuTable("25.2.0", "25.2.0", (CHIP,), (), ())


# Errors in place of tables


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("dcmi module initialize failed. ret is -8005", ("no-driver", -8005)),
        ("dcmi module initialize failed. ret is -8008", ("no-device", -8008)),
        ("dcmi module initialize failed. ret is -8002", ("denied", -8002)),
        ("dcmi module initialize failed. ret is -8006", ("timeout", -8006)),
        ("DrvMngGetConsoleLogLevel failed. (ret=4)", ("no-driver", 4)),
        ("npu get board type failed. ret is -8001", ("no-driver", -8001)),
        ("Failed to execute npu-smi info. ret is -9020.", ("device-used", -9020)),
        ("Failed to execute npu-smi info. ret is -9005.", ("failed", -9005)),
        ("There is no NPU card on this server.", ("no-device", None)),
        ("Failed to query card total info.", ("failed", None)),
        ("bash: /usr/local/bin/npu-smi: Permission denied", ("denied", None)),
        ("This command cannot be executed on a VM or container.", ("unsupported", None)),
        (
            "npu-smi: error while loading shared libraries: libdrvdsmi_host.so: cannot open shared "
            "object file: No such file or directory",
            ("no-driver", None),
        ),
    ],
)
def test_an_error_of_the_tool_has_its_kind(text: str, error: tuple[str, int | None]) -> None:
    reading = parse_npu_smi_info(text + "\n")
    assert reading.state == "error"
    assert reading.value is None
    assert reading.error is not None
    assert (reading.error.kind, reading.error.code) == error
    assert reading.error.message == text


@pytest.mark.parametrize("text", ["bash: npu-smi: command not found", "sh: 1: npu-smi: not found"])
def test_a_tool_that_is_not_there_is_absent(text: str) -> None:
    assert parse_npu_smi_info(text) == Reading.absent(text)


def test_a_complaint_above_a_table_is_kept_beside_it() -> None:
    noise = "DrvMngGetConsoleLogLevel failed. (ret=4)"
    reading = parse_npu_smi_info(f"{noise}\n{HEADER}{ROWS}")
    assert reading.state == "partial"
    assert reading.value == table(HEADER, ROWS)
    assert reading.error == ToolError("no-driver", noise, 4)


# Names of chips


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("910A", "910A"),
        ("910B", "910A"),
        ("910ProB", "910A"),
        ("Ascend 910A", "910A"),
        ("910B1", "910B"),
        ("910B2C", "910B"),
        ("Ascend 910B3", "910B"),
        ("910B4-1", "910B"),
        ("Ascend910", "A3"),
        ("Ascend910_9391", "A3"),
        ("310P3", "310P"),
        ("310B4", "310B"),
        ("Ascend950PR_9579", "950"),
        ("910", None),
        ("310", None),
        ("xxx", None),
        ("", None),
    ],
)
def test_a_name_has_its_family(name: str, family: str | None) -> None:
    found = chip_family(name)
    assert found.name == family
    assert name in found.reason


# Labelled lines


def test_each_chip_of_a_card_is_a_record() -> None:
    text = """\
\tNPU ID                         : 1536
\tChip Count                     : 2

\tDDR Capacity(MB)               : 44280
\tAicore Usage Rate(%)           : 0
\tChip ID                        : 0

\tDDR Capacity(MB)               : 43693
\tAicore Usage Rate(%)           : 7
\tChip ID                        : 1
"""
    found = value_of(USAGES.read(text))
    assert [(u.npu, u.chip, u.chip_count) for u in found] == [(1536, 0, 2), (1536, 1, 2)]
    assert [(u.ddr_capacity_mb, u.aicore_percent) for u in found] == [(44280, 0), (43693, 7)]


def test_the_controller_of_a_card_is_a_record_with_a_name() -> None:
    text = """\
NPU ID : 0
Chip Count : 1

Chip ID : 0
Temperature(C) : 47
NPU Real-time Power(W) : 95.6

Chip Name : mcu
Temperature(C) : 43
"""
    assert value_of(COMMON.read(text)) == (
        Common(npu=0, chip=0, chip_count=1, temperature_c=47, power_w=95.6),
        Common(npu=0, chip_count=1, chip_name="mcu", temperature_c=43),
    )


def test_the_echoed_command_names_card_and_chip() -> None:
    text = "[root@a ~]# npu-smi info -t memory -i 3 -c 1\nHBM Capacity(MB) : 65536\n"
    (found,) = value_of(MEMORY.read(text))
    assert (found.npu, found.chip, found.hbm_capacity_mb) == (3, 1, 65536)


def test_labels_that_are_not_known_are_kept_while_they_are_few() -> None:
    known = "Software Version : 25.0\nFirmware Version : 7.1\nCompatibility : OK\n"
    (board,) = value_of(BOARD.read(known + "Colour : green\n"))
    assert board.others == {"Colour": "green"}
    strange = "Colour : green\nShape : round\nTaste : sour\n"
    assert BOARD.read(strange).state == "unknown"
    assert BOARD.read("Firmware Version : 7.1\n" + strange).state == "partial"


def test_values_that_are_no_numbers_are_unread() -> None:
    reading = MEMORY.read("HBM Capacity(MB) : plenty\nHBM Temperature(C) : 52\n")
    assert reading.state == "partial"
    assert reading.unread == ("HBM Capacity(MB) : plenty",)


@pytest.mark.parametrize("layout", [BOARD, COMMON, ECC, MEMORY, SPOD, USAGES])
def test_a_card_that_is_not_there_is_an_error(layout: Any) -> None:
    text = "Invalid card id.\nError parameter of -i\nUsage: npu-smi info <watch|proc>\n"
    reading = layout.read(text)
    assert reading == Reading.failed(ToolError("no-device", "Invalid card id."), text)


def test_health_goes_on_over_lines_without_a_label() -> None:
    text = """\
NPU ID : 0
Health Status : Warning
Error Code : 80E01801 8C084E00
Error Information : node type=L2BUFF

 : node type=adda
Chip ID : 0

Health Status : OK
Error Code : NA
Error Information : NA
Chip ID : 1
"""
    codes, information = ("80E01801", "8C084E00"), ("node type=L2BUFF", "node type=adda")
    assert value_of(parse_health(text)) == (
        Health(0, 0, health="Warning", error_codes=codes, error_information=information),
        Health(0, 1, health="OK"),
    )


def test_fault_events_are_counted_against_what_is_listed() -> None:
    text = """\
Fault Event Count : 2
Fault Event Information : event id=0x81AF8000, severity=2, node type ex=215, node id=1
 : event id=0x81AF8001, severity=3, node type ex=215, node id=0
"""
    first = FaultEvent("0x81AF8000", 2, 215, 1)
    second = FaultEvent("0x81AF8001", 3, 215, 0)
    assert value_of(parse_fault_events(text)) == (FaultEvents(count=2, events=(first, second)),)
    none = "Fault Event Count : 0\nFault Event Information : NA\n"
    assert value_of(parse_fault_events(none)) == (FaultEvents(count=0),)
    assert parse_fault_events("\n".join(text.splitlines()[:2])).state == "partial"


def test_processes_of_a_chip_stand_above_its_number() -> None:
    text = """\
NPU ID : 0
Chip Count : 2
Process id:207795  Process name:VLLM Engine       Process memory(MB):55436
Process id:207796  Process name:                  Process memory(MB):12
Chip ID : 0
No process in device.
Chip ID : 1
"""
    first = (DeviceProcess(207795, "VLLM Engine", 55436), DeviceProcess(207796, "", 12))
    assert value_of(parse_proc_mem(text)) == (
        DeviceProcesses(0, 0, 2, first),
        DeviceProcesses(0, 1, 2),
    )


# Lists


def test_a_mapping_is_read_by_its_header() -> None:
    text = """\
NPU ID   Chip ID   Chip Logic ID   Chip Phy-ID   Chip Name
0        0         0               0             Ascend910
0        2         -               -             Mcu
"""
    assert value_of(parse_mapping(text)) == (
        ChipMapping(0, None, 0, 0, 0, "Ascend910"),
        ChipMapping(0, None, 2, None, None, "Mcu"),
    )


def test_a_list_shorter_than_its_count_has_been_cut() -> None:
    text = "Total Count : 2\n\nNPU ID : 0\nChip Count : 1\n"
    reading = parse_list(text)
    assert reading.state == "partial"
    assert reading.value == Cards(2, (Card(npu=0, chip_count=1),))
    assert value_of(parse_list(text + "\nNPU ID : 1\nChip Count : 1\n")).count == 2


def test_a_matrix_without_its_first_row_is_read_by_its_links() -> None:
    reading = parse_topo("NPU0  X  PHB  0-31\nNPU1  PHB  X  0-31\n")
    assert reading.state == "partial"
    assert reading.value is not None
    assert reading.value.rows == (
        TopologyRow("NPU0", ("X", "PHB"), "0-31"),
        TopologyRow("NPU1", ("PHB", "X"), "0-31"),
    )


def test_a_matrix_with_a_row_left_out_is_partial() -> None:
    text = "    NPU0  NPU1  CPU Affinity\nNPU0  X  PHB  0-31\n...\nNPU1  PHB  X  0-31\n"
    assert parse_topo(text).state == "partial"
    assert parse_topo(text.replace("...\n", "")).state == "ok"


def test_help_lists_what_can_be_asked() -> None:
    found = value_of(parse_help(text_of("npu_smi_help_02")))
    assert {"board", "proc-mem", "topo"} <= set(found.types)
    assert found.options["-p %d"] == "Chip Physical ID"
