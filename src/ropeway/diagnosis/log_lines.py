"""Parse one line of a log: its time, level, process, rank, host, place in the code, and message.

A line may carry several prefixes ("heads"), because processes relay what others print:

    (Worker_TP0 pid=5536) ERROR 11-10 01:25:12 [multiproc_executor.py:671] \
EL0004: [PID: 5536] 2025-11-10-01:25:11.770.501 Failed to allocate memory.

The head nearest to the message was written by the process itself and takes precedence; the tags of
all processes are kept.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ropeway.diagnosis.pieces import pieces
from ropeway.diagnosis.wrapped import level_of_priority
from ropeway.facts.text import without_escapes

# A log may hold a megabyte on one line; no pattern looks further than this.
LONGEST_READ = 20_000
_MOST_HEADS = 12


@dataclass(frozen=True)
class ProcessTag:
    """A process that wrote or relayed a line: `(RayWorkerWrapper pid=545, ip=10.17.44.60)`."""

    name: str | None
    pid: int | None = None
    ip: str | None = None


@dataclass(frozen=True)
class LogEntry:
    """One message of a log and what its heads say about it. A field without a value is None.

    line     line number, from 1; two entries on one line share it
    time     `2025-10-24T22:03:14.946261`, or `12-15T11:45:16` where the log gives no year
    level    DEBUG TRACE INFO EVENT WARNING ERROR FATAL, normalised from the log's own word
    tags     outermost first
    rank     from `[rank1]:` or `RankID:8`
    host     IP address of the innermost tag that has one
    module   CANN's module (HCCL, RUNTIME, …) or Python's logger
    code     CANN's `EI0006` or torch_npu's `ERR00100`
    """

    line: int
    message: str
    time: str | None = None
    level: str | None = None
    tags: tuple[ProcessTag, ...] = ()
    pid: int | None = None
    rank: int | None = None
    host: str | None = None
    module: str | None = None
    code: str | None = None

    @property
    def process(self) -> str | None:
        """Return the name of the innermost tag that has one."""
        return next((tag.name for tag in reversed(self.tags) if tag.name), None)


def read_line(line: str, number: int = 1) -> tuple[LogEntry, ...]:
    """Return the entries of one line: none, one, or several when lines were run together.

    Of a line that was written over, only what was written last is read.
    """
    entries = []
    rest = without_escapes((pieces(line[:LONGEST_READ]) or [""])[-1]).rstrip()
    rest = rest[_MARKS.match(rest).end() :]  # type: ignore[union-attr]  # it matches nothing too
    while rest:
        head = _Head()
        at = 0
        for _ in range(_MOST_HEADS):
            after = _read_head(rest, at, head)
            if after is None:
                break
            at = after
        following = _RUN_TOGETHER.search(rest, at + 1)
        end = following.start() if following else len(rest)
        message = _REPEATED.sub("", rest[at:end]).strip()
        if message and not _FENCE.fullmatch(message):
            entries.append(head.entry(number, message))
        rest = rest[end:]
    return tuple(entries)


def has_year(time: str) -> bool:
    """Return whether an entry's time includes the year."""
    return time[4:5] == "-"


def seconds_of(time: str, *, with_year: bool) -> float | None:
    """Return an entry's time in seconds, for comparison; None when it is not a valid date.

    Without the year all times are placed in the same one, so that times with and without a year
    compare.
    """
    if not with_year:
        time = f"2000-{time[5:] if has_year(time) else time}"
    try:
        return datetime.fromisoformat(time).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


@dataclass
class _Head:
    """The values of a line's heads, collected from left to right; the rightmost one wins."""

    tags: list[ProcessTag] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def add(self, match: re.Match[str]) -> int:
        """Add the groups of one head; returns where the head ends."""
        self.values |= {key: value for key, value in match.groupdict().items() if value}
        return match.end()

    def entry(self, number: int, message: str) -> LogEntry:
        values = self.values
        level = values.get("level", "").upper()
        if not level and "priority" in values:
            level = level_of_priority(int(values["priority"])) or ""
        if "code" not in values and (match := _LATER_CODE.match(message)):
            self.add(match)
        return LogEntry(
            line=number,
            message=message,
            time=_time(values),
            level=_LEVELS.get(level, level) or None,
            tags=tuple(self.tags),
            pid=_number(values.get("pid")),
            rank=_number(values.get("rank")),
            host=next((tag.ip for tag in reversed(self.tags) if tag.ip), None),
            module=values.get("module"),
            code=values.get("code"),
        )


