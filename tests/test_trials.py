"""The trials of `tune`, with an endpoint of known speed in place of each setting."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, running

from ropeway.bench.goals import Goals
from ropeway.bench.load_test import LoadTest
from ropeway.bench.served import Rounds, Served
from ropeway.bench.trials import HostsGone, Trials, alone_in
from ropeway.bench.tuning import best_of, chosen_of
from ropeway.endpoint.address import Endpoint
from ropeway.errors import (
    CheckFailed,
    EndpointError,
    HostError,
    LaunchError,
    LayoutError,
    Refused,
    RopewayError,
)
from ropeway.report.console import Screen
from ropeway.spec.model import Layout
from ropeway.spec.setting import Setting
from waiting import wait_for

SLOW, FAST, BROKEN = (Setting(layout=Layout(tensor=size)) for size in (1, 2, 4))
FASTER = replace(FAST, max_sequences=64)
LOAD = LoadTest(input_tokens=16, output_tokens=4, clients=2, requests=4, warmup=0)
SEARCH = {"load": {"clients": 2}, "starts": ["TP1"]}
# Seconds a token, far enough apart for a busy machine.
SPEED = {SLOW: 0.1, FAST: 0.02, FASTER: 0.004}


def paced(setting: Setting) -> Behaviour:
    """An engine that takes as long for a token as the setting says, and answers shortly."""
    return Behaviour(ttft_s=0, tpot_s=SPEED[setting], answer_tokens=4)


def steps(setting: Setting) -> Iterator[Setting]:
    if setting == FAST:
        yield FASTER


@dataclass
class Cluster:
    """Serves a setting as an endpoint; `faults` are raised in place of a start."""

    faults: dict[Setting, BaseException] = field(default_factory=dict)
    behaviour: Behaviour | None = None
    started: list[Setting] = field(default_factory=list)
    down: int = 0

    @contextmanager
    def serve(self, setting: Setting, folder: Path) -> Iterator[Served]:
        folder.mkdir()
        self.started.append(setting)
        if setting in self.faults:
            raise self.faults[setting]
        with running(self.behaviour or paced(setting)) as fake:
            try:
                yield Served(Endpoint(fake.url), "fake", 12.5)
            finally:
                self.down += 1


def begun(folder: Path, load: LoadTest = LOAD, most: int = 2) -> Trials:
    screen = Screen(quiet=True, stdout=StringIO(), stderr=StringIO())
    folder.mkdir(exist_ok=True)
    trials = Trials(Rounds(load, "fake engine", "two hosts", screen, most), folder)
    trials.take_up(SEARCH)
    return trials


def test_the_planned_ones_are_measured_and_then_the_best_is_varied(tmp_path: Path) -> None:
    cluster, trials = Cluster(), begun(tmp_path)
    assert trials.run([SLOW, FAST], steps, cluster.serve) == "complete"
    assert cluster.started == [SLOW, FAST, FASTER, SLOW, FASTER], "the last two confirm it"
    assert cluster.down == 5
    found = chosen_of(trials.measured)
    assert found is not None and found.setting == FASTER and found.confirms
    assert (found.start_s, len(found.figures)) == (12.5, 2)
    assert found.answer
    assert found.folder and (Path(found.folder) / "round-2" / "timings.jsonl").exists()
    assert [one.setting for one in begun(tmp_path).measured] == cluster.started
    assert begun(tmp_path).measured == trials.measured, "every trial is kept whole"


def test_what_cannot_run_or_does_not_start_is_a_trial_too(tmp_path: Path) -> None:
    no_room = Refused("no room", evidence=["16 GiB are missing"])
    faults: dict[Setting, BaseException] = {
        BROKEN: LayoutError("cannot run", evidence=["4 does not divide 3"]),
        SLOW: LaunchError("died", evidence=["out of memory", "a second line"]),
        FASTER: no_room,
    }
    cluster, trials = Cluster(faults), begun(tmp_path)
    assert trials.run([BROKEN, SLOW, FAST], steps, cluster.serve) == "complete"
    assert [trial.error for trial in trials.measured] == [
        "cannot run; 4 does not divide 3", "died; out of memory", None,
        "no room; 16 GiB are missing", None,
    ]  # fmt: skip
    found = best_of(trials.measured)
    assert found is not None and found.setting == FAST


def test_a_failed_request_ends_a_trial_and_it_is_never_the_best(tmp_path: Path) -> None:
    cluster, trials = (
        Cluster(behaviour=Behaviour(ttft_s=0, tpot_s=0, fault="error", fault_every=6)),
        begun(tmp_path),
    )
    trials.run([FAST], lambda _: (), cluster.serve)
    (trial,) = trials.measured
    assert trial.figures[-1] == 0.0, "no further round after one with failures"
    assert trial.error == "1 request failed"
    assert best_of(trials.measured) is None


def test_under_goals_the_figure_is_the_requests_that_met_them(tmp_path: Path) -> None:
    load = replace(LOAD, goals=Goals(ttft_s=30.0, tpot_s=0.06))
    cluster, trials = Cluster(), begun(tmp_path, load)
    trials.run([SLOW, FAST], lambda _: (), cluster.serve)
    slow, fast, *_ = trials.measured
    assert max(slow.figures) < 0, "no request met them"
    assert all(
        figure == one.requests_per_s for figure, one in zip(fast.figures, fast.rounds, strict=True)
    )


def test_an_interrupt_keeps_what_was_measured_and_the_search_goes_on(tmp_path: Path) -> None:
    cluster, trials = Cluster({FAST: KeyboardInterrupt()}), begun(tmp_path)
    assert trials.run([SLOW, FAST], steps, cluster.serve) == "interrupted"
    assert len(trials.measured) == 1
    cluster, again = Cluster(), begun(tmp_path)
    assert again.run([SLOW, FAST], steps, cluster.serve) == "complete"
    assert cluster.started == [FAST, FASTER, SLOW, FASTER]


def test_a_line_that_was_cut_off_is_no_trial(tmp_path: Path) -> None:
    trials = begun(tmp_path)
    trials.run([SLOW, FAST], lambda _: (), Cluster().serve)
    path = tmp_path / "trials.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + 50])
    again = begun(tmp_path)
    assert [one.setting for one in again.measured] == [SLOW]
    again.run([SLOW, FAST], lambda _: (), Cluster().serve)
    lines = path.read_text().splitlines()
    layouts = [json.loads(line)["setting"]["layout"] for line in lines]
    assert layouts == ["TP1", "TP2", "TP1", "TP2"], "with two to confirm"


@pytest.mark.parametrize(
    "damaged",
    [
        '{"setting": {}}',
        "[]",
        "no JSON",
        '{"setting": {"layout": "?"}}',
        '{"setting": {"layout": 5}}',
        '{"setting": {"layout": "TP8", "max_sequences": []}}',
        '{"setting": {"layout": "TP8"}, "figures": [NaN]}',
        '{"setting": {"layout": "TP8"}, "figures": [1e999]}',
        '{"setting": {"layout": "TP8"}, "figures": [1], "start_s": "x"}',
    ],
)
def test_what_is_no_record_of_trials_is_refused(tmp_path: Path, damaged: str) -> None:
    begun(tmp_path)
    (tmp_path / "trials.jsonl").write_text(damaged + "\n")
    with pytest.raises(Refused, match="no trials of"):
        begun(tmp_path)


def test_another_search_is_refused_in_the_same_folder(tmp_path: Path) -> None:
    trials = begun(tmp_path)
    with pytest.raises(Refused, match="was another one") as refused:
        trials.take_up({**SEARCH, "starts": ["TP4"]})
    assert refused.value.evidence == ('`starts` was ["TP1"], and is ["TP4"]',)
    (tmp_path / "search.json").unlink()
    (tmp_path / "conditions.json").touch()
    with pytest.raises(Refused, match="already holds a run"):
        trials.take_up(SEARCH)


def test_two_searches_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path),
        pytest.raises(Refused, match="another search is running"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass


def test_no_trial_begins_that_would_exceed_the_limit(tmp_path: Path) -> None:
    cluster, trials = Cluster(), begun(tmp_path)
    assert trials.run([FAST, SLOW], steps, cluster.serve, limit_s=0.01) == "time limit"
    assert cluster.started == [FAST], "how long one takes is not known before the first"


@contextmanager
def going_away(_setting: Setting, folder: Path) -> Iterator[Served]:
    """An endpoint that is gone once it has got the question and some requests of the load."""
    folder.mkdir()
    with ExitStack() as stack:
        fake = stack.enter_context(running(Behaviour(ttft_s=0, tpot_s=0.01)))

        def leave() -> None:
            wait_for(lambda: len(fake.requests) > 4)
            stack.close()

        thread = threading.Thread(target=leave)
        thread.start()
        try:
            yield Served(Endpoint(fake.url), "fake", 12.5)
        finally:
            thread.join()


def test_whoever_serves_hears_of_a_server_that_went_away_and_of_requests_that_failed(
    tmp_path: Path,
) -> None:
    """So that it can end the search where the hosts are the cause."""
    heard: list[EndpointError] = []

    @contextmanager
    def serve(setting: Setting, folder: Path) -> Iterator[Served]:
        behaviour = Behaviour(ttft_s=0, tpot_s=0, fault="cut", fault_every=6)
        serving = going_away if setting == FAST else Cluster(behaviour=behaviour).serve
        try:
            with serving(setting, folder) as served:
                yield served
        except EndpointError as error:
            heard.append(error)
            if setting == SLOW:
                raise HostsGone(HostError("no answer", where="host2")) from error
            raise

    trials = begun(tmp_path, replace(LOAD, requests=64))
    assert trials.run([FAST, SLOW], lambda _: (), serve) == "hosts gone"
    assert heard[0].what == "the server went away under load"
    assert heard[1].what.endswith("requests failed")
    (trial,) = trials.measured
    assert (trial.setting, trial.figure) == (FAST, 0.0)
    assert trial.error == "the server went away under load"


@pytest.mark.parametrize(
    ("why", "ended"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (HostsGone(HostError("no answer")), "hosts gone"),
        (RopewayError("not written"), "not recorded"),
    ],
)
def test_a_trial_whose_rounds_are_whole_is_kept_whatever_comes_while_it_is_taken_down(
    tmp_path: Path, why: BaseException, ended: str
) -> None:
    @contextmanager
    def serve(setting: Setting, folder: Path) -> Iterator[Served]:
        with Cluster().serve(setting, folder) as served:
            yield served
        raise why

    trials = begun(tmp_path)
    assert trials.run([FAST, SLOW], steps, serve) == ended
    (trial,) = begun(tmp_path).measured
    assert (trial.setting, len(trial.figures), trial.error) == (FAST, 2, None)
    assert trials.measured == [trial]


def test_a_full_disk_ends_the_search_with_what_was_measured(tmp_path: Path) -> None:
    trials = begun(tmp_path)
    (tmp_path / "trials.jsonl").symlink_to("/dev/full")
    assert trials.run([FAST, SLOW], steps, Cluster().serve) == "not recorded"
    assert trials.gone is not None and "could not be written" in trials.gone.what
    assert [one.setting for one in trials.measured] == [FAST]


def test_what_is_refused_while_a_setting_is_up_is_not_its_fault(tmp_path: Path) -> None:
    """Neither a load that cannot be sent, nor a round that cannot be begun."""
    trials = begun(tmp_path, replace(LOAD, input_tokens=100_000))
    assert trials.run([FAST, SLOW], steps, Cluster().serve) == "not recorded"
    assert trials.gone is not None and "context of 8,192" in trials.gone.what
    assert trials.measured == []

    @contextmanager
    def serve(setting: Setting, folder: Path) -> Iterator[Served]:
        with Cluster().serve(setting, folder) as served:
            (folder / "round-1").touch()
            yield served

    trials = begun(tmp_path)
    assert trials.run([FAST, SLOW], steps, serve) == "not recorded"
    assert trials.gone is not None and "cannot write the results" in trials.gone.what
    assert trials.measured == []


def test_what_hosts_do_not_allow_is_a_trial_and_hosts_that_are_gone_end_the_search(tmp_path: Path):
    gone = HostError("the host did not answer", where="host2")
    faults = {
        BROKEN: CheckFailed("the disk is too full", evidence=["host1"]),
        FAST: HostsGone(gone),
    }
    cluster, trials = Cluster(faults), begun(tmp_path)
    assert trials.run([BROKEN, FAST, SLOW], steps, cluster.serve) == "hosts gone"
    assert trials.gone is gone
    assert [trial.error for trial in trials.measured] == ["the disk is too full; host1"]
    assert [one.setting for one in begun(tmp_path).measured] == [BROKEN]
