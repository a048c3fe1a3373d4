"""What the host logs about its NPUs: the driver's installer, the kernel, and the PCI bus.

Formats: github.com/hicann/driver, `sdk_driver/inc/dmc/dmc_log.h` and
`kernel_adapt/kernel_adapt_init.h` for the kernel's lines; recordings.
"""

import re
from dataclasses import dataclass

from ropeway.facts.base import Reading
from ropeway.facts.captures import is_rule, read_capture
from ropeway.facts.complaints import Leftovers, conclude

_INSTALL_LINE = re.compile(
    r"\[(\w{1,40})\] ?\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\] ?\[([A-Z]{2,12})\] ?(.*)$"
)
_PROGRESS = re.compile(r"upgradePercentage: ?(\d{1,3})%")
_UNPACKING = re.compile(r"(?:Verifying archive integrity|Uncompressing)\b", re.I)
_SUCCESS = re.compile(r"(?:un)?(?:install|upgrad)ed successfully|install(?:ation)? success", re.I)
_FAILURE = re.compile(
    r"(?:install|upgrade|uninstall)\w* (?:\w+ ){0,2}fail|failed to \w*install", re.I
)
_REBOOT = re.compile(r"reboot (?:needed|now|required|the)|restart .{0,40}take effect", re.I)
_KERNEL_TIME = re.compile(r"(?:<\d{1,3}>)?\[ *(\d{1,10}\.\d{3,6}|\w{3} \w{3} [\d :]{9,20})\]")
_BRACKET = re.compile(r" ?\[([^\[\]]{1,100})\]")
_FUNCTION = re.compile(r"([A-Za-z_]\w{0,80})[ :](\d{1,6})$")
_THREAD = re.compile(r" ?<([^<>]{1,80})>")
_LEVELS = frozenset(["ERROR", "ERR", "WARN", "WARNING", "INFO", "EVENT", "NOTICE", "DBG", "DEBUG"])
_PCI = re.compile(r"((?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) ([^:]{3,80}): (.+)$", re.I)
_REVISION = re.compile(r" \(rev ([0-9a-f]{2})\)")
_DEVICE_ID = re.compile(r"\bDevice ([0-9a-f]{4})\b|\[[0-9a-f]{4}:([0-9a-f]{4})\]", re.I)
_CLASS_NUMBER = re.compile(r" ?\[[0-9a-f]{4}\]$", re.I)


@dataclass(frozen=True)
class InstallMessage:
    """A line of the installer's log."""

    package: str
    time: str
    level: str
    message: str


@dataclass(frozen=True)
class InstallLog:
    """The installation of driver or firmware.

    package        Driver or Firmware; the last one, if there are several
    succeeded      None while the log does not say
    reboot_needed  None while the log does not say
    archive_verified  what the unpacker says of the checksums
    """

    package: str
    succeeded: bool | None
    reboot_needed: bool | None
    percent: int | None
    started: str | None
    ended: str | None
    install_type: str | None
    archive_verified: bool | None
    messages: tuple[InstallMessage, ...]


def parse_install_log(text: str) -> Reading[InstallLog]:
    """The result and every message."""
    capture, leftovers = read_capture(text), Leftovers()
    messages: list[InstallMessage] = []
    verified: bool | None = None
    for line in capture.lines:
        found = _INSTALL_LINE.match(line.strip())
        if "checksums" in line:
            verified = "checksums are OK" in line
        if found:
            messages.append(InstallMessage(*found.groups()))
        elif not _UNPACKING.match(line.strip()) and not is_rule(line):
            leftovers.add(line)
    if not messages:
        return conclude(text, None, leftovers)
    percents = [int(found[1]) for m in messages if (found := _PROGRESS.search(m.message))]
    after = {name: _behind(messages, name) for name in ("Start time:", "End time:")}
    log = InstallLog(
        package=messages[-1].package,
        succeeded=_succeeded(messages),
        reboot_needed=any(_REBOOT.search(m.message) for m in messages) or None,
        percent=percents[-1] if percents else None,
        started=after["Start time:"],
        ended=after["End time:"],
        install_type=_behind(messages, "driver install type:"),
        archive_verified=verified,
        messages=tuple(messages),
    )
    return conclude(text, log, leftovers, cut=capture.elided or log.ended is None)


