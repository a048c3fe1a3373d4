"""Scan a log of any size for the lines that report a failure, in bounded memory.

Most lines report none and must cost next to nothing: a line of level INFO is searched for the few
fragments that matter there, any other line for those of the whole table, and only a line that
contains one is parsed. Repeated lines are not judged again.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

from ropeway.diagnosis.failure_words import FAILURE_TEXTS, goes_on, is_failure, names_exception
from ropeway.diagnosis.joined import Joined
from ropeway.diagnosis.links import Link, read_link
from ropeway.diagnosis.log_lines import LogEntry, has_year, read_line, seconds_of
from ropeway.diagnosis.pieces import is_progress, pieces
from ropeway.diagnosis.shell import FRAGMENTS, read_shown
from ropeway.diagnosis.signatures import Signature, table
from ropeway.diagnosis.wrapped import level_of_priority
from ropeway.spec.secret_text import without_secrets

# Characters after and before a line that are kept in memory, to look at its neighbours.
_AHEAD, _BEHIND = 6_000, 4_000
# Of a longer line so much is judged, from its beginning and from where the trigger stands.
LONGEST_JUDGED = 4_000
# Lines kept around a failure; above it more are searched, for a time.
_ABOVE, _BELOW, _LOOK_BACK = 2, 12, 30
# At most so many failures are kept of one log. Lines that only have the level ERROR matter when
# there is nothing else, and then the first ones do.
_MAX_FAILURES = 400
_MAX_PLAIN = 10
_MAX_LINKS = 200
# A line repeated so often, its numbers left out, says nothing new: each rank has reported by then.
_MAX_REPEATS = 40
_MAX_SHAPES = 4_000
_SHAPE_LENGTH = 160

CALM = frozenset({"DEBUG", "TRACE", "INFO", "EVENT", "WARNING"})


@dataclass(frozen=True)
class Failure:
    """The first line of one kind of failure in one process, and how often it came.

    entry      the line; its message includes what an exception leaves to the lines around it
    row        the signature that claims it; None for a failure that no row knows
    exception  whether the line names an exception
    by_rank    whether a rank reports it, and not a process that watches ranks
    around     the entries above and below it
    """

    log: str
    entry: LogEntry
    row: Signature | None
    exception: bool
    by_rank: bool
    count: int = 1
    around: tuple[LogEntry, ...] = ()

    @property
    def process(self) -> tuple[str, int | None, int | None, str | None]:
        """Identify the process that wrote the line: log, pid, rank, name."""
        return (self.log, self.entry.pid, self.entry.rank, self.entry.process)


class Clock:
    """Compares times; when one of them has no year, the years of all are ignored."""

    def __init__(self, failures: Iterable[Failure]) -> None:
        times = [each.entry.time for each in failures if each.entry.time]
        self.with_years = all(has_year(time) for time in times)

    def seconds(self, failure: Failure) -> float | None:
        time = failure.entry.time
        return None if time is None else seconds_of(time, with_year=self.with_years)


@dataclass
class Scan:
    """The result of scanning one log.

    failures     by kind and process, in the order of the log
    links        rows of HCCL's LINK_ERROR_INFO
    plain        how many of the failures have no more than the level ERROR
    shapes       how often each line came, its numbers left out
    settings     what the log says of layout and version: `pipeline`, `version`, …
    shown        what a shell printed in it: capabilities, device files, variables
    ready_line   the last line that says that the server answers
    engine_line  the last line in which an engine, as it begins, tells its version
    last_time    of the last line that was parsed and had one
    skew_hours   hours by which the NPU's clock is ahead of the host's, where a line shows both
    """

    name: str
    lines: int = 0
    characters: int = 0
    failures: dict[tuple[object, ...], Failure] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    plain: int = 0
    shapes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)
    ready_line: int | None = None
    engine_line: int | None = None
    last_time: str | None = None
    skew_hours: int | None = None


def scan(name: str, blocks: Iterable[str]) -> Scan:
    """Scan a log that comes in blocks, which may be cut anywhere. Accepts any text."""
    result, joined = Scan(name), Joined()
    is_calm = _CALM_HEAD.match
    search_calm, search_any = _trigger(calm=True).search, _trigger(calm=False).search
    for text, start, end, line in _windows(blocks):
        at = start
        awaits = joined.awaits(text, start, end)
        written_over = text.find("\r", start, end) >= 0
        while at < end:
            stop = text.find("\n", at, end)
            if stop < 0:
                stop = end
            if awaits and (whole := joined.whole(text[at:stop])) is not None:
                _judge_line(result, whole, _Neighbours(text, at, stop, line))
            elif is_calm(text, at, stop) and not (
                written_over and text.find("\r", at, stop - 1) >= 0
            ):
                if search_calm(text, at, stop):
                    _judge_line(result, text[at:stop], _Neighbours(text, at, stop, line))
            elif hit := search_any(text, at, stop):
                if not _is_repeated(result, text, hit.start(), stop):
                    _judge_line(result, text[at:stop], _Neighbours(text, at, stop, line))
            elif text.startswith("{", at):
                _judge_line(result, text[at:stop], _Neighbours(text, at, stop, line))
            at = stop + 1
            line += 1
        result.characters += end - start
        result.lines = line - 1
    return result


def _is_repeated(result: Scan, text: str, hit: int, stop: int) -> bool:
    """Return whether a line came often enough that begins to tell at `hit` and ends at `stop`.

    The pieces of a line need not be known where it is: nothing more may stand behind its shape.
    """
    if result.shapes.get(_shape(text, hit, stop), 0) < _MAX_REPEATS:
        return False
    behind = hit + _SHAPE_LENGTH - 2 * _NEEDLE_LENGTH
    return behind >= stop or _trigger(calm=False).search(text, behind, stop) is None


def _windows(blocks: Iterable[str]) -> Iterator[tuple[str, int, int, int]]:
    """Yield (text, start, end, line number): judge text[start:end], which begins with that line.

    The rest of the text is context: `_BEHIND` characters before, `_AHEAD` after. Lines are whole,
    but for one that is longer than `_LONGEST_PIECE`.
    """
    text, start, line = "", 0, 1
    for block in blocks:
        text += block
        end = text.rfind("\n", start, max(len(text) - _AHEAD, start)) + 1
        if end <= start:
            # A line without an end is judged in pieces, to bound the memory.
            if len(text) - start < _LONGEST_PIECE:
                continue
            end = text.rfind("\r", start, len(text) - _AHEAD) + 1
            if end <= start:
                end = len(text) - _AHEAD
        yield text, start, end, line
        line += text.count("\n", start, end)
        kept = max(end - _BEHIND, 0)
        text, start = text[kept:], end - kept
    yield text, start, len(text), line


def _judge_line(result: Scan, line: str, near: "_Neighbours") -> None:
    """Judge each piece of a line by itself."""
    parts = pieces(line)
    for place, part in enumerate(parts):
        search = _trigger(calm=_CALM_HEAD.match(part) is not None).search
        if (hit := search(part)) is not None and _is_new(result, part, hit.start()):
            _judge(result, part, hit.start(), replace(near, parts=parts, place=place))


def _is_new(result: Scan, part: str, hit: int) -> bool:
    """Count what came with the trigger at `hit`; return whether it did not come often before."""
    shape = _shape(part, hit, len(part))
    repeats = result.shapes.get(shape, 0)
    if repeats < _MAX_REPEATS and (repeats or len(result.shapes) < _MAX_SHAPES):
        result.shapes[shape] = repeats + 1
    return repeats < _MAX_REPEATS


def _shape(text: str, begin: int, stop: int) -> str:
    """Return how a line goes on from its trigger, its numbers left out."""
    return _DIGITS.sub("", text[begin : min(begin + _SHAPE_LENGTH, stop)])


@dataclass(frozen=True)
class _Neighbours:
    """Where a piece stands: the one at `place` of `parts`, which are the line text[begin:stop]."""

    text: str
    begin: int
    stop: int
    number: int
    parts: list[str] = field(default_factory=list)
    place: int = 0

    def above(self) -> list[LogEntry]:
        """Return the entries before the piece, as far as they are looked at."""
        lines = self.text[max(self.begin - _BEHIND, 0) : self.begin].split("\n")[
            -_LOOK_BACK - 1 : -1
        ]
        before = self.parts[max(self.place - _LOOK_BACK, 0) : self.place]
        return _entries(lines, self.number - len(lines)) + self._beside(before)

    def below(self) -> list[LogEntry]:
        """Return the entries after the piece, as far as they are looked at."""
        lines = self.text[self.stop : self.stop + _AHEAD].split("\n")[1 : _BELOW + 1]
        after = self.parts[self.place + 1 : self.place + 1 + _BELOW]
        return self._beside(after) + _entries(lines, self.number + 1)

    def _beside(self, parts: list[str]) -> list[LogEntry]:
        told = (part for part in parts if not is_progress(part))
        return [entry for part in told for entry in read_line(part[:LONGEST_JUDGED], self.number)]


def _judge(result: Scan, part: str, hit: int, near: _Neighbours) -> None:
    """Add what a piece of a line says to `result`; its trigger stands at `hit`."""
    if len(part) > LONGEST_JUDGED:
        from_ = max(hit - 500, 300)
        part = f"{part[:300]} {part[from_ : from_ + LONGEST_JUDGED - 300]}"
    for entry in read_line(part, near.number):
        _add_context(result, entry)
        failure = _failure(result.name, entry)
        if failure is not None:
            _add_failure(result, failure, near)


def _failure(log: str, entry: LogEntry) -> Failure | None:
    """Return the failure that this entry reports; None when it reports none."""
    calm = entry.level in CALM
    if _SOURCE_CODE.match(entry.message):
        return None
    if _SERVED.match(entry.message) and (calm or entry.level is None):
        return None
    row = table().claim(entry.message, entry.code, calm=calm)
    if row and row.kind in ("secondary", "echo") and entry.level is None and goes_on(entry.message):
        return None
    exception = names_exception(entry.message)
    if row is None and (calm or not (exception or is_failure(entry))):
        return None
    of_cann = bool(entry.module and entry.module.isupper())
    ranked = entry.rank is not None or any(_RANK.match(tag.name or "") for tag in entry.tags)
    return Failure(log, entry, row, exception, of_cann or ranked)


def _add_failure(result: Scan, failure: Failure, near: _Neighbours) -> None:
    """Count another failure of a known kind and process, or add it with its context."""
    if _TRACE.match(failure.entry.message):
        end = _end_of_trace(near.below())
        # An exception with a name of its own is known for one only by the trace above it.
        if end is not None and not names_exception(end.message):
            failure = replace(failure, entry=end, exception=True)
    kind = failure.row.id if failure.row else _DIGITS.sub("", failure.entry.message)[:80]
    entry = failure.entry
    key = (kind, failure.exception, entry.pid, entry.rank, entry.process)
    known = result.failures.get(key)
    if known is not None:
        result.failures[key] = replace(known, count=known.count + 1)
        return
    if failure.row is None and len(result.failures) >= _MAX_FAILURES:
        return
    if failure.row is None and not failure.exception:
        if result.plain >= _MAX_PLAIN or _CONTINUATION.match(entry.message):
            return
        result.plain += 1
    above, below = near.above(), near.below()
    failure = replace(failure, around=(*above[-_ABOVE:], *below))
    if failure.exception or _TRACE.match(failure.entry.message):
        failure = _completed(failure, above, below)
    if failure.entry.time is None:
        failure = replace(failure, entry=_timed(failure.entry, above, below))
    result.failures[key] = replace(
        failure, entry=_masked(failure.entry), around=tuple(map(_masked, failure.around))
    )


def _masked(entry: LogEntry) -> LogEntry:
    """Return the entry without secrets: people hand on what a diagnosis shows of it."""
    return replace(entry, message=without_secrets(entry.message))


def _completed(failure: Failure, above: list[LogEntry], below: list[LogEntry]) -> Failure:
    """Add to an exception's message what it leaves to the lines around it.

    A pydantic validation error, as vLLM raises for its config, is explained on the line below. A
    bare `AssertionError` is explained by the code above that raised it, perhaps with a line of
    carets between.
    """
    message = failure.entry.message
    more = ""
    if message.startswith("Traceback"):
        return replace(failure, entry=_end_of_trace(below) or failure.entry)
    if re.search(r"validation errors? for \w+$", message):
        more = next((near.message for near in below[:3] if "[type=" in near.message), "")
        more = more.partition("[type=")[0].strip()
    elif message.endswith(("Error", "Exception")):
        code = [near.message.strip("^~ ") for near in reversed(above[-_ABOVE:])]
        more = next((line for line in code if line and not line.startswith('File "')), "")
    if not more:
        return failure
    entry = replace(failure.entry, message=f"{message}: {more}")
    return replace(failure, entry=entry, row=failure.row or table().claim(entry.message))


def _end_of_trace(below: list[LogEntry]) -> LogEntry | None:
    """Return the line after the frames of a trace, which names the exception; None without it."""
    for before, entry in pairwise(below):
        code = before.message.startswith('File "')
        if not code and before.message[-1:] not in "^~" and _END_OF_TRACE.fullmatch(entry.message):
            return entry
    return None


def _timed(entry: LogEntry, above: list[LogEntry], below: list[LogEntry]) -> LogEntry:
    """Give an entry without a time that of a neighbour from the same process.

    Not of another process: Ray relays the lines of ranks seconds late and without a time.
    """
    for other in (*below[:3], *reversed(above)):
        if other.time and other.process == entry.process and other.rank in (entry.rank, None):
            return replace(entry, time=other.time)
    return entry


def _entries(lines: Iterable[str], first: int) -> list[LogEntry]:
    numbered = enumerate((line[:LONGEST_JUDGED] for line in lines), start=first)
    return [entry for number, line in numbered for entry in read_line(line, number)]


def _add_context(result: Scan, entry: LogEntry) -> None:
    """Add what is not a failure but explains one: times, clock skew, readiness, links, settings."""
    message = entry.message
    result.last_time = entry.time or result.last_time
    if result.last_time and (on_npu := _NPU_TIME.search(message)):
        result.skew_hours = _skew_hours(f"{on_npu[1]}T{on_npu[2]}", result.last_time)
    if "Application startup complete" in message:
        result.ready_line = entry.line
    if "|" in message and len(result.links) < _MAX_LINKS and (link := read_link(entry)):
        result.links.append(link)
    if entry.level is None:
        read_shown(message, result.shown)
    if entry.level not in ("ERROR", "FATAL"):
        for name, pattern in _SETTINGS.items():
            if match := pattern.search(message):
                result.settings.setdefault(name, match[1])
                if name == "version":
                    result.engine_line = entry.line


def _skew_hours(on_npu: str, on_host: str) -> int | None:
    """Return by how many whole hours the NPU's clock is ahead; None when it is not a time zone.

    Clocks in different time zones differ by whole hours; any other difference may be a late report.
    """
    with_year = has_year(on_host)
    npu, host = seconds_of(on_npu, with_year=with_year), seconds_of(on_host, with_year=with_year)
    if npu is None or host is None:
        return None
    hours = round((npu - host) / 3600)
    return hours if hours and abs(npu - host - 3600 * hours) < _SKEW_TOLERANCE_SECONDS else None


_SKEW_TOLERANCE_SECONDS = 120.0
_NPU_TIME = re.compile(r"Other info\[\d+\]:time=(\d{4}-\d\d-\d\d)-(\d\d:\d\d:\d\d)")
_LONGEST_PIECE = 4_000_000
_DIGITS = re.compile(r"[0-9]+|0x[0-9a-f]+")
_TRACE = re.compile(r"Traceback \(most recent call last\):")
_END_OF_TRACE = re.compile(r"[A-Za-z_][\w.]*(?:: .*)?")
# Lines of source code in a stack trace contain the messages they raise.
_SOURCE_CODE = re.compile(
    r"(?:raise |return |assert |if |elif |with |logger\.|print\(|File \"|f?[\"'][^\"']*[\"'] ?\\?$"
    r"|(?:set -\w{1,9}; ?)?\+{0,4} ?(?:trap|echo|printf|true|false|:) ['\"&|])"
)
# What people ask and engines answer may tell of any failure.
_SERVED = re.compile(
    r"(?i)(?:received request .{1,200}?\b|\{(?:.{0,80}?,)?\s?['\"]|\[)?"
    r"(?:prompts?|messages|role|generated text|user|assistant|question|answer|content)"
    r"(?:['\"]:|\]?: )"
)
# Lines that only continue another one: a stack trace, the frame of a table, CANN's advice.
_CONTINUATION = re.compile(
    r"File \"|TraceBack \(most|Possible Cause|Solution:|[^A-Za-z\u4e00-\u9fff]*$"
    r"|\W*\w+ERROR_INFO\w*$|\|"
)
_RANK = re.compile(r"RayWorker|VllmWorker|Worker(?:$|[_ ])")
_SETTINGS: Mapping[str, re.Pattern[str]] = {
    "version": re.compile(
        r"(?:vLLM (?:API )?server version|LLM engine \(v?) ?(\d{1,5}(?:\.\d{1,5}){1,2})"
    ),
    "pipeline": re.compile(r"pipeline.parallel.size['\"]?[ =:]+(\d{1,5})"),
    "tensor": re.compile(r"tensor.parallel.size['\"]?[ =:]+(\d{1,5})"),
    "nodes": re.compile(r"\bnnodes['\"]?[ =:]+(\d{1,5})"),
    "expert": re.compile(
        r"(enable.expert.parallel)(?!['\"]?[ =:]+False)|Expert parallelism is (enabled)"
    ),
    "ray": re.compile(
        r"distributed.executor.backend['\"]?[ =:]+['\"]?(ray)\b|existing (Ray) cluster"
    ),
    "full-graph": re.compile(r"cudagraph_mode.{0,60}?\b(FULL\w{0,20})"),
}

# Priorities of syslog that mean an error, whatever the words.
_URGENT = "|".join(str(each) for each in range(192) if level_of_priority(each))
# A calm level at the beginning of a line, after any tags.
_CALM_HEAD = re.compile(
    r"(?:\x1b\[[0-9;]{0,8}m|\([^()\n]{1,60}\)|\[rank\d{1,5}\]:|\s){0,16}"
    r"(?:\[?\d{4}-\d\d-\d\d[ T][\d:,.]{8,16}\]?[\s-]*)?"
    r"(?:\[?(?:INFO|DEBUG|EVENT|TRACE)\b|[ID]\d{4} \d\d:\d\d:\d\d|\[[ID]\d{3,4} \d\d:)"
)
# Fragments of lines that name the layout or version or say that the server is ready.
_CONTEXT_TEXTS = (
    "LLM engine (v", "non-default args", "server version", "Application startup complete",
    "Expert parallelism is", "Ray cluster at", "vllm serve", "api_server --",
)  # fmt: skip
# In a calm line: where another one, or what broke while a bar ran, was written behind it.
_BEHIND_CALM_TEXTS = (
    "[ERROR] ", "ERROR ", "ERROR:", "CRITICAL ", "Error: ", "Exception: ", "raceback (m",
    "it/s]", "s/it]", "it/s, ", "s/it, ", "B/s]", "错误", "失败", "HCCL_E_",
    *(f"{name}={kind}" for name in ("ret", "Code") for kind in ("107", "207", "507")),
)  # fmt: skip
# The characters of logs by rough frequency, the most common first: those of English words, numbers,
# paths and brackets.
_COMMON = " etaoinsrhld0123456789cumfp.,:_-/=[]()INFOgwybERD'\"|"
_NEEDLE_LENGTH = 12


@cache
def _trigger(*, calm: bool) -> re.Pattern[str]:
    """Return a pattern that matches in every line that may matter, among calm lines or others."""
    texts = [text for text, row in table().fragments if row.calm or not calm]
    if calm:
        texts += (*_CONTEXT_TEXTS, *_BEHIND_CALM_TEXTS)
    else:
        texts += (*_CONTEXT_TEXTS, *FAILURE_TEXTS, *FRAGMENTS, '{"')
    by_first: dict[str, set[str]] = {}
    for needle in _needles(texts):
        by_first.setdefault(needle[0], set()).add(re.escape(needle[1:]))
    # Each branch begins with a literal, so that the search skips all other characters quickly.
    branches = [
        f"{re.escape(first)}(?:{'|'.join(sorted(rests))})"
        for first, rests in sorted(by_first.items())
    ]
    return re.compile(
        "|".join(
            [
                *branches,
                r"E(?:[A-Z1-9]\d{4}[:\[), \].]|\d{3,8} \d\d:\d\d:| \d{1,9} \d{1,9}\])",
                r"C \d{1,9} \d{1,9}\]",
                *([] if calm else [rf"<(?:{_URGENT})>"]),
            ]
        )
    )


def _needles(texts: Iterable[str]) -> list[str]:
    """Return a part of each text, at least five characters, so that together they begin with few
    and rare ones.
    """
    starts = {text: set(text[: max(len(text) - 4, 1)]) for text in texts}
    left, firsts = set(starts), set[str]()
    while left:
        worth = Counter(each for text in left for each in starts[text])
        first = min(sorted(worth), key=lambda each: _frequency(each) / worth[each])
        firsts.add(first)
        left = {text for text in left if first not in starts[text]}
    needles = []
    for text, possible in starts.items():
        start = text.index(min(sorted(possible & firsts), key=_frequency))
        needles.append(text[start : start + _NEEDLE_LENGTH])
    return needles


def _frequency(character: str) -> float:
    rank = _COMMON.find(character)
    return 1 / (1 + (rank if rank >= 0 else len(_COMMON)))
