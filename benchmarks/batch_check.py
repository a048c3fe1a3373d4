"""Is what a batch job wrote right? Reads the three files only, and nothing of Ropeway's.

Each row of the input must be in the output or in the file of errors, once, and each answer must be
its own row's: `batch_endpoint.py` answers with a hash of the body that asked. The input has the
form of OpenAI's batches, whose bodies are sent byte for byte as they are. Answers to other inputs
are not checked, and are counted as such.

    python benchmarks/batch_check.py in.jsonl out.jsonl out.errors.jsonl
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SHOWN = 10
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_BETWEEN = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")


def raw_values(text: str) -> dict[str, str]:
    """Return the values of a JSON object as they are written."""
    values = {}
    at = _SPACE.match(text, text.index("{") + 1).end()
    while text[at] != "}":
        key, at = _DECODER.raw_decode(text, at)
        begin = _BETWEEN.match(text, at).end()
        _, at = _DECODER.raw_decode(text, begin)
        values[key] = text[begin:at]
        at = _SPACE.match(text, at).end()
        if text[at] == ",":
            at = _SPACE.match(text, at + 1).end()
    return values


class Check:
    """What is expected, what was found, and what is wrong."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.bodies: dict[str, bytes] = {}  # name → hash of its body; empty where it has none
        self.found: dict[str, int] = {}  # name → its ordinal

    def fault(self, text: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < _SHOWN:
            self.faults.append(text)

    def read_input(self, path: Path) -> None:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                values = raw_values(line.decode("utf-8-sig"))
                name = f"row-{len(self.bodies)}"
                if "custom_id" in values:
                    name = json.loads(values["custom_id"])
                body = values.get("body", "").encode()
                digest = hashlib.blake2b(body, digest_size=16).digest() if body else b""
                if name in self.bodies:
                    self.fault(f"input: {name} is there twice")
                self.bodies[name] = digest
        self.counts["rows"] = len(self.bodies)

    def lines(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the lines that are whole, each with its row's name."""
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                place = f"{path.name}:{number}"
                try:
                    document = json.loads(line)
                    name = document["custom_id"]
                except (ValueError, KeyError, TypeError) as error:
                    self.fault(f"{place}: is no line of a batch's output: {error}")
                    continue
                if not line.endswith(b"\n"):
                    self.fault(f"{place}: has no end")
                if name not in self.bodies:
                    self.fault(f"{place}: {name} is no row of the input")
                elif name in self.found:
                    self.fault(f"{place}: {name} is there a second time")
                else:
                    self.found[name] = number
                    yield place, document

    def read_output(self, path: Path) -> None:
        for place, document in self.lines(path):
            response, name = document.get("response") or {}, document["custom_id"]
            if response.get("status_code") != 200 or document.get("error") is not None:
                self.fault(f"{place}: {name} has no good answer")
                continue
            choices = response["body"].get("choices") or [{}]
            cut = any(choice.get("finish_reason") == "length" for choice in choices)
            self.counts["cut" if cut else "answered"] += 1
            expected = self.bodies[name]
            texts = [
                choice.get("message", choice).get("content", choice.get("text"))
                for choice in choices
            ]
            if not expected:
                self.counts["not checked"] += 1
            elif texts != [expected.hex()] * len(texts):
                self.fault(f"{place}: {name} has the answer of another row: {texts}")

    def read_errors(self, path: Path) -> None:
        for place, document in self.lines(path):
            status = (document.get("response") or {}).get("status_code", 0)
            if not document.get("error") and status < 400:
                self.fault(f"{place}: {document['custom_id']} says no error")
            self.counts["errors"] += 1

    def check_order(self) -> None:
        """The output's rows come in the order of the input. Called before errors are read."""
        names = iter(self.bodies)
        for name in self.found:
            if name not in names:  # which goes on from where it was
                self.fault(f"{name} is not in the order of the input")
                return

    def check_all_there(self) -> None:
        for name in self.bodies.keys() - self.found.keys():
            self.fault(f"{name} is in neither file")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("errors", type=Path)
    parser.add_argument("--ordered", action="store_true", help="as the input is")
    parser.add_argument("--partial", action="store_true", help="rows may still be missing")
    arguments = parser.parse_args()
    check = Check()
    check.read_input(arguments.input)
    check.read_output(arguments.output)
    if arguments.ordered:
        check.check_order()
    check.read_errors(arguments.errors)
    if not arguments.partial:
        check.check_all_there()
    print(json.dumps(check.counts))
    for fault in check.faults:
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if check.counts["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
