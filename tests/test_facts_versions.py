"""Versions of driver, firmware and CANN, and what the host logs about its NPUs."""

from typing import Any

import pytest

from facts_recordings import expected_of, recorded, shown, text_of
from ropeway.facts.ascend_logs import (
    InstallMessage,
    KernelLine,
    KernelLog,
    PciDevice,
    parse_dmesg,
    parse_install_log,
    parse_lspci,
)
from ropeway.facts.ascend_versions import (
    AscendInstall,
    CannVersion,
    DeviceFirmware,
    DriverVersion,
    FirmwareVersion,
    groups,
    parse_ascend_install,
    parse_cann_version,
    parse_driver_version,
    parse_firmware_version,
)
from ropeway.facts.base import Reading
from ropeway.facts.catalogue import BY_NAME

CANN = BY_NAME["cann-install-info"].parse


def value_of(reading: Reading[Any]) -> Any:
    assert reading.state == "ok", reading
    return reading.value


@pytest.mark.parametrize("name", recorded("cann", "driver", "firmware", "lspci", "dmesg"))
def test_a_recording_says_what_a_reader_sees(name: str) -> None:
    expected = expected_of(name)
    output = BY_NAME[expected["output"]]
    assert shown(output, output.parse(text_of(name))) == expected


# Files


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[V1]", (("V1",),)),
        ("[V1,V2],[V3]", (("V1", "V2"), ("V3",))),
        ("[7.0.0, 7.7.99]", (("7.0.0", "7.7.99"),)),
        ("", ()),
        ("[]", ((),)),
    ],
)
def test_brackets_hold_a_version_or_the_ends_of_a_range(value: str, expected: object) -> None:
    assert groups(value) == expected


def test_a_value_without_brackets_is_no_range() -> None:
    with pytest.raises(ValueError, match="V1"):
        groups("V1")


def test_one_version_is_enough() -> None:
    assert value_of(parse_driver_version("Version=25.5.1\n")) == DriverVersion(version="25.5.1")


def test_lines_of_another_file_are_unread() -> None:
    reading = parse_driver_version(text_of("firmware_version_info_01"))
    assert reading.state == "partial"
    assert [line.split("=")[0] for line in reading.unread] == [
        "firmware_version",
        "compatible_version_drv",
    ]
    assert CANN(text_of("driver_version_info_03")).state == "unknown"


def test_a_second_file_is_left_unread() -> None:
    reading = parse_driver_version("Version=25.5.1\nVersion=24.1.0\n")
    assert reading.state == "partial"
    assert reading.value == DriverVersion(version="25.5.1")
    assert "24.1.0" in reading.unread[0]


def test_packages_of_cann_follow_each_other() -> None:
    text = f"CANN:\n{text_of('cann_install_info_03')}\n{text_of('cann_install_info_02')}"
    found = value_of(CANN(text))
    assert [(package.package, package.version) for package in found] == [
        ("Ascend-cann-toolkit", "8.2.RC1"),
        ("Ascend-cann-nnae", "8.0.RC3"),
    ]


def test_a_package_of_cann_says_what_it_wants_of_the_driver() -> None:
    text = """\
Version=7.6.0.1.220
version_dir=8.2.RC1
timestamp=20250709_000310
ccec_compiler_version=0.1.0
required_driver_ascendhal_version="4.0.0"
"""
    assert value_of(parse_cann_version(text)) == CannVersion(
        version="7.6.0.1.220",
        version_dir="8.2.RC1",
        timestamp="20250709_000310",
        required={"required_driver_ascendhal_version": "4.0.0"},
        others={"ccec_compiler_version": "0.1.0"},
    )


def test_where_driver_and_firmware_were_installed() -> None:
    text = """\
UserName=HwHiAiUser
UserGroup=HwHiAiUser
Firmware_Install_Type=full
Driver_Install_Path_Param=/usr/local/Ascend
Driver_Install_For_All=yes
Driver_Install_Status=complete
"""
    assert value_of(parse_ascend_install(text)) == AscendInstall(
        user="HwHiAiUser",
        group="HwHiAiUser",
        firmware_type="full",
        driver_path="/usr/local/Ascend",
        driver_for_all="yes",
        driver_status="complete",
    )


def test_a_file_that_is_not_there_is_absent() -> None:
    text = "cat: /usr/local/Ascend/driver/version.info: No such file or directory\n"
    assert parse_driver_version(text) == Reading.absent(text)


# upgrade-tool


def test_every_component_of_every_npu_is_named_once() -> None:
    text = """\
{
Get component version(7.5.0.2.220) succeed for deviceId(0), componentType(0).
        {"device_id":0, "component":nve, "version":7.5.0.2.220}
Get component version(7.5.0.3.220) succeed for deviceId(1), componentType(3).
        {"device_id":1, "component":uefi, "version":7.5.0.3.220}
}
"""
    components = (
        DeviceFirmware(0, "nve", "7.5.0.2.220"),
        DeviceFirmware(1, "uefi", "7.5.0.3.220"),
    )
    assert value_of(parse_firmware_version(text)) == FirmwareVersion(components=components)


