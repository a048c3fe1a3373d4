"""A host over SSH, by the system's `ssh`: what works in a terminal works here.

~/.ssh/config, jump hosts, agents and hardware keys are left to ssh, which gets only the user and
the port of the spec. It never prompts (BatchMode), and it checks the host's key whatever the config
says. All commands to a host share one connection, through a control socket. The first command makes
the connection, a later one makes it again if it is gone, and it ends a minute after the last
command or when `close` is called.
"""

import random
import secrets
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ropeway.errors import HostError, NoAnswer, NoSsh, SshError, TimeLimit, TurnedAway, reason_of
from ropeway.hosts import ssh_errors
from ropeway.hosts.base import Result, cannot_write
from ropeway.hosts.child import Child, Output, running, sleep_cancellable
from ropeway.hosts.remote import Framed, remote_line
from ropeway.phrases import phrase
from ropeway.spec.types import bracketed

# ssh first listens at this path plus 17 characters (mux.c), and macOS allows 104 bytes in all.
LONGEST_SOCKET = 86
# Seconds. A host that is up answers within one; after three silent keep-alives it is lost.
_CONNECT, _ALIVE, _ALIVE_TIMES = 10, 10, 3
# Seconds by which a connection outlives the last command: enough for the next pass over many hosts,
# and not so many that a connection we could not close stays for long.
_PERSIST = 60
# Seconds that the host has to end a cancelled command: two of SIGTERM, and the round trip.
_END_SECONDS = 4.0
# Seconds before another attempt. An sshd, or that of a jump host, drops connections at random when
# more than ten at once wait for their login (MaxStartups 10:30:100).
_RETRY_PAUSES = (0.5, 1.0, 2.0)
_TRANSFER = 600.0  # seconds; only scripts, logs and records are put and fetched
_SSH_FAILED = (255, -15, -9)  # ssh's own exit code; ended by somebody on this machine

_PUT = """
trap '' PIPE
draft=$(mktemp "$3") && trap 'rm -f "$draft"' EXIT && trap 'exit 1' TERM &&
cat >"$draft" && [ "$(wc -c <"$draft")" -eq "$4" ] && chmod "$2" "$draft" || exit
if [ -d "$1" ]; then echo ": Is a directory" >&2; exit 1; fi
mv -f "$draft" "$1"
"""


