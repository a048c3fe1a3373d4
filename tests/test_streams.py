"""Standard streams that are closed, full, or read by nobody; and disks that are full."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from json_documents import read_document
from waiting import SECONDS, wait_for

pytestmark = pytest.mark.real_time
NO_ROOM, CLOSED = "no space left on device", "bad file descriptor"
PROGRAMS = {
    "help": "ropeway --help",
    "plan": "ropeway plan --model Qwen3-8B --chip 910B4 --json",
    "chat": "ropeway chat -p hi --url {url}",
    "models": "ropeway chat -i --url {url}",
    "facts": "python -m ropeway.facts",
    "answer": "python -m ropeway.facts uname -",
    "router": "python -m ropeway.router /dev/fd/3 3<<<'{config}'",
}
ROUTER = json.dumps({
    "listen": {"host": "127.0.0.1", "port": 0},
    "model": "m",
    "backends": [{"name": "a", "url": "http://127.0.0.1:9"}],
})  # fmt: skip


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeEndpoint]:
    with running(Behaviour(ttft_s=0, tpot_s=0)) as endpoint:
        yield endpoint


def shell(words: str, folder: Path, **more: str) -> tuple[int, str]:
    """Run a line of a shell in which `ropeway` is ours; return the exit code, and what it says."""
    ropeway = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}; '
    ropeway += 'ropeway() { python -m ropeway "$@"; }'
    done = subprocess.run(
        ["bash", "-c", f"{ropeway}\n{words}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
        check=False, timeout=SECONDS, cwd=folder, env={**os.environ, **more},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(("to", "why"), [("/dev/full", NO_ROOM), ("&-", CLOSED)])
def test_an_answer_that_cannot_be_written_is_one_clear_error(
    to: str, why: str, program: str, fake: FakeEndpoint, tmp_path: Path
) -> None:
    words = PROGRAMS[program].format(url=fake.url, config=ROUTER)
    code, said = shell(f"echo hi | {words} >{to}", tmp_path)
    assert code == 1
    assert said.splitlines()[-1] == f"error: cannot write to standard output: {why}"
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&-"])
def test_without_the_other_streams_the_answer_is_the_same(
    streams: str, fake: FakeEndpoint, tmp_path: Path
) -> None:
    code, _ = shell(f"ropeway chat -p hi --url {fake.url} {streams} >out", tmp_path)
    assert code == 0
    assert (tmp_path / "out").read_text().startswith("The lift goes up")


def test_without_any_stream_the_exit_code_says_it(fake: FakeEndpoint, tmp_path: Path) -> None:
    assert shell(f"ropeway chat -p hi --url {fake.url} <&- >&- 2>&-", tmp_path) == (1, "")
    assert shell("ropeway plan --nonsense <&- >&- 2>&-", tmp_path) == (2, "")


@pytest.mark.parametrize("module", ["facts nonsense", "router --nonsense"])
def test_a_refusal_that_nobody_can_read_is_one_too(module: str, tmp_path: Path) -> None:
    assert shell(f"python -m ropeway.{module} <&- >&- 2>&-", tmp_path) == (2, "")


def test_a_list_whose_reader_leaves_needs_no_words(tmp_path: Path) -> None:
    assert shell("python -m ropeway.facts | true", tmp_path)[1] == ""


def test_a_question_that_nobody_can_type_is_refused(fake: FakeEndpoint, tmp_path: Path) -> None:
    code, said = shell(f"ropeway chat --url {fake.url} <&-", tmp_path)
    assert (code, said.splitlines()[0]) == (2, "error: there is nothing to ask")


def test_a_file_gets_no_number_of_a_closed_stream(fake: FakeEndpoint, tmp_path: Path) -> None:
    line = f"ropeway bench --url {fake.url} --requests 2 --clients 1 --out run >&- 2>&-"
    assert shell(line, tmp_path)[0] == 1
    (row, _) = (tmp_path / "run" / "timings.jsonl").read_text().splitlines()
    assert json.loads(row)["error"] is None
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["completed"] == 2


def test_a_stream_that_must_not_block_is_waited_for(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ropeway", "diagnose", "--table"],
            stdout=write, stderr=subprocess.PIPE, cwd=tmp_path,
        )  # fmt: skip
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as reader:
            assert len(reader.read()) > 2**16, "the pipe was never full"
        assert process.communicate(timeout=SECONDS)[1] == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_reader_of_a_chat_that_leaves_needs_no_words(fake: FakeEndpoint, tmp_path: Path) -> None:
    line = f"(ropeway chat -p hi --url {fake.url}; echo $? >code) | true"
    assert shell(line, tmp_path) == (0, "")
    assert (tmp_path / "code").read_text() == "1\n"


def test_a_folder_that_is_gone_is_said(fake: FakeEndpoint, tmp_path: Path) -> None:
    line = f"mkdir gone; cd gone; rmdir ../gone; ropeway bench --requests 1 --url {fake.url}"
    code, said = shell(line, tmp_path)
    assert code == 2
    assert "cannot write the results: no such file or directory" in said


def test_a_disk_that_fills_up_leaves_whole_lines_and_the_figures(
    fake: FakeEndpoint, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk."""
    line = f"ropeway bench --url {fake.url} --requests 400 --clients 4 --out run --json >out"
    code, said = shell(f"ulimit -f 9; {line}", tmp_path)
    assert code == 1
    assert "error: the results could not be written: file too large\n  at run/timings.jsonl" in said
    lines = (tmp_path / "run" / "timings.jsonl").read_text().splitlines(keepends=True)
    assert all(json.loads(line) and line.endswith("\n") for line in lines)
    document = read_document((tmp_path / "out").read_text())
    assert (document["ended"], document["error"]["exit_code"]) == ("not recorded", 1)
    assert document["summary"]["completed"] >= len(lines) - 4
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_bench_that_is_ended_leaves_whole_lines(
    number: signal.Signals, fake: FakeEndpoint, tmp_path: Path
) -> None:
    words = f"bench --url {fake.url} --requests 100000 --clients 8 --out run"
    process = subprocess.Popen(
        [sys.executable, "-m", "ropeway", *words.split()],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=tmp_path, text=True,
        # Under `nohup` the tests would hand on that it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip
    timings = tmp_path / "run" / "timings.jsonl"
    try:
        wait_for(lambda: timings.exists() and timings.read_bytes().count(b"\n") > 20)
    finally:
        process.send_signal(number)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode in (-number, 128 + number)
    assert "Traceback" not in said
    lines = timings.read_text().splitlines(keepends=True)
    assert all(json.loads(line) and line.endswith("\n") for line in lines)


def test_ctrl_c_while_we_are_imported_is_no_traceback(tmp_path: Path) -> None:
    slow = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(60)\n"
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text(slow)
    code, said = shell(
        f"exec {shlex.quote(sys.executable)} -m ropeway plan", tmp_path,
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
    )  # fmt: skip
    assert (code, said) == (130, "\nerror: interrupted\n")
