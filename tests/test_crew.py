"""The processes that send, when they are stopped and when they die."""

import json
import multiprocessing
import socket
import time
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, running

from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import Means, measure
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.run import Progress, run_bench
from ropeway.bench.sending.crew import Crew
from ropeway.bench.sending.worker import Task, way_to
from ropeway.bench.workloads.choose import workload_of
from ropeway.bench.workloads.spool import Spool
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused, RopewayError
from waiting import wait_for

pytestmark = pytest.mark.real_time

LOAD = LoadTest(input_tokens=16, output_tokens=8, clients=2, requests=50, warmup=2)
RECIPE = Recipe(16, 16, WORDS, WORDS, exact=False)
QUICK = Behaviour(ttft_s=0, tpot_s=0.001)


def task(url: str, load: LoadTest = LOAD) -> Task:
    return Task(
        endpoint=Endpoint(url),
        workload=workload_of("fake", load, RECIPE),
        warm_up=workload_of("fake", load, RECIPE, warm_up=True),
        clients=load.clients,
    )


def test_who_is_stopped_when_all_are_warm_does_not_start() -> None:
    def stopped() -> bool:
        wait_for(lambda: len(fake.requests) >= LOAD.warmup)
        time.sleep(1)  # until all have said that they are warm, which is not read yet
        return True

    with running(QUICK) as fake, Crew(task(fake.url), 2) as crew:
        shares = crew.run(print, print, stopped)
    assert [share.ended for share in shares] == ["interrupted", "interrupted"]
    assert crew.began == 0


def test_a_process_that_has_died_can_be_stopped_and_its_death_is_told() -> None:
    with running(QUICK) as fake, Crew(task(fake.url), 2) as crew:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        crew.halt()
        with pytest.raises(RopewayError, match="has died, with exit code -9"):
            crew.run(print, print, lambda: True)


def test_a_trace_that_has_changed_is_told_as_what_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "times.txt"
    trace.write_text("0\n0.1\nsoon\n")
    load = replace(LOAD, arrivals=f"trace:{trace}", requests=3, warmup=0)
    with running(QUICK) as fake, pytest.raises(Refused, match="says no time") as caught:
        run_bench(Endpoint(fake.url), "fake", load, RECIPE, print)
    assert caught.value.where == f"{trace}:3"
    assert caught.value.hint


def test_prompts_that_are_gone_are_not_told_as_a_server_that_is_away(tmp_path: Path) -> None:
    rows = array("Q", [0, 10])
    spool = Spool(str(tmp_path / "gone"), rows, rows[:1], ("a.jsonl",), ("0",), 10, 10)
    with running(QUICK) as fake, pytest.raises(RopewayError) as caught:
        run_bench(Endpoint(fake.url), "fake", LOAD, replace(RECIPE, own=spool), print)
    assert str(caught.value) == "the process that sends cannot go on: no such file or directory"
    assert caught.value.where == str(tmp_path / "gone")


def test_a_path_and_a_name_of_any_script_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    head = way_to(Endpoint("http://缆车.example:80/模型%20a/v1")).head
    assert head.startswith(b"POST /%E6%A8%A1%E5%9E%8B%20a/v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nHost: xn--pp0a884a.example:80\r\n" in head


def test_a_process_that_dies_in_the_middle_leaves_what_was_measured(tmp_path: Path) -> None:
    def kill(progress: Progress) -> None:
        if progress.done:
            for child in multiprocessing.active_children()[:1]:
                child.kill()

    load = replace(LOAD, requests=100_000)
    with running(Behaviour(ttft_s=0, tpot_s=0.01)) as fake:
        measured = measure(
            Endpoint(fake.url),
            Conditions(load=load, url=fake.url, model="fake"),
            RECIPE,
            tmp_path / "r",
            Means(processes=2),
            on_progress=kill,
        )
    assert measured.ended == "not recorded"
    assert str(measured.failure) == "the process that sends has died, with exit code -9"
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["completed"] == measured.figures.summary.completed > 0
    assert multiprocessing.active_children() == []
