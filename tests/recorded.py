"""Recorded answers of hosts, recorded logs, and what each of them says, checked by eye.

`INDEX.tsv` of a folder gives the source of each text. `NAME.json` holds what is read from it (of a
log: its diagnosis and entries), without fields that are empty. Prompts and echoed commands were
taken out of answers; nothing else was. `recordings/excerpts/*.json` holds single lines and rows,
each with why it is there.
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropeway.facts.__main__ import as_json
from ropeway.facts.local import CORES
from ropeway.facts.question import Parsed, Question
from ropeway.facts.questions import ALL

RECORDINGS = Path(__file__).parent / "recordings"
QUESTIONS = {question.key: question for question in (*ALL, CORES)}


@dataclass(frozen=True)
class Recordings:
    """A folder of recorded texts, each with what is read from it."""

    folder: Path

    def names(self) -> list[str]:
        """Return the names of all, `hccn_ip_02`."""
        with (self.folder / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            return [row["file"].removesuffix(".txt") for row in rows]

    def text_of(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text(encoding="utf-8")

    def expected_of(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))


ANSWERS, LOGS = Recordings(RECORDINGS), Recordings(RECORDINGS / "logs")


def excerpts() -> list[dict[str, Any]]:
    """Return the excerpts: why, question, lines of text, and the reading."""
    files = sorted((RECORDINGS / "excerpts").glob("*.json"))
    return [excerpt for file in files for excerpt in json.loads(file.read_text(encoding="utf-8"))]


def question_of(name: str) -> Question[object]:
    """Return the question to which a recording is the answer."""
    return QUESTIONS[ANSWERS.expected_of(name)["question"]]


def shown(question: Question[object], parsed: Parsed[object]) -> Any:
    """Return a reading as its expectation is written."""
    fields = json.loads(as_json(parsed))
    assert fields.keys() == asdict(parsed).keys()
    kept = {name: value for name, value in fields.items() if value not in (None, [], "")}
    return {"question": question.key, **kept}
