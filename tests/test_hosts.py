"""Commands and their results, quoting; and what only holds for the commands of this machine."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from children import TEXT, is_gone
from ropeway.errors import HostError, TimeLimit
from ropeway.hosts.base import Command, Result, run_command, shell_line
from ropeway.hosts.local import LocalHost
from waiting import wait_for

HERE = LocalHost("host0", "127.0.0.2")


def test_broken_utf8_is_replaced():
    assert HERE.run(("printf", "a\\377b")).stdout == "a\ufffdb"


def test_much_output_on_both_pipes_blocks_nobody():
    code = "import sys; sys.stdout.write('o' * 300000); sys.stderr.write('e' * 300000)"
    result = HERE.run((sys.executable, "-c", code))
    assert (len(result.stdout), len(result.stderr)) == (300000, 300000)


def test_a_child_that_does_not_read_its_input_is_held_to_the_time_limit():
    began = time.monotonic()
    with pytest.raises(TimeLimit):
        HERE.run(("sleep", "600"), stdin=b"x" * 10**6, timeout=0.3)
    assert time.monotonic() - began < 60


def test_a_command_has_a_session_of_its_own():
    code = "import os; print(os.getsid(0) == os.getpid())"
    assert HERE.run((sys.executable, "-c", code)).stdout == "True\n"


def test_check_keeps_a_good_result_and_tells_a_bad_one():
    good = Result(("true",), 0, "", "", 0.1)
    assert good.check("it failed", where="host0") is good
    lines = "".join(f"line {number}\n" for number in range(20))
    with pytest.raises(HostError) as caught:
        Result(("ls", "a b"), 2, "out", lines, 0.1).check("it failed", where="host0", hint="look")
    error = caught.value
    assert (error.what, error.where, error.hint) == ("it failed", "host0", "look")
    assert error.evidence == ("ls 'a b' → exit 2", *(f"line {number}" for number in range(12, 20)))
    with pytest.raises(HostError) as caught:
        Result(("ls",), 2, "only this\n", "", 0.1).check("it failed", where="host0")
    assert caught.value.evidence == ("ls → exit 2", "only this")


# Quoting


@given(words=st.lists(TEXT, max_size=4), value=TEXT)
def test_a_shell_gives_every_word_and_value_back(words, value):
    show = r'printf "%s\0" "$VALUE" "$@"'
    line = shell_line(Command(("sh", "-c", show, "sh", *words), {"VALUE": value}))
    done = subprocess.run(("sh", "-c", line), capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [value, *words]


def test_a_line_is_what_a_person_would_write():
    command = Command(("vllm", "--name", "a b"), {"A": "1"}, {"KEY": "MY_KEY"}, "/tmp/the log")
    assert shell_line(command) == (
        "A=1 KEY=\"$MY_KEY\" setsid --fork vllm --name 'a b' >'/tmp/the log' 2>&1 </dev/null"
    )


def test_a_secret_reaches_the_program_and_stands_in_no_argv(monkeypatch):
    secret = "s3cr3t \"$HOME\" 'x'"
    monkeypatch.setenv("MY_KEY", secret)
    code = (
        "import os, pathlib\n"
        "argvs = [pathlib.Path(f'/proc/{pid}/cmdline').read_text() for pid in"
        " ('self', os.getppid())]\n"
        "print(os.environ['KEY']); print('s3cr' + '3t' in ''.join(argvs))"
    )
    command = Command((sys.executable, "-c", code), secrets={"KEY": "MY_KEY"})
    assert run_command(HERE, command).stdout == f"{secret}\nFalse\n"


def test_a_detached_command_goes_on_in_its_own_session_and_writes_its_log(tmp_path):
    log, go = tmp_path / "the log", tmp_path / "go"
    wait = f"until [ -e {shlex.quote(str(go))} ]; do sleep 0.02; done; echo two >&2"
    command = Command(("sh", "-c", f"echo $$ $(ps -o sid= -p $$); {wait}"), log=str(log))
    result = run_command(HERE, command)
    assert (result.exit_code, result.stdout) == (0, "")
    assert not go.exists(), "we do not wait for it"
    pid, session = wait_for(lambda: log.exists() and log.read_text().split())
    assert pid == session
    go.touch()
    wait_for(lambda: log.read_text().endswith("two\n"))
    wait_for(lambda: is_gone(int(pid)))


def interrupted_at(line: int) -> Callable[[FrameType, str, object], object]:
    """A trace that presses Ctrl-C when so many lines of the code that runs a child have run."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> object:
        nonlocal count
        if not frame.f_code.co_filename.endswith(("child.py", "local.py", "subprocess.py")):
            return None
        count += event == "line"
        if count == line and event == "line":
            signal.raise_signal(signal.SIGINT)
        return trace

    return trace


# Each line is a moment at which Ctrl-C may come: with a child that goes on, from the call to where
# we wait for it; with one that ends at once, to the last line. What is cut off while it is closed
# is closed by the interpreter.
def children() -> set[str]:
    """The processes that this one has started, ended ones that nobody waited for included."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("argv", "first"),
    [(["sleep", "5"], line) for line in range(1, 201, 50)]
    + [(["true"], line) for line in range(1, 351, 50)],
)
def test_ctrl_c_at_any_moment_ends_the_child_and_does_not_hang(argv, first):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = children()
    try:
        for line in range(first, first + 50):
            sys.settrace(interrupted_at(line))
            with contextlib.suppress(KeyboardInterrupt):
                LocalHost().run(argv, timeout=5)
            sys.settrace(None)
            assert children() == others
    finally:
        sys.settrace(None)
        signal.signal(signal.SIGINT, before)
