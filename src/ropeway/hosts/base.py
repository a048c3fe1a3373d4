"""A host is a place where commands run; this file is the whole contract.

A command is a list of words until the last moment; `shell_line` turns it into text, for a shell at
the other end of SSH and for people who paste what `--dry-run` prints. Only shlex ever quotes.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from ropeway.errors import HostError
from ropeway.phrases import phrase

# How many of a failed command's last lines go into the error, and how much of the command itself:
# all of a script of ours, or of `docker run` with its labels, would hide the output.
_EVIDENCE_LINES, _COMMAND_CHARACTERS = 8, 120


@dataclass(frozen=True)
class Command:
    """What to run, as data.

    env      variables to set; people see the values, so they must not be secret
    secrets  variable → the variable of ours that holds its value, which is never in any argv
    log      a file on the host: the command runs detached, in a session of its own, writes there,
             and outlives us; with None we wait for the command and read its output
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    log: str | None = None


@dataclass(frozen=True)
class Result:
    """A command that has ended. `seconds` is wall time; broken UTF-8 in its output is replaced."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    def check(self, what: str, *, where: str, hint: str | None = None) -> "Result":
        """Return this result; raise HostError with the command and its last lines if it failed."""
        if self.ok:
            return self
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()[-_EVIDENCE_LINES:]
        command = shlex.join(self.argv)
        start = command.partition("\n")[0][:_COMMAND_CHARACTERS]
        status = phrase(
            "{command} → exit {code}",
            command=start + " …" * (start != command),
            code=self.exit_code,
        )
        raise HostError(what, where=where, evidence=(status, *lines), hint=hint)


class Host(Protocol):
    """One host: run a command on it, put a file there, get a file from there.

    name     what people and messages call it
    address  how other hosts reach it
    by_hand  what a person types to run a line there, before that line as one word
    as_flags  what a person adds to a verb of ours that is to act on a service of this host
    """

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def by_hand(self) -> str: ...

    @property
    def as_flags(self) -> str: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a command and wait for its end, at most `timeout` seconds.

        on_line  gets each line of output as soon as it is complete

        A non-zero exit code is a Result. Raises HostError when the program is missing, TimeLimit
        when the time is up. When the time is up or we are interrupted, nothing of it keeps running.
        """
        ...

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file, completely or not at all. Raises HostError."""
        ...

    def get(self, path: str) -> bytes:
        """Read a file. Raises HostError."""
        ...


def room_hint(reason: str, *folder: str) -> str | None:
    """Return what to do about a full disk; None when the reason is another one."""
    if "no space left" not in reason.lower():
        return None
    return phrase(
        "make room there; to see which disk is full: {command}",
        command=shlex.join(("df", "-h", *folder)),
    )


def cannot_write(path: str, reason: str, where: str) -> HostError:
    """Return the error for a file that cannot be written; `reason` as of `errors.reason_of`."""
    hint = room_hint(reason, str(PurePosixPath(path).parent))
    return HostError(
        phrase("cannot write `{path}`: {reason}", path=path, reason=reason), where=where, hint=hint
    )


def shell_line(command: Command) -> str:
    """Return the command as one line for `sh`; pasted into a shell it does what we do.

    Variables are assignments before the command and not arguments of `env`, so that no secret is
    ever in an argv.
    """
    words = [f"{name}={shlex.quote(value)}" for name, value in command.env.items()]
    words += [f'{name}="${source}"' for name, source in command.secrets.items()]
    argv = shlex.join(command.argv)
    if command.log is None:
        return " ".join([*words, argv])
    return " ".join([*words, f"setsid --fork {argv} >{shlex.quote(command.log)} 2>&1 </dev/null"])


def run_command(host: Host, command: Command, *, timeout: float = 60.0) -> Result:
    """Run a Command through the host's shell: exactly the line that `--dry-run` prints."""
    return host.run(("sh", "-c", shell_line(command)), timeout=timeout)


def shell_block(argv: Sequence[str]) -> str:
    """Return a command line with each option and its value on a line of its own, for people."""
    lines: list[list[str]] = [[]]
    for word in argv:
        full = len(lines[-1]) > 1 and len(lines) > 1
        if word.startswith("-") or full:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)


def shell_file(path: str, content: str) -> str:
    """Return shell commands that write a text file verbatim."""
    end = "END"
    while end in content.splitlines():
        end += "_"
    lines = content if content.endswith("\n") else f"{content}\n"
    quoted = shlex.quote(path)
    return f"cat >{quoted} <<'{end}'\n{lines}{end}\nchmod 644 {quoted}"