@dataclass(frozen=True)
class SshHost:
    """Runs commands over SSH; holds nothing but how to reach the host.

    socket      path of the control socket, in a private folder; `socket`.log is ssh's log
    user, port  as the spec has them; None for what ~/.ssh/config says
    config      is read in place of ~/.ssh/config
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
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Host.run. The timeout includes connecting; a signal n gives the exit code 128 + n.

        Raises the SshError that fits when the host cannot be reached.
        """
        started = time.monotonic()
        call = _Call(tuple(argv), stdin, timeout)
        code, out, err = self._run(call, on_line)
        return Result(tuple(argv), code, out.text(), err.text(), time.monotonic() - started)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """See Host.put."""
        target = PurePosixPath(path)
        draft = f"{target.parent}/.{target.name}.XXXXXX"
        arguments = (path, f"{mode:o}", draft, str(len(content)))
        script = ("env", "LC_ALL=C", "sh", "-c", _PUT, "sh", *arguments)
        code, _, err = self._run(_Call(script, stdin=content, timeout=_TRANSFER))
        if code:
            raise cannot_write(path, _reason(err), self.name)

    def get(self, path: str) -> bytes:
        """See Host.get."""
        read = ("env", "LC_ALL=C", "cat", "--", path)
        code, out, err = self._run(_Call(read, timeout=_TRANSFER))
        if code:
            raise HostError(
                phrase("cannot read `{path}`: {reason}", path=path, reason=_reason(err)),
                where=self.name,
            )
        return out.content()

    def close(self) -> None:
        """End the connection, if there is one.

        `ssh -O exit` ends as soon as the other ssh has got the message. Its socket goes a moment
        later, and a command in between would use the connection that is ending.
        """
        connection = Path(self.socket)
        if not connection.exists():
            return
        deadline = time.monotonic() + _END_SECONDS
        ignored = Output(self.name)
        with running(lambda: self._start(exit_argv(self), ignored, ignored)) as child:
            child.wait(deadline)
        delivered = child.exit_code == 0  # if not, the ssh was killed, and its socket stays
        while delivered and connection.exists() and time.monotonic() < deadline:
            time.sleep(0.005)

    def _run(
        self, call: "_Call", on_line: Callable[[str], None] | None = None
    ) -> tuple[int, Output, Output]:
        """Return exit code and both outputs; try again a few times when sshd turns us away."""
        deadline = time.monotonic() + call.timeout
        for pause in _RETRY_PAUSES:
            try:
                return self._attempt(call, deadline, on_line)
            except TurnedAway:
                pause *= random.uniform(0.5, 1.5)
                if time.monotonic() + pause >= deadline:
                    raise
                sleep_cancellable(pause)
        return self._attempt(call, deadline, on_line)

    def _attempt(
        self, call: "_Call", deadline: float, on_line: Callable[[str], None] | None
    ) -> tuple[int, Output, Output]:
        mark = secrets.token_hex(16)
        out, err = (Framed(mark, Output(self.name, on_line)) for _ in range(2))
        line = remote_line(
            call.argv,
            mark=mark,
            stdin_bytes=len(call.stdin),
            timeout=max(0.0, deadline - time.monotonic()),
        )
        log_length = len(self._log())

        def start() -> Child:
            return self._start(command_argv(self, line), out, err, call.stdin)

        def ended() -> bool:
            return out.ended and err.ended

        def stop(child: Child) -> None:
            if not err.started:
                child.end_group()  # including the proxies that ssh started
                return
            child.close_input()
            if not child.wait(time.monotonic() + _END_SECONDS):
                child.end()

        with running(start, stop) as child:
            if call.stdin and child.wait(deadline, lambda: err.has_input or ended()):
                child.send(b"\n")
            if not child.wait(deadline, ended):
                raise self._timed_out(call, out, err)
            code = child.exit_code
            if ended():
                child.close_input()
                if not child.wait(time.monotonic() + 1.0):
                    child.end()  # what the command left behind holds its outputs
        messages = self._log()[log_length:]
        if ended() and isinstance(err.verdict, int):
            return err.verdict, out.output, err.output
        raise self._failure(call, (out, err), code, messages)

    def _start(
        self,
        argv: tuple[str, ...],
        out: Output | Framed,
        err: Output | Framed,
        stdin: bytes = b"",
    ) -> Child:
        try:
            return Child(argv, (out.feed, err.feed), stdin=stdin, keep_input=True)
        except FileNotFoundError as error:
            hint = "apt install openssh-client"
            raise NoSsh("this machine has no `ssh`", where=self.name, hint=hint) from error
        except OSError as error:  # a command line that is too long
            what = phrase("cannot run `ssh`: {reason}", reason=reason_of(error))
            raise SshError(what, where=self.name) from error

    def _timed_out(self, call: "_Call", out: Framed, err: Framed) -> HostError:
        if not err.started:
            return NoAnswer(
                phrase("the host did not answer within {timeout:g} s", timeout=call.timeout),
                where=self.name,
                evidence=out.preamble.last_lines(),
                hint=phrase(
                    "is it up, and does a firewall let you through? try: {ssh} true",
                    ssh=self.by_hand,
                ),
            )
        return TimeLimit(
            phrase(
                "`{program}` did not end within {timeout:g} s and was stopped",
                program=call.argv[0],
                timeout=call.timeout,
            ),
            where=self.name,
            evidence=(*out.output.last_lines(), *err.output.last_lines()),
        )

    def _failure(
        self, call: "_Call", outputs: tuple[Framed, Framed], code: int | None, messages: str
    ) -> HostError:
        """Return why the command has no exit code.

        code      ssh's own exit code; None if it still runs
        messages  what ssh has written to its log meanwhile
        """
        out, err = outputs
        program = call.argv[0]
        output = (*out.output.last_lines(), *err.output.last_lines())
        if err.verdict == "missing":
            return HostError(
                phrase("cannot run `{program}`: no such file or directory", program=program),
                where=self.name,
            )
        if err.verdict == "lost" or (err.started and code not in _SSH_FAILED):
            what = phrase("the shell on the host was killed while `{program}` ran", program=program)
            return SshError(what, where=self.name, evidence=output)
        if code not in _SSH_FAILED:
            return SshError(
                "the login shell on the host does not run commands",
                where=self.name,
                evidence=(*out.preamble.last_lines(), *err.preamble.last_lines()),
                hint=phrase("this must print `hello`: {ssh} echo hello", ssh=self.by_hand),
            )
        if err.started or not messages:  # ssh never fails to connect without a message
            return ssh_errors.connection_lost(program, messages, self.name, self.by_hand, output)
        if ssh_errors.is_proxy_failure(messages):
            messages = self._ask_proxy() or messages
        return ssh_errors.connection_failure(messages, self.name, self.by_hand)

    def _ask_proxy(self) -> str:
        """Connect once more, alone, and return what the jump host says.

        When a connection is to outlive its command, ssh discards that (sshconnect.c).
        """
        output = Output(self.name)
        with running(lambda: self._start(alone_argv(self), output, output)) as child:
            child.close_input()
            child.wait(time.monotonic() + 2 * _CONNECT)
        return "" if child.exit_code == 0 else output.text()

    def _log(self) -> str:
        try:
            return Path(f"{self.socket}.log").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def by_hand(self) -> str:
        """Return ssh as a person would call it, for hints."""
        return shlex.join(("ssh", *_login_options(self), self.address))

    @property
    def as_flags(self) -> str:
        """Return `--host user@address:port`, as our verbs read it, for hints."""
        user = f"{self.user}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        config = ("--ssh-config", self.config) if self.config else ()
        return shlex.join(("--host", f"{user}{bracketed(self.address)}{port}", *config))


