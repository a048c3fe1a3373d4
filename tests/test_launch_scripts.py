"""The scripts of launch/ that hosts run, in a real `sh`, with a recorder in place of `docker`."""

import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ropeway.errors import HostError
from ropeway.hosts.base import Command, Result, shell_line
from ropeway.hosts.local import LocalHost
from ropeway.launch.container_start import RUN_EACH, write_files
from ropeway.launch.logs import MOST_BYTES, LogReader, Status, poll
from ropeway.launch.rollout import File
from ropeway.launch.running import DOWN
from ropeway.launch.scripts import TOGETHER


class WithPath(LocalHost):
    """This machine, with a folder of programs before all others: its address."""

    def run(self, argv, **named) -> Result:
        path = f"PATH={self.address}:{os.environ['PATH']}"
        return super().run(("env", path, *argv), **named)


@pytest.fixture
def host(tmp_path: Path) -> WithPath:
    return WithPath("npu0", str(tmp_path / "bin"))


@pytest.fixture
def docker(host: WithPath) -> Callable[[str], None]:
    """Write the script that stands for `docker`."""
    folder = Path(host.address)
    folder.mkdir()

    def write(script: str) -> None:
        (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "docker").chmod(0o755)

    return write


# Files

FILES = [
    File("npu0", "watch.py", b"print('a')\n"),
    File("npu0", "it's a $(touch file)", b"\0\xff\n\n" * 70_000),
    File("npu0", "empty", b""),
    File("npu0", "ropeway.secrets", b"export KEY='s3cr3t'\n", 0o600),
]


def test_files_are_written_as_they_are_with_their_modes(host, tmp_path):
    folder, cache = tmp_path / "ropeway" / "it's", tmp_path / "cache"
    write_files(host, str(folder), FILES, also_make=str(cache))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        file.name: file.content for file in FILES
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {file.name: file.mode for file in FILES}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, cache)] == [0o700, 0o700]
    write_files(host, str(folder), [File("npu0", "watch.py", b"other")], also_make=str(cache))
    assert (folder / "watch.py").read_bytes() == b"other"
    assert (folder / "ropeway.secrets").exists()


@pytest.mark.parametrize("program", ["cat", "head", "chmod"])
def test_where_one_file_cannot_be_written_none_has_changed(host, docker, tmp_path, program):
    """As on a disk that becomes full: the error has the reason, and what to do."""
    folder = tmp_path / "ropeway"
    write_files(host, str(folder), [File("npu0", "watch.py", b"before")], also_make=str(tmp_path))
    docker("")
    fake = Path(host.address) / program
    fake.write_text(
        f"#!/bin/sh\necho '{program}: write error: No space left on device' >&2\nexit 1\n"
    )
    fake.chmod(0o755)
    with pytest.raises(HostError) as caught:
        write_files(host, str(folder), FILES, also_make=str(tmp_path))
    assert "no space left on device" in caught.value.what
    assert caught.value.where == "npu0"
    assert f"df -h {tmp_path}" in (caught.value.hint or "")
    assert [path.name for path in folder.iterdir()] == ["watch.py"]
    assert (folder / "watch.py").read_bytes() == b"before"


# Containers


def run_each(host: WithPath, *names: str) -> Result:
    argvs = {name: ("docker", "run", "--name", name, "--label", f"a={NASTY}") for name in names}
    words = (word for name, argv in argvs.items() for word in (name, shell_line(Command(argv))))
    return host.run(("sh", "-c", RUN_EACH), stdin=shlex.join(words).encode())


NASTY = 'it\'s "$HOME" `touch owned`\n$(touch owned) \\' + 100_000 * "'"  # quoted, 500 KB


def test_containers_are_started_one_after_the_other(host, docker, tmp_path):
    docker(f'printf "%s\\0" "$@" >>{shlex.quote(str(tmp_path))}/calls; echo an-id')
    result = run_each(host, "a-0-0", "a-router")
    assert (result.ok, result.stdout) == (True, "a-0-0\na-router\n")
    words = (tmp_path / "calls").read_text().split("\0")[:-1]
    assert words == [
        word
        for name in ("a-0-0", "a-router")
        for word in ("run", "--name", name, "--label", f"a={NASTY}")
    ]


def test_the_container_that_cannot_be_started_is_named_last(host, docker):
    docker('[ "$3" != b ] || { echo "no such device" >&2; exit 125; }')
    result = run_each(host, "a", "b", "c")
    assert (result.exit_code, result.stdout, result.stderr) == (125, "a\nb\n", "no such device\n")


