"""What a tool prints instead of an answer, and what becomes of a capture in the end.

The texts are those of the sources of npu-smi and hccn_tool (github.com/hicann/driver:
`npucli/src/*.c`, `hccn_tool/cmd.c` and `tool_cmd_err.c`), of shells, and of recordings.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from ropeway.facts.base import ErrorKind, Reading, ToolError

T = TypeVar("T")

# In the order in which they win over each other when a text has several.
_PATTERNS: tuple[tuple[ErrorKind, str], ...] = (
    ("device-used", r"the device is used"),
    (
        "busy",
        r"hccn_tool is busy|i2c is busy|get lock failed|is occupied\. please|"
        r"perftest is doing|is running, please kill|udhcpc running|is updating, please wait|"
        r"try again later",
    ),
    (
        "denied",
        r"permission denied|operation not permitted|only (?:the |by the )?root user|"
        r"only by an administrator|not in the sudoers|权限不够|权限不足|"
        r"pls check cmd run permission",
    ),
    (
        "no-device",
        r"invalid (?:card|chip|phy|npu|device) id|device is not exist|no npu card|"
        r"target (?:chip|udie|port) is invalid|no npu chip|no devices? (?:were )?found|"
        r"no such device",
    ),
    (
        "not-configured",
        r"was preset there|no certificate found|certificate does not exist|"
        r"configura?(?:tion|ion) does not exist|please preset firstly|is not configured",
    ),
    (
        "unsupported",
        r"do(?:es|se)? not support|dose not support|not supported|unsupported|"
        r"cannot be executed on|(?:get )?unknown option|specify a valid (?:cmd|mode)|"
        r"command or option is not found|it is not supported|invalid major cmd",
    ),
    ("timeout", r"execut\w* timeout|timed out|time out\b(?!.*seq)|connection timeout"),
    (
        "no-driver",
        r"module initialize failed|model initialized failed|drvmng\w* failed|"
        r"error while loading shared libraries|cannot open shared object|"
        r"get board type failed|libdcmi|libdrvdsmi|control link unreachable",
    ),
    (
        "failed",
        r"^\W*(?:error|fatal)\b\W*[:!\]]|^(?:[\w ]{1,20} )?execute failed|"
        r"^(?:failed|fail|unable) to \w|"
        r"^[^:\[]{1,200}\bfail(?:ed)?[.!,]? ?(?:\(?(?:ret|err|error)\b.*)?$|"
        r"get invalid|^invalid (?:param|option|time|name)|out of the valid range|must input|"
        r"count of input parameters is wrong|"
        r"^input parameter|^[^:]{1,60} is missing\b|^optical module is not present|has expired!|"
        r"^option .{1,80}\b(?:duplicated|conflict|out of range|missing)|certificates are illegal|"
        r"^segmentation fault|core dumped|input/output error",
    ),
)
_KINDS = tuple((kind, re.compile(pattern, re.I)) for kind, pattern in _PATTERNS)
_RANK = {kind: rank for rank, (kind, _) in enumerate(_KINDS)}
_CODE = re.compile(r"\b(?:ret|err|error|result|code)\b[ :=]*(?:is|code)?[ :=]*(-?\d{1,6})\b", re.I)
# Of dcmi_interface_api.h; those with a meaning of their own. -8005 is "inner error", which at the
# start of npu-smi means that there is no driver to talk to.
_DCMI: dict[int, ErrorKind] = {
    -8002: "denied",
    -8005: "no-driver",
    -8006: "timeout",
    -8007: "no-device",
    -8008: "no-device",
    -8009: "no-driver",
    -8012: "no-driver",
    -8013: "unsupported",
    -8017: "busy",
    -8020: "device-used",
    -8023: "not-configured",
    -8255: "unsupported",
}
_ABSENT = re.compile(
    r"command not found|: not found$|no such file or directory|cannot access|"
    r"executable file not found|not recognized as|未找到命令|找不到命令|没有那个文件或目录",
    re.I,
)
_LIBRARY = re.compile(r"shared (?:object|librar)|cannot open shared", re.I)
# What follows a complaint and adds nothing: the tool's usage, or where to find more.
# `label     : value`, as tables of labels print it; only these labels report a failure.
_TABLE_LINE = re.compile(r"\s*([^:]{1,60}?)\s+:\s")
# Tools complain in short sentences; what begins with a bracket or a date is a line of a log.
_LONGEST = 240
_SENTENCE = re.compile(r"[-\s\"']*+[^\W\d_]")
_REPORTING = ("message", "status", "error", "reason")
_AFTERTHOUGHT = re.compile(
    r"Usage: |Enter \[ ?hccn_tool|Error parameter of |\[ ?hccn_tool .*needs the following", re.I
)
_USAGE_LINE = re.compile(r"\s|\[|-|Commands:|Options:|Error parameter of ")


@dataclass
class Leftovers:
    """The lines that a parser could not use, sorted: complaints, absences, and the unread rest."""

    errors: list[ToolError] = field(default_factory=list)
    absent: bool = False
    unread: list[str] = field(default_factory=list)
    _complained: bool = False
    _usage: bool = False

    def add(self, line: str) -> ToolError | None:
        """Keep a line; returns the complaint if it is one. Blank lines and rules are dropped."""
        text = line.strip()
        if not any(character.isalnum() for character in text):
            return None
        begins = self._complained and _AFTERTHOUGHT.match(text) is not None
        self._usage = begins or (self._usage and _USAGE_LINE.match(line) is not None)
        if self._usage:
            return None
        if _ABSENT.search(text) and not _LIBRARY.search(text):
            self.absent = True
            return None
        error = complaint(text)
        if error is None:
            self.unread.append(text)
        else:
            self.errors.append(error)
            self._complained = True
        return error


def complaint(line: str) -> ToolError | None:
    """The error that the line reports, or None when it reports none."""
    text = line.strip()
    if len(text) > _LONGEST or not _SENTENCE.match(text):
        return None
    table = _TABLE_LINE.match(text)
    if table and table[1].lower() not in _REPORTING:
        return None
    kind = next((kind for kind, pattern in _KINDS if pattern.search(text)), None)
    if kind is None:
        return None
    found = _CODE.search(text)
    code = int(found[1]) if found else None
    return ToolError(_meaning(code) or kind, text, code)


def _meaning(code: int | None) -> ErrorKind | None:
    """npu-smi's own numbers are those of DCMI less 1000 (npu_smi.h), but for its inner error."""
    if code is not None and -10_000 < code < -9_000 and code != -9_005:
        code += 1_000
    return _DCMI.get(code) if code is not None else None


