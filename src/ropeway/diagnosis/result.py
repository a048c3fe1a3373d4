"""The result of a diagnosis, as plain data in English and Chinese."""

from dataclasses import dataclass
from typing import Literal

# healthy   no line reports a failure
# known     a line names a cause that the table knows
# unknown   a line names a failure that the table does not know
# symptom   lines only report that something else failed: the cause is in none of the logs
Verdict = Literal["healthy", "known", "unknown", "symptom"]

# measured  observed on this project's own cluster
# recorded  reported elsewhere: this line, with this cause
# once      one report, not confirmed
# source    read in the source code or manual of the program that prints the line
# code      only a number was printed, which says what failed but not why
# none      unknown
Basis = Literal["measured", "recorded", "once", "source", "code", "none"]

# The kinds of causes, with their Chinese names.
CATEGORIES = {
    "memory": "内存",
    "storage": "存储",
    "network": "网络",
    "port": "端口",
    "driver": "驱动",
    "device": "设备",
    "version": "版本",
    "configuration": "配置",
    "layout": "并行布局",
    "quantisation": "量化",
    "model": "模型",
    "process": "进程",
    "hang": "卡死",
}


@dataclass(frozen=True)
class LogLine:
    """A line of a log. `text` is the message without its heads; the other fields hold those."""

    log: str
    number: int
    text: str
    time: str | None = None
    process: str | None = None
    pid: int | None = None
    rank: int | None = None
    host: str | None = None


@dataclass(frozen=True)
class Text:
    """The same words in English and Chinese."""

    en: str
    zh: str

    def in_language(self, language: str) -> str:
        """Return the words in `zh`, else in English."""
        return self.zh if language == "zh" else self.en


@dataclass(frozen=True)
class RuledOut:
    """Lines of one kind that are not the cause, and why. `line` is the first of `count`."""

    line: LogLine
    count: int
    signature: str | None
    why: Text


@dataclass(frozen=True)
class LogRead:
    """The size of a log that was read, and how many of its lines report a failure."""

    name: str
    lines: int
    characters: int
    failures: int


@dataclass(frozen=True)
class Diagnosis:
    """The answer of `ropeway diagnose`.

    headline   the decisive line, with what it leaves to the lines around it
    line       None when nothing failed
    signature  id of the row of the table; None for an unknown failure
    echo       whether the line says no more than that something failed
    details    numbers and names from the lines: which rank, which port, how much memory
    evidence   the lines after it that belong to the same failure
    aside      failures that are not the cause
    notes      caveats for the reader
    """

    verdict: Verdict
    headline: str
    line: LogLine | None
    signature: str | None
    echo: bool
    category: str | None
    cause: Text
    fix: Text
    details: tuple[Text, ...] = ()
    source: tuple[str, ...] = ()
    versions: str | None = None
    basis: Basis = "none"
    evidence: tuple[LogLine, ...] = ()
    aside: tuple[RuledOut, ...] = ()
    notes: tuple[Text, ...] = ()
    logs: tuple[LogRead, ...] = ()
