"""`tune` on virtual hosts, with an endpoint of known speed where the service would answer."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Behaviour, running

from children import INTERRUPTIBLE
from json_documents import read_document
from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.errors import HostError
from ropeway.launch.running import DOWN
from ropeway.sim.launching import IssuedCommand
from ropeway.sim.machine import LaunchFaults
from ropeway.spec.cluster import RemoteHost
from waiting import wait_for

LOAD = ("--clients", "2", "--requests", "4", "--input-tokens", "16", "--output-tokens", "4",
        "--warmup", "0", "--rounds", "3")  # fmt: skip
# Two settings, and none beside them.
SEARCH = (*LOAD, "--layouts", "2", "--vary", "layout", "--skip-checks", "--no-confirm")
HEAD = "http://127.0.0.1:"


@pytest.fixture
def two(cluster: Make) -> Iterator[Cluster]:  # noqa: F811
    with answering(cluster()) as found:
        yield found


@contextmanager
def answering(found: Cluster, behaviour: Behaviour | None = None) -> Iterator[Cluster]:
    """Two hosts, and where their service would listen somebody who answers for it."""
    quick = behaviour or Behaviour(ttft_s=0, tpot_s=0.001)
    with running(quick) as fake:
        found.serve(port=int(fake.url.removeprefix(HEAD).removesuffix("/v1")))
        found.change("model", served_name="fake")
        yield found


def settings(document: dict[str, Any]) -> list[str]:
    return [trial["setting"]["layout"] for trial in document["trials"]]


def starts(found: Cluster) -> int:
    """How often containers were started on the first host."""
    commands = found.virtual.commands
    return sum(one.starts_containers for one in commands if one.host == "host1")


def test_the_specs_setting_and_the_plans_are_brought_up_and_taken_down(two: Cluster):
    search = ("tune", *LOAD, "--layouts", "2", "--vary", "layout", "--no-confirm", "--out", "found")
    document = two.json(*search)
    assert document["ok"], two.err
    assert settings(document)[0] == "DP2×TP8+EP", "the spec's own"
    assert len(set(settings(document))) == len(document["trials"]) == starts(two) == 2
    assert document["engine"].startswith("vllm-ascend 0.")
    assert document["hardware"] == "2 hosts, 16 NPUs of 910B4"
    assert document["notes"][-1] == "Not verified on NPU hardware."
    assert not any("share this machine's cores" in note for note in document["notes"])
    for trial in document["trials"]:
        assert trial["start_s"] is not None
        assert 1 <= len(trial["figures"]) <= 3
        folder = two.folder / trial["folder"]
        assert f"layout: {trial['setting']['layout']}" in (folder / "spec.yaml").read_text()
        assert "docker run" in (folder / "commands.sh").read_text()
        assert (folder / "round-1" / "timings.jsonl").exists()
    assert two.remains() == []
    assert two.last_audit()["verb"] == "down"

    assert two.json(*search)["trials"] == document["trials"]
    assert starts(two) == 2, "nothing is measured twice"
    two.change("model", served_name="other")
    assert two.run("tune", *SEARCH, "--out", "found") == 2
    assert "the search in this directory was another one" in two.error
    assert two.remains() == []


def test_the_best_and_the_first_are_brought_up_once_more(cluster: Make):  # noqa: F811
    two = cluster()
    slow, fast = (Behaviour(ttft_s=0, tpot_s=seconds) for seconds in (0.1, 0.004))
    with running(slow) as fake:
        two.serve(port=int(fake.url.removeprefix(HEAD).removesuffix("/v1")))
        two.change("model", served_name="fake")

        def pace(_: IssuedCommand) -> None:
            """Every other start is that of the plan's layout."""
            fake.behaviour = fast if starts(two) % 2 == 0 else slow

        two.virtual.on_command = pace
        search = ("tune", *SEARCH, "--confirm", "--out", "found")
        document = two.json(*search)
        assert (document["ended"], document["ok"]) == ("complete", True), two.err
        first, second, *again = settings(document)
        assert (first, again) == ("DP2×TP8+EP", [first, second])
        assert [one["confirms"] for one in document["trials"]] == [False, False, True, True]
        assert document["best"]["layout"] == second
        assert (document["verdict"], document["figure"]) == (
            "faster",
            sum(document["trials"][3]["figures"]) / 3,
        )
        assert starts(two) == 4
        assert two.remains() == []
        assert two.json(*search)["trials"] == document["trials"]
        assert starts(two) == 4


def test_the_key_of_the_service_goes_with_every_request(cluster: Make, monkeypatch):  # noqa: F811
    key = "a-key-that-nobody-may-see"
    monkeypatch.setenv("MY_KEY", key)
    with answering(cluster(), Behaviour(ttft_s=0, tpot_s=0.001, key=key)) as two:
        two.serve(api_key_env="MY_KEY")
        document = two.json("tune", *SEARCH, "--out", "found")
        assert [trial["error"] for trial in document["trials"]] == [None, None]
        texts = [path.read_text() for path in Path("found").rglob("*") if path.is_file()]
        assert not any(key in text for text in (*texts, two.out, two.err))
        monkeypatch.delenv("MY_KEY")
        assert two.run("tune", *SEARCH) == 2
        assert "`MY_KEY`, which is not set" in two.error


def test_a_start_that_fails_is_a_trial_and_the_search_goes_on(cluster: Make):  # noqa: F811
    line = "torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB"
    fleet = fleet_with(host2=LaunchFaults(fails=(line,)))
    with answering(cluster(fleet)) as two:
        two.serve(layout="TP8×PP2")
        document = two.json("tune", *SEARCH, "--layout", "TP8×PP2", "--layout", "TP8")
        assert two.remains() == []
        assert document["ok"], two.err
        failed, measured = document["trials"]
        assert failed["error"].startswith("the engine failed: ")
        assert "out of memory" in failed["error"]
        assert failed["figures"] == []
        assert measured["error"] is None
        assert document["best"]["layout"] == "TP8"
        (log,) = (two.folder / failed["folder"]).glob("host2-*.log")
        assert line in log.read_text()


