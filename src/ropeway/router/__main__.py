"""`python -m ropeway.router CONFIG.json`, and the same from the one file that `archive` makes."""

import asyncio
import gc
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from ropeway.router import logs
from ropeway.router.config import ConfigError, load
from ropeway.router.connections import raise_limit
from ropeway.router.server import serve

_STDOUT, _STDERR = 1, 2
_USAGE = "usage: python -m ropeway.router CONFIG.json\n"


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM. Return 0: ended gracefully; 1: no port, or no output; 2: bad input."""
    _open_streams()
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(_USAGE)
        return 2
    logs.start()
    try:
        config = load(Path(arguments[0]), os.environ)
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    # What is there now stays; without it, and at a tenth of the rate, collections take no time.
    gc.freeze()
    gc.set_threshold(10_000)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(serve(config, raise_limit(), _announce))
    except _Unheard as error:
        sys.stderr.write(f"error: cannot write to standard output: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error: cannot listen on {config.host}:{config.port}: {error}\n")
        return 1
    return 0


class _Unheard(Exception):
    """The URL cannot be written to standard output."""


def _announce(url: str) -> None:
    try:
        os.write(_STDOUT, f"{url}\n".encode())
    except OSError as error:
        raise _Unheard(str(error.strerror).lower()) from error


def _open_streams() -> None:
    """Open what is closed: no connection may get the number of a standard stream."""
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    sys.stderr = sys.stderr or os.fdopen(_STDERR, "w", closefd=False)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory, which vLLM's images have; None (asyncio's own) without it."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module(
            "uvloop"
        ).new_event_loop
    except ImportError:
        return None
    return factory


if __name__ == "__main__":
    sys.exit(main())
