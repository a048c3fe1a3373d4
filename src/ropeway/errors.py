"""Every error Ropeway raises on purpose, and the exit code each one ends with.

    RopewayError            1  done, and the answer is no
    ├── HostError           1  a command on a host failed, hung, or could not be run
    │   ├── TimeLimit       1  it did not end in time, and was stopped
    │   ├── Cancelled       1  it was stopped, or not begun: the run that wanted it has ended
    │   └── SshError        1  the host cannot be reached over SSH, or no longer can
    │       ├── NoSsh           this machine has no `ssh`
    │       ├── NoSuchHost      the name cannot be resolved
    │       ├── NoRoute         no route to it
    │       ├── PortRefused     it is up, but nothing listens on the port
    │       ├── NoAnswer        nothing answered in time
    │       ├── TurnedAway      it closed the connection before the login
    │       ├── UnknownHostKey  its key is not in known_hosts
    │       ├── ChangedHostKey  its key is not the one in known_hosts, or is revoked there
    │       ├── LoginRefused    it does not accept the user or our keys
    │       └── ConnectionLost  the connection was lost while a command ran
    ├── CheckFailed         1  the hosts are or have what rules a start out; nothing was started
    ├── LaunchError         1  the engine did not come up; what was started has been undone
    ├── EndpointError       1  the model server is away, refuses us, or broke off
    └── Refused             2  bad input or a missing need: nothing was touched
        ├── SpecError       2  the spec file: file, line and dotted path
        ├── ModelError      2  the model directory: what is missing or broken
        └── LayoutError     2  the layout cannot run: the numbers, and what can

Anything else that escapes is our bug: exit code 3. Ctrl-C is 130.
"""

from collections.abc import Sequence
from enum import IntEnum


class Exit(IntEnum):
    """The exit code of the process."""

    OK = 0
    NO = 1
    REFUSED = 2
    BUG = 3
    INTERRUPTED = 130


class RopewayError(Exception):
    """A failure with its next step.

    what      one line, lower case, no full stop: what is wrong
    where     file, host or URL it concerns
    evidence  lines that prove it: a command's last output, numbers, a log line
    hint      something to type or to check
    """

    exit_code = Exit.NO

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        evidence: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.evidence = tuple(evidence)
        self.hint = hint

    def as_json(self) -> dict[str, object]:
        """The error as plain data, for `--json`."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "evidence": list(self.evidence),
            "hint": self.hint,
            "exit_code": int(self.exit_code),
        }


class HostError(RopewayError):
    """A command on a host failed, hung, or could not be run."""


class TimeLimit(HostError):
    """A command did not end in time, and was stopped."""


class Cancelled(HostError):
    """A command was stopped, or not begun, because the run that wanted it has ended."""


class SshError(HostError):
    """The host cannot be reached over SSH, or no longer can."""


class NoSsh(SshError):
    """This machine has no `ssh` program."""


class NoSuchHost(SshError):
    """The host's name cannot be resolved."""


class NoRoute(SshError):
    """There is no route to the host."""


class PortRefused(SshError):
    """The host is up, but nothing listens on the port."""


class NoAnswer(SshError):
    """Nothing answered in time: the host is down, or something between us drops the packets."""


class TurnedAway(SshError):
    """The host closed the connection before the login; the command has not begun."""


class UnknownHostKey(SshError):
    """The host's key is not in known_hosts."""


class ChangedHostKey(SshError):
    """The host's key is not the one in known_hosts, or is marked there as revoked."""


class LoginRefused(SshError):
    """The host does not accept the user or any of our keys."""


class ConnectionLost(SshError):
    """The connection was lost while a command ran; how far the command got is not known."""


class CheckFailed(RopewayError):
    """The hosts are or have what rules a start out, as they themselves say. Nothing was started."""


class LaunchError(RopewayError):
    """The engine did not come up. What had been started has been undone."""


class EndpointError(RopewayError):
    """The model server is away, refuses us, or broke off in the middle."""


class Refused(RopewayError):
    """Bad input or a missing need. Nothing was started, nothing was changed."""

    exit_code = Exit.REFUSED


class SpecError(Refused):
    """The spec file is wrong; `where` is `file:line`."""


class ModelError(Refused):
    """The model directory is missing something or holds something broken."""


class LayoutError(Refused):
    """This model, on this cluster, cannot run in this layout."""


def reason_of(error: Exception) -> str:
    """Return why the system refused something, in lower case: `no such file or directory`."""
    return (getattr(error, "strerror", None) or str(error)).lower()
