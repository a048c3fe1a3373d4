"""The versions of driver, firmware and CANN, from the files that their installers leave.

`/usr/local/Ascend/driver/version.info`, `/usr/local/Ascend/firmware/version.info` (or what
upgrade-tool says), `ascend_*_install.info` and `version.info` of CANN packages, and
`/etc/ascend_install.info`. All are `key=value`. Formats: recordings; github.com/hicann/driver,
`scripts/package`, and its document of upgrade-tool.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ropeway.facts.ascend_logs import parse_dmesg, parse_install_log, parse_lspci
from ropeway.facts.base import Output, Reading
from ropeway.facts.captures import Capture, is_rule, marked, read_capture
from ropeway.facts.complaints import Leftovers, conclude
from ropeway.facts.labelled import Convert, Layout, text_or_none

T = TypeVar("T")

# Keys that we do not know by name but for their look; those of the other files are none of them.
_DRIVER_PART = re.compile(r"(?!firmware|required|compatible)\w{1,60}_version", re.I)
_FIRMWARE_PART = re.compile(r"(?!ascendhal|tsfw|required|compatible)\w{1,60}_version", re.I)
_CANN_PART = re.compile(r"(?!ascendhal|tsfw|firmware|compatible)\w{1,60}_(?:version|info)", re.I)
_INSTALL_PART = re.compile(r"\w{1,30}_Install_\w{1,30}", re.I)
_GROUP = re.compile(r"\[([^\[\]]{0,500})\]")
_COMPONENT_LINE = re.compile(
    r'\{?"device_id": ?(\d{1,4})(?:, ?"component": ?"?([\w.-]{1,40})"?)?'
    r', ?"version": ?"?([\w.-]{1,60})"?\}'
)
_GET = re.compile(
    r"Get (component|system) version ?\(([\w.-]{1,60})\) ?succeed\w*,?(?: for)? "
    r"?deviceId ?\((\d{1,4})\)(?:, ?componentType ?\((\w{1,40})\))?"
)


def groups(value: str) -> tuple[tuple[str, ...], ...]:
    """`[V1],[V2,V3]` → (("V1",), ("V2", "V3")); of two in one bracket, the first is the lowest.

    Raises ValueError for anything else.
    """
    found = _GROUP.findall(value)
    if value and not found:
        raise ValueError(value)
    return tuple(
        tuple(part.strip() for part in group.split(",") if part.strip()) for group in found
    )


def _without_quotes(value: str) -> str | None:
    return text_or_none(value.strip("\"'"))


@dataclass(frozen=True)
class DriverVersion:
    """The driver's version.info.

    version              `25.3.rc1`; old drivers print an internal number
    compatible_versions  CANN's inner versions that go with it
    compatible_firmware  lowest and highest version of the firmware
    components           the versions of its parts: aicpu_version, tsfw_version …
    """

    version: str | None = None
    package_version: str | None = None
    inner_version: str | None = None
    ascendhal_version: str | None = None
    compatible_versions: tuple[tuple[str, ...], ...] = ()
    compatible_firmware: tuple[tuple[str, ...], ...] = ()
    components: Mapping[str, str] = field(default_factory=dict)


def _file(
    make: Any, labels: Mapping[str, tuple[str, Convert]], others: str, like: re.Pattern[str]
) -> Layout[Any]:
    """A file of `key=value` lines; `others` takes the keys that only look like ours."""
    return Layout(make, labels, index="", others=others, like=like, errors=False)


_DRIVER = _file(
    DriverVersion,
    {
        "Version": ("version", text_or_none),
        "package_version": ("package_version", text_or_none),
        "Innerversion": ("inner_version", text_or_none),
        "ascendhal_version": ("ascendhal_version", text_or_none),
        "compatible_version": ("compatible_versions", groups),
        "compatible_version_fw": ("compatible_firmware", groups),
    },
    "components",
    _DRIVER_PART,
)


def parse_driver_version(text: str) -> Reading[DriverVersion]:
    """The file; what follows a second `Version=` is left unread."""
    return _only(_DRIVER.read(text))


@dataclass(frozen=True)
class DeviceFirmware:
    """The version of one part of the firmware of one NPU, from upgrade-tool."""

    device: int
    component: str | None
    version: str


@dataclass(frozen=True)
class FirmwareVersion:
    """The firmware's version.info, or what upgrade-tool says of each NPU (`components`).

    compatible_drivers  lowest and highest version of the driver
    """

    version: str | None = None
    package_version: str | None = None
    firmware_version: str | None = None
    compatible_drivers: tuple[tuple[str, ...], ...] = ()
    components: tuple[DeviceFirmware, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


_FIRMWARE = _file(
    FirmwareVersion,
    {
        "Version": ("version", text_or_none),
        "package_version": ("package_version", text_or_none),
        "firmware_version": ("firmware_version", text_or_none),
        "compatible_version_drv": ("compatible_drivers", groups),
    },
    "others",
    _FIRMWARE_PART,
)


def parse_firmware_version(text: str) -> Reading[FirmwareVersion]:
    """Either form. upgrade-tool's lines look like JSON and are not: versions have no quotes."""
    capture = read_capture(text)
    if not any("deviceId" in line or '"device_id"' in line for line in capture.lines):
        return _only(_FIRMWARE.read(text))
    return _upgrade_tool(text, capture)


