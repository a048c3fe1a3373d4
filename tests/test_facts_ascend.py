"""What npu-smi and hccn_tool print in place of an answer, and the families of chips."""

import pytest

from ropeway.facts.ascend import hccn
from ropeway.facts.ascend.npu_smi import chip_family, parse_table
from ropeway.facts.question import Parsed, ToolError


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
        ("npu-smi: error while loading shared libraries: libdrvdsmi_host.so: cannot open shared "
         "object file: No such file or directory", "no-driver", None),
    ],
)  # fmt: skip
def test_an_error_of_the_tool_has_its_kind(text, kind, code):
    parsed = parse_table(text + "\n")
    assert (parsed.state, parsed.value) == ("error", None)
    assert parsed.error == ToolError(kind, text, code)


@pytest.mark.parametrize("text", ["bash: npu-smi: command not found", "sh: 1: npu-smi: not found"])
def test_a_tool_that_is_not_there_is_absent(text):
    assert parse_table(text) == Parsed.absent(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Get ipconf failed, because no ip was preset there!", "not-configured"),
        ("Get gateway failed, because no gateway was preset there!", "not-configured"),
        ("hccn_tool is busy, please try again.", "busy"),
        ("I2c is busy. Please try again.", "busy"),
        ("permission denied: pls check this cmd run permission.", "denied"),
        ("The device is not exist!", "no-device"),
        ("Get invalid device id.", "no-device"),
        ("The command is not supported on this product.", "unsupported"),
        ("Get unknown option!", "unsupported"),
        ("The cmd line execute timeout!", "timeout"),
        ("Control link unreachable.", "no-driver"),
        ("Command execute failed!", "failed"),
        ("Cmd execute failed!", "failed"),
        ("Execute failed: Link status is down.", "failed"),
        ("The total count of input parameters is wrong!", "failed"),
    ],
)
def test_a_complaint_in_place_of_an_answer_has_its_kind(text, kind):
    for question in (hccn.IP, hccn.LINK, hccn.TLS, hccn.OPTICAL, hccn.STAT, hccn.LINK_STAT):
        parsed = question.parse(text + "\n")
        assert parsed == Parsed.failed(ToolError(kind, text), text + "\n"), question.key


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, "910A") for name in ("910A", "910B", "910ProB", "Ascend 910A")),
        *((name, "A2") for name in ("910B1", "910B2C", "Ascend 910B3", "910B4-1")),
        *((name, "A3") for name in ("Ascend910", "Ascend910_9391")),
        *(("310P3", "310P"), ("310B4", "310B"), ("Ascend950PR_9579", "950")),
        *((name, None) for name in ("910", "310", "xxx", "")),
    ],
)
def test_a_name_has_its_family(name, family):
    assert chip_family(name) == family
