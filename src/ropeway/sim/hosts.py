"""A host that does not exist: it answers the questions of facts/script.py as its machine would.

The script is the one that a real host's `sh` gets; here its lines are read instead of run. So a
rehearsal goes through the same gathering, parsers, checks and reports, and only the machine is not
real. tests/test_sim_hosts.py gives one script to both and compares.
"""

import functools
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ropeway.facts.script import NOT_FOUND, START
from ropeway.hosts.base import Result
from ropeway.hosts.ssh_errors import connection_failure
from ropeway.sim import linux, npu_smi
from ropeway.sim.hccn_tool import HccnTool
from ropeway.sim.machine import Fleet, Machine
from ropeway.sim.without_files import WithoutFiles

_BLIND = {"npu-smi", "hccn_tool"}


@dataclass(frozen=True)
class VirtualHost(WithoutFiles):
    """One machine of a fleet as a Host. Only `sh -s` with a script of questions can be run."""

    machine: Machine
    fleet: Fleet
    hccn: HccnTool

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def address(self) -> str:
        return self.machine.address

    @property
    def by_hand(self) -> str:
        return self.machine.by_hand or f"ssh {self.address}"

    @property
    def as_flags(self) -> str:
        return f"--host {self.address}"

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", **_: object) -> Result:
        """See Host.run. Raises SshError where the machine cannot be reached."""
        started = time.monotonic()
        if self.machine.failure is not None:
            raise connection_failure(self.machine.failure, self.name, self.by_hand)
        assert tuple(argv) == ("sh", "-s"), argv
        output = "".join(self._frames(stdin.decode()))
        return Result(tuple(argv), 0, output, "", time.monotonic() - started)

    def answer(self, argv: Sequence[str]) -> tuple[int, str]:
        """Return exit code and output of one command."""
        program = argv[0]
        if program in self.machine.missing:
            return NOT_FOUND, ""
        if program == "npu-smi":
            return npu_smi.answer(self.machine, argv[1:])
        if program == "hccn_tool":
            return self.hccn.answer(self.machine, argv[1:])
        return linux.answer(self.machine, self.fleet, argv)

    def _frames(self, script: str) -> Iterator[str]:
        head, _, questions = script.partition(START + "\n")
        frame = head.partition("=")[2].partition("\n")[0]
        succeeded: set[str] = set()
        for line in _read(questions):
            words = line
            while words[0] in ("after", "unless"):
                words = words[2:] if (words[1] in succeeded) == (words[0] == "after") else ("skip",)
            for key, argv in self._commands(words):
                code, text = self.answer(argv)
                if code == 0:
                    succeeded.add(key)
                yield f"\n{frame} {key}\n{text}\n{frame} = {code}\n"

    def _commands(self, words: tuple[str, ...]) -> Iterator[tuple[str, Sequence[str]]]:
        """Yield keys and commands of a line of the script, as the prelude's functions make them."""
        if words[0] == "ask":
            yield words[2], words[3:]
        elif words[0] == "each":
            for number in self._numbers(words[1]):
                argv = [number if word == "N" else word for word in words[4:]]
                yield f"{words[3]}:{number}", argv
        elif words[0] == "pings":
            device = words[2]
            for address in words[3:]:
                ping = ("hccn_tool", "-i", device, "-ping", "-g", "address", address)
                yield f"ping:{device}:{address}", ping

    def _numbers(self, target: str) -> Sequence[str]:
        if "driver" in self.machine.missing or (target == "npu" and self.machine.missing & _BLIND):
            return ()
        chips = [chip for chip in self.machine.chips if not chip.dropped]
        numbers = (chip.npu if target == "npu" else chip.device for chip in chips)
        return tuple(str(number) for number in dict.fromkeys(numbers))


def virtual_hosts(fleet: Fleet) -> tuple[VirtualHost, ...]:
    """Return every machine of the fleet as a host."""
    hccn = HccnTool(fleet)
    return tuple(VirtualHost(machine, fleet, hccn) for machine in fleet.machines)


@functools.lru_cache(maxsize=8)
def _read_same(questions: str) -> tuple[tuple[str, ...], ...]:
    lines = []
    line = ""
    for piece in questions.splitlines():
        line = f"{line}\n{piece}" if line else piece
        try:
            lines.append(tuple(shlex.split(line)))
        except ValueError:  # a quotation goes on in the next line
            continue
        line = ""
    return tuple(words for words in lines if words)


def _read(questions: str) -> tuple[tuple[str, ...], ...]:
    """The lines as words. The questions of most hosts are the same; pings differ, and are many."""
    if questions.startswith("pings "):
        return tuple(tuple(line.split()) for line in questions.splitlines() if line)
    return _read_same(questions)