def _read_head(text: str, at: int, head: _Head) -> int | None:
    """Add the head that begins at `at` to `head`; returns where it ends, None without one."""
    while at < len(text) and text[at] in " \t":
        at += 1
    for pattern in _HEADS.get(text[at : at + 1], ()):
        if match := pattern.match(text, at):
            return head.add(match)
    if text.startswith("(", at):
        return _read_tag(text, at, head)
    return None


def _read_tag(text: str, at: int, head: _Head) -> int | None:
    """Add a process tag: `(VllmWorker TP0 pid=1)`, `(pid=7, ip=10.0.0.1)`, `(raylet)`."""
    match = _TAG.match(text, at)
    if not match:
        return None
    words = re.split(r"[ ,]+", match["body"])
    values = dict(word.split("=", 1) for word in words if "=" in word)
    names = [word for word in words if "=" not in word]
    if "pid" not in values and names[:1] not in (["raylet"], ["autoscaler"]):
        return None
    name = " ".join(names) or None
    head.tags.append(ProcessTag(name, _number(values.get("pid")), values.get("ip")))
    head.values |= {key: values[key] for key in ("pid", "rank") if values.get(key, "").isdecimal()}
    return match.end()


def _time(values: dict[str, str]) -> str | None:
    """Combine date, clock and fraction into one text; None without a clock or a day."""
    clock = values.get("clock")
    if clock is None:
        return None
    fraction = values.get("fraction", "").replace(".", "")
    whole = f"{clock}.{fraction}" if fraction else clock
    if "date" in values:
        return f"{values['date'].replace('/', '-')}T{whole}"
    if "us_date" in values:
        month, day, year = values["us_date"].split("/")
        return f"{year}-{month}-{day}T{whole}"
    if "compact" in values:  # `1009` and `623`: October 9 and June 23
        digits = values["compact"]
        year = f"{digits[:4]}-" if len(digits) == 8 else ""
        return f"{year}{digits[-4:-2].zfill(2)}-{digits[-2:]}T{whole}"
    if "month" in values:
        return f"{_MONTHS.index(values['month']) + 1:02}-{values['mday'].zfill(2)}T{whole}"
    return f"{values['day']}T{whole}" if "day" in values else None


def _number(text: str | None) -> int | None:
    # torch_npu writes -1 for an unknown number; people write `<pid>` and `...`.
    return int(text) if text and text.isdecimal() and len(text) < 12 else None


_LEVELS = {
    "D": "DEBUG", "I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL", "C": "FATAL",
    "WARN": "WARNING", "CRITICAL": "FATAL", "EXCEPTION": "ERROR", "ERR": "ERROR",
}  # fmt: skip
# What people and tools put before a line: a quote mark, the dot of a progress bar, `grep`'s file
# and line number, `Error:` of a CI system, the service of Docker Compose (`vllm-1  | `).
_MARKS = re.compile(
    r"(?:> ?)?(?:\.(?=INFO|WARN|ERROR|\[|\())?"
    r"(?:[\w./-]{1,200}\.(?:log|txt|out)[:-]\d{1,9}[:-])?(?:Error: (?=\())?"
    r"(?:(?!DEBUG|INFO|WARN|ERROR|CRITICAL|FATAL)[a-z][\w.-]{1,60} {1,40}\| )?"
)
_FENCE = re.compile(r"`{3,}\w*")
# What Ray adds to a line that it shows once for all.
_REPEATED = re.compile(r" \[repeated \d+x across cluster\].*")
# Where another line begins in the middle of a line: of CANN, torch_npu, torch, glog, vLLM.
_RUN_TOGETHER = re.compile(
    r"\[(?:ERROR|WARNING|INFO|EVENT|DEBUG|TRACE)\] ?(?:[A-Z_]{2,12}\(\d{1,9},[^()\n]{0,64}\):)?"
    r"\d{4}-\d\d-\d\d-\d\d:"
    r"|(?:\[rank\d{1,6}\]:)?\[[IWEF]\d{3,8} \d\d:\d\d:\d\d\."
    r"|[IWEF](?:\d{4}|\d{8}) \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]{1,120}:\d+\]"
    r"|(?:\((?:[\w ]{1,60} )?pid=\d+[^()\n]{0,60}\) )?"
    r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d "
)
_TAG = re.compile(r"\((?P<body>[^()\n]{1,120})\)")

