"""Read a line that a logger or a collector of logs wrote as JSON.

Each product has names of its own, at a depth of its own. What counts is what a name says: message,
level, time or error. What is read becomes lines as vLLM writes them, each with the time and the
level, so that all that follows need not know of JSON.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from typing import TypeVar

from ropeway.outside import parse_json

# Names without their case and signs: `textPayload`, `SeverityText`, `log.level`, `@timestamp`.
_MESSAGE = {"body", "event", "log", "message", "msg", "shortmessage", "textpayload"}
_LEVEL = {
    "level", "levelname", "levelno", "loglevel", "lvl", "priority", "severity", "severitynumber",
    "severitytext",
}  # fmt: skip
_TIME = {"asctime", "time", "timestamp", "ts"}
_ERROR = {
    "err", "error", "errors", "exc", "exception", "excinfo", "exctext", "stack", "stacktrace",
    "traceback",
}  # fmt: skip
_SAID = _MESSAGE | _ERROR
_TOLD = _SAID | _LEVEL | _TIME
# Numbers from which on a level is FATAL, ERROR, WARNING: pino's, Python's, OpenTelemetry's.
_SCALES = {"level": (60, 50, 40), "levelno": (50, 40, 30), "severitynumber": (21, 17, 13)}
_WORDS = (
    ("FATAL", re.compile(r"(?i)crit|fatal|d?panic|alert|emerg|f$")),
    ("ERROR", re.compile(r"(?i)err|severe|exception|e$")),
    ("WARNING", re.compile(r"(?i)warn|w$")),
    ("INFO", re.compile(r"(?i)info|notice|i$")),
    ("DEBUG", re.compile(r"(?i)debug|trace|verbose|d$|t$")),
)
_SEVERITY = [level for level, _ in _WORDS]
# OTLP nests a record in `resourceLogs[].scopeLogs[].logRecords[].body.stringValue`.
_MOST_DEPTH = 9
_LONGEST_LIST = 100
# What a collector, a container engine or a bar puts before an object: a time, a host and process,
# a service; nothing that has a level, which is a message that ends with an object.
_BEFORE = re.compile(
    r"(?!.*\b(?:DEBUG|TRACE|INFO|WARN|WARNING|ERROR|CRITICAL|FATAL)\b)"
    r"(?:.*(?:[|\r%]|\]:?|\b[FP]|:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?|<\d{1,3}>) *)?"
)

Leaf = tuple[tuple[str, ...], object]
Value = TypeVar("Value")


def unwrapped(line: str) -> list[str]:
    """Return the lines that a JSON object at the end of a line holds; any other line as it is."""
    at = line.find("{")
    if at < 0 or not line.rstrip().endswith("}") or (at and not _BEFORE.fullmatch(line[:at])):
        return [line]
    try:
        entry = parse_json(line[at:], lenient=True)
    except ValueError:
        return [line]
    first, *more = _lines(list(_leaves(entry))) or [line[at:]]
    return [line[:at] + first, *more]


def level_of_priority(priority: int) -> str | None:
    """Return the level of a priority of syslog; None for one that any output may get."""
    severity = priority % 8
    return None if severity > 3 else "ERROR" if severity == 3 else "FATAL"


def _lines(leaves: list[Leaf]) -> list[str]:
    """Return what an object says: messages, then errors; none when it has no message."""
    texts = list(_texts(leaves))
    errors = [text for path, text in texts if not _ERROR.isdisjoint(path)]
    messages = _outermost(pair for pair in texts if pair[1] not in errors)
    level = min(
        filter(None, _outermost((path, _level(path[-1], value)) for path, value in leaves)),
        key=_SEVERITY.index,
        default="",
    )
    times = _outermost((path, value) for path, value in leaves if path[-1] in _TIME)
    time = next((each for each in times if isinstance(each, str) and each[4:5] == "-"), "")
    calm = level not in ("FATAL", "ERROR", "")
    if len(messages) == len(errors) == 1 and not calm and "\n" not in messages[0] + errors[0]:
        messages, errors = [f"{messages[0]}: {errors[0]}"], []
    head = f"{time} " if time else ""
    said = [f"{level}: {each}" if level else each for each in _split(messages)]
    # A handled error is worth a look even where its message is calm.
    said += [f"{level}: {each}" if level and not calm else each for each in _split(errors)]
    return [head + each for each in said]


def _leaves(document: object) -> Iterator[Leaf]:
    """Yield each value that is told, with the names above it, the outermost first."""
    level: list[Leaf] = [((), document)]
    for _ in range(_MOST_DEPTH):
        below: list[Leaf] = []
        for path, value in level:
            if isinstance(value, dict):
                below += [((*path, *_names(key)), inner) for key, inner in value.items()]
            elif isinstance(value, list) and (text := _bytes_of(value)) is not None:
                below.append((path, text))
            elif isinstance(value, list):
                below += [(path, inner) for inner in value[:_LONGEST_LIST]]
            elif path and path[-1] in _TOLD:
                yield path, value
        if not below:
            return
        level = below


@lru_cache(maxsize=4096)
def _names(key: str) -> tuple[str, ...]:
    """Return the names of a key: `log.level` has two, a type of OpenTelemetry's none."""
    names = tuple(re.sub("[^a-z]", "", each.lower()) for each in key.split("."))
    return () if names == ("stringvalue",) else names


def _bytes_of(values: list[object]) -> str | None:
    """Return the text that journald writes as a list of bytes; None where it is none."""
    try:
        return bytes(int(each) for each in values).decode("utf-8", "replace") or None  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None


def _texts(leaves: Iterable[Leaf]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the texts under the names of messages and errors."""
    for path, value in leaves:
        if isinstance(value, str) and value.strip() and path[-1] in _SAID:
            yield path, value


def _outermost(found: Iterable[tuple[tuple[str, ...], Value]]) -> list[Value]:
    """Return the values of those that have the fewest names above them."""
    pairs = [(len(path), value) for path, value in found if value is not None]
    least = min(pairs, key=itemgetter(0))[0] if pairs else 0
    return list(dict.fromkeys(value for depth, value in pairs if depth == least))


def _level(name: str, value: object) -> str | None:
    """Return the level that a value of this name says; None when it says none."""
    if name not in _LEVEL:
        return None
    if name == "priority":  # journald writes `"3"`; a number is something else's
        known = isinstance(value, str) and re.fullmatch("[0-7]", value)
        return level_of_priority(int(known[0])) if known else None
    if isinstance(value, str):
        return next((level for level, word in _WORDS if word.match(value)), None)
    if isinstance(value, bool) or not isinstance(value, float) or name not in _SCALES:
        return None
    reached = (
        level for level, least in zip(_SEVERITY, _SCALES[name], strict=False) if value >= least
    )
    return next(reached, "INFO" if value >= 10 or name != "level" else None)


def _split(texts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of texts, of which each may be an object itself."""
    for text in texts:
        for each in text.split("\n"):
            if each.strip():
                yield from unwrapped(each)