def _upgrade_tool(text: str, capture: Capture) -> Reading[FirmwareVersion]:
    """Each version stands twice, in a sentence and in braces; the braces name the component."""
    leftovers = Leftovers()
    listed: list[DeviceFirmware] = []
    said: list[DeviceFirmware] = []
    for line in capture.lines:
        braces, sentence = _COMPONENT_LINE.search(line), _GET.search(line)
        if braces:
            listed.append(DeviceFirmware(int(braces[1]), braces[2], braces[3]))
        elif sentence:
            said.append(DeviceFirmware(int(sentence[3]), sentence[4], sentence[2]))
        elif not is_rule(line):
            leftovers.add(line)
    found = listed or said
    value = FirmwareVersion(components=tuple(found)) if found else None
    unequal = bool(listed) and len(said) > len(listed)
    return conclude(text, value, leftovers, cut=capture.elided or unequal)


@dataclass(frozen=True)
class CannInstall:
    """`ascend_toolkit_install.info` and its like: one installed CANN package."""

    package: str | None = None
    version: str | None = None
    inner_version: str | None = None
    compatible_versions: tuple[tuple[str, ...], ...] = ()
    arch: str | None = None
    os: str | None = None
    path: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


_CANN = Layout(
    CannInstall,
    {
        "package_name": ("package", text_or_none),
        "version": ("version", text_or_none),
        "innerversion": ("inner_version", text_or_none),
        "compatible_version": ("compatible_versions", groups),
        "arch": ("arch", text_or_none),
        "os": ("os", text_or_none),
        "path": ("path", text_or_none),
    },
    index="",
    minor=frozenset({"version", "inner_version", "compatible_versions", "os", "arch"}),
    starts=frozenset({"package"}),
    others="others",
    like=re.compile(r"\w{1,60}"),
    errors=False,
)


@dataclass(frozen=True)
class CannVersion:
    """The version.info of a CANN package; `required`: lowest versions of the driver's parts."""

    version: str | None = None
    version_dir: str | None = None
    timestamp: str | None = None
    required: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)


def _cann_version(others: Mapping[str, str] | None = None, **fields: Any) -> CannVersion:
    rest = dict(others or {})
    wanted = [name for name in rest if name.startswith("required_")]
    required = {name: rest.pop(name).strip("\"'") for name in wanted}
    fields.pop("inner_version", None)
    return CannVersion(required=required, others=rest, **fields)


_CANN_VERSION = _file(
    _cann_version,
    {
        "Version": ("version", _without_quotes),
        "version_dir": ("version_dir", _without_quotes),
        "timestamp": ("timestamp", _without_quotes),
    },
    "others",
    _CANN_PART,
)


def parse_cann_version(text: str) -> Reading[CannVersion]:
    """The file; what follows a second `Version=` is left unread."""
    return _only(_CANN_VERSION.read(text))


@dataclass(frozen=True)
class AscendInstall:
    """`/etc/ascend_install.info`: who installed driver and firmware where; status `complete`."""

    user: str | None = None
    group: str | None = None
    driver_type: str | None = None
    driver_path: str | None = None
    driver_for_all: str | None = None
    driver_mode: str | None = None
    driver_status: str | None = None
    firmware_type: str | None = None
    firmware_path: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)


