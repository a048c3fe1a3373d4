"""`ropeway batch --on ray` (`batch.on_ray`): what the command decides, and the whole with real Ray.

For the former there is a stand-in for Ray, whose tasks are threads.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from batch_endpoint import Faults, answer_text

from batch_calls import lines, requests, run, serving, texts
from ports import free_port
from ropeway.batch.rows import Outcome
from ropeway.batch.shards.shard import Shard

DOCS = Path(__file__).parent.parent / "docs"


class RayError(Exception):
    """Of a task whose process died too often."""


class FakeRay:
    """As much of Ray as is used.

    fails  says of a shard whether its task dies for good
    twice  each task is begun anew once its work is done, as when its process dies then
    """

    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(
        self,
        nodes: int = 1,
        fails: Callable[[Shard], bool] = lambda _: False,
        twice: bool = False,
    ) -> None:
        self._nodes, self._fails, self._twice = nodes, fails, twice
        self._pool = ThreadPoolExecutor(16)
        self.running = self.most = self.started = 0

    def init(self, **how: Any) -> None:
        self.started += 1
        assert how["runtime_env"]["py_modules"][0].endswith("ropeway")

    def shutdown(self) -> None:
        self._pool.shutdown()

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": True}, {"Alive": False}, *[{"Alive": True}] * (self._nodes - 1)]

    def put(self, value: Any) -> Any:
        return value

    def get(self, task: Future, timeout: float | None = None) -> Any:
        return task.result(timeout)

    def wait(self, tasks: list, num_returns: int = 1, timeout: float | None = None) -> tuple:
        wait(tasks, timeout, "FIRST_COMPLETED")
        done = [task for task in tasks if task.done()][:num_returns]
        return done, [task for task in tasks if task not in done]

    def remote(self, what: Any) -> "Remote":
        return Remote(self, what)

    def begin(self, work: Callable, *args: Any) -> Future:
        return self._pool.submit(self._do, work, *args)

    def _do(self, work: Callable, *args: Any) -> Any:
        shard = args[1] if len(args) > 1 and isinstance(args[1], Shard) else None
        self.running += shard is not None
        self.most = max(self.most, self.running)
        try:
            if shard is not None and self._fails(shard):
                raise RayError("The worker died\nunexpectedly")
            if shard is not None and self._twice:
                work(*args)
            return work(*args)
        finally:
            self.running -= shard is not None


class Remote:
    """A task, a class of actors, or a method of one."""

    def __init__(self, ray: FakeRay, what: Any) -> None:
        self._ray, self._what = ray, what

    def options(self, **_: Any) -> "Remote":
        return self

    def remote(self, *args: Any) -> Any:
        if isinstance(self._what, type):
            return Actor(self._ray, self._what(*args))
        return self._ray.begin(self._what, *args)


class Actor:
    def __init__(self, ray: FakeRay, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def __getattr__(self, name: str) -> Remote:
        return Remote(self._ray, getattr(self._actor, name))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    def stand_in(**how: Any) -> FakeRay:
        fake = FakeRay(**how)
        monkeypatch.setitem(sys.modules, "ray", fake)
        return fake

    return stand_in


def four_files(folder: Path, rows: int = 50) -> dict[str, str]:
    """Write four files of requests; return what is to be answered to each."""
    found: dict[str, str] = {}
    for number in range(4):
        bodies = requests(folder / f"in-{number}.jsonl", rows, number * rows)
        for row, body in enumerate(bodies, number * rows):
            found[f"r{row}"] = answer_text(body.encode()).decode()
    return found


def args(folder: Path, *urls: str) -> list[str]:
    named = [word for url in urls for word in ("--url", url)]
    return [str(folder / "in-*.jsonl"), "-o", str(folder / "out"), "--on", "ray", *named]


Capture = pytest.CaptureFixture[str]


def test_the_whole_is_what_it_is_without_ray(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    expected, fake = four_files(tmp_path), ray()
    with serving() as (one, endpoint), serving() as (other, _):
        command = [*args(tmp_path, one, other), "--ordered"]
        code, said, err = run(capsys, *command)
        assert (code, said["ended"]) == (0, "complete")
        assert said["outcomes"]["answered"] == said["rows"] == 200
        assert said["output_tokens"] == 200 * 64
        assert fake.most == 2
        before = endpoint.requests
        code, said, _ = run(capsys, *command)
        assert (code, said["outcomes"]["answered"]) == (0, 200)
        assert (endpoint.requests, fake.started) == (before, 1)
    assert texts(tmp_path / "out") == expected
    assert list(texts(tmp_path / "out")) == list(expected)
    event = [json.loads(line) for line in err.splitlines() if line.startswith("{")][-1]
    assert event["finished"] == event["rows"] == 200
    assert [replica["url"] for replica in event["replicas"]] == [one, other]
    assert sum(replica["rows"] for replica in event["replicas"]) == 200


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "127.0.0.1:x"])
def test_a_cluster_that_is_not_there_is_said_at_once(
    form: str, tmp_path: Path, capsys: Capture, ray: Any
) -> None:
    four_files(tmp_path)
    fake, address = ray(), form.format(port=free_port())
    with serving() as (url, _):
        code, said, _ = run(capsys, *args(tmp_path, url), "--ray-address", address)
    assert (code, said["error"]["what"]) == (1, "Ray cannot be reached, or started")
    assert said["error"]["where"] == address
    assert "`export RAY_AUTH_MODE=token`" in said["error"]["hint"]
    assert fake.started == 0


def test_a_cluster_that_the_environment_names_is_asked_first_too(
    tmp_path: Path, capsys: Capture, ray: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    four_files(tmp_path)
    fake, address = ray(), f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with serving() as (url, _):
        code, said, _ = run(capsys, *args(tmp_path, url))
    assert (code, said["error"]["where"]) == (1, address)
    assert fake.started == 0


def test_a_task_that_dies_too_often_ends_the_job_and_keeps_what_there_is(
    tmp_path: Path, capsys: Capture, ray: Any
) -> None:
    expected = four_files(tmp_path)
    ray(fails=lambda shard: shard.number == 1)
    with serving() as (url, endpoint):
        code, said, _ = run(capsys, *args(tmp_path, url), "--tasks", "4")
        assert (code, said["error"]["what"]) == (1, "the task of shard 1 failed")
        assert said["error"]["evidence"] == ["The worker died", "unexpectedly"]
        assert said["error"]["where"] == str(tmp_path / "in-1.jsonl")
        so_far = texts(tmp_path / "out")
        assert so_far.items() < expected.items(), "what there is is written"
        assert len(so_far) == said["outcomes"]["answered"]
        ray()
        code, said, _ = run(capsys, *args(tmp_path, url))
        assert (code, endpoint.requests) == (0, 200)
    assert texts(tmp_path / "out") == expected


def test_what_ends_a_job_ends_all_its_tasks(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    four_files(tmp_path, 2000)
    ray()
    with serving(seconds=0.1, faults=Faults(refused=0.9)) as (url, _):
        code, said, _ = run(capsys, *args(tmp_path, url), "--in-flight", "16")
    assert (code, said["ended"]) == (1, "errors")
    assert "of" in said["error"]["what"] and "got no answer" in said["error"]["what"]
    done = sum(said["outcomes"].values())
    assert done + said["missing"] == 8000
    assert said["missing"] > 4000
    assert len(lines(tmp_path / "out")) + len(lines(tmp_path / "out.errors.jsonl")) == done


def test_lines_that_are_left_out_do_not_end_a_job(
    tmp_path: Path, capsys: Capture, ray: Any
) -> None:
    expected = four_files(tmp_path)
    (tmp_path / "in-4.jsonl").write_text("{\n" * 300)
    ray()
    with serving() as (url, _):
        code, said, _ = run(capsys, *args(tmp_path, url), "--skip-bad")
    assert (code, said["ended"], said["outcomes"]["skipped"]) == (1, "complete", 300)
    assert texts(tmp_path / "out") == expected


def test_the_price_is_that_of_all_tasks(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    four_files(tmp_path, 2000)
    ray()
    with serving(seconds=0.1) as (url, _):
        code, said, _ = run(
            capsys, *args(tmp_path, url), "--in-flight", "16", "--token-price", "0", "1000",
            "--max-cost", "20",
        )  # fmt: skip
    assert (code, said["ended"]) == (1, "cost")
    answered = said["outcomes"][Outcome.ANSWERED.name.lower()]
    assert said["cost"] == pytest.approx(answered * 64 * 1000 / 1e6)
    assert 20 <= said["cost"] < 60
    assert said["missing"] == 8000 - answered > 0


def test_rows_in_flight_are_shared_by_the_tasks(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    four_files(tmp_path)
    ray()
    with serving(seconds=0.02) as (url, endpoint):
        assert run(capsys, *args(tmp_path, url), "--in-flight", "8", "--tasks", "4")[0] == 0
    assert endpoint.most_running == 8


def test_the_last_task_has_all_rows_in_flight(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    for number, rows in enumerate((1, 1, 1, 300)):
        requests(tmp_path / f"in-{number}.jsonl", rows, number)
    ray()
    with serving(seconds=0.02) as (url, endpoint):
        assert run(capsys, *args(tmp_path, url), "--in-flight", "8", "--tasks", "4")[0] == 0
    assert endpoint.most_running == 8


def test_there_are_no_more_tasks_than_rows_in_flight(
    tmp_path: Path, capsys: Capture, ray: Any
) -> None:
    four_files(tmp_path)
    fake = ray()
    with serving(seconds=0.02) as (url, endpoint):
        assert run(capsys, *args(tmp_path, url), "--in-flight", "2", "--tasks", "4")[0] == 0
    assert (endpoint.most_running, fake.most) == (2, 2)


def test_retried_errors_are_those_of_all_shards(tmp_path: Path, capsys: Capture, ray: Any) -> None:
    expected = four_files(tmp_path)
    ray()
    with serving(faults=Faults(refused=0.2)) as (url, _):
        code, said, _ = run(capsys, *args(tmp_path, url))
    refused = said["outcomes"]["refused"]
    assert (code, len(lines(tmp_path / "out.errors.jsonl"))) == (1, refused)
    ray(twice=True)
    with serving(faults=Faults(refused=1.0)) as (url, endpoint):
        assert run(capsys, *args(tmp_path, url), "--retry-errors")[0] == 1
        assert endpoint.requests == refused, "none is asked again that was refused meanwhile"
    ray()
    with serving() as (url, endpoint):
        assert run(capsys, *args(tmp_path, url), "--retry-errors")[0] == 0
        assert endpoint.requests == refused > 0
    assert texts(tmp_path / "out") == expected


def test_an_address_that_only_this_machine_has_is_refused_where_tasks_run_elsewhere(
    tmp_path: Path, capsys: Capture, ray: Any
) -> None:
    four_files(tmp_path)
    ray(nodes=2)
    with serving() as (url, endpoint):
        code, said, _ = run(capsys, *args(tmp_path, url))
        assert (code, said["error"]["where"], endpoint.requests) == (2, url, 0)


def test_flags_of_ray_need_it(tmp_path: Path, capsys: Capture) -> None:
    requests(tmp_path / "in", 1)
    code, said, _ = run(capsys, tmp_path / "in", "-o", tmp_path / "o", "--tasks", "2")
    assert (code, said["error"]["hint"]) == (2, "add `--on ray`")


def test_the_example_for_a_dataset_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "batch.md").read_text(), re.DOTALL)
    written: list[dict[str, list[str]]] = []

    class Rows:
        def map_batches(self, ask: Any, **_: Any) -> SimpleNamespace:
            batch = {"prompt": ["a", "b", "c"]}
            return SimpleNamespace(write_json=lambda _: written.append(ask()(batch)))

    data = SimpleNamespace(read_json=lambda _: Rows())
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(data=data))
    for faults in (Faults(), Faults(refused=1.0)):
        with serving(faults=faults) as (url, _):
            exec(code.replace("http://192.168.0.1:8000/v1", url), {"__name__": "example"})
    good, bad = written
    assert good["prompt"] == bad["prompt"] == ["a", "b", "c"]
    assert [len(answer) for answer in good["answer"]] == [32] * 3
    assert good["error"] == bad["answer"] == [""] * 3
    assert all("400" in error for error in bad["error"])


# With real Ray


def on_ray(folder: Path, url: str, *more: str) -> list[str]:
    """The command as it is typed, with a Ray of its own."""
    command = [sys.executable, "-m", "ropeway", "batch", *args(folder, url)]
    return [*command, "--ray-address", "local", *more]


def workers_of(parent: int) -> list[int]:
    """The processes in which Ray does our tasks, of a driver."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            title = (path / "cmdline").read_bytes()
            if title.startswith(b"ray::ropeway batch") and parent in ancestors(int(path.name)):
                found.append(int(path.name))
    return found


