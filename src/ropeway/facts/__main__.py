"""Print what a saved output says, as JSON: for whoever turns a report into a test.

    python -m ropeway.facts                          lists the questions
    python -m ropeway.facts npu-smi-info saved.txt   parses an output; `-` is stdin
    python -m ropeway.facts hccn-ip:3 HOST.txt       parses an answer in the file of a bundle

Exit code 0: it was understood, also where it is an error of the tool. 1: it was not. 2: there is no
such question or file.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from ropeway.errors import Exit, Refused, reason_of
from ropeway.facts.question import Parsed, Question
from ropeway.facts.questions import ALL
from ropeway.facts.text import parse_int
from ropeway.facts.transcript import transcript_from
from ropeway.outside import is_there, read_at_most, read_bounded
from ropeway.streams import OutputFailed, ReaderGone, drop_output, mend_streams

# No host answers with more, and what has no end, such as /dev/zero, takes no more memory.
_MOST_BYTES = 64 << 20
_QUESTIONS = {question.key: question for question in ALL}


def main(arguments: Sequence[str]) -> int:
    """Carry out a command line; returns its exit code."""
    try:
        if not arguments:
            sys.stdout.writelines(map(_listed, _QUESTIONS.values()))
            return Exit.OK
        if len(arguments) != 2:
            raise Refused("give a question and a file", hint="without arguments they are listed")
        parsed = parse(arguments[0], _read(arguments[1]))
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return Refused.exit_code
    sys.stdout.write(f"{as_json(parsed)}\n")
    return Exit.NO if parsed.state == "unknown" else Exit.OK


def _listed(question: Question[object]) -> str:
    command = " ".join(" ".join(question.argv).split())
    return f"{question.key:<22}  {command[:75]}\n"


def parse(key: str, text: str) -> Parsed[object]:
    """Parse an output, or the answer to the question in a file of a bundle. Raises Refused."""
    name, _, number = key.partition(":")
    if name not in _QUESTIONS:
        raise Refused(f"there is no question `{name}`", hint="without arguments they are listed")
    try:
        answers = transcript_from(text, name).answers()
    except Refused:
        return _QUESTIONS[name].parse(text)
    for answer in answers:
        if answer.key == name and answer.number == parse_int(number):
            return _QUESTIONS[name].parse(answer.text)
    raise Refused(f"the file has no answer to `{key}`")


def as_json(parsed: Parsed[object]) -> str:
    """Return the document, keys in their order."""
    return json.dumps(_plain(asdict(parsed)), indent=2, ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def _read(file: str) -> str:
    """Return the text; broken UTF-8 is replaced, and what PowerShell saves (UTF-16) is read."""
    try:
        if file == "-":
            content = read_at_most(sys.stdin.buffer, _MOST_BYTES)
        else:
            content = read_bounded(Path(file), _MOST_BYTES)
    except (OSError, ValueError) as error:
        hint = "`-` reads what is piped in" if is_there(Path(file)) else None
        reason = reason_of(error) if isinstance(error, OSError) else error.args[0]
        raise Refused(f"cannot read `{file}`: {reason}", hint=hint) from error
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if wide else "utf-8", errors="replace")


def run() -> int:
    """Carry out this process's command line, whatever its streams are; returns its exit code."""
    mend_streams()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
        return code
    except OutputFailed as error:
        drop_output()
        if not isinstance(error, ReaderGone):
            sys.stderr.write(f"error: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
