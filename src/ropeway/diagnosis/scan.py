"""Reads a log of any size for the lines that tell of a failure, in bounded memory.

Most lines tell of none and must cost next to nothing: a line whose level is INFO is looked through
for the few texts that matter there, any other for those of the whole table, and only a line that
holds one is parsed. What comes again and again is counted and not judged anew.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from ropeway.diagnosis.signatures import Signature, table
from ropeway.facts.log_lines import (
    LogEntry,
    has_year,
    read_line,
    seconds_of,
)
from ropeway.facts.logs import Link, read_link

# A line is judged with what stands this far around it, and no further into a longer line.
_AHEAD, _BEHIND = 6_000, 4_000
_LONGEST = 4_000
_ABOVE, _BELOW, _LOOK_BACK = 2, 12, 30
# One kind of failure of one process is one sighting. Lines that only have the level ERROR matter
# when nothing else is there: the first are enough.
_MOST_SIGHTINGS = 400
_MOST_PLAIN = 10
_MOST_LINKS = 200
# A line whose like has been judged so often says nothing new; each rank has had its say.
_OFTEN = 40
_MOST_SHAPES = 4_000
_SHAPE = 160

CALM = frozenset({"DEBUG", "TRACE", "INFO", "EVENT", "WARNING"})


@dataclass(frozen=True)
class Sighting:
    """The first line of one kind of failure, in one process.

    entry     the line; its message holds what an exception leaves to its neighbours
    row       the signature that claims it; None: a failure that we do not know
    by_rank   whether a rank says so, and not a process that watches ranks
    count     how often it is there
    around    the messages above and below, the line itself left out
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
        """Who wrote it."""
        return (self.log, self.entry.pid, self.entry.rank, self.entry.process)


@dataclass
class Scan:
    """What one log holds.

    plain        how many of the sightings have only the level ERROR to show for it
    shapes       how often a line was there, its numbers left out
    ready_line   the last line that says that the server answers
    setting      what the log tells of the layout and the version: `pipeline`, `version`, …
    last_time    of the last line that was judged and had one
    skew_hours   how many hours the NPU's clock is ahead of the host's, where a line shows both
    """

    name: str
    lines: int = 0
    characters: int = 0
    sightings: dict[tuple[object, ...], Sighting] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    plain: int = 0
    shapes: dict[str, int] = field(default_factory=dict)
    setting: dict[str, str] = field(default_factory=dict)
    ready_line: int | None = None
    last_time: str | None = None
    skew_hours: int | None = None


def scan(name: str, blocks: Iterable[str]) -> Scan:
    """Read a log that comes in pieces, cut anywhere. Never raises, whatever they hold."""
    found = Scan(name)
    is_calm = _CALM_HEAD.match
    in_calm, in_any = _trigger(calm=True).search, _trigger(calm=False).search
    for text, start, end, line in _windows(blocks):
        at = start
        while at < end:
            stop = text.find("\n", at, end)
            if stop < 0:
                stop = end
            look = in_calm if is_calm(text, at, stop) else in_any
            if (hit := look(text, at, stop)) is not None:
                _judge(found, text, at, hit.start(), stop, line)
            at = stop + 1
            line += 1
        found.characters += end - start
        found.lines = line - 1
    return found


def _windows(blocks: Iterable[str]) -> Iterator[tuple[str, int, int, int]]:
    """Text, the part of it to judge (whole lines but for the last), and the number of its line.

    What stands around that part is there to look at: `_BEHIND` characters before, `_AHEAD` after.
    """
    text, start, line = "", 0, 1
    for block in blocks:
        text += block
        end = text.rfind("\n", start, max(len(text) - _AHEAD, start)) + 1
        if end <= start:
            # A line without an end: judged in pieces, since nothing may grow without bound.
            if len(text) - start < _LONGEST_PIECE:
                continue
            end = len(text) - _AHEAD
        yield text, start, end, line
        line += text.count("\n", start, end)
        kept = max(end - _BEHIND, 0)
        text, start = text[kept:], end - kept
    yield text, start, len(text), line


def _judge(found: Scan, text: str, begin: int, hit: int, stop: int, number: int) -> None:
    """Keep what this line says, if it says something."""
    begin = max(begin, text.rfind("\r", begin, hit) + 1)
    line = text[begin:stop]
    shape = _DIGITS.sub("", line[:_SHAPE])
    if (times := found.shapes.get(shape, 0)) >= _OFTEN:
        found.shapes[shape] = times + 1
        return
    if times or len(found.shapes) < _MOST_SHAPES:
        found.shapes[shape] = times + 1
    if len(line) > _LONGEST:
        near = max(hit - begin - 500, 300)
        line = f"{line[:300]} {line[near : near + _LONGEST - 300]}"
    for entry in read_line(line, number):
        _note(found, entry)
        sighting = _sighting(found.name, entry)
        if sighting is not None:
            _keep(found, sighting, text, begin, stop)