def ssh_argv(host: SshHost) -> tuple[str, ...]:
    """Return `ssh` and its options, without the address: for our commands, and for `rsync -e`."""
    return (
        "ssh",
        *("-S", host.socket, "-o", "ControlMaster=auto", "-o", f"ControlPersist={_PERSIST}"),
        # A log apart from the command's own output; this level has the messages of ssh_errors.
        *("-E", f"{host.socket}.log", "-o", "LogLevel=INFO"),
        *("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
        *("-o", f"ConnectTimeout={_CONNECT}"),
        *("-o", f"ServerAliveInterval={_ALIVE}", "-o", f"ServerAliveCountMax={_ALIVE_TIMES}"),
        # The config's forwardings are for the user's own sessions, and would collide with them.
        *("-T", "-x", "-o", "ClearAllForwardings=yes"),
        *_login_options(host),
    )


def command_argv(host: SshHost, line: str) -> tuple[str, ...]:
    """Return ssh for one line, which the login shell of the host reads."""
    return (*ssh_argv(host), "--", host.address, line)


def exit_argv(host: SshHost) -> tuple[str, ...]:
    """Return ssh that ends the shared connection."""
    return (*ssh_argv(host), "-O", "exit", "--", host.address)


def alone_argv(host: SshHost) -> tuple[str, ...]:
    """Return ssh with a connection of its own that does nothing, to see what goes wrong."""
    checked = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
    alone = ("-o", "ControlMaster=no", "-S", "none", "-o", f"ConnectTimeout={_CONNECT}")
    return ("ssh", *alone, *checked, "-T", "-x", *_login_options(host), "--", host.address, "exit")


@dataclass(frozen=True)
class _Call:
    """The arguments of `run`."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    timeout: float = 60.0


def _login_options(host: SshHost) -> tuple[str, ...]:
    config = ("-F", host.config) if host.config else ()
    user = ("-l", host.user) if host.user else ()
    port = ("-p", str(host.port)) if host.port else ()
    return (*config, *user, *port)


def _reason(err: Output) -> str:
    """Return the reason of an error: `cat: x: Permission denied` → `permission denied`."""
    line = next(reversed(err.text().strip().splitlines()), "")
    return line.rpartition(": ")[2].lower() or "no reason given"
