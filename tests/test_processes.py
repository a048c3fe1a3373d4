"""Labelled processes, for real: which are ours, and how they end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ropeway.hosts import processes
from ropeway.launch.local.running import note_shared_memory, take_down

pytestmark = pytest.mark.real_time

SLEEP = "import time; print(0, flush=True); time.sleep(60)"
# A leader that starts a child whose environment is empty, says its pid, and waits.
CLEANED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={})
print(child.pid, flush=True)
time.sleep(60)
"""
# Writes zeros over most of what /proc/self/environ shows, as programs do that set their title.
OVERWRITTEN = f"""
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])
with open("/proc/self/mem", "r+b", buffering=0) as memory:
    memory.seek(start)
    memory.write(bytes(end - start - 20))
{SLEEP}
"""
MAPPED = f"""
import mmap, sys
with open(sys.argv[1], "w+b") as file:
    file.truncate(4096)
    keep = mmap.mmap(file.fileno(), 4096)
{SLEEP}
"""
STUBBORN = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
{SLEEP}
"""


@pytest.fixture
def service():
    """A name that nobody else uses; what carries it is gone afterwards."""
    name = f"test-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    yield name
    for _ in range(3):
        processes.end(processes.find(name), patience=0.0)
    assert processes.find(name) == ()


@pytest.fixture
def begin(service):
    """Start Python code with labels; gives the process, and the number it says first."""
    begun = []

    def start(code, *args, role="engine", name=service, session=True, last="LAST=1"):
        labels = {processes.SERVICE: name, processes.HOST: "host1", processes.ROLE: role}
        child = subprocess.Popen(
            (sys.executable, "-c", code, *args),
            env={**os.environ, **labels, last.partition("=")[0]: last.partition("=")[2]},
            stdout=subprocess.PIPE, start_new_session=session,
        )  # fmt: skip
        begun.append(child)
        return child, int(child.stdout.readline())

    yield start
    for child in begun:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.communicate()


def pids(service: str | None) -> set[int]:
    return {process.pid for process in processes.find(service)}


def test_a_labelled_process_is_found_with_all_that_is_known_of_it(service, begin):
    child, _ = begin(SLEEP, role="ray")
    [process] = processes.find(service)
    assert (process.pid, process.parent, process.session) == (child.pid, os.getpid(), child.pid)
    assert (process.service, process.host, process.role) == (service, "host1", "ray")
    assert process.title.startswith(f"{sys.executable} -c import time")
    assert 10**6 < process.memory_bytes < 10**9
    own = processes._read(Path(f"/proc/{os.getpid()}"))
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert own.started <= process.started <= uptime * os.sysconf("SC_CLK_TCK")


def test_a_child_with_a_cleaned_environment_is_found_by_its_session(service, begin):
    child, cleaned = begin(CLEANED)
    assert pids(service) == {child.pid, cleaned}
    by_pid = {process.pid: process for process in processes.find(service)}
    assert (by_pid[cleaned].host, by_pid[cleaned].role) == ("host1", "engine")
    assert processes.end(by_pid.values()) == ()


def test_a_leader_that_overwrote_its_environment_is_found_with_its_children(service, begin):
    code = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], stdout=subprocess.DEVNULL)\n"
        + OVERWRITTEN
    )
    leader, _ = begin(code, last="ABCDEFGHIJ=klmnopqrst")
    shown = Path(f"/proc/{leader.pid}/environ").read_bytes()
    assert processes.SERVICE.encode() not in shown
    assert b"=" in shown
    assert leader.pid in pids(service)
    assert len(pids(service)) == 2


def test_a_session_that_somebody_else_leads_does_not_become_ours(service, begin):
    labelled, _ = begin(SLEEP, session=False)  # as pasted into a terminal: in our own session
    assert os.getsid(labelled.pid) == os.getsid(0)
    assert pids(service) == {labelled.pid}


def test_a_session_that_nobody_leads_any_more_lends_its_label_to_no_stranger(service, begin):
    code = (  # a leader that starts one process with the label and one without, and ends
        "import os, subprocess, sys\n"
        f"code = {SLEEP!r}\n"
        "ours = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL)\n"
        f"clean = {{k: v for k, v in os.environ.items() if k != {processes.SERVICE!r}}}\n"
        "stranger = subprocess.Popen([sys.executable, '-c', code],\n"
        "    stdout=subprocess.DEVNULL, env=clean)\n"
        "print(ours.pid, flush=True)\n"
        "print(stranger.pid, flush=True)\n"
    )
    leader, ours = begin(code)
    stranger = int(leader.stdout.readline())
    leader.wait()
    try:
        assert pids(service) == {ours}
    finally:
        os.kill(stranger, signal.SIGKILL)


def test_session_zero_is_nobodys(service, begin, monkeypatch):
    child, _ = begin(SLEEP)
    everything = {process.pid: process for process in processes._all()}
    inside = {pid: replace(process, session=0) for pid, process in everything.items()}
    monkeypatch.setattr(processes, "_all", inside.values)  # as /proc shows it in a container
    assert pids(service) == {child.pid}


def test_only_the_service_asked_for_is_found(service, begin):
    ours, _ = begin(SLEEP)
    other, _ = begin(SLEEP, name=f"{service}-2")
    assert pids(service) == {ours.pid}
    assert pids(None) >= {ours.pid, other.pid}
    assert pids("no-such-service") == set()


def test_our_own_process_is_never_among_them(service):
    code = (
        "import os; from ropeway.hosts import processes\n"
        "print([process.pid for process in processes.find(os.environ['ROPEWAY_SERVICE'])])"
    )
    done = subprocess.run(
        (sys.executable, "-c", code),
        env={**os.environ, processes.SERVICE: service},
        stdout=subprocess.PIPE, text=True, check=True, start_new_session=True,
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_a_process_that_has_ended_is_not_found_before_it_is_reaped(service, begin):
    child, _ = begin(SLEEP)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert pids(service) == set()


def test_processes_are_asked_first_and_made_to_end_when_they_do_not(service, begin):
    polite, _ = begin(SLEEP)
    stubborn, _ = begin(STUBBORN)
    began = time.monotonic()
    assert processes.end(processes.find(service), patience=2.0) == ()
    assert time.monotonic() - began >= 2.0
    assert polite.wait(60) == -signal.SIGTERM
    assert stubborn.wait(60) == -signal.SIGKILL


def test_a_pid_that_was_given_to_another_is_left_alone(service, begin):
    child, _ = begin(SLEEP)
    [process] = processes.find(service)
    assert processes.end([replace(process, started=process.started - 1)], patience=0.0) == ()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)


def test_ending_what_is_gone_is_no_error(service, begin):
    child, _ = begin(SLEEP)
    ours = processes.find(service)
    child.kill()
    child.wait()
    assert processes.end(ours) == ()


def test_taking_down_removes_processes_shared_memory_and_the_folder(service, begin, tmp_path):
    shared = Path(f"/dev/shm/{service} x")
    scratch = tmp_path / "scratch"
    (scratch / "ray").mkdir(parents=True)
    begin(MAPPED, str(shared))
    begin(SLEEP)
    assert processes.shared_memory(processes.find(service)) == {str(shared)}
    gone = take_down(service, str(scratch))
    assert gone.processes == 2
    assert (gone.shared_memory, gone.folders) == ((str(shared),), (str(scratch),))
    assert not gone.nothing
    assert not shared.exists()
    assert not scratch.exists()
    assert pids(service) == set()
    assert take_down(service, str(scratch)).nothing


def test_shared_memory_of_what_has_crashed_is_removed_if_it_was_noted(service, begin, tmp_path):
    first, second = Path(f"/dev/shm/{service}-1"), Path(f"/dev/shm/{service}-2")
    for shared in (first, second):
        child, _ = begin(MAPPED, str(shared))
        note_shared_memory(service, str(tmp_path))
        child.kill()
        child.wait()
    note_shared_memory(service, str(tmp_path))
    gone = take_down(service, str(tmp_path))
    assert gone.shared_memory == (str(first), str(second))
    assert not first.exists()
    assert not second.exists()


def test_shared_memory_that_was_removed_already_is_not_counted(service, begin, tmp_path):
    shared = Path(f"/dev/shm/{service}")
    begin(MAPPED, str(shared))
    shared.unlink()
    assert processes.shared_memory(processes.find(service)) == frozenset()
    assert take_down(service, str(tmp_path / "none")).shared_memory == ()
