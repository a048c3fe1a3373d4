"""Processes that Ctrl-C does not reach: it goes to all of a terminal, and one of them decides."""

import signal
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess


def start_deaf(process: BaseProcess) -> None:
    """Start a process that never gets SIGINT, from its first moment on.

    Were it to ignore the signal by itself, it could come during its imports. Children inherit what
    is blocked; what comes to us meanwhile comes when it is no longer.
    """
    resource_tracker.ensure_running()  # or it is started below, and unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
