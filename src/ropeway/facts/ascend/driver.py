"""The Ascend driver on a host: its devices, versions, and what a container needs of it.

The versions are in files of `key=value` that the installers leave. Formats: recordings;
github.com/hicann/driver, `scripts/package`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.facts.complaints import to_parsed
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.text import plain_lines, rows

# Path on the host → path in the container. What is not on a host, is not asked for by its chip.
# Sources: the installation page and the tutorials of vllm-ascend (docs/source/installation.md,
# docs/source/tutorials/).
FILES: Mapping[str, str] = {
    path: path
    for path in (
        "/usr/local/dcmi",
        "/usr/local/bin/npu-smi",
        "/usr/local/Ascend/driver/lib64",
        "/usr/local/Ascend/driver/version.info",
        "/usr/local/Ascend/driver/tools/hccn_tool",
        "/etc/ascend_install.info",
        "/etc/hccn.conf",
        "/etc/hccl_rootinfo.json",  # of a 950, as the next two
        "/etc/hixlep",
        "/lib/route.conf",
    )
} | {"/usr/local/sbin/npu-smi": "/usr/local/bin/npu-smi"}  # where some installers put it
MANAGERS = (
    "/dev/davinci_manager",
    "/dev/devmm_svm",
    "/dev/hisi_hdc",
    "/dev/ummu",  # of a 950, as the next
    "/dev/uburma",
)
# What every host of the A2 and A3 generations has.
USUAL = (*tuple(FILES)[:7], *MANAGERS[:3])


def parse_paths(text: str) -> Parsed[frozenset[str]]:
    """Return those of the paths that are there."""
    known = {*FILES, *MANAGERS}
    lines = plain_lines(text)
    return Parsed.of(
        frozenset(known.intersection(lines)), [line for line in lines if line not in known]
    )


# `ls` fails when one is missing, and still lists the others.
PATHS = Question(
    "driver-paths",
    shell(f"ls -d {' '.join((*FILES, *MANAGERS))} 2>/dev/null; true"),
    parse_paths,
)


def parse_devices(text: str) -> Parsed[tuple[int, ...]]:
    """Return the numbers of /dev/davinciN, sorted."""
    devices, leftovers = rows(text, _DEVICE)
    return to_parsed(text, tuple(sorted(int(row[1]) for row in devices)) or None, leftovers)


_DEVICE = re.compile(r"davinci([0-9]{1,4})")
DEVICES = Question(
    "devices", shell("ls /dev | grep -E '^davinci[0-9]+$'"), parse_devices, optional=True
)


def parse_pci(text: str) -> Parsed[int]:
    """Return how many devices `lspci` lists; the indented lines of `-v` are not devices."""
    lines = plain_lines(text)
    count = sum(_PCI.match(line) is not None for line in map(str.strip, lines))
    rest = [line for line in lines if not (_PCI.match(line.strip()) or line[0].isspace())]
    return to_parsed(text, count or None, rest)


_PCI = re.compile(r"(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] [^:]{3,80}: \S", re.I)
PCI = Question("lspci", ("lspci", "-d", "19e5:"), parse_pci)


@dataclass(frozen=True)
class Driver:
    """The driver's version.info. `firmware` is the lowest and the highest version of the firmware
    that it says it works with."""

    version: str | None
    firmware: tuple[str, str] | None


def parse_driver(text: str) -> Parsed[Driver]:
    """Read the driver's version.info. Of old drivers `Version` is an internal number."""
    values, leftovers = _settings(text)
    ranges = re.findall(r"\[([^\[\],]{1,60}),([^\[\],]{1,60})\]", values.get(_FIRMWARE, ""))
    first = ranges[0] if ranges else None
    version = values.get("package_version") or values.get("version")
    firmware = (first[0].strip(), first[1].strip()) if first else None
    known = values.keys() & {"package_version", "version", _FIRMWARE}
    return to_parsed(text, Driver(version, firmware) if known else None, leftovers)


_FIRMWARE = "compatible_version_fw"


def parse_version(text: str) -> Parsed[str]:
    """Return the value of `version=`."""
    values, leftovers = _settings(text)
    return to_parsed(text, values.get("version"), leftovers)


def _settings(text: str) -> tuple[dict[str, str], list[str]]:
    """Return key, in lower case → its first value, and the lines that set nothing."""
    settings, leftovers = rows(text, _SETTING)
    values: dict[str, str] = {}
    for setting in settings:
        values.setdefault(setting[1].lower(), setting[2].strip("\"'"))
    return {key: value for key, value in values.items() if value}, leftovers


_SETTING = re.compile(r"([A-Za-z]\w{0,60}) ?= ?(.{0,2000})")


_ASCEND = "/usr/local/Ascend"
_CANN = f"{_ASCEND}/ascend-toolkit/latest/*/ascend_toolkit_install.info"
DRIVER = Question("driver-version-info", ("cat", f"{_ASCEND}/driver/version.info"), parse_driver)
FIRMWARE = Question(
    "firmware-version-info", ("cat", f"{_ASCEND}/firmware/version.info"), parse_version
)
CANN = Question("cann-install-info", shell(f"cat {_CANN}"), parse_version, optional=True)
