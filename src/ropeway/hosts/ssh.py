"""A host over SSH, by the system's `ssh`: what works in a terminal works here.

~/.ssh/config, jump hosts, agents and hardware keys are ssh's own affair; it is told the user and
the port of the spec and no more about the way. It never asks (BatchMode), and it checks the host's
key whatever the config says. All commands share one connection for each host, through a control
socket; the connection is made by the first command, made again when it is gone, and ends a minute
after the last one or when `close` is called.
"""

import random
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ropeway.errors import HostError, NoAnswer, NoSsh, SshError, TimeLimit, TurnedAway
from ropeway.hosts import ssh_errors
from ropeway.hosts.base import Result, cannot_write
from ropeway.hosts.child import Child, Output, running, sleep_cancellable
from ropeway.hosts.remote import Framed, remote_line

# ssh listens at this path with 17 characters more, before it moves it into place (mux.c), and macOS
# allows 104 bytes for all of it.
LONGEST_SOCKET = 86
# Seconds. A host that is up answers within one; one that is silent for three keep-alives is gone.
_CONNECT, _ALIVE, _ALIVE_TIMES = 10, 10, 3
# The connection outlives the last command by this: long enough to be there for the next pass over
# many hosts, short enough that what we could not close is soon gone.
_PERSIST = 60
# How long the host has for ending what was cut off: two seconds of asking, and the way there.
_LET_GO = 4.0
# An sshd drops connections at random when more than ten at once wait for their login (MaxStartups
# 10:30:100), a jump host's too; so we come back, not all at the same time.
_COME_BACK = (0.5, 1.0, 2.0)
_TRANSFER = 600.0  # seconds; what is put and got are scripts, logs and records
_SSH_FAILED = (255, -15, -9)  # ssh's own exit code; somebody on this machine has ended it

_PUT = """
trap '' PIPE
draft=$(mktemp "$3") && trap 'rm -f "$draft"' EXIT && trap 'exit 1' TERM &&
cat >"$draft" && [ "$(wc -c <"$draft")" -eq "$4" ] && chmod "$2" "$draft" || exit
if [ -d "$1" ]; then echo ": Is a directory" >&2; exit 1; fi
mv -f "$draft" "$1"
"""