def _sighting(log: str, entry: LogEntry) -> Sighting | None:
    """What this entry tells of; None when it is calm and no row says otherwise."""
    if _SOURCE_CODE.match(entry.message):
        return None
    calm = entry.level in CALM
    row = table().claim(entry.message, entry.code, calm=calm)
    exception = bool(_EXCEPTION.match(entry.message) or _LATE_EXCEPTION.match(entry.message))
    if row is None and (calm or not (exception or entry.level in ("ERROR", "FATAL"))):
        return None
    of_cann = bool(entry.module and entry.module.isupper())
    ranked = entry.rank is not None or any(_RANK.match(tag.name or "") for tag in entry.tags)
    return Sighting(log, entry, row, exception, of_cann or ranked)


def _keep(found: Scan, sighting: Sighting, text: str, begin: int, stop: int) -> None:
    """Count it, or take it in with what stands around it."""
    kind = sighting.row.id if sighting.row else _DIGITS.sub("", sighting.entry.message)[:80]
    key = (
        kind,
        sighting.exception,
        sighting.entry.pid,
        sighting.entry.rank,
        sighting.entry.process,
    )
    known = found.sightings.get(key)
    if known is not None:
        found.sightings[key] = replace(known, count=known.count + 1)
        return
    if sighting.row is None and len(found.sightings) >= _MOST_SIGHTINGS:
        return
    if sighting.row is None and not sighting.exception:
        if found.plain >= _MOST_PLAIN or _CONTINUATION.match(sighting.entry.message):
            return
        found.plain += 1
    above = _entries_above(text, begin, sighting.entry.line)
    below = _entries_below(text, stop, sighting.entry.line)
    sighting = replace(sighting, around=(*above[-_ABOVE:], *below))
    if sighting.exception:
        sighting = _completed(sighting, above, below)
    if sighting.entry.time is None:
        sighting = replace(sighting, entry=_timed(sighting.entry, above, below))
    found.sightings[key] = sighting


def _completed(sighting: Sighting, above: list[LogEntry], below: list[LogEntry]) -> Sighting:
    """With what an exception leaves to the lines around it.

    Below a validation error stands what is wrong: vLLM checks its config in this way. Above a bare
    `AssertionError` stands the code that raised it, perhaps with a line of carets between.
    """
    said = sighting.entry.message
    more = ""
    if re.search(r"validation errors? for \w+$", said):
        more = next((near.message for near in below[:3] if "[type=" in near.message), "")
        more = more.partition("[type=")[0].strip()
    elif said.endswith(("Error", "Exception")):
        code = [near.message.strip("^~ ") for near in reversed(above[-_ABOVE:])]
        more = next((line for line in code if line and not line.startswith('File "')), "")
    if not more:
        return sighting
    entry = replace(sighting.entry, message=f"{said}: {more}")
    return replace(sighting, entry=entry, row=sighting.row or table().claim(entry.message))


def _timed(entry: LogEntry, above: list[LogEntry], below: list[LogEntry]) -> LogEntry:
    """With the time of a neighbour from the same process.

    Not of another: Ray brings the lines of the ranks seconds late and without a time.
    """
    near = (*below[:3], *reversed(above))
    for other in near:
        if other.time and other.process == entry.process and other.rank in (entry.rank, None):
            return replace(entry, time=other.time)
    return entry


def _entries_above(text: str, begin: int, number: int) -> list[LogEntry]:
    lines = text[max(begin - _BEHIND, 0) : begin].split("\n")[-_LOOK_BACK - 1 : -1]
    return _entries(lines, number - len(lines))


def _entries_below(text: str, stop: int, number: int) -> list[LogEntry]:
    return _entries(text[stop : stop + _AHEAD].split("\n")[1 : _BELOW + 1], number + 1)


def _entries(lines: Iterable[str], first: int) -> list[LogEntry]:
    numbered = enumerate(lines, start=first)
    return [entry for number, line in numbered for entry in read_line(line[:_LONGEST], number)]


def _note(found: Scan, entry: LogEntry) -> None:
    """What is no failure and helps to understand one."""
    message = entry.message
    found.last_time = entry.time or found.last_time
    if found.last_time and (on_npu := _NPU_TIME.search(message)):
        found.skew_hours = _whole_hours(f"{on_npu[1]}T{on_npu[2]}", found.last_time)
    if "Application startup complete" in message:
        found.ready_line = entry.line
    if "|" in message and len(found.links) < _MOST_LINKS and (link := read_link(entry)):
        found.links.append(link)
    if entry.level not in ("ERROR", "FATAL"):
        for name, pattern in _SETTINGS.items():
            if said := pattern.search(message):
                found.setting.setdefault(name, said[1])


