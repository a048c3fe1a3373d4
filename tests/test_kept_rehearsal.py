"""`--keep`: a rehearsal in a process of its own, for the other verbs, and what goes wrong there."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from children import is_gone
from ropeway.cli.main import exit_code
from ropeway.report.chinese import in_language
from ropeway.sim.kept import Kept, find_kept, lock_path, socket_path

Typed = Callable[..., "subprocess.CompletedProcess[str]"]

SPEC = """\
name: mine
cluster:
  hosts: [{address: 192.168.0.147, npus: 8}, {address: node-b, npus: 8}]
  chip: 910B4
model: {path: /mnt/models/Qwen3-30B-A3B}
serve: {layout: TP8xPP2+EP, port: 9100}
"""
REAL_STATUS = ["status", "--name", "nobody"]
# Hosts without a service, so that nothing has to start.
KEEP = """
from ropeway.errors import Refused
from ropeway.sim.keeper import keep
from ropeway.sim.launching import Rehearsal, rehearsal_spec
from ropeway.sim.machine import parse_fleet, sound_fleet
from ropeway.sim.virtual_engine import Pace
fleet = sound_fleet(*parse_fleet("2x8-910B4"))
try:
    keep(Rehearsal(fleet, Pace()), rehearsal_spec(fleet))
except Refused as error:
    print(error.what)
