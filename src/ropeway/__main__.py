"""`ropeway` and `python -m ropeway`: the command, which is imported where Ctrl-C is heard."""

import os
import sys
from contextlib import suppress
from importlib import import_module

_INTERRUPTED = 130


def run() -> None:
    """Run the command, and exit."""
    try:
        import_module("ropeway.cli.main").run()
    except KeyboardInterrupt:
        with suppress(OSError):
            os.write(2, b"\nerror: interrupted\n")
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    run()
