"""`tune` on virtual hosts where something goes wrong: what is kept, and what is said."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_endpoint import Behaviour

from json_documents import read_document
from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.errors import HostError
from ropeway.launch.running import DOWN
from ropeway.sim.launching import IssuedCommand
from tune_hosts import SEARCH, answering, starts


@pytest.fixture
def two(cluster: Make) -> Iterator[Cluster]:  # noqa: F811
    with answering(cluster()) as found:
        yield found


class Trouble:
    """What is wrong from the moment when the first trial has been taken down."""

    def __init__(self, two: Cluster, trouble: Callable[[IssuedCommand], None]) -> None:
        self.on, self._trouble = True, trouble
        self._downs: set[str] = set()
        two.virtual.on_command = self

    def __call__(self, command: IssuedCommand) -> None:
        if self.on and self._downs == {"host1", "host2"}:
            self._trouble(command)
        if command.script == DOWN:
            self._downs.add(command.host)


def silent(command: IssuedCommand) -> None:
    if command.host == "host2":
        raise HostError("the host did not answer within 60 s", where="host2", hint="is it up?")


def test_hosts_that_do_not_answer_end_the_search_with_what_was_measured(two: Cluster):
    trouble = Trouble(two, silent)
    document = two.json("tune", *SEARCH, "--out", "found")
    assert (document["ok"], document["ended"]) == (False, "hosts gone")
    assert document["error"]["what"] == "the host did not answer within 60 s"
    assert document["error"]["hint"] == "is it up?"
    assert len(document["trials"]) == 1
    assert document["following"] is not None
    assert document["best"] is not None
    trouble.on = False
    document = two.json("tune", *SEARCH, "--out", "found")
    assert document.get("ended"), two.err
    assert (document["ok"], document["ended"], len(document["trials"])) == (True, "complete", 2)
    assert two.remains() == []


def test_a_host_that_goes_away_under_load_is_the_end_but_not_of_what_was_measured(two: Cluster):
    gone = False

    def trouble(command: IssuedCommand) -> None:
        nonlocal gone
        if command.host == "host2" and (gone or command.script == DOWN):
            gone = True
            silent(command)

    two.virtual.on_command = trouble
    document = two.json("tune", *SEARCH, "--out", "found")
    assert (document["ended"], len(document["trials"])) == ("hosts gone", 1)
    assert document["best"] is not None, "its rounds count"
    assert [*two.containers()] == ["ropeway-rehearsal-0-1"], "the other host is clean"
    assert document["warnings"][-1].endswith("could not be taken down on 1 of 2 hosts")
    two.virtual.on_command = lambda _: None
    document = two.json("tune", *SEARCH, "--out", "found", "--yes")
    assert (document["ended"], len(document["trials"])) == ("complete", 2)
    assert two.remains() == []


def test_a_start_during_which_a_host_went_away_is_no_trial(two: Cluster):
    def trouble(command: IssuedCommand) -> None:
        if any(one.starts_containers for one in two.virtual.commands[-200:-1]) and starts(two) > 1:
            silent(command)

    found = Trouble(two, trouble)
    document = two.json("tune", *SEARCH, "--out", "found")
    assert starts(two) == 2, "the second start had begun"
    assert (document["ended"], len(document["trials"])) == ("hosts gone", 1)
    assert "this finishes it:\n" in document["error"]["hint"]
    assert "docker rm --force" in document["error"]["hint"]
    assert "could not be taken down on 1 of 2 hosts" in document["warnings"][-1]
    found.on = False
    document = two.json("tune", *SEARCH, "--out", "found", "--yes")
    assert (document["ended"], len(document["trials"])) == ("complete", 2)
    assert two.remains() == []


def test_a_lock_that_somebody_else_took_ends_the_search(two: Cluster):
    state = two.virtual.state("host1")

    def steal(_: IssuedCommand) -> None:
        state.files[f"{state.base}/holder"] = json.dumps(
            {"who": "eve@laptop", "run": "1", "since": "now"}
        ).encode()

    Trouble(two, steal)
    document = two.json("tune", *SEARCH)
    assert document["ended"] == "hosts gone"
    assert "the lock was lost" in document["error"]["what"]
    assert len(document["trials"]) <= 1


def press_ctrl_c() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_requests_that_fail_because_a_host_is_gone_are_no_trial(cluster: Make):  # noqa: F811
    def trouble(command: IssuedCommand) -> None:
        if any(Path("found").glob("01-*/round-1")):
            silent(command)

    with answering(cluster(), Behaviour(ttft_s=0, fault="error", fault_every=4)) as two:
        two.virtual.on_command = trouble
        document = two.json("tune", *SEARCH, "--out", "found")
        assert (document["ended"], document["trials"]) == ("hosts gone", [])
        assert document["error"]["what"] == "the host did not answer within 60 s"
        assert any("failed" in line for line in document["error"]["evidence"])
        assert not Path("found/trials.jsonl").exists()


def test_a_disk_that_is_full_at_a_start_is_the_end_of_the_search(two: Cluster):
    def fill(_: IssuedCommand) -> None:
        for folder in Path("found").glob("02-*"):
            if not (script := folder / "commands.sh").is_symlink():
                script.symlink_to("/dev/full")

    two.virtual.on_command = fill
    document = two.json("tune", *SEARCH, "--out", "found")
    assert (document["ok"], document["ended"]) == (False, "not recorded")
    assert len(document["trials"]) == 1
    assert "no space left on device" in document["error"]["what"]
    assert json.loads(Path("found/tuning.json").read_text())["ended"] == "not recorded"
    assert two.remains() == []
    two.virtual.on_command = lambda _: None
    document = two.json("tune", *SEARCH, "--out", "found")
    assert (document["ended"], len(document["trials"])) == ("complete", 2)


def test_ctrl_c_while_a_setting_is_taken_down_keeps_its_trial(two: Cluster):
    def trouble(command: IssuedCommand) -> None:
        if command.script == DOWN and command.host == "host1":
            press_ctrl_c()

    two.virtual.on_command = trouble
    assert two.run("tune", *SEARCH, "--out", "found", "--json") == 130
    document = read_document(two.out)
    assert (document["ended"], len(document["trials"])) == ("interrupted", 1)
    assert document["best"] is not None
    assert two.remains() == []


def test_a_second_ctrl_c_does_not_hide_what_is_down_and_what_is_still_up(two: Cluster):
    downs = 0

    def trouble(command: IssuedCommand) -> None:
        nonlocal downs
        if command.host != "host1":
            return
        if command.script == DOWN:
            downs += 1
            if downs > 1:
                press_ctrl_c()
                raise HostError("the daemon is busy", where="host1")
        elif downs > 1:
            press_ctrl_c()

    assert two.run("up") == 0, two.err
    two.virtual.on_command = trouble
    assert two.run("tune", *SEARCH, "--yes", "--out", "found") == 130
    two.virtual.on_command = lambda _: None
    said = " ".join(two.err.split())
    assert "warning: `rehearsal` may still be up: taking it down was interrupted" in said
    assert "this finishes it: ropeway down --name rehearsal --host" in said
    assert "`rehearsal`, which ran before the search, is down; `ropeway up`" in said
    assert "the best: " in two.out
    kept = json.loads(Path("found/tuning.json").read_text())
    assert (kept["ended"], len(kept["trials"])) == ("interrupted", 1)


@pytest.mark.parametrize("last", [False, True])
def test_what_could_not_be_taken_down_is_taken_down_later(two: Cluster, last: bool):
    """Before the next trial, or at the end of the search."""
    failures = 0

    def fail_once(command: IssuedCommand) -> None:
        nonlocal failures
        if command.script == DOWN and command.host == "host1" and not failures:
            failures += 1
            raise HostError("the daemon is busy", where="host1")

    two.virtual.on_command = fail_once
    only = ("--layout", "TP8") if last else ()
    document = two.json("tune", *SEARCH, *only)
    assert failures == 1
    assert document["ok"], two.err
    assert len(document["trials"]) == (1 if last else 2)
    assert not any(trial["error"] for trial in document["trials"])
    assert any("could not be taken down on 1 of 2 hosts" in one for one in document["warnings"])
    assert not any("ran before the search" in one for one in document["warnings"])
    assert two.remains() == []
