"""A host is a place where commands run. This file is the whole contract, and the only quoting.

A command is an argv list until the last moment; `shell_line` turns it into text, for a shell on the
other side of SSH and for people who paste what `--dry-run` prints. Nothing else ever quotes.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from ropeway.errors import HostError

# How many of a failed command's last lines go into the error, and how much of the command itself: a
# script of ours, or `docker run` with all its labels, would hide what was said.
_EVIDENCE_LINES, _COMMAND_CHARACTERS = 8, 120


@dataclass(frozen=True)
class Command:
    """What to run, as data.

    env      variables to set; the values are shown to people, so they hold no secret
    secrets  variable → name of the variable of ours that holds its value; never in any argv
    log      a file on the host: given, the command runs detached, in a session of its own, writes
             there, and goes on when we leave; None: we wait for it and read its output
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    log: str | None = None


@dataclass(frozen=True)
class Result:
    """A command that ended. `seconds` is wall time; output is text, broken UTF-8 replaced."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def check(self, what: str, *, where: str, hint: str | None = None) -> "Result":
        """This result, or HostError with the command and its last lines when it failed."""
        if self.ok:
            return self
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()[-_EVIDENCE_LINES:]
        command = shlex.join(self.argv)
        begin = command.partition("\n")[0][:_COMMAND_CHARACTERS]
        shown = f"{begin}{' …' * (begin != command)} → exit {self.exit_code}"
        raise HostError(what, where=where, evidence=(shown, *lines), hint=hint)


class Host(Protocol):
    """One host: run a command, put a file there, get a file from there.

    name     how people and messages call it
    address  what other hosts reach it by
    """

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run and wait, at most `timeout` seconds; `on_line` hears each line of output at once.

        Raises HostError when the program is not there or the time is up; a non-zero exit code is a
        Result. When the time is up or we are interrupted, nothing of it is left running.
        """
        ...

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file, whole or not at all. Raises HostError."""
        ...

    def get(self, path: str) -> bytes:
        """Read a file. Raises HostError."""
        ...


def room_hint(said: str, *folder: str) -> str | None:
    """What to do where a disk is full; None when what was said is not that."""
    if "no space left" not in said.lower():
        return None
    return f"make room there; which disk is full: {shlex.join(('df', '-h', *folder))}"


def cannot_write(path: str, reason: str, where: str) -> HostError:
    """The error of a file that cannot be written; `reason` as the system says it, in lower case."""
    hint = room_hint(reason, str(PurePosixPath(path).parent))
    return HostError(f"cannot write `{path}`: {reason}", where=where, hint=hint)


def shell_line(command: Command) -> str:
    """The command as one line for `sh`; pasted into a shell it does what we do.

    Variables are assignments before the command and not arguments of `env`, so that a secret
    stands in no argv.
    """
    words = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    words += [f'{name}="${source}"' for name, source in command.secrets.items()]
    argv = shlex.join(command.argv)
    if command.log is None:
        return " ".join([*words, argv])
    return " ".join([*words, f"setsid --fork {argv} >{shlex.quote(command.log)} 2>&1 </dev/null"])


def run_command(host: Host, command: Command, *, timeout: float = 60.0) -> Result:
    """Run a Command on a host through its shell: the very line that `--dry-run` prints."""
    return host.run(("sh", "-c", shell_line(command)), timeout=timeout)


def shell_block(command: Command) -> str:
    """`shell_line`, with each option and its value on a line of its own: for people to read."""
    lines: list[list[str]] = [[]]
    for word in command.argv:
        full = len(lines[-1]) > 1 and len(lines) > 1
        if word.startswith("-") or full:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)


def shell_file(path: str, content: str, mode: int = 0o644) -> str:
    """Shell commands that write a text file as it is."""
    end = "END"
    while end in content.splitlines():
        end += "_"
    whole = content if content.endswith("\n") else f"{content}\n"
    quoted = shlex.quote(path)
    return f"cat >{quoted} <<'{end}'\n{whole}{end}\nchmod {mode:o} {quoted}"
