"""Processes that tests start, interrupt and look for afterwards."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from waiting import wait_for

# A shell that runs us in the background ignores Ctrl-C for us, and our children inherit that.
INTERRUPTIBLE = ("env", "--default-signal=INT")
# What a shell, a decoder, Docker, rsync, ssh or sshd could take for something else.
SIGNS = st.sampled_from("aA -'\"\\$`(){}[]<>|&;*?!#~=,:%@\n\tß→中é")
TEXT = st.text(SIGNS | st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
FILE_NAME = st.text(
    SIGNS | st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
)


def sleeping(child: str = "sleep 60") -> str:
    """A script that would go on for a minute, with a child; writes its ids into the file $0."""
    return f'{child} & echo begun; echo $$ $! >"$0"; wait'


def pids(file: Path) -> list[int]:
    """The process ids in a file; none as long as its line is not whole."""
    text = file.read_text() if file.exists() else ""
    return [int(word) for word in text.split()] if text.endswith("\n") else []


def is_gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has asked for its exit code yet has too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def are_gone(*files: Path) -> bool:
    """Whether all processes whose ids are in these files have ended."""
    return all(is_gone(pid) for file in files for pid in pids(file))


def spawned(pid: int) -> list[int]:
    """The ids of the processes that a process has started by `multiprocessing`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def interrupt(code: str, *args: str, once: Callable[[], object]) -> None:
    """Run Python code as a program of its own, and send it Ctrl-C, which must end it, once it is
    time."""
    argv = (*INTERRUPTIBLE, sys.executable, "-c", code, *args)
    with subprocess.Popen(argv, stderr=subprocess.PIPE, start_new_session=True) as caller:
        wait_for(once)
        caller.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in caller.communicate(timeout=60)[1]
