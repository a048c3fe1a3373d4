"""What every Host promises, on this machine and over SSH: commands, files, timeouts."""

import hashlib
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from children import TEXT, are_gone, sleeping
from ropeway.errors import HostError, TimeLimit
from ropeway.hosts.base import Host
from ropeway.hosts.local import LocalHost

pytestmark = pytest.mark.real_time


@pytest.fixture(scope="module", params=["local", pytest.param("ssh", marks=pytest.mark.slow)])
def host(request) -> Host:
    if request.param == "local":
        return LocalHost("npu0", "127.0.0.2")
    return request.getfixturevalue("server").host("npu0")


@pytest.mark.parametrize("code", [0, 1, 127, 255])  # 255 is also ssh's own
def test_a_command_gives_its_exit_code_and_both_outputs(host, code):
    result = host.run(("sh", "-c", f"echo out; echo err >&2; exit {code}"))
    assert (result.exit_code, result.stdout, result.stderr) == (code, "out\n", "err\n")
    assert result.ok is (code == 0)
    assert result.seconds > 0


def test_input_arrives_whole_and_is_empty_by_default(host):
    data = os.urandom(3_000_000) + b"\n\0\n"  # more than a pipe holds
    digest = host.run(("sha256sum",), stdin=data).stdout.split()[0]
    assert digest == hashlib.sha256(data).hexdigest()
    assert host.run(("cat",)).stdout == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(TEXT, min_size=1, max_size=3))
def test_every_word_arrives_as_it_is(host, words):
    result = host.run(("sh", "-c", r'printf "%s\0" "$@"', "sh", *words))
    assert result.stdout.split("\0")[:-1] == words


def test_each_line_is_heard_at_once(host, tmp_path):
    """The command goes on only when its first line has been heard."""
    go, lines = tmp_path / "go", []

    def on_line(line: str) -> None:
        lines.append(line)
        go.touch()

    script = 'echo one; until [ -e "$1" ]; do sleep 0.02; done; echo two >&2; printf three'
    host.run(("sh", "-c", script, "sh", str(go)), on_line=on_line)
    assert lines[0] == "one"
    assert sorted(lines) == ["one", "three", "two"]


def test_a_program_that_is_not_there_is_named(host):
    with pytest.raises(HostError) as caught:
        host.run(("no-such-program",))
    assert caught.value.what == "cannot run `no-such-program`: no such file or directory"
    assert caught.value.where == "npu0"


def test_a_timeout_ends_the_command_and_its_children(host, tmp_path):
    assert host.run(("true",)).ok, "the connection is there"
    # Over SSH one that ignores SIGTERM is given more time: test_remote.py.
    local = isinstance(host, LocalHost)
    script = sleeping("(trap '' TERM; exec sleep 60)" if local else "sleep 60")
    with pytest.raises(TimeLimit) as caught:
        host.run(("sh", "-c", script, str(tmp_path / "pids")), timeout=3)
    assert "`sh`" in caught.value.what
    assert "3 s" in caught.value.what
    assert caught.value.evidence == ("begun",)
    assert are_gone(tmp_path / "pids"), "not even a moment later"
    assert host.run(("true",)).ok, "and it is still there"


def test_a_file_is_put_whole_with_its_mode_and_read_back(host, tmp_path):
    path, data = tmp_path / "it's a file", os.urandom(2_000_000)
    host.put(data, str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert host.get(str(path)) == data
    old = path.stat().st_ino
    host.put(b"", str(path), mode=0o600)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"", 0o600)
    assert path.stat().st_ino != old, "written beside and moved over: no reader sees half a file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_put_that_fails_leaves_nothing(host, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match=r"cannot write `.*folder`: is a directory"):
        host.put(b"x", str(tmp_path / "folder"))
    with pytest.raises(HostError, match=r"cannot write `.*/none/x`: no such file or directory"):
        host.put(b"x", str(tmp_path / "none" / "x"))
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_a_file_that_cannot_be_read_is_named(host, tmp_path):
    with pytest.raises(HostError, match=r"cannot read `.*none`: no such file or directory"):
        host.get(str(tmp_path / "none"))
    with pytest.raises(HostError, match=r"cannot read `.*`: is a directory"):
        host.get(str(tmp_path))
