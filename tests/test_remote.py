"""The script on the other side of SSH, run here without SSH; and its output taken apart."""

import itertools
import os
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from children import are_gone, is_gone, pids
from ropeway.hosts import child
from ropeway.hosts.child import Child, Output, running
from ropeway.hosts.remote import Framed, remote_line
from waiting import wait_for

pytestmark = pytest.mark.slow

MARK = "0123456789abcdef"
# A shell for the script, found as `sh` in a PATH of its own; busybox with its own tools alone.
SHELLS = [shell for shell in ("sh", "bash", "busybox") if shutil.which(shell)]


@dataclass
class Answer:
    """What came back. `before` is what stands before the script's first mark."""

    verdict: object
    out: bytes
    err: bytes
    before: bytes


@pytest.fixture(scope="module", params=SHELLS)
def path(request, tmp_path_factory) -> str:
    """A PATH in which `sh` is the shell."""
    if request.param == "sh":
        return os.environ["PATH"]
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "busybox":
        subprocess.run(("busybox", "--install", "-s", folder), check=True)
        return str(folder)
    (folder / "sh").symlink_to(shutil.which("bash"))
    return f"{folder}:{os.environ['PATH']}"


def ask(path, argv, *, stdin=b"", timeout=60.0) -> Answer:
    """Run the line as a login shell would."""
    line = remote_line(argv, mark=MARK, stdin_bytes=len(stdin), timeout=timeout)
    out, err = (Framed(MARK, Output("here")) for _ in range(2))
    shell = ("env", f"PATH={path}", shutil.which("sh", path=path))
    limit = time.monotonic() + 60

    def begin():
        feeds = (out.feed, err.feed)
        return Child((*shell, "-c", line), feeds, stdin=stdin, keep_input=True)

    def ended():
        return out.ended and err.ended

    with running(begin) as child:
        assert child.wait(limit, lambda: not stdin or err.has_input or ended())
        child.send(b"\n")
        assert child.wait(limit, ended)
        assert child.wait(limit)
        assert child.exit_code == 0
    before = out.preamble.content() + err.preamble.content()
    return Answer(err.verdict, out.output.content(), err.output.content(), before)


def cut_off(path, argv, until, *, stdin=b"", stdin_bytes=0, timeout=60.0, dead=False) -> None:
    """Run it, end the connection when `until()` is true, and wait as sshd does: for the outputs.

    dead  sshd has been killed, and nobody reads the outputs any more
    """
    line = remote_line(argv, mark=MARK, stdin_bytes=stdin_bytes, timeout=timeout)
    outputs, others = os.pipe()
    with subprocess.Popen(
        (shutil.which("sh", path=path), "-c", line),
        env={**os.environ, "PATH": path},
        stdin=subprocess.PIPE,
        stdout=others,
        stderr=others,
    ) as login:
        os.close(others)
        login.stdin.write(stdin)
        login.stdin.flush()
        wait_for(until)
        if dead:
            os.close(outputs)
        login.stdin.close()
        login.wait(60)
    if not dead:
        while os.read(outputs, 1000):
            pass
        os.close(outputs)


@pytest.mark.parametrize("code", [0, 1, 126, 127, 255])
def test_every_exit_code_comes_back_with_both_outputs(path, code):
    answer = ask(path, ("sh", "-c", f"printf 'o\\n\\n'; printf e >&2; exit {code}"))
    assert answer == Answer(code, b"o\n\n", b"e", b"")


def test_a_signal_is_128_and_its_number_and_no_shell_comments_on_it(path):
    assert ask(path, ("sh", "-c", "kill -KILL $$")) == Answer(137, b"", b"", b"")


def test_a_command_may_signal_its_whole_group(path):
    assert ask(path, ("sh", "-c", "echo on; kill -TERM 0; sleep 60")).verdict == 143


def test_a_program_that_is_not_there_is_told_apart_from_one_that_says_127(path):
    assert ask(path, ("no-such-program", "x")).verdict == "missing"
    assert ask(path, ("sh", "-c", "no-such-program 2>/dev/null")).verdict == 127


def test_input_arrives_whole_and_is_empty_by_default(path):
    data = bytes(range(256)) * 4000 + b"\n\n\0"
    assert ask(path, ("cat",), stdin=data).out == data
    assert ask(path, ("cat",)).out == b""


def test_a_command_need_not_read_its_input(path):
    assert ask(path, ("true",), stdin=b"x" * 10**6).verdict == 0


@pytest.mark.parametrize("dead", [False, True])
def test_a_broken_connection_gives_no_command_half_of_its_input(path, tmp_path, dead):
    file, got, ended = tmp_path / "pids", tmp_path / "got", tmp_path / "ended"
    copy = ("sh", "-c", f"echo $$ >{file}; cat >{got}; echo >{ended}")
    half = b"x" * 100_000
    cut_off(path, copy, lambda: pids(file), stdin=half, stdin_bytes=100_001, dead=dead)
    wait_for(lambda: are_gone(file))
    assert not got.exists() or got.read_bytes() == b""
    assert not ended.exists()


def test_the_end_of_the_connection_ends_the_command_and_its_children(path, tmp_path):
    file = tmp_path / "pids"
    cut_off(
        path,
        # a child, one with a group of its own, and one whose parent has gone
        ("sh", "-c", f"timeout 60 sleep 60 & a=$!; (sleep 60 & echo $$ $a $! >{file}); wait"),
        lambda: pids(file),
    )
    assert are_gone(file)


