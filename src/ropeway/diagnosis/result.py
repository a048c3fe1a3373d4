"""What a diagnosis says: plain data, to be printed by who knows nothing of how it came."""

from dataclasses import dataclass
from typing import Literal

# healthy   no line says that something failed
# known     a line that names a cause we know
# unknown   a line that names a failure we do not know
# symptom   only lines that say that something else failed: the cause is in no log that we have
Verdict = Literal["healthy", "known", "unknown", "symptom"]

# measured  seen on this project's own cluster
# recorded  reported elsewhere, this line with this cause
# once      one report, not confirmed
# source    read in the source code or the manual of what prints the line
# code      only a number was printed: it says what kind of thing failed and not why
# none      not known
Basis = Literal["measured", "recorded", "once", "source", "code", "none"]

# The kinds of causes, and what they are called in Chinese.
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
    """A line of a log. `text` is without the log's own furniture, which the other fields hold."""

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


@dataclass(frozen=True)
class Aside:
    """Lines of one kind that are not the cause, and why not. `line` is the first of `count`."""

    line: LogLine
    count: int
    signature: str | None
    why: Text


@dataclass(frozen=True)
class LogRead:
    """A log that was read: how much of it, and how many of its lines told of a failure."""

    name: str
    lines: int
    characters: int
    failures: int


@dataclass(frozen=True)
class Diagnosis:
    """The answer of `ropeway diagnose`.

    headline   the line that decides, with what it leaves to its neighbours
    details    numbers and names from the lines: which rank, which port, how much memory
    evidence   the lines around it that belong to the same failure
    notes      what to keep in mind when reading it
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
    aside: tuple[Aside, ...] = ()
    notes: tuple[Text, ...] = ()
    logs: tuple[LogRead, ...] = ()