def _succeeded(messages: list[InstallMessage]) -> bool | None:
    for message in reversed(messages):
        if message.level.startswith("ERR") or _FAILURE.search(message.message):
            return False
        if _SUCCESS.search(message.message):
            return True
    return None


def _behind(messages: list[InstallMessage], name: str) -> str | None:
    found = [m.message.removeprefix(name).strip() for m in messages if m.message.startswith(name)]
    return found[-1] if found else None


@dataclass(frozen=True)
class KernelLine:
    """A line of the Ascend driver; `thread` is `comm:pid:tid`. None for what it does not print."""

    time: str | None
    level: str | None
    module: str | None
    function: str | None
    line: int | None
    thread: str | None
    message: str


@dataclass(frozen=True)
class KernelLog:
    """The driver's lines of dmesg; other_lines is how many there were of everything else."""

    lines: tuple[KernelLine, ...]
    other_lines: int


def parse_dmesg(text: str) -> Reading[KernelLog]:
    """The lines with `[ascend]`; other lines are counted where they are the kernel's."""
    capture, leftovers = read_capture(text), Leftovers()
    lines: list[KernelLine] = []
    others = 0
    for line in capture.lines:
        at = line.lower().find("[ascend]")
        if at >= 0:
            lines.append(_kernel_line(line[:at].strip(), line[at + len("[ascend]") :]))
        elif _KERNEL_TIME.match(line.strip()):
            others += 1
        elif not is_rule(line):
            leftovers.add(line)
    value = KernelLog(tuple(lines), others) if lines or others else None
    return conclude(text, value, leftovers, cut=capture.elided)


def _kernel_line(before: str, rest: str) -> KernelLine:
    time = _KERNEL_TIME.match(before)
    level = module = function = None
    number = None
    while (found := _BRACKET.match(rest)) is not None:
        named = _FUNCTION.match(found[1])
        if named:
            function, number = named[1], int(named[2])
        elif level is None and found[1].upper() in _LEVELS:
            level = found[1].upper()
        elif module is None:
            module = found[1]
        else:
            break
        rest = rest[found.end() :]
        if named:
            break
    thread = _THREAD.match(rest)
    message = (rest[thread.end() :] if thread else rest).strip()
    return KernelLine(
        time=time[1].strip() if time else before.removesuffix("kernel:").strip() or None,
        level=level,
        module=module,
        function=function,
        line=number,
        thread=thread[1] if thread else None,
        message=message,
    )


@dataclass(frozen=True)
class PciDevice:
    """A device on the PCI bus. `kind` is lspci's class: `Processing accelerators` for an NPU.

    device_id  d801 is a 910A, d802 a 910B, d803 an A3, d500 a 310P, d806 a 950 (dcmi_common.h);
               None where lspci prints a name instead
    details    the indented lines of `lspci -v`
    """

    bus_id: str
    kind: str
    name: str
    device_id: str | None = None
    revision: str | None = None
    details: tuple[str, ...] = ()


def parse_lspci(text: str) -> Reading[tuple[PciDevice, ...]]:
    """One record a device, in the order of the bus."""
    capture, leftovers = read_capture(text), Leftovers()
    devices: list[PciDevice] = []
    for line in capture.lines:
        found = _PCI.match(line.strip())
        if found:
            devices.append(_pci_device(found[1], found[2], found[3]))
        elif devices and line[:1].isspace():
            last = devices[-1]
            devices[-1] = PciDevice(
                *(last.bus_id, last.kind, last.name, last.device_id, last.revision),
                details=(*last.details, line.strip()),
            )
        elif not is_rule(line):
            leftovers.add(line)
    return conclude(text, tuple(devices) or None, leftovers, cut=capture.elided)


def _pci_device(bus_id: str, kind: str, name: str) -> PciDevice:
    revision, device = _REVISION.search(name), _DEVICE_ID.search(name)
    return PciDevice(
        bus_id=bus_id,
        kind=_CLASS_NUMBER.sub("", kind).strip(),
        name=_REVISION.sub("", name).strip(),
        device_id=(device[1] or device[2]).lower() if device else None,
        revision=revision[1] if revision else None,
    )
