"""Many hosts at once: on this machine, so that nothing but the fleet is tested."""

import resource
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from children import are_gone, interrupt, pids, sleeping
from ropeway.errors import Cancelled, HostError
from ropeway.hosts import fleet
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.fleet import PARALLEL, Outcome, WorkerPool, run_on_all, run_on_all_or_raise
from ropeway.hosts.local import LocalHost
from waiting import wait_for

pytestmark = pytest.mark.real_time


def hosts(count: int) -> list[LocalHost]:
    return [LocalHost(f"host{number}", f"127.0.1.{number % 250}") for number in range(count)]


def exit_code(host: LocalHost) -> int:
    return host.run(("true",)).exit_code


def test_results_and_failures_stand_in_the_order_of_the_hosts():
    def ask(host: LocalHost) -> str:
        if host.name == "host1":
            raise HostError("it is broken", where="host1")
        return host.run(("echo", host.name)).stdout

    first, second, third = outcomes = run_on_all(hosts(3), ask)
    assert (first, third) == tuple(Outcome(host, f"{host.name}\n") for host in hosts(3)[::2])
    assert [outcome.ok for outcome in outcomes] == [True, False, True]
    assert (second.host, second.result, str(second.error)) == (hosts(2)[1], None, "it is broken")


def test_no_hosts_are_no_outcomes():
    assert run_on_all([], exit_code) == ()


def test_one_failure_fails_all_with_the_others_in_its_evidence():
    fleet = {host.name: host for host in hosts(3)}

    def ask(host: LocalHost) -> str:
        if host.name != "host1":
            raise HostError(f"{host.name} is broken", evidence=["proof"])
        return host.name

    with pytest.raises(HostError) as caught:
        run_on_all_or_raise(fleet, ask)
    assert (caught.value.where, caught.value.what) == ("host0", "host0 is broken")
    assert caught.value.evidence == ("proof", "host2: host2 is broken")
    assert run_on_all_or_raise({"host1": fleet["host1"]}, ask) == {"host1": "host1"}


def test_they_run_side_by_side_and_not_more_than_allowed(monkeypatch):
    monkeypatch.setattr(fleet, "PARALLEL", 3)
    met, together = threading.Barrier(3, timeout=10), []
    lock, now = threading.Lock(), [0]

    def ask(_host: LocalHost) -> None:
        with lock:
            now[0] += 1
            together.append(now[0])
        met.wait()
        with lock:
            now[0] -= 1

    assert all(outcome.ok for outcome in run_on_all(hosts(6), ask))
    assert max(together) == 3


def test_each_outcome_is_heard_as_it_comes_in_the_thread_that_asked():
    slow, reports = threading.Event(), []

    def ask(host: LocalHost) -> str:
        assert host.name != "host0" or slow.wait(10)
        return host.name

    def on_done(outcome: Outcome[str]) -> None:
        reports.append((outcome.result, threading.current_thread() is threading.main_thread()))
        slow.set()

    outcomes = run_on_all(hosts(2), ask, on_done=on_done)
    assert reports == [("host1", True), ("host0", True)]
    assert [outcome.result for outcome in outcomes] == ["host0", "host1"]