_INSTALL = _file(
    AscendInstall,
    {
        "UserName": ("user", text_or_none),
        "UserGroup": ("group", text_or_none),
        "Driver_Install_Type": ("driver_type", text_or_none),
        "Driver_Install_Path_Param": ("driver_path", text_or_none),
        "Driver_Install_For_All": ("driver_for_all", text_or_none),
        "Driver_Install_Mode": ("driver_mode", text_or_none),
        "Driver_Install_Status": ("driver_status", text_or_none),
        "Firmware_Install_Type": ("firmware_type", text_or_none),
        "Firmware_Install_Path_Param": ("firmware_path", text_or_none),
    },
    "others",
    _INSTALL_PART,
)


def parse_ascend_install(text: str) -> Reading[AscendInstall]:
    """The file; what follows a second `UserName=` is left unread."""
    return _only(_INSTALL.read(text))


def _only(reading: Reading[tuple[T, ...]]) -> Reading[T]:
    """The first of the records; `partial` where there were more."""
    if not reading.value:
        return Reading(reading.state, None, reading.error, reading.unread, reading.text)
    more = tuple(f"another one: {record}" for record in reading.value[1:])
    kept = Reading.of(reading.value[0], (*reading.unread, *more))
    state = reading.state if not more else "partial"
    return replace(kept, state=state, error=reading.error)


OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "driver-version-info",
        "cat /usr/local/Ascend/driver/version.info",
        parse_driver_version,
        marked(
            (0.97, r"^[ \t>]*(?:ascendhal_version|compatible_version_fw|tsfw_version) ?="),
            (0.3, r"^[ \t>]*Version ?= ?\d"),
        ),
    ),
    Output(
        "firmware-version-info",
        "cat /usr/local/Ascend/firmware/version.info",
        parse_firmware_version,
        marked(
            (0.96, r"^[ \t>]*(?:firmware_version|compatible_version_drv) ?="),
            (0.9, r"Get (?:component|system) version|\{ ?\"device_id\" ?: ?\d"),
        ),
    ),
    Output(
        "upgrade-tool",
        "upgrade-tool --device_index -1 --component -1 --version",
        parse_firmware_version,
        marked((0.89, r"Get (?:component|system) version|\{ ?\"device_id\" ?: ?\d")),
    ),
    Output(
        "cann-install-info",
        "cat /usr/local/Ascend/ascend-toolkit/latest/*/ascend_toolkit_install.info",
        _CANN.read,
        marked(
            (0.97, r"^[ \t>]*package_name ?= ?Ascend"),
            (0.9, r"^[ \t>]*(?:package_name|innerversion) ?="),
        ),
    ),
    Output(
        "cann-version-info",
        "cat /usr/local/Ascend/ascend-toolkit/latest/compiler/version.info",
        parse_cann_version,
        marked((0.95, r"^[ \t>]*(?:required_\w+_version|version_dir) ?=")),
    ),
    Output(
        "ascend-install-info",
        "cat /etc/ascend_install.info",
        parse_ascend_install,
        marked(
            (0.97, r"^[ \t>]*(?:Driver|Firmware)_Install_\w+ ?="), (0.6, r"^[ \t>]*UserGroup ?=")
        ),
    ),
    Output(
        "driver-install-log",
        "cat /var/log/ascend_seclog/ascend_install.log",
        parse_install_log,
        marked((0.96, r"^[ \t>]*\[(?:Driver|Firmware)\] ?\[\d{4}-\d\d-\d\d ")),
    ),
    Output(
        "lspci",
        "lspci | grep acce",
        parse_lspci,
        marked(
            (0.97, r"^[ \t>]*(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] Processing accel"),
            (0.9, r"^[ \t>]*(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] [A-Z][^:]{3,60}: "),
        ),
    ),
    Output(
        "dmesg",
        "dmesg | grep ascend",
        parse_dmesg,
        marked((0.95, r"\[ascend\] ?\[\w+\]"), (0.5, r"^[ \t>]*\[ *\d{1,8}\.\d{6}\] \S")),
    ),
)
