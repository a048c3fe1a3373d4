"""The recorded outputs of Ascend's tools, and what each of them says, checked by eye.

`recordings/INDEX.tsv` says where each recording is from; `recordings/NAME.json` is the whole
reading, without the fields that are None.
"""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ropeway.facts.base import Output, Reading

RECORDINGS = Path(__file__).parent / "recordings"


def recorded(*prefixes: str) -> list[str]:
    """The names of the recordings that begin like this, `hccn_ip_02`."""
    with (RECORDINGS / "INDEX.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    names = [row["file"].removesuffix(".txt") for row in rows]
    return [name for name in names if name.startswith(prefixes)]


def text_of(name: str) -> str:
    return (RECORDINGS / f"{name}.txt").read_text(encoding="utf-8")


def expected_of(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


def shown(output: Output[Any], reading: Reading[Any]) -> Any:
    """A reading as its expectation is written."""
    return {"output": output.name, **_without_none(json.loads(json.dumps(asdict(reading))))}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(entry) for name, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list) else value