def test_when_the_time_is_over_what_runs_is_ended_and_what_waits_is_not_begun(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fleet, "PARALLEL", 2)
    reports = []

    def ask(host: LocalHost) -> str:
        if host.name == "host0":
            return "quick"
        return host.run(("sh", "-c", f"echo $$ >{tmp_path}/{host.name}; exec sleep 600")).stdout

    began = time.monotonic()
    outcomes = run_on_all(hosts(4), ask, timeout=4, on_done=reports.append)
    assert time.monotonic() - began < 60
    assert outcomes[0].result == "quick"
    assert [type(outcome.error) for outcome in outcomes[1:]] == [Cancelled] * 3
    assert ["stopped" in str(outcome.error) for outcome in outcomes[1:]] == [True, True, False]
    assert all("4 s" in str(outcome.error) for outcome in outcomes[1:])
    assert [outcome.error.where for outcome in outcomes[1:]] == ["host1", "host2", "host3"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["host1", "host2"]
    assert are_gone(*tmp_path.iterdir())
    assert sorted(map(id, reports)) == sorted(map(id, outcomes))


def test_one_that_takes_its_end_for_an_answer_is_a_failure_all_the_same():
    def ask(host: LocalHost) -> str:
        try:
            return host.run(("sleep", "60")).stdout
        except HostError:
            return "no sleep on this host"

    (outcome,) = run_on_all(hosts(1), ask, timeout=0.3)
    assert (type(outcome.error), outcome.result) == (Cancelled, None)


def test_a_command_that_is_asked_for_after_the_end_is_not_begun(tmp_path):
    def ask(host: LocalHost) -> None:
        try:
            host.run(("sleep", "60"))
        finally:
            for number in range(100):  # one that is begun and ended at once seldom gets to touch it
                with pytest.raises(Cancelled):
                    host.run(("touch", str(tmp_path / f"begun-{number}")))

    run_on_all(hosts(1), ask, timeout=0.3)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_raised_and_ends_the_others(tmp_path):
    file = tmp_path / "pids"

    def ask(host: LocalHost) -> None:
        if host.name == "host0":
            wait_for(lambda: pids(file))
            raise ZeroDivisionError
        host.run(("sh", "-c", f"echo $$ >{file}; exec sleep 60"))

    with pytest.raises(ZeroDivisionError):
        run_on_all(hosts(2), ask)
    assert are_gone(file)


def test_ctrl_c_ends_everything(tmp_path):
    code = (
        "import sys\n"
        "from ropeway.hosts import fleet\n"
        "from ropeway.hosts.local import *\n"
        "fleet.PARALLEL = 3\n"
        "hosts = [LocalHost(f'{sys.argv[1]}/{number}') for number in range(5)]\n"
        "ask = lambda host: host.run(('sh', '-c', sys.argv[2], host.name))\n"
        "fleet.run_on_all(hosts, ask)\n"
    )

    def all_begun() -> bool:
        return sum(bool(pids(file)) for file in tmp_path.iterdir()) == 3

    interrupt(code, str(tmp_path), sleeping(), once=all_begun)
    assert len(list(tmp_path.iterdir())) == 3, "the others were not begun"
    assert are_gone(*tmp_path.iterdir())


def test_ctrl_c_is_noticed_when_another_thread_gets_the_signal():
    """As when it comes just before the main thread begins to wait: nothing wakes that."""
    ended = []

    def ask(_host: LocalHost) -> None:
        main = threading.main_thread().ident
        wait_for(lambda: sys._current_frames()[main].f_code.co_name == "handle_next")
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        sleep_cancellable(20)
        ended.append("by itself")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_on_all(hosts(1), ask)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == []


def test_a_fleet_beside_another_is_not_ended_with_it():
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(run_on_all, hosts(1), lambda host: host.run(("sleep", "1")).exit_code)
        run_on_all(hosts(1), lambda host: host.run(("sleep", "60")), timeout=0.2)
        assert other.result()[0].result == 0


def test_hundreds_of_hosts_with_few_open_files(monkeypatch):
    monkeypatch.setattr(fleet, "PARALLEL", 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(one.name) for one in Path("/dev/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 100, hard))
    try:
        outcomes = run_on_all(hosts(300), exit_code)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [outcome.result for outcome in outcomes] == [0] * 300


def test_hundreds_of_hosts_take_no_more_threads_than_allowed():
    most = [0]

    def ask(host: LocalHost) -> int:
        most[0] = max(most[0], threading.active_count())
        return exit_code(host)

    assert all(outcome.ok for outcome in run_on_all(hosts(300), ask))
    assert most[0] <= PARALLEL + 1


def test_a_pool_handles_everything_in_the_thread_that_asks():
    pool, threads, outcomes = WorkerPool(2), [], []
    host = hosts(1)[0]

    def ask(_host) -> int:
        pool.post(lambda: threads.append(threading.get_ident()))
        return 7

    pool.submit(host, ask, outcomes.append)
    assert pool.handle_next(60)
    assert pool.handle_next(60)
    pool.shutdown()
    assert outcomes == [Outcome(host, 7)]
    assert threads == [threading.get_ident()]
    assert not pool.handle_next(0)