def test_sentences_alone_name_the_component_by_its_number() -> None:
    text = "Get component version(7.5.0.2.220) succeed for deviceId(0), componentType(0).\n"
    components = (DeviceFirmware(0, "0", "7.5.0.2.220"),)
    assert value_of(parse_firmware_version(text)) == FirmwareVersion(components=components)
    whole = 'Get system version(21.0.1) succeed, deviceId(0)\n{"device_id":0, "version":21.0.1}\n'
    components = (DeviceFirmware(0, None, "21.0.1"),)
    assert value_of(parse_firmware_version(whole)) == FirmwareVersion(components=components)


# Logs

LOG = "[Driver] [2025-03-31 09:50:07] [{}]{}\n"


def test_a_log_that_ends_with_an_error_has_failed() -> None:
    text = (
        LOG.format("INFO", "Start time: 2025-03-31 09:50:07")
        + LOG.format("ERROR", "Driver_ko_install failed, details in : /var/log/ascend_install.log")
        + LOG.format("INFO", "End time: 2025-03-31 09:51:36")
    )
    log = value_of(parse_install_log(text))
    assert (log.succeeded, log.reboot_needed) == (False, None)
    assert log.messages[1] == InstallMessage(
        "Driver",
        "2025-03-31 09:50:07",
        "ERROR",
        "Driver_ko_install failed, details in : /var/log/ascend_install.log",
    )


def test_a_log_without_an_end_has_been_cut() -> None:
    reading = parse_install_log(LOG.format("INFO", "upgradePercentage:30%"))
    assert reading.state == "partial"
    assert reading.value is not None
    assert (reading.value.percent, reading.value.succeeded) == (30, None)


def test_firmware_tells_of_its_reboot_in_other_words() -> None:
    done = "Firmware package installed successfully! Reboot now or after driver installation."
    line = "[Firmware] [2025-12-24 14:57:16] [INFO]{}\n"
    log = value_of(parse_install_log(line.format(done) + line.format("End time: x")))
    assert (log.package, log.succeeded, log.reboot_needed) == ("Firmware", True, True)


def test_kernel_lines_of_old_and_new_drivers() -> None:
    text = """\
[  123.456789] [ascend] [drv_pcie] [drv_get_dev 345] <insmod:12:34> Get dev fail. (ret=-19)
<3>[Tue Apr  1 10:00:01 2025] [ascend][ERROR][devdrv][devdrv_wait 12]wait [x] timeout
Apr 01 10:00:00 npu1 kernel: [ascend] no brackets
[  124.000001] usb 1-1: new device
"""
    lines = (
        KernelLine(
            "123.456789",
            None,
            "drv_pcie",
            "drv_get_dev",
            345,
            "insmod:12:34",
            "Get dev fail. (ret=-19)",
        ),
        KernelLine(
            "Tue Apr  1 10:00:01 2025",
            "ERROR",
            "devdrv",
            "devdrv_wait",
            12,
            None,
            "wait [x] timeout",
        ),
        KernelLine("Apr 01 10:00:00 npu1", None, None, None, None, None, "no brackets"),
    )
    assert value_of(parse_dmesg(text)) == KernelLog(lines, other_lines=1)


def test_devices_have_their_details_below_them() -> None:
    text = """\
0000:01:00.0 Processing accelerators [1200]: Huawei Technologies Co. Device [19e5:d802] (rev 20)
\tSubsystem: Huawei Technologies Co., Ltd. Device [0200:0100]
\tKernel driver in use: devdrv_device_driver
02:00.0 Ethernet controller: Huawei Technologies Co., Ltd. HNS GE/10GE/25GE RDMA Network Controller
"""
    assert value_of(parse_lspci(text)) == (
        PciDevice(
            "0000:01:00.0",
            "Processing accelerators",
            "Huawei Technologies Co. Device [19e5:d802]",
            "d802",
            "20",
            (
                "Subsystem: Huawei Technologies Co., Ltd. Device [0200:0100]",
                "Kernel driver in use: devdrv_device_driver",
            ),
        ),
        PciDevice(
            "02:00.0",
            "Ethernet controller",
            "Huawei Technologies Co., Ltd. HNS GE/10GE/25GE RDMA Network Controller",
        ),
    )


def test_a_component_that_did_not_answer_is_left_unread() -> None:
    text = """\
{
Get component version(7.5.0.2.220) succeed for deviceId(0), componentType(0).
        {"device_id":0, "component":nve, "version":7.5.0.2.220}
The moon is full over deviceId(0).
}
"""
    reading = parse_firmware_version(text)
    assert (reading.state, reading.unread) == ("partial", ("The moon is full over deviceId(0).",))
