"""`tune` on virtual hosts, with an endpoint of known speed where the service would answer."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, running

from children import INTERRUPTIBLE
from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.bench.tuning import Trial
from ropeway.sim.launching import IssuedCommand
from ropeway.sim.machine import LaunchFaults
from ropeway.spec.cluster import RemoteHost
from tune_hosts import HEAD, LOAD, SEARCH, answering, settings, starts
from waiting import wait_for


@pytest.fixture
def two(cluster: Make) -> Iterator[Cluster]:  # noqa: F811
    with answering(cluster()) as found:
        yield found


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
        second_time = Trial.from_json(document["trials"][3])
        assert (document["verdict"], document["figure"]) == ("faster", second_time.figure)
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


def test_prompts_that_cannot_be_sent_are_found_before_the_first_start(two: Cluster):
    own = (*SEARCH, "--prompts", "p.jsonl")
    own = tuple(word for word in own if word not in ("--input-tokens", "16"))
    found = Path("p.jsonl")
    row = json.dumps({"messages": [{"role": "user", "content": "word " * 100}]})
    for text, why in ((None, "no such file"), (f'{row}\n{{"input": 1}}\n', "p.jsonl:2")):
        if text:
            found.write_text(text)
        assert two.run("tune", *own, "--out", "found") == 2
        assert why in two.error
    found.write_text(row + "\n")
    two.change("workload", input_tokens=16, output_tokens=4)
    two.serve(context=64)
    assert two.run("tune", *own, "--out", "found") == 2
    assert "the model takes 64" in two.error
    assert two.run("tune", *SEARCH, "--out", "found") == 0, "which are shorter"
    assert two.run("tune", *SEARCH, "--output-tokens", "64") == 2
    assert "served with a context of 64" in two.error
    assert starts(two) == 2, "those of the search that could be made"
    os.mkfifo("pipe")
    assert two.run("tune", *own[:-1], "pipe") == 2
    assert "a pipe can be read only once" in two.error


def test_a_search_goes_on_only_with_the_same_prompts(two: Cluster):
    own = (*SEARCH, "--prompts", "p.jsonl", "--out", "found")
    own = tuple(word for word in own if word not in ("--input-tokens", "16"))
    rows = [json.dumps({"messages": [{"role": "user", "content": f"say {n}"}]}) for n in range(9)]
    Path("p.jsonl").write_text("\n".join(rows))
    document = two.json("tune", *own)
    assert (document["ok"], len(document["trials"])) == (True, 2), two.err
    kept = json.loads(Path("found/search.json").read_text())["files_sha256"]
    assert kept == document["load"]["files_sha256"] != []
    assert two.run("tune", *own) == 0
    Path("p.jsonl").write_text("\n".join(rows[1:]))
    assert two.run("tune", *own) == 2
    assert "the search in this directory was another one" in two.error
    assert f'`files_sha256` was ["{kept[0][:20]}' in two.error
    assert starts(two) == 2


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
