"""The lock of `up`: lost in the middle, taken by others, asked for before harm is done."""

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rehearsed import Make, cluster, fleet_with, is_start  # noqa: F401
from ropeway.errors import HostError, Refused
from ropeway.hosts.local import LocalHost
from ropeway.launch.labels import Author
from ropeway.launch.lock import ASK, LOCK, holder, locked
from ropeway.launch.start import UNDO
from ropeway.sim.launching import Seen
from ropeway.sim.machine import Trouble
from sshd import descendants

WANG = Author("wang@desk", "a" * 12, "2026-11-28T03:00:00Z")
LI = Author("li@laptop", "b" * 12, "2026-11-28T04:00:00Z")
NOBODY = 65534  # as whom root runs these commands: for other users the lock lies in their home


class AsUser(LocalHost):
    """This machine with another home, its name."""

    def run(self, argv, **named):
        way = ("env", f"HOME={self.name}")
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


def end_holders() -> None:
    """What holds locks here is killed, and has ended."""
    sleeps = [
        pid
        for pid in descendants(os.getpid())
        if Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
    ]
    assert sleeps
    for pid in sleeps:
        os.kill(pid, signal.SIGKILL)
    while set(sleeps) & set(descendants(os.getpid())):
        time.sleep(0.01)


TAKEN = "li@laptop took it, 2026-11-28T04:00:00Z, and has "


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("taken", f"{TAKEN}it now"),
        ("given back", f"{TAKEN}given it back"),
        ("folder removed", "its folder was removed"),
        ("folder removed and taken", f"{TAKEN}it now"),
    ],
)
def test_a_lock_that_is_lost_says_who_has_it(what: str, told: str, host: AsUser):
    with locked([host], WANG) as lock, contextlib.ExitStack() as others:
        lock.check()
        if "folder" in what:
            shutil.rmtree(f"{host.name}/.ropeway")
        else:
            end_holders()
        if what != "folder removed":
            others.enter_context(locked([host], LI))
        if what == "given back":
            others.close()
        with pytest.raises(HostError) as caught:
            lock.check()
    assert (caught.value.where, caught.value.evidence) == (host.name, (f"{host.name}: {told}",))


def test_a_lock_that_is_only_gone_is_taken_again(host: AsUser):
    with locked([host], WANG) as lock:
        end_holders()
        lock.check()
        with pytest.raises(Refused, match="wang@desk"), locked([host], LI):
            pass
        lock.check()
    with locked([host], LI):
        pass


@pytest.mark.parametrize("last", [WANG, LI])
def test_a_folder_is_left_to_who_has_the_lock_now(last: Author, host: AsUser):
    """The script that undoes a start, where no container is left: `true` prints none."""
    folder = f"{host.name}/.ropeway/moe"
    assert host.run(("mkdir", "-p", folder)).ok
    with locked([host], last):
        pass
    given = ("true", "run", folder, "service", holder(WANG))
    assert host.run(("sh", "-c", UNDO, "sh", *given)).ok
    assert Path(folder).exists() is (last is LI)


def break_once(two, seen: Seen) -> None:
    """The connection of `up` breaks at this command, for a moment."""
    site = two.virtual.site(seen.host)
    before = sum(one.host == seen.host for one in two.virtual.seen) - 1
    site.machine = replace(site.machine, trouble=Trouble(drops_after=before, drops_for=1))


def test_an_up_whose_connection_broke_for_a_moment_goes_on_with_its_lock(cluster: Make):  # noqa: F811
    two = cluster()

    def drop(seen: Seen) -> None:
        if "logs" in seen.argv and two.virtual.site("host1").machine.trouble == Trouble():
            break_once(two, seen)

    two.virtual.on_command = drop
    assert two.run("up") == 0, two.err
    seen = [(one.host, one.argv[2:3]) for one in two.virtual.seen]
    assert [seen.count((name, (LOCK,))) for name in ("host1", "host2")] == [2, 1]
    starts = [is_start(one) for one in two.virtual.seen]
    assert seen.index(("host1", (ASK,))) < starts.index(True)
    assert not two.virtual.site("host1").lock.locked()


@pytest.mark.parametrize("removes", [True, False])
def test_an_up_whose_lock_is_taken_is_undone(removes: bool, cluster: Make):  # noqa: F811
    """And the folder is left to who has it. A container that they remove is no engine's failure."""
    two = cluster()
    site = two.virtual.site("host1")
    with contextlib.ExitStack() as theirs:

        def take(seen: Seen) -> None:
            if site.machine.trouble == Trouble():
                if "logs" in seen.argv:
                    break_once(two, seen)
            elif not site.lock.locked():
                two.virtual.on_command = lambda _: None
                theirs.enter_context(locked([two.virtual.connect("host1")], LI))
                if removes:
                    site.engine.answer(("rm", "--force", *site.engine.made), lambda _: None)

        two.virtual.on_command = take
        assert two.run("up") == 1
        assert f"host1: {TAKEN}it now" in two.err
        assert not two.containers()
        assert not two.virtual.site("host2").folders
        assert site.folders == {"/var/lib/ropeway/rehearsal"}
    assert two.run("down") == 0
    assert two.virtual.left() == ()


@pytest.mark.parametrize("verb", ["down", "restart"])
def test_without_the_lock_nothing_is_ended(verb: str, cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up") == 0
    before = two.containers()
    site = two.virtual.site("host1")

    def take(seen: Seen) -> None:
        if seen.argv[2:3] == (ASK,) and seen.host == "host1":
            site.files[f"{site.base}/holder"] = b"{}"

    two.virtual.on_command = take
    assert two.run(verb) == 1
    assert "somebody else took it" in two.err
    assert two.containers() == before
    assert all(one.stopped is None for one in site.engine.every)


def test_an_audit_that_cannot_be_written_is_told_once(cluster: Make):  # noqa: F811
    two = cluster(fleet_with(host2=Trouble(drops_after=15)))
    assert two.run("up") == 0, two.err
    assert two.err.count("audit") == 1
    said = "the audit could not be written on 1 of 2 hosts: host2: the connection broke off"
    assert said in " ".join(two.err.split())