# Looks at them

LOGS = """\
case $1 in
  ps) echo 1; echo 2;;
  inspect) printf '/a running 0 0\\n/b exited 137 2\\n';;
  logs) shift; printf '%s ' "$@" >>{folder}/calls
    cat {folder}/log;;
esac"""


def test_a_look_reads_states_and_only_new_lines(host, docker, tmp_path):
    docker(LOGS.format(folder=shlex.quote(str(tmp_path))))
    log, calls = tmp_path / "log", tmp_path / "calls"
    log.write_text("2026-11-28T03:00:01Z one\n2026-11-28T03:00:02Z == b\r 50%\n")
    reader = LogReader()
    statuses = poll(host, "docker", "ropeway.service=x", {"a": reader})
    assert statuses == {"a": Status("running", 0, 0), "b": Status("exited", 137, 2)}
    assert reader.text == log.read_bytes().decode()
    assert "--since" not in calls.read_text()
    # The line of the time that is asked for comes again; one of the same time is new.
    log.write_text("2026-11-28T03:00:02Z == b\r 50%\n2026-11-28T03:00:02Z three\n")
    poll(host, "docker", "ropeway.service=x", {"a": reader})
    assert calls.read_text().endswith("--since 2026-11-28T03:00:02Z a ")
    assert [line[21:] for line in reader.text.split("\n")] == ["one", "== b\r 50%", "three", ""]


def test_a_look_at_a_log_of_long_lines_is_bounded_and_what_was_handed_on_is_forgotten(
    host, docker, tmp_path
):
    docker(LOGS.format(folder=shlex.quote(str(tmp_path))))
    lines = [f"2026-11-28T03:00:0{n}Z {str(n) * (MOST_BYTES * 2 // 3)}" for n in range(3)]
    (tmp_path / "log").write_text("\n".join([*lines, ""]))
    reader = LogReader()
    poll(host, "docker", "ropeway.service=x", {"a": reader})
    assert len(reader.text) <= MOST_BYTES
    assert reader.take()[-1] == lines[-1]
    assert (reader.text, reader.take()) == ("", [])


@pytest.mark.parametrize("verb", ["ps", "inspect"])
def test_an_engine_that_does_not_answer_a_look_is_an_error(host, docker, verb):
    docker(f'[ $1 = {verb} ] && {{ echo "no daemon" >&2; exit 1; }}; echo id')
    with pytest.raises(HostError, match="does not answer") as caught:
        poll(host, "docker", "ropeway.service=x", {})
    assert "no daemon" in caught.value.evidence
    assert caught.value.where == "npu0"


# The end

DOCKER = """\
cd {folder}
case $1 in
  ps) cat ids;;
  rm) echo "$*" >>calls; {rm};;
esac"""


@pytest.mark.parametrize(("rm", "code"), [("mv late ids", 0), ("echo 'in use' >&2; exit 1", 1)])
def test_down_removes_containers_that_come_late_and_then_the_folders(
    host, docker, tmp_path, rm, code
):
    docker(DOCKER.format(folder=shlex.quote(str(tmp_path)), rm=f"{rm}; [ -e late ] || >late"))
    (Path(host.address) / "id").symlink_to("/bin/true")  # not root's: it lies in its home
    (tmp_path / "ids").write_text("1\n2\n")
    (tmp_path / "late").write_text("3\n")
    own, other = tmp_path / ".ropeway" / "moe", tmp_path / "it's" / "moe"
    for folder in (own, other, own.with_name("neighbour")):
        folder.mkdir(parents=True)
    args = ("docker", "ropeway.service=moe", "10", "moe", str(other))
    result = host.run(("env", f"HOME={tmp_path}", "sh", "-c", DOWN, "sh", *args))
    assert (result.exit_code, result.stdout, own.exists()) == (code, "" if code else "3\n", code)
    assert (other.exists(), own.with_name("neighbour").exists()) == (code, True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["rm --force 1 2", "rm --force 3"][: 1 if code else 2]


# What runs in a container


def test_an_engine_that_is_killed_at_once_ends_its_watchdog(host, tmp_path):
    """Also when it has ended before bash waits for it."""
    script = TOGETHER.format(engine="sh -c 'kill -KILL $$'", watch="sleep 30")
    late = script.replace("trap", "for number in {1..60000}; do :; done; trap", 1)
    (tmp_path / "script").write_text(late)
    result = host.run(("bash", str(tmp_path / "script")), timeout=20.0)
    assert (result.exit_code, result.seconds < 15) == (128 + 9, True)
