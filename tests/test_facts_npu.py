"""npu-smi: what its tables and its labelled lines say, chip by chip and version by version."""

import pytest

from ropeway.facts.ascend.npu_cards import (
    Health,
    parse_ecc,
    parse_firmware,
    parse_health,
    parse_mapping,
)
from ropeway.facts.ascend.npu_smi import Chip, Holder, NpuTable, chip_family, parse_table
from ropeway.facts.question import Parsed, ToolError

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
    temperature_c=32,
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
IDLE = "| No running processes found in NPU 0                                      |\n"


def table(*parts: str) -> NpuTable:
    parsed = parse_table("".join(parts))
    assert (parsed.state, parsed.unparsed) == ("ok", ())
    assert parsed.value is not None
    return parsed.value


def test_a_chip_is_two_rows():
    assert table(HEADER, ROWS) == NpuTable("25.2.0", (CHIP,), ())


def test_rows_are_read_without_their_header():
    assert table(ROWS) == NpuTable(None, (CHIP,), ())


def test_a_950_has_one_cell_more_and_no_chip_number():
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
    chip = Chip(0, None, None, None, "xxx", "OK", 56, 0, 0, 4439, 86016)
    assert table(text) == NpuTable("x.x.x", (chip,), (Holder(0, None, 4321, "python", 1234),))


def test_the_first_chips_have_a_device_number_and_names_made_of_digits():
    text = """\
| NPU     Name         | Health          | Power(W)     Temp(C)      Hugepages-Usage(page) |
| Chip    Device       | Bus-Id          | AICore(%)    Memory-Usage(MB)                   |
+----------------------|-----------------|-------------------------------------------------+
| 0       310          | OK              | 12.8         61           0     / 969           |
| 0       3            | NA              | 0            NA / 15609                         |
[WARNING]The driver package may not be completely installed, please reinstall it.
"""
    chip = Chip(0, 0, None, 3, "310", "OK", 61, None, 15609)
    assert table(text) == NpuTable(None, (chip,), ())


def test_columns_are_found_by_their_header():
    text = """\
| NPU     Name      | Health          | Power(W)     Temp(C)                      |
| Chip    Device    | Bus-Id          | AICore(%)    Memory-Usage(MB)             |
| 0       910       | OK              | 67.9         45                           |
| 0       0         | 0000:C1:00.0    | 0            577  / 15171                 |
"""
    chip = table(text).chips[0]
    assert (chip.temperature_c, chip.memory_used_mb, chip.memory_total_mb) == (45, 577, 15171)
    assert chip.hbm_total_mb is None


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
def test_of_a_row_that_was_cut_the_last_number_is_not_believed(row, hbm):
    parsed = parse_table(f"{HEADER}{ROWS}| 1 910B4 | OK | 82.6 32 0 / 0 |\n{row}")
    assert parsed.state == "partial" and parsed.value is not None
    first, second = parsed.value.chips
    assert first == CHIP
    assert (second.npu, second.hbm_used_mb, second.hbm_total_mb) == (1, *hbm)


def test_a_filter_leaves_chips_without_their_second_row():
    parsed = parse_table("| 0 910B3 | OK | 97.6 52 0 / 0 |\n| 1 910B3 | Alarm | 9 5 0 / 0 |\n")
    assert parsed.state == "partial" and parsed.value is not None
    assert [(chip.npu, chip.health) for chip in parsed.value.chips] == [(0, "OK"), (1, "Alarm")]


def test_rows_that_a_narrow_terminal_broke_are_joined():
    wrapped = "".join(f"{line[:70]}\n{line[70:]}\n" for line in ROWS.splitlines()[:2])
    assert table(HEADER, wrapped).chips == (CHIP,)


def test_a_second_table_is_left_unparsed():
    parsed = parse_table((HEADER + ROWS) * 2)
    assert (parsed.state, parsed.value) == ("partial", table(HEADER, ROWS))
    assert "910B4" in "".join(parsed.unparsed)


def test_rows_of_another_table_are_no_chips():
    shifted = "| 0 910B3 | OK | 9 5 0 / 0 |\n| 0000:C1:00.0 | 0 | 1 |\n"
    assert parse_table(shifted).state == "partial"
    text = "| 1 | foo | bar | baz |\n| 2 apples | many | 3 |\n| 3 pears | 4 | 5 / 6 |\n"
    assert parse_table(text).state == "unknown"


@pytest.mark.parametrize(("unit", "used"), [("(MB)", 3145728), ("(KB)", 3072.0), ("(B) ", 3.0)])
def test_memory_of_processes_becomes_megabytes(unit, used):
    found = table(HEADER, ROWS, PROCESSES.replace("(MB)", unit), BUSY.replace("29259", "3145728"))
    assert found.processes == (Holder(0, 0, 45382, "python", used),)