def worst(errors: Iterable[ToolError]) -> ToolError:
    """The most telling of several complaints; the first of equals."""
    return min(errors, key=lambda error: _RANK[error.kind])


def conclude(text: str, value: T | None, leftovers: Leftovers, *, cut: bool = False) -> Reading[T]:
    """The reading of a capture: `value` is None when nothing in it was understood."""
    if value is not None:
        reading = Reading.of(value, tuple(leftovers.unread), cut=cut or leftovers.absent)
        if leftovers.errors:
            return replace(reading, state="partial", error=worst(leftovers.errors))
        return reading
    # A complaint is an answer only where it is about all there is; a log that mentions a failure
    # among a hundred lines is not one.
    if leftovers.errors and len(leftovers.unread) <= 3 * len(leftovers.errors):
        return Reading.failed(worst(leftovers.errors), text)
    absent = leftovers.absent and len(leftovers.unread) <= 3
    return Reading.absent(text) if absent else Reading.unknown(text)


def conclude_records(
    text: str, records: Sequence[T], leftovers: Leftovers, *, cut: bool = False
) -> Reading[tuple[T, ...]]:
    """As `conclude`, for records that may carry an `error` of their own.

    Where every record is an error the whole is one: with a value only if there are several.
    """
    errors = [error for record in records if (error := _error_of(record)) is not None]
    if errors and len(errors) == len(records):
        failed: Reading[tuple[T, ...]] = Reading.failed(worst(errors), text)
        unread = tuple(leftovers.unread)
        kept = Reading.of(tuple(records), unread).unread
        return replace(failed, value=tuple(records) if len(records) > 1 else None, unread=kept)
    return conclude(text, tuple(records) or None, leftovers, cut=cut)


def _error_of(record: Any) -> ToolError | None:
    error = getattr(record, "error", None)
    return error if isinstance(error, ToolError) else None