def _whole_hours(on_npu: str, on_host: str) -> int | None:
    """By how many hours two clocks of about the same moment differ; None when it is not that.

    Another time zone is a whole number of hours; anything else is perhaps only a late report.
    """
    with_year = has_year(on_host)
    npu, host = seconds_of(on_npu, with_year=with_year), seconds_of(on_host, with_year=with_year)
    if npu is None or host is None:
        return None
    hours = round((npu - host) / 3600)
    return hours if hours and abs(npu - host - 3600 * hours) < _ABOUT_SECONDS else None


_ABOUT_SECONDS = 120.0
_NPU_TIME = re.compile(r"Other info\[\d+\]:time=(\d{4}-\d\d-\d\d)-(\d\d:\d\d:\d\d)")
_LONGEST_PIECE = 4_000_000
_DIGITS = re.compile(r"[0-9]+|0x[0-9a-f]+")
_EXCEPTION = re.compile(r"(?:[A-Za-z_][\w.]{0,120})?(?:Error|Exception|Exit|Interrupt)(?:$|:)")
# Behind a prefix that we do not know: `111 TimeException: MemcpyAsync failed!`
_LATE_EXCEPTION = re.compile(
    r"(?!raise |except |File |#)\S{1,60} (?:[\w.]{0,80}\.)?[A-Z]\w{2,60}(?:Error|Exception): \S"
)
# A stack shows the lines that raised, with the texts in them.
_SOURCE_CODE = re.compile(
    r"(?:raise |return |assert |if |elif |with |logger\.|print\(|File \"|f?[\"'][^\"']*[\"'] ?\\?$)"
)
# Lines that only go on with another: a stack, a frame around a table, CANN's advice.
_CONTINUATION = re.compile(
    r"File \"|Trace[bB]ack \(most|Possible Cause|Solution:|[^A-Za-z]*$|\W*\w+ERROR_INFO\w*$|\|"
)
_RANK = re.compile(r"RayWorker|VllmWorker|Worker(?:$|[_ ])")
_SETTINGS: Mapping[str, re.Pattern[str]] = {
    "version": re.compile(
        r"(?:vLLM (?:API )?server version|LLM engine \(v?) ?(\d+\.\d+(?:\.\d+)?)"
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

# The level of a line that is not looked into closely, behind whatever tags.
_CALM_HEAD = re.compile(
    r"(?:\x1b\[[0-9;]{0,8}m|\([^()\n]{1,60}\)|\[rank\d{1,5}\]:|\s){0,16}"
    r"(?:\[?\d{4}-\d\d-\d\d[ T][\d:,.]{8,16}\]?[\s-]*)?"
    r"(?:\[?(?:INFO|DEBUG|EVENT|TRACE)\b|[ID]\d{4} \d\d:\d\d:\d\d|\[[ID]\d{3,4} \d\d:)"
)
# Said by every log that has failed, whatever it failed of.
_FAILED = (
    "ERROR", "Error", "EXCEPTION", "Exception", "FATAL", "Fatal", "CRITICAL", "code is", "code:",
    "errno", "rrorCode", "rrCode", "error no is", "ret=", "ret =", "ret[", "ret [",
    "runtime result =", "Interrupt", "Exit", "Other info[", "[E", "what():",
)  # fmt: skip
# And what tells of the layout, the version, the end of a start; or of a line run into a calm one.
_TOLD = (
    "LLM engine (v", "non-default args", "server version", "Application startup complete",
    "Expert parallelism is", "Ray cluster at", "vllm serve", "api_server --", "[ERROR] ",
)  # fmt: skip
# How often a character stands in a log, roughly, the most common first: English, and what numbers,
# paths and brackets are made of.
_COMMON = " etaoinsrhld0123456789cumfp.,:_-/=[]()gwyb'\"|"
_NEEDLE = 12


@cache
def _trigger(*, calm: bool) -> re.Pattern[str]:
    """Stops at every line that may matter, of those that are calm or of the others."""
    texts = [text for text, row in table().fragments if row.calm or not calm]
    if calm:
        texts += _TOLD
    else:
        texts += (*_FAILED, *_TOLD)
    by_first: dict[str, set[str]] = {}
    for needle in map(_needle, texts):
        by_first.setdefault(needle[0], set()).add(re.escape(needle[1:]))
    # Each branch begins with a character, so that the search skips all that none begins with.
    branches = [
        f"{re.escape(first)}(?:{'|'.join(sorted(rests))})"
        for first, rests in sorted(by_first.items())
    ]
    return re.compile("|".join([*branches, r"E(?:[A-Z1-9]\d{4}[:\[) ]|\d{3,4} \d\d:\d\d:)"]))


def _needle(text: str) -> str:
    """A part of the text, not shorter than five characters, that begins with its rarest one."""
    last = max(len(text) - 5, 0)
    start = max(range(last + 1), key=lambda at: _rarity(text[at]))
    return text[start : start + _NEEDLE]


def _rarity(character: str) -> int:
    return _COMMON.find(character) if character in _COMMON else len(_COMMON)