def test_a_container_has_numbers_of_its_own():
    header = (
        "| NPU Chip | Process id | Process name | Process memory(MB) | Process id in container |"
    )
    found = table(HEADER, ROWS, f"{header}\n", "| 0 0 | 45382 | python | 29259 | 17 |\n")
    assert found.processes == (Holder(0, 0, 45382, "python", 29259),)


def test_a_process_table_that_leaves_an_npu_out_has_been_cut():
    assert table(HEADER, ROWS, PROCESSES, IDLE).processes == ()
    parsed = parse_table(HEADER + ROWS + PROCESSES)
    assert (parsed.state, parsed.value) == ("partial", NpuTable("25.2.0", (CHIP,), ()))


@pytest.mark.parametrize(
    ("text", "kind", "code"),
    [
        ("dcmi module initialize failed. ret is -8005", "no-driver", -8005),
        ("dcmi module initialize failed. ret is -8008", "no-device", -8008),
        ("dcmi module initialize failed. ret is -8002", "denied", -8002),
        ("dcmi module initialize failed. ret is -8006", "timeout", -8006),
        ("DrvMngGetConsoleLogLevel failed. (ret=4)", "no-driver", 4),
        ("npu get board type failed. ret is -8001", "no-driver", -8001),
        ("Failed to execute npu-smi info. ret is -9020.", "device-used", -9020),
        ("Failed to execute npu-smi info. ret is -9005.", "failed", -9005),
        ("There is no NPU card on this server.", "no-device", None),
        ("Failed to query card total info.", "failed", None),
        ("bash: /usr/local/bin/npu-smi: Permission denied", "denied", None),
        ("This command cannot be executed on a VM or container.", "unsupported", None),
        (
            "npu-smi: error while loading shared libraries: libdrvdsmi_host.so: cannot open shared "
            "object file: No such file or directory",
            "no-driver",
            None,
        ),
    ],
)
def test_an_error_of_the_tool_has_its_kind(text, kind, code):
    parsed = parse_table(text + "\n")
    assert (parsed.state, parsed.value) == ("error", None)
    assert parsed.error == ToolError(kind, text, code)


@pytest.mark.parametrize("text", ["bash: npu-smi: command not found", "sh: 1: npu-smi: not found"])
def test_a_tool_that_is_not_there_is_absent(text):
    assert parse_table(text) == Parsed.absent(text)


def test_a_complaint_above_a_table_is_kept_beside_it():
    noise = "DrvMngGetConsoleLogLevel failed. (ret=4)"
    parsed = parse_table(f"{noise}\n{HEADER}{ROWS}")
    assert (parsed.state, parsed.value) == ("partial", table(HEADER, ROWS))
    assert parsed.error == ToolError("no-driver", noise, 4)


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
def test_a_name_has_its_family(name, family):
    found = chip_family(name)
    assert found.name == family
    assert name in found.reason


def test_each_chip_of_a_card_has_its_state():
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
    parsed = parse_health(text)
    assert parsed.state == "ok"
    assert parsed.value == (Health("Warning", ("80E01801", "8C084E00")), Health("OK"))


def test_each_chip_of_a_card_has_its_errors():
    text = "HBM Double Bit Aggregate Total Err Cnt : 0\nChip ID : 0\n"
    text += "HBM Double Bit Aggregate Total Err Cnt : 3\nChip ID : 1\n"
    assert parse_ecc(text).value == (0, 3)
    assert parse_ecc("HBM Double Bit Aggregate Total Err Cnt : NA\n").value == (None,)


def test_a_card_that_is_not_there_is_an_error():
    text = "Invalid card id.\nError parameter of -i\nUsage: npu-smi info <watch|proc>\n"
    for parse in (parse_firmware, parse_ecc, parse_health):
        assert parse(text) == Parsed.failed(ToolError("no-device", "Invalid card id."), text)


def test_the_controller_of_a_card_has_no_device():
    text = """\
\tNPU ID   Chip ID   Chip Logic ID   Chip Phy-ID   Chip Name
\t0        0         0               8             Ascend910
\t0        1         1               9             Ascend910
\t0        2         -               -             Mcu
"""
    parsed = parse_mapping(text)
    assert (parsed.state, parsed.value) == ("ok", {(0, 0): 8, (0, 1): 9, (0, 2): None})


def test_without_physical_numbers_the_logical_ones_are_taken():
    text = "NPU ID  Chip ID  Chip Logic ID  Chip Name\n4  0  7  Ascend 910B3\n4  1  -"
    parsed = parse_mapping(text)
    assert (parsed.state, parsed.value) == ("partial", {(4, 0): 7, (4, 1): None})
