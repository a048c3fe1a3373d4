"""Recorded logs, and what each of them says, checked by eye.

`recordings/logs/INDEX.tsv` gives the source of each; `NAME.json` holds the diagnosis and the
entries, without fields that are None.
"""

import csv
import json
from pathlib import Path
from typing import Any

LOGS = Path(__file__).parent / "recordings" / "logs"


def recorded() -> list[str]:
    """Return the names of the recorded logs."""
    with (LOGS / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["file"].removesuffix(".txt") for row in rows]


def text_of(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text(encoding="utf-8")


def expected_of(name: str) -> Any:
    return json.loads((LOGS / f"{name}.json").read_text(encoding="utf-8"))
