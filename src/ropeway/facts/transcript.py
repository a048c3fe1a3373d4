"""What a host printed when it was asked: as it came, so that it can be read again elsewhere.

`ropeway bundle` writes one file for each host, and `ropeway doctor --bundle` reads them.
"""

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from ropeway.errors import Refused
from ropeway.facts.question import Question
from ropeway.facts.script import Answer, Pings, answers, script
from ropeway.facts.text import text_at
from ropeway.hosts.base import Host


@dataclass(frozen=True)
class Transcript:
    """The output of the script of questions on one host.

    name, address  of the host, as the spec calls it
    frame          the word that separates the answers
    """

    name: str
    address: str
    frame: str
    output: str

    def answers(self) -> tuple[Answer, ...]:
        """Return the answers in their order."""
        return tuple(answers(self.output, self.frame))

    def as_text(self) -> str:
        """Return a line of JSON that says what this is, and then the output as it came."""
        head = {"host": self.name, "address": self.address, "frame": self.frame}
        return f"{json.dumps(head, ensure_ascii=False)}\n{self.output}"


def transcript_from(text: str, where: str) -> Transcript:
    """Read what `as_text` wrote. Raises Refused, with `where`, when it is something else."""
    line, _, output = text.partition("\n")
    try:
        head: object = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    name, address, frame = (text_at(head, key) for key in ("host", "address", "frame"))
    if name is None or address is None or frame is None:
        raise Refused("the file does not hold a host's answers", where=where)
    return Transcript(name, address, frame, output)


def ask_for_transcript(
    host: Host, questions: Iterable[Question[object] | Pings], *, timeout: float
) -> Transcript:
    """Put the questions to a host, in one round trip. Raises HostError."""
    frame = f"R{secrets.token_hex(8)}"
    text = script(questions, frame).encode()
    result = host.run(("sh", "-s"), stdin=text, timeout=timeout)
    return Transcript(host.name, host.address, frame, result.stdout)
