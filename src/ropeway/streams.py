"""The three standard streams, whatever the shell made of them: closed, full, or read by nobody."""

import io
import os
import select
import sys
from pathlib import Path

from ropeway.errors import RopewayError, reason_of
from ropeway.phrases import phrase

_STDIN, _STDOUT, _STDERR = range(3)
# As what each is opened where it is closed: nothing to read; an error for who writes an answer, as
# `cat` and `ls` have it; and what is said about the work goes nowhere, as to a closed terminal.
_IN_PLACE = {_STDIN: os.O_RDONLY, _STDOUT: os.O_RDONLY, _STDERR: os.O_WRONLY}


class OutputFailed(RopewayError):
    """The answer cannot be written to standard output."""


class ReaderGone(OutputFailed):
    """Whoever read our output has gone, as in `| head`, and needs no words about it."""


class _Output(io.FileIO):
    """Standard output whose failures are not taken for those of files or connections."""

    def write(self, data: "bytes | memoryview[int]") -> int:  # type: ignore[override]
        try:
            while (count := super().write(data)) is None:  # a full pipe that must not block
                select.select((), (self,), ())
        except BrokenPipeError as error:
            raise ReaderGone("nobody reads the output") from error
        except OSError as error:
            raise OutputFailed(
                phrase("cannot write to standard output: {reason}", reason=reason_of(error))
            ) from error
        return count


def mend_streams() -> None:
    """Make all three usable. A file that we open must not get the number of one that is closed."""
    for number, flags in _IN_PLACE.items():
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    sys.stdin = sys.stdin or os.fdopen(_STDIN, closefd=False)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Output(_STDOUT, "w", closefd=False)),
        encoding=(sys.stdout or sys.stderr).encoding,
        line_buffering=os.isatty(_STDOUT),
    )


def drop_output() -> None:
    """Send what is left of the output nowhere: Python's last flush must not fail."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), _STDOUT)