_CLOCK = r"(?P<clock>\d\d:\d\d:\d\d)(?:[.,:](?P<fraction>\d{1,9}(?:\.\d{1,6})?))?"
_DATE = r"(?P<date>\d{4}[-/]\d\d[-/]\d\d)"
_WORD = r"(?P<level>DEBUG|TRACE|INFO|EVENT|WARN|WARNING|ERROR|CRITICAL|FATAL|EXCEPTION)"
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_ANY_WORD = r"(?P<level>(?i:debug|trace|info|event|warn(?:ing)?|error|critical|fatal))"
_FILE = r"[\w./-]{1,120}:\d+"
_CODE = r"(?P<code>E[A-Z1-9]\d{4})"
# After a word: `RuntimeError: EJ0002: [PID: 38079] 2025-07-15-12:45:31.202.787 The network port…`
_LATER_CODE = re.compile(
    rf"(?:[\w.]{{0,60}}(?:Error|Warning): |#{{1,6}} |[\w/]{{3,80}}\(){_CODE}"
    rf"(?=[:\[)\s])(?:\)?: \[PID: ?(?P<pid>\d{{1,9}})\] {_DATE}-{_CLOCK} )?"
)


def _patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(text) for text in texts)


# By the first character of a head, each tried in this order.
_BRACKETED = _patterns(
    r"\[rank(?P<rank>\d{1,6})\]:",
    r"\[pod/[\w./-]{1,200}\](?= )",  # kubectl logs --prefix
    # CANN and MindSpore: `[ERROR] HCCL(7988,all_reduce_test):2025-03-19-04:16:13.978.979 [file:1]`
    rf"\[{_WORD}\] ?(?P<module>[A-Z_]{{2,16}})\((?P<pid>\d{{1,9}})[,:]"
    rf"(?:[^,()\n]{{0,40}},)?[^,()\n]{{0,60}}\):"
    rf"{_DATE}-{_CLOCK} ?(?:\[{_FILE}\])?"
    r"(?: ?\[\d{1,9}\]| ?(?:>>> )?[\[(]?tid:\d{1,9}[\]),]"
    r"|\d{3,9} )?",
    # torch_npu: `[ERROR] 2025-06-25-10:45:23 (PID:13075, Device:0, RankID:8) ERR00100`
    rf"\[{_WORD}\] {_DATE}-{_CLOCK} \(PID:(?P<pid>-?\d{{1,9}}), Device:-?\d{{1,4}},"
    r" RankID:(?P<rank>-?\d{1,6})\)(?: (?P<code>ERR(?:OR)?\d{2,5})(?= ))?",
    # CANN since 8.5: `[PID: 749] 2025-12-29-03:16:15.787.356 Get_Socket_Timeout(EI0006):`
    rf"\[PID: ?(?P<pid>\d{{1,9}})\] ?(?:{_DATE}-{_CLOCK} ?)?[\w /]{{0,80}}\({_CODE}\):",
    # torch: `[W623 13:45:18.430189590 compiler_depend.ts:79]`, `[E socket.cpp:472] [c10d]`
    rf"\[(?P<level>[IWEF])(?P<compact>\d{{3,4}}|\d{{8}}) {_CLOCK} {_FILE}\](?: \[c10d\])?",
    rf"\[(?P<level>[IWEF]) {_FILE}\](?: \[c10d\])?",
    # Ray: `[2025-11-24 22:27:20,620 E 7435 7435] (raylet) logging.cc:361:`
    rf"\[{_DATE} {_CLOCK} (?P<level>[DIWEFC]) (?P<pid>\d{{1,9}}) \d{{1,9}}\] "
    rf"(?:\((?P<module>\w{{1,40}})\) )?(?:{_FILE}:(?= ))?",
    # Python: `[2025-03-26 11:49:01,311] [INFO] [logging.py:128:log_dist] [Rank 0]`
    rf"\[{_DATE} {_CLOCK}\](?: (?P<module>[\w.]{{1,80}}):)?(?: \[{_ANY_WORD}\])?"
    r"(?: \[(?P<pid>\d{1,9})\])?(?: \[[\w./-]{1,120}:\d+(?::\w{1,80})?\])?"
    r"(?: \[Rank (?P<rank>\d{1,6})\])?",
)
_LETTERED = _patterns(
    # vLLM: `INFO 12-15 11:45:12 [model.py:2679]`, of 2025 and before `model.py:2679]`
    rf"{_WORD} (?:(?P<day>\d\d-\d\d)|{_DATE})(?:[ T]{_CLOCK}| \d\d:\d\d)?(?= |$)(?: \[?{_FILE}\])?",
    # journald: `Nov 30 17:26:43 host python3[1234]:`
    rf"(?P<month>{'|'.join(_MONTHS)}) +(?P<mday>\d{{1,2}}) {_CLOCK} [\w.-]{{1,64}} "
    r"[\w./@-]{1,60}(?:\[(?P<pid>\d{1,9})\])?:(?= )",
    # glog: `I1215 11:46:21.793583   918 pybind_client.cpp:1218]`
    rf"(?P<level>[IWEF])(?P<compact>\d{{4}}|\d{{8}}) {_CLOCK} +(?P<pid>\d{{1,9}}) {_FILE}\]",
    rf"(?P<level>[IWEF]) {_FILE}\]",
    # uvicorn and Python's basicConfig: `INFO:     text`, `WARNING:root:text`
    rf"{_WORD}:(?:(?P<module>[a-z_][\w.]{{0,80}}):|(?=\s))",
    rf"{_WORD} {{0,4}}\|(?=\s)",
    # logrus: `time="2024-07-19T10:17:55+08:00" level=info msg=`
    rf'time="{_DATE}T{_CLOCK}[^"]{{0,12}}" level=(?P<level>\w{{1,10}}) (?=msg=)',
    # CANN: `EI0006: [PID: 749] 2025-04-08-18:07:20.444.436`, `EE9999[PID: 753] 2026-… (EE9999):`
    rf"{_CODE}(?::|(?=\[PID|  ))(?: ?\[PID: ?(?P<pid>\d{{1,9}})\])?(?: {_DATE}-{_CLOCK})?"
    r"(?: \(E\w{5}\):)?(?= |$)",
)
_DATED = _patterns(
    # Ray: `2026-11-23 21:23:14,131\tINFO worker.py:1841 -- text`
    rf"{_DATE} {_CLOCK}\s{_WORD} {_FILE} --",
    # Python, in the forms that are common: `2026-05-26 15:15:48,667 - INFO - text`, and with the
    # logger's name before or after the level, or all of it in brackets
    rf"{_DATE} {_CLOCK} +\[{_ANY_WORD}\]\[(?P<module>[\w.]{{1,80}})\]\[{_FILE}\]"
    r"(?:\[[\w:]{1,80}\])?",
    rf"{_DATE} {_CLOCK} - (?P<module>[a-z_][\w.]{{0,80}}) - {_WORD} -",
    rf"{_DATE} {_CLOCK} - {_WORD} - (?P<module>[a-z_]\w*\.[\w.]{{1,80}}) -",
    rf"{_DATE} {_CLOCK} - {_WORD} -",
    rf"{_DATE} {_CLOCK} \[?{_ANY_WORD}\]?(?= )",
    rf"(?P<us_date>\d\d/\d\d/\d{{4}}) {_CLOCK} - {_WORD} - (?:(?P<module>[a-z_][\w.]{{0,80}}) -)?",
    # loguru: `2025-07-19 14:32:27.123 | ERROR    | module:main:12 -`
    rf"{_DATE} {_CLOCK} \| {_WORD} {{0,4}} \| [\w.:<>]{{1,160}} [-|]",
    # Docker; Kubernetes with the stream, journald with host and process
    rf"{_DATE}[T ]{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?(?: std(?:out|err) [FP])?"
    r"(?: [\w.-]{1,64} [\w./@-]{1,60}\[(?P<pid>\d{1,9})\]:)?(?= )",
)
# syslog and the kernel: `<11>Nov 30 17:26:43 host python3[1]:`, `<11>1 2025-12-15T11:45:16Z host`.
_PRIORITY = _patterns(r"<(?P<priority>\d{1,3})>(?:1 (?=\d{4}-))?")
_HEADS: dict[str, tuple[re.Pattern[str], ...]] = {
    "[": _BRACKETED,
    "<": _PRIORITY,
    **dict.fromkeys("DTIEWCFtJMASON", _LETTERED),
    **dict.fromkeys("0123456789", _DATED),
}
