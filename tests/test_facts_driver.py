"""The Ascend driver on a host: devices, versions, paths."""

import pytest

from ropeway.facts.ascend import driver
from ropeway.facts.ascend.driver import Driver


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "Version=25.3.rc1\nInnerversion=V1\ncompatible_version_fw=[7.0.0,8.9.9]\n"
            "package_version=25.3.rc1\n",
            Driver("25.3.rc1", ("7.0.0", "8.9.9")),
        ),
        ("Version=1.0.5\npackage_version=23.0.7\n", Driver("23.0.7", None)),
        ("Version=24.1\ncompatible_version_fw=[6.4],[7.0, 7.9]\n", Driver("24.1", ("7.0", "7.9"))),
        ("Version=24.1\ncompatible_version_fw=none\n", Driver("24.1", None)),
        ("ascendhal_version=7.35.23\n", None),
    ],
)
def test_the_driver_names_its_firmware(text, value):
    assert driver.parse_driver(text).value == value


def test_a_version_is_read_in_either_case_and_with_quotes():
    for text in ("Version=7.1.0\n", 'version="7.1.0"\n', "package_name=x\nversion = 7.1.0\n"):
        assert driver.parse_version(text).value == "7.1.0"
    assert driver.parse_version("version=\n").state == "unknown"
    assert driver.parse_version("Version=7.1\nhello\n").unparsed == ("hello",)


def test_a_file_that_may_not_be_read_is_an_error():
    parsed = driver.parse_version("cat: /usr/local/Ascend/x: Permission denied\n")
    assert parsed.error is not None and parsed.error.kind == "denied"


def test_devices_are_numbers():
    assert driver.parse_devices("davinci10\ndavinci2\n").value == (2, 10)
    assert driver.parse_devices("davinci_manager\n").state == "unknown"


def test_paths_are_those_that_a_container_needs():
    parsed = driver.parse_paths("/usr/local/dcmi\n/dev/davinci_manager\n")
    assert parsed.value == {"/usr/local/dcmi", "/dev/davinci_manager"}
    assert driver.parse_paths("/usr/local/dcmi\n/home\n").unparsed == ("/home",)


def test_devices_of_the_bus_are_counted():
    text = """\
0000:01:00.0 Processing accelerators [1200]: Huawei Technologies Co. Device [19e5:d802] (rev 20)
\tSubsystem: Huawei Technologies Co., Ltd. Device [0200:0100]
02:00.0 Ethernet controller: Huawei Technologies Co., Ltd. HNS GE RDMA Network Controller
"""
    parsed = driver.parse_pci(text)
    assert (parsed.state, parsed.value) == ("ok", 2)
    assert driver.parse_pci("sh: lspci: not found\n").state == "absent"
