"""The system of a host: release, kernel, processors, memory, clock, user, processes.

All commands run under LC_ALL=C; where a translation is known it is read all the same.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.facts.complaints import first_line, to_parsed
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.text import plain_lines, rows


def parse_os_release(text: str) -> Parsed[str]:
    """Return the name of the system and its release, from os-release(5)."""
    settings, others = rows(text, _OS_SETTING)
    values = {row[1]: re.sub(r"\\(.)", r"\1", row[2].strip("\"'")) for row in settings}
    leftovers = [line for line in others if not line.startswith("#")]
    return to_parsed(text, values.get("PRETTY_NAME") or values.get("NAME"), leftovers)


_OS_SETTING = re.compile(r"([A-Z][A-Z0-9_]{0,60})=(.*)")
OS_RELEASE = Question("os-release", ("cat", "/etc/os-release"), parse_os_release)


@dataclass(frozen=True)
class Kernel:
    """`release` is the version, `machine` the architecture: `aarch64`."""

    release: str
    machine: str


KERNEL = Question(
    "uname",
    ("uname", "-srm"),
    first_line(r"Linux\s+([0-9]\S*)\s+(\S+)", lambda line: Kernel(line[1], line[2])),
)
USER_ID = Question("id", ("id", "-u"), first_line(r"[0-9]{1,18}", lambda line: int(line[0])))


def parse_hypervisor(text: str) -> Parsed[str]:
    """Return the vendor of the hypervisor; "" for a machine that is not virtual."""
    lines = plain_lines(text)
    match = _HYPERVISOR.search(text)
    if any(_LSCPU.match(line) for line in lines):
        return to_parsed(text, match[1].strip() if match else "", [])
    return to_parsed(text, None, lines)


_LSCPU = re.compile(r"\s*(?:Architecture|CPU\(s\)|架构|CPU) *[:：]")
_HYPERVISOR = re.compile(r"^[ \t]*(?:Hypervisor vendor|超管理器厂商) *[:：] *(\S.*)$", re.M)
HYPERVISOR = Question("lscpu", ("lscpu",), parse_hypervisor)


def parse_governor(text: str) -> Parsed[str]:
    """Return the policy by which most processors are clocked, from the counts of `uniq -c`."""
    policies, leftovers = rows(text, _POLICY)
    counts = {row[2]: int(row[1]) for row in policies}
    return to_parsed(text, max(counts, key=lambda name: counts[name], default=None), leftovers)


# Documentation/admin-guide/pm/cpufreq.rst of Linux, and the two of intel_pstate among them.
_POLICY = re.compile(
    r"([0-9]{1,18})\s+(performance|powersave|userspace|ondemand|conservative|schedutil)"
)
GOVERNOR = Question(
    "cpu-governor",
    shell("cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>&1 | sort | uniq -c"),
    parse_governor,
    optional=True,
)


@dataclass(frozen=True)
class Memory:
    """`available_bytes` is what new work can have without swapping; None before Linux 3.14."""

    total_bytes: int | None
    available_bytes: int | None


def parse_memory(text: str) -> Parsed[Memory]:
    """Read /proc/meminfo, see proc(5)."""
    entries, others = rows(text, _MEMORY)
    sizes = {row[1]: int(row[2]) * 1024 for row in entries}
    leftovers = [line for line in others if not _COUNT.fullmatch(line)]
    memory = Memory(sizes.get("MemTotal"), sizes.get("MemAvailable"))
    return to_parsed(text, memory if memory != Memory(None, None) else None, leftovers)


_MEMORY = re.compile(r"([A-Za-z_()]\w{0,40}\S?): +([0-9]{1,15}) kB")
_COUNT = re.compile(r"\S{1,40}: +[0-9]{1,18}(?: kB)?")
MEMORY = Question("meminfo", ("cat", "/proc/meminfo"), parse_memory)


# `always [madvise] never`
HUGEPAGES = Question(
    "transparent-hugepages",
    ("cat", "/sys/kernel/mm/transparent_hugepage/enabled"),
    first_line(r".*\[(always|madvise|never)\].*", lambda line: str(line[1])),
    optional=True,
)
# Of the user that we log in as.
HOME = Question("home", shell('echo "$HOME"'), first_line(r"/.*", lambda line: line[0]))


def parse_processes(text: str) -> Parsed[Mapping[int, str]]:
    """Return pid → name, which the kernel cuts at 15 characters."""
    processes, leftovers = rows(text, _PROCESS)
    return to_parsed(text, {int(row[1]): row[2] for row in processes} or None, leftovers)


_PROCESS = re.compile(r"([0-9]{1,18})\s+(\S.*)")
PROCESSES = Question("processes", ("ps", "-eo", "pid=,comm="), parse_processes)
