"""The lock of `up`: lost in the middle, taken by others, asked for before harm is done."""

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rehearsed import Make, cluster, fleet_with  # noqa: F401
from ropeway.errors import CheckFailed, HostError
from ropeway.hosts.local import LocalHost
from ropeway.launch.container_start import RUN_EACH, UNDO
from ropeway.launch.lock import APPEND, CHECK, LOCK, Author, Lock, locked
from ropeway.sim.launching import IssuedCommand
from ropeway.sim.machine import LaunchFaults
from sshd import descendants
from waiting import wait_for

pytestmark = pytest.mark.real_time

WANG = Author("wang@desk", "a" * 12, "2026-11-28T03:00:00Z")
LI = Author("li@laptop", "b" * 12, "2026-11-28T04:00:00Z")
NOBODY = 65534  # as whom root runs these commands: for other users the lock lies in their home


class AsUser(LocalHost):
    """This machine with another home, its name."""

    def run(self, argv, **named):
        path = Path(self.name) / "bin"  # all programs, where it is there
        way = ("env", f"HOME={self.name}", *((f"PATH={path}",) if path.exists() else ()))
        if os.getuid() == 0:
            way = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *way)
        return super().run((*way, *argv), **named)


@pytest.fixture
def host() -> Iterator[AsUser]:
    home = Path(tempfile.mkdtemp(prefix="rw-home-"))
    if os.getuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    yield AsUser(str(home))
    shutil.rmtree(home)