def ancestors(process: int) -> Iterator[int]:
    while process > 1:
        process = int((Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]).split()[1])
        yield process


@pytest.mark.real_time
def test_a_task_that_is_killed_is_begun_anew_and_no_row_is_lost(tmp_path: Path) -> None:
    expected = four_files(tmp_path, 150)
    with serving(seconds=0.3) as (url, endpoint):
        command = on_ray(tmp_path, url, "--in-flight", "16", "--tasks", "2", "--json")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while endpoint.requests < 100:
            assert child.poll() is None
            time.sleep(0.05)
        killed = workers_of(child.pid)[0]
        os.kill(killed, signal.SIGKILL)
        out, _ = child.communicate(timeout=120)
        said = json.loads(out)
        assert (child.returncode, said["ended"]) == (0, "complete")
        assert said["outcomes"]["answered"] == 600
        sent = endpoint.requests
        assert 600 <= sent <= 600 + 16
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        assert endpoint.requests == sent, "the same command sends nothing"
    assert texts(tmp_path / "out") == expected
    assert len(lines(tmp_path / "out")) == 600


@pytest.mark.slow
def test_ctrl_c_stops_all_tasks_and_the_same_command_goes_on(tmp_path: Path) -> None:
    expected = four_files(tmp_path, 150)
    with serving(seconds=0.3) as (url, endpoint):
        command = on_ray(tmp_path, url, "--in-flight", "16", "--json")
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        while endpoint.requests < 100:
            assert child.poll() is None
            time.sleep(0.05)
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        out, _ = child.communicate(timeout=120)
        said = json.loads(out)
        assert (child.returncode, said["ended"]) == (130, "stopped")
        sent = endpoint.requests
        assert said["outcomes"]["answered"] == sent < 600
        assert said["missing"] == 600 - sent
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0
        assert endpoint.requests == 600
    assert texts(tmp_path / "out") == expected