def test_when_nothing_starts_the_answer_is_no(cluster: Make):  # noqa: F811
    with answering(cluster(fleet_with(host1=LaunchFaults(fails=("RuntimeError: no",))))) as two:
        document = two.json("tune", *SEARCH)
        assert (document["ok"], document["best"]) == (False, None)
        assert "no setting could be measured" in document["notes"][0]
        assert two.remains() == []


def test_a_service_that_runs_is_taken_down_only_for_who_agrees(two: Cluster, monkeypatch):
    assert two.run("up") == 0, two.err
    before = two.containers()
    monkeypatch.setattr("sys.stdin", StringIO())
    assert two.run("tune", *SEARCH) == 2
    assert "nobody answers the question: `rehearsal` is running: take it down" in two.error
    assert "`--yes`" in two.error
    asked: list[str] = []
    monkeypatch.setattr("click.confirm", lambda text, **_: asked.append(text))
    assert two.run("tune", *SEARCH) == 130
    assert asked == [
        "`rehearsal` is running: take it down for the search? it stays down afterwards"
    ]
    assert two.run("tune", *SEARCH, "--lang", "zh") == 130
    assert "是否为搜索将其下线" in asked[1]
    assert two.containers() == before
    document = two.json("tune", *SEARCH, "--yes")
    assert len(document["trials"]) == 2
    assert starts(two) == 3, "what ran is not taken for a trial"
    assert document["warnings"][-1] == (
        "`rehearsal`, which ran before the search, is down; `ropeway up` starts it again"
    )
    assert two.remains() == []


def test_what_runs_is_left_alone_where_the_search_does_not_begin(two: Cluster):
    assert two.run("up") == 0
    before = two.containers()
    Path("found").mkdir()
    (Path("found") / "conditions.json").touch()
    assert two.run("tune", *SEARCH, "--yes", "--out", "found") == 2
    assert "already holds a run" in two.error
    assert "is down" not in two.err
    assert two.containers() == before


def test_other_services_of_the_hosts_are_not_touched(two: Cluster):
    mine = two.spec
    hosts = mine.cluster.hosts or ()
    halves = [
        [RemoteHost(address=one.address, npus=4, devices=devices) for one in hosts]
        for devices in ((0, 1, 2, 3), (4, 5, 6, 7))
    ]
    other = mine.model_copy(
        update={
            "name": "other",
            "cluster": mine.cluster.model_copy(update={"hosts": tuple(halves[0])}),
        }
    )
    two.write(other)
    two.serve(layout="TP4", port=9999)
    assert two.run("up") == 0, two.err
    before = two.containers()
    assert before
    two.write(
        mine.model_copy(
            update={"cluster": mine.cluster.model_copy(update={"hosts": tuple(halves[1])})}
        )
    )
    two.serve(layout="TP4")
    document = two.json("tune", *SEARCH)
    assert document["ok"], two.err
    assert two.containers() == before


def test_the_checks_of_doctor_come_first_and_once(cluster: Make):  # noqa: F811
    with answering(cluster(fleet_with("npu-busy:host2"))) as two:
        assert two.run("tune", *LOAD, "--layouts", "2", "--vary", "layout") == 1
        assert starts(two) == 0
        assert not Path("runs").exists()
        assert two.remains() == []
        assert two.run("tune", *LOAD, "--layout", "TP4", "--vary", "layout") == 0, two.err
        assert two.err.count("check 1 host …") == 1
        assert two.run("tune", *SEARCH, "--layout", "TP4") == 0
        assert two.err.count("not checked: ") == 1


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


def test_what_does_not_go_together_is_refused(two: Cluster):
    assert two.run("tune", "--rehearse", "--write") == 2
    assert "the speed in a rehearsal is made up" in two.error
    assert two.run("tune", "--local", "--write") == 2
    assert "`--local` has none" in two.error
    assert two.run("tune", "--fault", "npu-busy") == 2
    assert "add `--rehearse`" in two.error


@pytest.mark.real_time
def test_a_rehearsal_is_interrupted_and_goes_on(tmp_path: Path):
    argv = (sys.executable, "-m", "ropeway", "tune", "--rehearse", "1x8-910B4", *SEARCH,
            "--out", "found")  # fmt: skip
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    log = tmp_path / "log"
    with log.open("wb") as file, subprocess.Popen(
        (*INTERRUPTIBLE, *argv), cwd=tmp_path, env=env, stdout=file, stderr=file
    ) as process:  # fmt: skip
        try:
            second = lambda: len([*tmp_path.glob("found/02-*/round-*")])  # noqa: E731
            wait_for(
                lambda: second() or process.poll() is not None, seconds=120, what=log.read_text
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130, log.read_text()
        finally:
            process.kill()
    said = log.read_text()
    assert said.count("take `rehearsal` down on 1 host …") == 2
    kept = json.loads((tmp_path / "found" / "tuning.json").read_text())
    assert (kept["ended"], len(kept["trials"])) == ("interrupted", 1)
    assert kept["model"].endswith("(rehearsal)")
    again = subprocess.run(
        (*argv, "--json"), cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    document = json.loads(again.stdout)
    assert (document["rehearsal"], document["ended"]) == (True, "complete")
    assert len(document["trials"]) == 2
    assert "the speed of every setting is made up" in document["notes"][-1]