else:
    print("kept")
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, and one for the rehearsal, which is returned."""
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory(prefix="rw-") as folder:  # short: a socket is in it
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def typed(place: Path) -> Iterator[Typed]:
    """Run a command line in a folder that has a spec."""
    Path("ropeway.yaml").write_text(SPEC)
    variables = {**os.environ, "XDG_RUNTIME_DIR": str(place), "COLUMNS": "200"}

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "ropeway", *args],
            env=variables, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    yield run
    run("down", "--rehearsal")


@pytest.fixture
def kept(place: Path) -> Iterator[Kept]:
    """Hosts that another process keeps, which had inherited the end of a pipe."""
    read, write = os.pipe()
    subprocess.run([sys.executable, "-c", KEEP], check=True, cwd=place, pass_fds=[write])
    os.close(write)
    found = find_kept()
    assert found is not None
    assert os.read(read, 1) == b"", "nobody waits for the keeper"
    os.close(read)
    yield found
    found.end()


def keeper() -> int:
    """The process that keeps the rehearsal."""
    return int(lock_path(socket_path()).read_text())


@pytest.mark.real_time
def test_a_kept_rehearsal_is_there_for_the_other_verbs_and_called_by_its_name(typed):
    up = typed("up", "--rehearse", "--keep", "--fault", "few-files", "--json")
    assert up.returncode == 0, up.stderr
    document = json.loads(up.stdout)
    assert "it came up in spite of few-files" in document["warnings"][-1]
    url = document["url"]
    assert url.startswith("http://127.0.0.1:")

    status = typed("status", "--rehearsal", "--json")
    document = json.loads(status.stdout)
    assert (document["rehearsal"], document["ok"], document["name"]) == (True, True, "mine")
    assert document["url"] == url, "not the one that the spec has"
    assert "a rehearsal, nothing real" in status.stderr
    logs = typed("logs", "--rehearsal", "-n", "1")
    assert "the first token is there" in logs.stdout
    assert "a rehearsal, nothing real" in logs.stderr
    assert typed("exec", "--rehearsal", "npu-smi", "info", "-l").returncode == 0
    unknown = typed("exec", "--rehearsal", "--", "ls", "-l")
    assert unknown.returncode == 1
    assert "a virtual host does not know `ls -l`" in unknown.stderr

    second = typed("up", "--rehearse", "--keep")
    assert second.returncode == 2
    assert "a rehearsal is kept already: `mine` on 2 virtual hosts" in second.stderr
    pid = keeper()
    other = typed("down", "--rehearsal", "--name", "foo")
    assert other.returncode == 2
    assert "is of `mine`, not of `foo`" in other.stderr
    down = typed("down", "--rehearsal")
    assert down.returncode == 0
    assert "a rehearsal, nothing real" in down.stderr
    assert down.stdout.splitlines() == ["`mine` is down", "the rehearsal has ended"]
    assert is_gone(pid), "so that another can begin at once"
    assert typed("down", "--rehearsal").stdout == "no rehearsal is kept\n"


@pytest.mark.real_time
def test_what_a_rehearsal_answers_is_no_measurement(typed):
    up = typed("up", "--rehearse", "--keep", "--json")
    url = json.loads(up.stdout)["url"]
    for more in ((), ("--model", "Qwen3-30B-A3B")):
        answer = typed("chat", "--url", url, "-p", "hello", "--json", *more)
        document = json.loads(answer.stdout)
        assert document["rehearsal"] is True
        assert "no model runs here" in document["answer"]
        assert f"a rehearsal answers at {url}" in document["warnings"][0]
    answer = typed("chat", "--rehearsal", "-p", "hello", "--json")
    assert json.loads(answer.stdout)["url"] == url, "not the one that the spec has"
    both = typed("chat", "--rehearsal", "--url", url, "-p", "hello")
    assert both.returncode == 2
    assert "`--rehearsal` has an address of its own" in both.stderr
    load = ("--clients", "2", "--requests", "4", "--output-tokens", "2", "--warmup", "0")
    bench = typed("bench", "-c", "ropeway.yaml", "--rehearsal", *load, "--json")
    document = json.loads(bench.stdout)
    assert (document["rehearsal"], document["label"]) == (True, "rehearsal")
    assert document["predicted_tokens_per_s"] is None
    assert f"a rehearsal answers at {url}" in document["warnings"][0]


@pytest.mark.real_time
def test_a_start_that_fails_keeps_no_rehearsal(typed):
    assert typed("up", "--rehearse", "--keep", "--fault", "pull-fails").returncode == 1
    gone = typed("status", "--rehearsal")
    assert gone.returncode == 2
    assert "no rehearsal is kept" in gone.stderr


@pytest.mark.real_time
def test_hosts_without_a_service_are_ended_too(kept, capsys):
    pid = keeper()
    assert exit_code(["down", "--rehearsal"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the rehearsal has ended"
    assert is_gone(pid)
    assert not kept.socket.exists()


@pytest.mark.real_time
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    "verb", ["down --local --name nobody", "logs --local --name nobody", "chat -p hello"]
)
def test_who_means_what_is_real_is_told_of_a_kept_rehearsal(verb, capsys):
    exit_code(verb.split())
    name = verb.split()[0]
    assert f"ropeway {name} --rehearsal" in capsys.readouterr().err


@pytest.mark.real_time
def test_a_keeper_has_nothing_of_the_command_that_started_it(kept):
    process = Path(f"/proc/{keeper()}")
    assert (process / "cwd").readlink() == Path("/")
    held = []
    for one in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # a connection that has just ended
            held.append(str(one.readlink()))
    others = [one for one in held if not one.startswith("socket:")]
    assert sorted(others) == ["/dev/null"] * 3 + [str(lock_path(kept.socket))]
    assert in_language(kept.title, "zh").startswith("`rehearsal`，运行于 2 台虚拟主机")


@pytest.mark.real_time
@pytest.mark.usefixtures("kept")
def test_a_keeper_that_hangs_holds_nobody_up(capsys):
    pid = keeper()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert exit_code(REAL_STATUS) == 1
        assert capsys.readouterr() == ("`nobody` is not running\n", "")
        assert exit_code(["status", "--rehearsal"]) == 2
        said = capsys.readouterr().err
        assert "does not answer" in said
        assert f"kill -9 {pid}" in said
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.real_time
def test_a_keeper_removes_no_socket_but_its_own(kept):
    moved = kept.socket.rename(kept.socket.with_name("moved"))
    kept.socket.write_text("another's")
    Kept(moved, kept.fleet, kept.url, kept.spec).end()
    assert kept.socket.read_text() == "another's"
    kept.socket.unlink()


@pytest.mark.real_time
@pytest.mark.usefixtures("place")
def test_of_two_starts_at_once_one_keeps_its_hosts():
    begun = [
        subprocess.Popen([sys.executable, "-c", KEEP], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = sorted(one.communicate(timeout=60)[0] for one in begun)
    found = find_kept()
    assert found is not None
    try:
        assert said == [f"a rehearsal is kept already: {found.title}\n", "kept\n"]
    finally:
        found.end()


@pytest.mark.real_time
@pytest.mark.usefixtures("place")
def test_a_start_waits_a_moment_for_another():
    with lock_path(socket_path(make=True)).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [sys.executable, "-c", KEEP], check=True, capture_output=True, text=True
        )
    assert done.stdout == "another rehearsal is being started or ended\n"


@pytest.mark.usefixtures("place")
def test_a_keeper_of_another_version_is_refused_and_not_our_bug(capsys):
    about = {"spec": '{"key_of_tomorrow": 1}', "fleet": {}, "url": ""}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(socket_path(make=True)))
        listening.listen()

        def answer() -> None:
            for _ in range(2):
                with listening.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(json.dumps(about).encode() + b"\n")

        threading.Thread(target=answer, daemon=True).start()
        assert exit_code(REAL_STATUS) == 1
        assert capsys.readouterr() == ("`nobody` is not running\n", "")
        assert exit_code(["status", "--rehearsal"]) == 2
    assert "another version" in capsys.readouterr().err


def test_a_folder_that_cannot_be_one_of_ours_is_refused_and_no_matter_to_status(
    place, monkeypatch, capsys
):
    """It is missing, has too long a name for a socket, or others can read it."""
    long = place / ("x" * 100)
    long.mkdir()
    open_to_all = place / "a b"
    open_to_all.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_to_all))
    socket_path(make=True).parent.chmod(0o755)
    keep = ["up", "--rehearse", "2x8-910B4", "--keep"]
    for parent, what in (
        (place / "absent", "no such file or directory"),
        (long, "the path is too long for a socket"),
        (open_to_all, f"rm -r '{open_to_all}/"),
    ):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(parent))
        assert exit_code(REAL_STATUS) == 1
        assert capsys.readouterr() == ("`nobody` is not running\n", "")
        assert exit_code(keep) == 2
        assert what in capsys.readouterr().err
