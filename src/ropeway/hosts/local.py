"""This machine as a host, or as several virtual hosts that differ in their loopback address."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropeway.durable import write_whole
from ropeway.errors import HostError, TimeLimit, reason_of
from ropeway.hosts.base import Result, cannot_write
from ropeway.hosts.child import Child, Output, running
from ropeway.phrases import phrase


@dataclass(frozen=True)
class LocalHost:
    """Runs commands as child processes."""

    name: str = "localhost"
    address: str = "127.0.0.1"
    by_hand: str = "sh -c"
    as_flags: str = "--local"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Host.run.

        The command gets a session of its own; so its label, if it has one, does not pass to the
        terminal's session (processes.find).
        """
        started = time.monotonic()
        out, err = Output(self.name, on_line), Output(self.name, on_line)

        def start() -> Child:
            try:
                return Child(tuple(argv), (out.feed, err.feed), stdin=stdin)
            except OSError as error:
                what = phrase(
                    "cannot run `{program}`: {reason}", program=argv[0], reason=reason_of(error)
                )
                raise HostError(what, where=self.name) from error

        with running(start) as child:
            if not child.wait(started + timeout):
                raise TimeLimit(
                    phrase(
                        "`{program}` did not end within {timeout:g} s and was stopped",
                        program=argv[0],
                        timeout=timeout,
                    ),
                    where=self.name,
                    evidence=(*out.last_lines(), *err.last_lines()),
                )
        code = child.exit_code
        assert code is not None
        seconds = time.monotonic() - started
        return Result(tuple(argv), code, out.text(), err.text(), seconds)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """See Host.put."""
        replace_file(Path(path), content, mode=mode, where=self.name)

    def get(self, path: str) -> bytes:
        """See Host.get."""
        try:
            return Path(path).read_bytes()
        except OSError as error:
            what = phrase("cannot read `{path}`: {reason}", path=path, reason=reason_of(error))
            raise HostError(what, where=self.name) from error


def replace_file(
    path: Path, content: bytes, *, mode: int | None = None, where: str = "localhost"
) -> None:
    """Write a file of this machine as `write_whole` does. Raises HostError that names `where`."""
    try:
        write_whole(path, content, mode=mode)
    except OSError as error:
        raise cannot_write(str(path), reason_of(error), where) from error
