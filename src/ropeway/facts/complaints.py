"""What tools and shells print instead of an answer, and what becomes of an output in the end.

The texts are those of the sources of npu-smi and hccn_tool (github.com/hicann/driver:
`npucli/src/*.c`, `hccn_tool/cmd.c` and `tool_cmd_err.c`), of Docker, podman, nerdctl and shells,
and of recordings.
"""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import TypeVar

from ropeway.facts.question import ErrorKind, Parsed, ToolError
from ropeway.facts.text import is_rule, label, plain_lines

T = TypeVar("T")

# In the order in which they win over each other when a text has several.
_PATTERNS: tuple[tuple[ErrorKind, str], ...] = (
    ("device-used", r"the device is used"),
    (
        "failed",  # the daemon of a container engine; it names files that are missing, too
        r"cannot connect to (?:the docker daemon|podman)|is the docker daemon running|"
        r"failed to connect to the docker api|error during connect|"
        r"rootless containerd not running|cannot access containerd socket|"
        r"failed to dial \S{1,200}containerd|unable to connect to podman|"
        r"client version \S{1,20} is too (?:new|old)|error response from daemon",
    ),
    (
        "busy",
        r"hccn_tool is busy|i2c is busy|get lock failed|is occupied\. please|"
        r"perftest is doing|is running, please kill|udhcpc running|is updating, please wait|"
        r"try again later",
    ),
    (
        "denied",
        r"permission denied|operation not permitted|only (?:the |by the )?root user|"
        r"only by an administrator|not in the sudoers|must be (?:run as )?root|"
        r"access denied|pls check cmd run permission|权限不够|权限不足|不允许的操作|拒绝访问",
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
    (
        "timeout",
        r"execut\w* timeout|timed out|time out\b(?!.*seq)|connection timeout|timeout expired|"
        r"deadline exceeded|超时",
    ),
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
        r"^segmentation fault|core dumped|input/output error|rtnetlink answers|cannot find device",
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
# `label     : value`, as tables of labels print it; only these labels report a failure.
_TABLE_LINE = re.compile(r"\s*([^:]{1,60}?)\s+:\s")
# Tools complain in short sentences; what begins with a bracket or a date is a line of a log.
_LONGEST = 400
_SENTENCE = re.compile(r"[-\s\"'/]*+[^\W\d_]")
_REPORTING = ("message", "status", "error", "reason")
# What follows a complaint and adds nothing: the tool's usage, or where to find more.
_AFTERTHOUGHT = re.compile(
    r"Usage: |Enter \[ ?hccn_tool|Error parameter of |\[ ?hccn_tool .*needs the following", re.I
)
# Somebody left lines out.
_ELISION = re.compile(r"^[ \t]*\.{3}[ \t\r]*$", re.M)
_USAGE_LINE = re.compile(r"\s|\[|-|Commands:|Options:|Error parameter of ")


def complaint(line: str) -> ToolError | None:
    """Return the error that the line reports, or None when it reports none."""
    text = line.strip()
    if len(text) > _LONGEST or not _SENTENCE.match(text):
        return None
    table = _TABLE_LINE.match(text)
    if table and table[1].lower() not in _REPORTING:
        return None
    kind = next((kind for kind, pattern in _KINDS if pattern.search(text)), None)
    if kind is None:
        return None
    match = _CODE.search(text)
    code = int(match[1]) if match else None
    return ToolError(_meaning(code) or kind, text, code)


def labelled(
    lines: Iterable[str], names: Collection[str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the `label : value` lines with one of these names, in order, and the leftovers.

    Names are without blanks and in lower case. Lines with other labels are passed over, unless they
    complain; a leftover is what has no label at all.
    """
    pairs: list[tuple[str, str]] = []
    leftovers: list[str] = []
    for line in lines:
        pair = label(line)
        name = "".join(pair[0].split()).lower() if pair else ""
        if pair and name in names:
            pairs.append((name, pair[1]))
        elif pair is None or complaint(line) is not None or _ABSENT.search(line):
            leftovers.append(line)
    return pairs, leftovers


def _meaning(code: int | None) -> ErrorKind | None:
    """npu-smi's own numbers are those of DCMI less 1000 (npu_smi.h), but for its inner error."""
    if code is not None and -10_000 < code < -9_000 and code != -9_005:
        code += 1_000
    return _DCMI.get(code) if code is not None else None


def to_parsed(
    text: str, value: T | None, leftovers: Iterable[str], *, truncated: bool = False
) -> Parsed[T]:
    """Return what an output says, from the value and the lines that the parser could not use.

    Those are sorted into complaints, with the usage below them, into reports that something is not
    there, and into what was not understood. `value` is None when nothing was understood.
    """
    errors: list[ToolError] = []
    unparsed: list[str] = []
    missing = usage = False
    for line in leftovers:
        stripped = line.strip()
        if is_rule(stripped):
            continue
        begins = bool(errors) and _AFTERTHOUGHT.match(stripped) is not None
        usage = begins or (usage and _USAGE_LINE.match(line) is not None)
        if usage:
            continue
        if (error := complaint(stripped)) is not None:
            errors.append(error)
        elif _ABSENT.search(stripped):
            missing = True
        else:
            unparsed.append(stripped)
    truncated = truncated or ("..." in text and _ELISION.search(text) is not None)
    if value is not None:
        parsed = Parsed.of(value, unparsed, truncated=truncated or missing)
        return replace(parsed, state="partial", error=_worst(errors)) if errors else parsed
    # A complaint is an answer only where it is about all there is; a log that mentions a failure
    # among a hundred lines is not one.
    if errors and len(unparsed) <= 3 * len(errors):
        return Parsed.failed(_worst(errors), text)
    return Parsed.absent(text) if missing and len(unparsed) <= 3 else Parsed.unknown(text)


def first_line(pattern: str, read: Callable[[re.Match[str]], T]) -> Callable[[str], Parsed[T]]:
    """Return the parser of an output of which one line counts: the first that the pattern is all
    of; `read` returns its value."""
    compiled = re.compile(pattern)

    def parse(text: str) -> Parsed[T]:
        lines = [line.strip() for line in plain_lines(text)]
        match = next(filter(None, map(compiled.fullmatch, lines)), None)
        if match:
            lines.remove(match[0])
        return to_parsed(text, read(match) if match else None, lines)

    return parse


def _worst(errors: Iterable[ToolError]) -> ToolError:
    """Return the most telling of several complaints; the first of equals."""
    return min(errors, key=lambda error: _RANK[error.kind])