def process_file(pid: int, name: str) -> str:
    """Return a file of /proc about a process, nothing when that has ended meanwhile."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return ""


def holders() -> set[int]:
    """Return the shells here that hold a lock: those that run LOCK."""
    return {pid for pid in descendants(os.getpid()) if LOCK in process_file(pid, "cmdline")}


def sleeps_of(shells: set[int]) -> list[int]:
    """Return what these shells wait for; one may only just have forked, and be a shell itself."""
    begun = [pid for shell in shells for pid in descendants(shell)]
    return [pid for pid in begun if process_file(pid, "comm").strip() == "sleep"]


def end_holders() -> None:
    """Make the shells that hold locks end, and wait until they have.

    The lock belongs to the shell and to its `sleep`: it is free once both are gone.
    """
    shells = wait_for(lambda: {pid for pid in holders() if sleeps_of({pid})}, what="a holder")
    for pid in sleeps_of(shells):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not shells & set(descendants(os.getpid())), what="the end of the holders")


TAKEN = "li@laptop took it at 2026-11-28T04:00:00Z, and has "


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("taken", f"{TAKEN}it now"),
        ("given back", f"{TAKEN}released it"),
        ("folder removed", "its folder was removed"),
        ("folder removed and taken", f"{TAKEN}it now"),
    ],
)
def test_a_lock_that_is_lost_says_who_has_it(what: str, told: str, host: AsUser):
    with locked([host], WANG) as lock, contextlib.ExitStack() as others:
        lock.ensure_held()
        if "folder" in what:
            shutil.rmtree(f"{host.name}/.ropeway")
        else:
            end_holders()
        if what != "folder removed":
            others.enter_context(locked([host], LI))
        if what == "given back":
            others.close()
        with pytest.raises(HostError) as caught:
            lock.ensure_held()
    assert (caught.value.where, caught.value.evidence) == (host.name, (f"{host.name}: {told}",))


def test_a_lock_that_is_only_gone_is_taken_again(host: AsUser):
    with locked([host], WANG) as lock:
        end_holders()
        lock.ensure_held()
        with pytest.raises(CheckFailed, match="wang@desk"), locked([host], LI):
            pass
        lock.ensure_held()
    with locked([host], LI):
        pass
    again = Lock(WANG, [host])
    with pytest.raises(HostError) as caught:
        again.take([host], "again")
    again.release()
    assert caught.value.evidence == (f"{host.name}: {TAKEN}released it",)


def test_a_host_without_flock_is_not_called_locked(host: AsUser):
    programs = Path(host.name) / "bin"
    programs.mkdir()
    for name in ("sh", "id", "mkdir", "cat"):
        (programs / name).symlink_to(shutil.which(name) or "")
    with pytest.raises(HostError, match="cannot lock") as caught, locked([host], WANG):
        pass
    assert "flock" in caught.value.evidence[-1]


@pytest.mark.parametrize("last", [WANG, LI])
def test_a_folder_is_left_to_who_has_the_lock_now(last: Author, host: AsUser):
    """The script that undoes a start, where no container is left: `true` prints none."""
    folder = f"{host.name}/.ropeway/moe"
    assert host.run(("mkdir", "-p", folder)).ok
    with locked([host], last):
        pass
    given = ("true", "run", folder, "service", WANG.as_holder())
    assert host.run(("sh", "-c", UNDO, "sh", *given)).ok
    assert Path(folder).exists() is (last is LI)


def break_once(two, command: IssuedCommand) -> None:
    """Let the connection of `up` break at this command, for a moment."""
    state = two.virtual.state(command.host)
    before = sum(one.host == command.host for one in two.virtual.commands) - 1
    state.machine = replace(state.machine, faults=LaunchFaults(drops_after=before, drops_for=1))


def asks_for_a_token(command: IssuedCommand) -> bool:
    """Return whether it is the last look at the engine: an error of it is only a reason to wait."""
    return command.argv[1] == "exec" and "watch.py" in " ".join(command.argv)


def test_an_up_whose_connection_broke_for_a_moment_goes_on_with_its_lock(cluster: Make):  # noqa: F811
    two = cluster()

    def drop(command: IssuedCommand) -> None:
        intact = two.virtual.state("host1").machine.faults == LaunchFaults()
        if intact and asks_for_a_token(command):
            break_once(two, command)

    two.virtual.on_command = drop
    assert two.run("up") == 0, two.err
    scripts = [(command.host, command.script) for command in two.virtual.commands]
    assert [scripts.count((host, LOCK)) for host in ("host1", "host2")] == [2, 1]
    assert scripts.index(("host1", CHECK)) < scripts.index(("host1", RUN_EACH))
    assert not two.virtual.state("host1").lock.locked()


@pytest.mark.parametrize("removes", [True, False])
def test_an_up_whose_lock_is_taken_is_undone(removes: bool, cluster: Make):  # noqa: F811
    """And the folder is left to whoever has it. A container that they remove has not failed."""
    two = cluster()
    state = two.virtual.state("host1")
    with contextlib.ExitStack() as theirs:

        def take(command: IssuedCommand) -> None:
            if state.machine.faults == LaunchFaults():
                if asks_for_a_token(command):
                    break_once(two, command)
            elif command.host == "host1":
                two.virtual.on_command = lambda _: None
                theirs.enter_context(locked([two.virtual.connect("host1")], LI))
                if removes:
                    state.engine.answer(("rm", "--force", *state.engine.by_name), lambda _: None)

        two.virtual.on_command = take
        assert two.run("up") == 1
        assert f"host1: {TAKEN}it now" in two.err
        assert not two.containers()
        assert not two.virtual.state("host2").folders
        assert state.folders == {"/var/lib/ropeway/rehearsal"}
    assert two.run("down") == 0
    assert two.remains() == []


@pytest.mark.parametrize("verb", ["down", "restart"])
def test_without_the_lock_nothing_is_ended(verb: str, cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up") == 0
    before = two.containers()
    state = two.virtual.state("host1")

    def take(command: IssuedCommand) -> None:
        if command.script == CHECK and command.host == "host1":
            state.files[f"{state.base}/holder"] = b"{}"

    two.virtual.on_command = take
    assert two.run(verb) == 1
    assert "somebody else took it" in two.err
    assert two.containers() == before
    assert all(one.stopped is None for one in state.engine.every)


def test_an_audit_log_that_cannot_be_written_is_warned_of_once(cluster: Make):  # noqa: F811
    two = cluster()

    def drop(command: IssuedCommand) -> None:
        if command.script == APPEND and command.host == "host2":
            break_once(two, command)

    two.virtual.on_command = drop
    assert two.run("up") == 0, two.err
    assert two.err.count("audit log") == 1
    warning = " ".join(two.err.split())
    assert "on 1 of 2 hosts: host2: the connection was lost" in warning
