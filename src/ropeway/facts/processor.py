"""The processors of a host: how many, which, on which NUMA nodes, and how they are clocked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import decimal, printed, refusal, seen, whole

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "nproc": ("nproc",),
    "lscpu": ("lscpu",),
    # Three lines a core are enough, and there are 192 of them; for hosts without lscpu.
    "cpuinfo": (
        "grep",
        "-E",
        "^(processor|model name|vendor_id|physical id|CPU implementer|CPU part)",
        "/proc/cpuinfo",
    ),
    "cpu-governor": (
        "sh",
        "-c",
        "cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor 2>&1 | sort | uniq -c",
    ),
}

# What util-linux prints in Chinese, each beside the English it stands for.
_CHINESE = {
    "架构": "architecture",
    "cpu": "cpu(s)",
    "在线 cpu 列表": "on-line cpu(s) list",
    "每个核的线程数": "thread(s) per core",
    "每个座的核数": "core(s) per socket",
    "座": "socket(s)",
    "numa 节点": "numa node(s)",
    "厂商 id": "vendor id",
    "型号名称": "model name",
    "cpu 最大 mhz": "cpu max mhz",
    "超管理器厂商": "hypervisor vendor",
}
# (implementer, part) of /proc/cpuinfo → name, as in util-linux's lscpu-arm.c.
_ARM_NAMES = {("0x48", "0xd01"): "Kunpeng-920"}


@dataclass(frozen=True)
class Cores:
    """Logical processors that this process may use."""

    cpus: int


@dataclass(frozen=True)
class NumaNode:
    """`cpus` as printed: `0-23,96-119`."""

    number: int
    cpus: str


@dataclass(frozen=True)
class Processors:
    """What lscpu or /proc/cpuinfo say; `cpus` are logical processors.

    cores_per_socket  None where the firmware tells of clusters only
    hypervisor        of a virtual machine: `KVM`
    """

    architecture: str | None
    vendor: str | None
    model: str | None
    cpus: int | None
    online: str | None = None
    threads_per_core: int | None = None
    cores_per_socket: int | None = None
    cores_per_cluster: int | None = None
    sockets: int | None = None
    max_mhz: float | None = None
    hypervisor: str | None = None
    numa_nodes: tuple[NumaNode, ...] = ()


@dataclass(frozen=True)
class GovernorCount:
    """How many processors are clocked by this policy: `performance`, `ondemand`, …"""

    governor: str
    cpus: int


@dataclass(frozen=True)
class Governors:
    """Every policy in use, the commonest first."""

    governors: tuple[GovernorCount, ...]


def parse_nproc(text: str) -> Reading[Cores]:
    """Read `nproc`."""
    out = printed(text, "nproc")
    for line in out.lines:
        count = whole(line.strip())
        if count is not None and 0 < count < 100_000:
            unread = tuple(other for other in out.lines if other is not line)
            return Reading.of(Cores(count), unread, cut=out.cut)
    return refusal(text)


def parse_lscpu(text: str) -> Reading[Processors]:
    """Read lscpu, in English or Chinese, of util-linux 2.23 to 2.40."""
    out = printed(text, "lscpu")
    found: dict[str, str] = {}
    nodes: dict[int, str] = {}
    unread: list[str] = []
    key = ""
    for line in out.lines:
        new, colon, value = line.strip().replace("：", ":", 1).partition(":")
        node = _NODE.match(new)
        if colon and node:
            nodes[int(node[1])] = value.strip()
        elif colon:
            key = _CHINESE.get(new.strip().lower(), new.strip().lower())
            if value.strip():  # `CPU:` alone is collect_env's heading
                found.setdefault(key, value.strip())
        elif key not in ("flags", "标记"):  # those go on over several lines in a narrow terminal
            unread.append(line)
    if "architecture" not in found and "cpu(s)" not in found:
        return refusal(text)
    processors = _processors(found, nodes)
    return Reading.of(processors, tuple(unread), cut=out.cut or processors.cpus is None)


def parse_cpuinfo(text: str) -> Reading[Processors]:
    """Read /proc/cpuinfo of x86 or ARM, or the lines of it that matter."""
    out = printed(text)
    seen_keys: dict[str, list[str]] = {}
    unread: list[str] = []
    for line in out.lines:
        key, colon, value = line.partition(":")
        if colon and _CPU_KEY.fullmatch(key.strip()):
            seen_keys.setdefault(key.strip().lower(), []).append(value.strip())
        else:
            unread.append(line)
    cpus = len(seen_keys.get("processor", []))
    if not cpus:
        return refusal(text)
    first = {key: values[0] for key, values in seen_keys.items() if values[0]}
    part = (first.get("cpu implementer", ""), first.get("cpu part", ""))
    processors = Processors(
        architecture=None,
        vendor=first.get("vendor_id") or ("HiSilicon" if part[0] == "0x48" else None),
        model=first.get("model name") or _ARM_NAMES.get(part),
        cpus=cpus,
        sockets=len(set(seen_keys.get("physical id", []))) or None,
    )
    return Reading.of(processors, tuple(unread), cut=out.cut)


def parse_governors(text: str) -> Reading[Governors]:
    """Read scaling_governor of every core, counted by `uniq -c` or not."""
    out = printed(text)
    counts: dict[str, int] = {}
    unread: list[str] = []
    for line in out.lines:
        words = line.rsplit(":", 1)[-1].split()
        count = whole(words[0]) if len(words) == 2 else 1
        if words and words[-1] in _GOVERNORS and count is not None:
            counts[words[-1]] = counts.get(words[-1], 0) + count
        else:
            unread.append(line)
    if not counts:
        return refusal(text)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    value = Governors(tuple(GovernorCount(name, count) for name, count in ordered))
    return Reading.of(value, tuple(unread), cut=out.cut)


def _processors(found: Mapping[str, str], nodes: Mapping[int, str]) -> Processors:
    def number(key: str) -> int | None:
        return whole(found.get(key, ""))

    return Processors(
        architecture=found.get("architecture") or None,
        vendor=found.get("vendor id") or None,
        model=found.get("model name") or None,
        cpus=number("cpu(s)"),
        online=found.get("on-line cpu(s) list") or None,
        threads_per_core=number("thread(s) per core"),
        cores_per_socket=number("core(s) per socket"),
        cores_per_cluster=number("core(s) per cluster"),
        sockets=number("socket(s)"),
        max_mhz=decimal(found.get("cpu max mhz", "")),
        hypervisor=found.get("hypervisor vendor") or None,
        numa_nodes=tuple(NumaNode(node, cpus) for node, cpus in sorted(nodes.items())),
    )


_NODE = re.compile(r"NUMA (?:node|节点) ?([0-9]{1,4}) CPU", re.IGNORECASE)
_CPU_KEY = re.compile(r"[A-Za-z][\w /-]{0,40}")
# Documentation/admin-guide/pm/cpufreq.rst of Linux, and the two of intel_pstate among them.
_GOVERNORS = ("performance", "powersave", "userspace", "ondemand", "conservative", "schedutil")

_ONE_NUMBER = re.compile(r"\A\s*[1-9][0-9]{0,3}\s*\Z")
_LSCPU_LINE = re.compile(r"^[> \t]*(?:Architecture:|架构：)", re.MULTILINE)
_LSCPU_SURE = re.compile(r"^[> \t]*(?:CPU\(s\)|CPU): +[0-9]+", re.MULTILINE)
_CPUINFO_LINE = re.compile(r"^[> \t]*processor\s*: [0-9]+\s*$", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output("nproc", "nproc", parse_nproc, lambda text: seen(text, 0.3, _ONE_NUMBER)),
    Output("lscpu", "lscpu", parse_lscpu, lambda text: seen(text, 0.95, _LSCPU_LINE, _LSCPU_SURE)),
    Output(
        "cpuinfo",
        "cat /proc/cpuinfo",
        parse_cpuinfo,
        lambda text: seen(text, 0.95, _CPUINFO_LINE),
    ),
    Output(
        "cpu-governor",
        "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        parse_governors,
        lambda text: 0.95 if parse_governors(text[:20_000]).state == "ok" else 0.0,
    ),
)