@dataclass(frozen=True)
class SshHost:
    """Runs commands over SSH. Nothing is kept here but how to get there.

    socket   path of the control socket, in a folder of ours alone; `socket`.log is ssh's log
    user     and port: what the spec says; None is what ~/.ssh/config says
    config   read in place of ~/.ssh/config
    """

    name: str
    address: str
    socket: str
    user: str | None = None
    port: int | None = None
    config: str | None = None

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Host.run; the time for connecting counts. A signal n ends a command with 128 + n.

        Raises SshError, by kind, when the host cannot be reached. `env` stands in the host's list
        of processes.
        """
        started = time.monotonic()
        task = _Task(tuple(argv), env or {}, stdin, timeout)
        code, out, err = self._run(task, on_line)
        return Result(tuple(argv), code, out.text(), err.text(), time.monotonic() - started)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """See Host.put."""
        target = PurePosixPath(path)
        draft = f"{target.parent}/.{target.name}.XXXXXX"
        given = (path, f"{mode:o}", draft, str(len(content)))
        script = ("env", "LC_ALL=C", "sh", "-c", _PUT, "sh", *given)
        code, _, err = self._run(_Task(script, stdin=content, timeout=_TRANSFER))
        if code:
            raise cannot_write(path, _reason(err), self.name)

    def get(self, path: str) -> bytes:
        """See Host.get."""
        read = ("env", "LC_ALL=C", "cat", "--", path)
        code, out, err = self._run(_Task(read, timeout=_TRANSFER))
        if code:
            raise HostError(f"cannot read `{path}`: {_reason(err)}", where=self.name)
        return out.content()

    def close(self) -> None:
        """End the connection, if there is one.

        `ssh -O exit` ends when the other ssh has heard it. The socket goes a moment later, and a
        command in between would take the connection that ends.
        """
        connection = Path(self.socket)
        if not connection.exists():
            return
        deadline = time.monotonic() + _LET_GO
        nobody = Output(self.name)
        with running(lambda: self._begin(exit_argv(self), (nobody.hear, nobody.hear))) as child:
            child.wait(deadline)
        heard = child.exit_code == 0  # or the socket is of one that was killed, and stays
        while heard and connection.exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(
        self, task: "_Task", on_line: Callable[[str], None] | None = None
    ) -> tuple[int, Output, Output]:
        """Exit code and both outputs. Comes back some times when it is turned away."""
        deadline = time.monotonic() + task.timeout
        for pause in _COME_BACK:
            try:
                return self._once(task, deadline, on_line)
            except TurnedAway:
                pause *= random.uniform(0.5, 1.5)
                if time.monotonic() + pause >= deadline:
                    raise
                sleep_cancellable(pause)
        return self._once(task, deadline, on_line)

    def _once(
        self, task: "_Task", deadline: float, on_line: Callable[[str], None] | None
    ) -> tuple[int, Output, Output]:
        mark = secrets.token_hex(16)
        out, err = (Framed(mark, Output(self.name, on_line)) for _ in range(2))
        line = remote_line(
            task.argv,
            mark=mark,
            env=task.env,
            stdin_bytes=len(task.stdin),
            timeout=max(0.0, deadline - time.monotonic()),
        )
        said_before = len(self._log())

        def begin() -> Child:
            return self._begin(command_argv(self, line), (out.hear, err.hear), task.stdin)

        def ended() -> bool:
            return out.ended and err.ended

        def let_go(child: Child) -> None:
            if not err.begun:
                child.end_group()  # with the proxies that it started
                return
            child.close_input()
            if not child.wait(time.monotonic() + _LET_GO):
                child.end()

        with running(begin, let_go) as child:
            if task.stdin and child.wait(deadline, lambda: err.fed or ended()):
                child.send(b"\n")
            if not child.wait(deadline, ended):
                raise self._late(task, out, err)
            code = child.exit_code
            if ended():
                child.close_input()
                if not child.wait(time.monotonic() + 1.0):
                    child.end()  # something that the command left behind holds its outputs
        words = self._log()[said_before:]
        if ended() and isinstance(err.verdict, int):
            return err.verdict, out.output, err.output
        raise self._broken(task, (out, err), code, words)

    def _begin(
        self,
        argv: tuple[str, ...],
        hear: tuple[Callable[[bytes], None], Callable[[bytes], None]],
        stdin: bytes = b"",
    ) -> Child:
        try:
            return Child(argv, hear, stdin=stdin, hold=True)
        except FileNotFoundError as error:
            hint = "apt install openssh-client"
            raise NoSsh("this machine has no `ssh`", where=self.name, hint=hint) from error
        except OSError as error:  # a command line that is too long
            reason = (error.strerror or str(error)).lower()
            raise SshError(f"cannot run `ssh`: {reason}", where=self.name) from error

    def _late(self, task: "_Task", out: Framed, err: Framed) -> HostError:
        if not err.begun:
            return NoAnswer(
                f"the host did not answer within {task.timeout:g} s",
                where=self.name,
                evidence=out.before.last_lines(),
                hint=f"is it up, and does a firewall let you through? try: {self._by_hand} true",
            )
        return TimeLimit(
            f"`{task.argv[0]}` did not end within {task.timeout:g} s and was stopped",
            where=self.name,
            evidence=(*out.output.last_lines(), *err.output.last_lines()),
        )

    def _broken(
        self, task: "_Task", heard: tuple[Framed, Framed], code: int | None, words: str
    ) -> HostError:
        """Why there is no exit code. `code` is that of ssh, `words` is what it said meanwhile."""
        out, err = heard
        program = task.argv[0]
        output = (*out.output.last_lines(), *err.output.last_lines())
        if err.verdict == "missing":
            return HostError(f"cannot run `{program}`: no such file or directory", where=self.name)
        if err.verdict == "lost" or (err.begun and code not in _SSH_FAILED):
            what = f"the shell on the host was ended while `{program}` ran"
            return SshError(what, where=self.name, evidence=output)
        if code not in _SSH_FAILED:
            return SshError(
                "the login shell on the host does not run commands",
                where=self.name,
                evidence=(*out.before.last_lines(), *err.before.last_lines()),
                hint=f"this must print `hello`: {self._by_hand} echo hello",
            )
        if err.begun or not words:  # ssh never fails to connect without a word
            return ssh_errors.lost(program, words, self.name, output)
        if ssh_errors.hides_a_proxy(words):
            words = self._ask_proxy() or words
        return ssh_errors.failure(words, self.name, self._by_hand)

    def _ask_proxy(self) -> str:
        """What the jump host says. Where the connection is to outlive the command, ssh lets nobody
        hear it (sshconnect.c); so once more, alone."""
        words = Output(self.name)
        with running(lambda: self._begin(alone_argv(self), (words.hear, words.hear))) as child:
            child.close_input()
            child.wait(time.monotonic() + 2 * _CONNECT)
        return "" if child.exit_code == 0 else words.text()

    def _log(self) -> str:
        try:
            return Path(f"{self.socket}.log").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def _by_hand(self) -> str:
        """ssh as a person would call it, for hints."""
        words = ["ssh", *_way(self), self.address]
        return shlex.join(words)


def ssh_argv(host: SshHost) -> tuple[str, ...]:
    """`ssh` and its options, without the address: for commands of ours, and for `rsync -e`."""
    return (
        "ssh",
        *("-S", host.socket, "-o", "ControlMaster=auto", "-o", f"ControlPersist={_PERSIST}"),
        # A log apart from the command's own output; at this level it has what we tell errors by.
        *("-E", f"{host.socket}.log", "-o", "LogLevel=INFO"),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"ConnectTimeout={_CONNECT}"),
        *("-o", f"ServerAliveInterval={_ALIVE}", "-o", f"ServerAliveCountMax={_ALIVE_TIMES}"),
        # What the config forwards is for the user's own sessions, and would collide with them.
        *("-T", "-x", "-o", "ClearAllForwardings=yes"),
        *_way(host),
    )


def command_argv(host: SshHost, line: str) -> tuple[str, ...]:
    """ssh for one line, which the login shell there reads."""
    return (*ssh_argv(host), "--", host.address, line)


def exit_argv(host: SshHost) -> tuple[str, ...]:
    """ssh that ends the shared connection."""
    return (*ssh_argv(host), "-O", "exit", "--", host.address)


def alone_argv(host: SshHost) -> tuple[str, ...]:
    """ssh with a connection of its own that does nothing: what goes wrong can be heard."""
    checked = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
    alone = ("-o", "ControlMaster=no", "-S", "none", "-o", f"ConnectTimeout={_CONNECT}")
    return ("ssh", *alone, *checked, "-T", "-x", *_way(host), "--", host.address, "exit")


@dataclass(frozen=True)
class _Task:
    """What `run` was asked for."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    timeout: float = 60.0


def _way(host: SshHost) -> tuple[str, ...]:
    config = ("-F", host.config) if host.config else ()
    user = ("-l", host.user) if host.user else ()
    port = ("-p", str(host.port)) if host.port else ()
    return (*config, *user, *port)


def _reason(err: Output) -> str:
    """`cat: x: Permission denied` → `permission denied`."""
    line = next(reversed(err.text().strip().splitlines()), "")
    return line.rpartition(": ")[2].lower() or "it does not say why"