def test_one_that_ignores_sigterm_ends_too_before_the_connection_is_let_go(path, tmp_path):
    file = tmp_path / "pids"
    script = f"trap '' TERM; sleep 60 & echo $$ $! >{file}; wait; sleep 60"
    cut_off(path, ("sh", "-c", script), lambda: pids(file))
    assert are_gone(file)


def test_the_connections_end_is_noticed_while_the_command_ignores_its_input(path, tmp_path):
    file = tmp_path / "pids"
    sleeper = ("sh", "-c", f"echo $$ >{file}; exec sleep 60")
    cut_off(path, sleeper, lambda: pids(file), stdin=b"x" * 10**6, stdin_bytes=10**6)
    assert are_gone(file)


def test_the_host_ends_a_command_by_itself_when_it_hears_no_end(path, tmp_path):
    file = tmp_path / "pids"
    sleeper = ("sh", "-c", f"echo $$ >{file}; exec sleep 60")
    # Ten seconds of grace are added: it may take three seconds.
    cut_off(path, sleeper, lambda: pids(file) and are_gone(file), timeout=-7)


def test_a_daemon_outlives_command_and_connection(path, tmp_path):
    pid = tmp_path / "pid"
    # `setsid --fork`, which busybox does not have: a session of its own, and nobody's child.
    daemon = f"setsid sh -c 'echo $$ >{pid}; exec sleep 60' >/dev/null 2>&1 </dev/null &"
    ask(path, ("sh", "-c", f"({daemon}); until [ -s {pid} ]; do :; done"))
    alive = int(pid.read_text())
    assert not is_gone(alive)
    os.kill(alive, 9)


def test_nothing_of_the_script_is_left_after_a_command(path):
    before = set(processes())
    ask(path, ("true",), timeout=4242 - 10)
    wait_for(lambda: not any("4242" in text for text in set(processes()) - before))


def test_the_commands_variables_are_its_own(path):
    show = ("sh", "-c", 'printf "%s|" "$A" "$_mark" "$_code"')
    env = ("env", "A=x 'y'\n$z", "_code=7")
    assert ask(path, (*env, *show)) == Answer(0, b"x 'y'\n$z||7|", b"", b"")


def test_the_mark_does_not_stand_in_the_list_of_processes(path):
    assert MARK.encode() not in ask(path, ("sh", "-c", "cat /proc/[0-9]*/cmdline")).out


def test_the_line_is_one_command_for_the_login_shell():
    line = remote_line(("ls", "it's"), mark=MARK, stdin_bytes=3, timeout=59.5)
    words = shlex.split(line)
    assert words[:3] == ["exec", "sh", "-c"]
    assert words[4:] == [
        "ropeway", "01234567", "89abcdef", "70", "3", "ls", "it's",
    ]  # fmt: skip
    assert not re.search(r"['\\]", words[3]), "no quote, no backslash: fish reads those otherwise"


# Taking the output apart


def framed(chunks, mark="MARK"):
    parsed = Framed(mark, Output("here"))
    for chunk in chunks:
        parsed.feed(chunk)
    return parsed


def test_the_note_that_input_has_arrived_is_cut_out_of_the_middle():
    parsed = framed([b"MARKbhelMARKflo", b""])
    assert (parsed.output.content(), parsed.has_input, parsed.ended) == (b"hello", True, False)


@pytest.mark.parametrize(
    ("word", "verdict"), [("0", 0), ("255", 255), ("missing", "missing"), ("", None), ("x", "lost")]
)
def test_the_verdict(word, verdict):
    assert framed([f"MARKbMARKe{word}\n".encode()]).verdict == verdict


def test_lines_are_heard_without_the_marks(monkeypatch):
    """And the first ones are not kept: a log may be followed for weeks."""
    monkeypatch.setattr(child, "_MAX_HEARD", 6)
    lines = []
    parsed = Framed("MARK", Output("here", lines.append))
    for chunk in (b"motd\nMA", b"RKbone\ntw", b"o\nthr", b"eeMARKe0", b"\nrest\n"):
        parsed.feed(chunk)
    assert lines == ["one", "two", "three"]
    assert parsed.output.content() == b"o\nthree"


@given(
    content=st.binary(max_size=60).filter(lambda data: b"MARK" not in data),
    noise=st.sampled_from([b"", b"MA", b"MAMAR", b"motd\n"]),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_it_does_not_matter_where_the_output_is_cut(content, noise, cuts):
    whole = noise + b"MARKb" + content + b"MARKe0\nbye\n"
    places = sorted({0, *(min(cut, len(whole)) for cut in cuts), len(whole)})
    chunks = [whole[a:b] for a, b in itertools.pairwise(places)]
    parsed = framed([*chunks, b""])
    assert (parsed.preamble.content(), parsed.output.content()) == (noise, content)
    assert (parsed.started, parsed.has_input) == (True, False)
    assert (parsed.ended, parsed.verdict) == (True, 0)


def test_an_output_without_end_is_kept_as_far_as_it_came():
    parsed = framed([b"MARKbhalf a liMAR", b""])
    assert (parsed.output.content(), parsed.ended) == (b"half a liMAR", False)


def processes():
    """Command lines of everything that runs."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield f"{entry.name} {(entry / 'cmdline').read_text()}"
            except OSError:
                continue
