"""The life of a batch job in a container: begun, watched, stopped, killed, fetched, removed.

It is on this machine as the host: its scripts, our own code as it is unpacked there, and the
endpoint are real; `docker` is not (fake_docker.py).
"""

import fcntl
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from batch_endpoint import Faults

import fake_docker
from json_documents import read_document
from ropeway.cli.call import Call
from ropeway.cli.main import exit_code
from ropeway.hosts.base import Host, Result
from ropeway.hosts.local import LocalHost
from ropeway.launch import detached, labels
from ropeway.launch.lock import ROOTS_FOLDER
from ropeway.spec.model import dump_spec
from test_batch_verb import columns, serving, texts
from test_detached import KEY, spec
from waiting import wait_for


class Head(LocalHost):
    """This machine as a host, with a `docker` and a place for our files of its own."""

    def run(self, argv, **named) -> Result:
        path = f"PATH={self.address}/bin:{os.environ['PATH']}"
        words = (word.replace(ROOTS_FOLDER, f"{self.address}/ropeway") for word in argv)
        return super().run(("env", path, *words), **named)


class Laptop:
    """Verbs against the head, in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.host: Host = Head("npu0", str(folder / "home"))
        self.containers = folder / "containers"
        self.jobs = folder / "home/ropeway/life.batch"

    def run(self, *args: object, code: int = 0) -> dict[str, Any]:
        self.capsys.readouterr()

        @contextmanager
        def connect(*_: object, **__: object) -> Iterator[Sequence[Host]]:
            yield (self.host,)

        call = Call(connect=connect)  # type: ignore[arg-type]
        found = exit_code([*map(str, args), "--json"], call=call)
        out, err = self.capsys.readouterr()
        print(out, err)
        assert KEY not in out + err
        assert found == code
        document: dict[str, Any] = read_document(out)
        return document


@pytest.fixture
def laptop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Laptop]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(detached, "_POLL_SECONDS", 0.2)
    found = Laptop(tmp_path, capsys)
    programs = tmp_path / "home/bin"
    programs.mkdir(parents=True)
    found.containers.mkdir()
    docker = shlex.join((sys.executable, fake_docker.__file__, str(found.containers)))
    for name, command in (("docker", docker), ("python3", shlex.quote(sys.executable))):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (programs / name).chmod(0o755)
    Path("ropeway.yaml").write_text(dump_spec(spec()))
    yield found
    for one in fake_docker._all(found.containers):
        fake_docker._end(one, fake_docker.signal.SIGKILL)


def serve(laptop: Laptop, url: str, **changed: object) -> None:
    """Let it look as if the service ran, with its endpoint at this URL."""
    marks = {
        labels.SERVICE: "life", labels.HOST: "npu0", labels.ROLE: "head",
        "ropeway.model": "fake", "ropeway.endpoint": url,
        labels.FOLDER: str(laptop.folder / "home/ropeway/life"),
        "ropeway.spec": json.dumps(spec(**changed).as_json()),
    }  # fmt: skip
    fake_docker.add(laptop.containers, "ropeway-life-0-0", marks)


@pytest.mark.real_time
def test_a_job_is_left_watched_and_fetched_and_nothing_stays(laptop):
    columns(Path("it's in.jsonl"), *({"prompt": f"say {n}"} for n in range(300)))
    with serving(seconds=0.01) as (url, endpoint):
        serve(laptop, url)
        begun = laptop.run("batch", "it's in.jsonl", "-o", "Out 1.jsonl", "--detach",
                           "--set", "max_tokens=5", "--ordered")  # fmt: skip
        assert (begun["job"], begun["host"]) == ("out-1", "npu0")
        argv = (laptop.containers / "argv").read_text()
        assert "--restart" not in argv, "told once it runs"
        assert "--log-opt=max-size=50m" in argv
        again = laptop.run("batch", "--attach", "-o", "Out 1.jsonl", "--errors", "bad")
    assert again["outcomes"]["answered"] == again["rows"] == endpoint.requests == 300
    assert (again["output"], again["errors"]) == ("Out 1.jsonl", "bad")
    assert list(texts(Path("Out 1.jsonl"))) == [f"row-{n}" for n in range(300)]
    assert Path("bad").read_bytes() == b""
    assert not laptop.jobs.exists()
    audit = (laptop.folder / "home/ropeway/audit.log").read_text().splitlines()
    assert [json.loads(line)["verb"] for line in audit] == ["batch --detach", "batch --attach"]
    assert [path.stem for path in laptop.containers.glob("*.json")] == ["ropeway-life-0-0"]


@pytest.mark.real_time
def test_a_job_is_removed_only_with_its_output_here_and_the_lock_held(laptop):
    columns(Path("in.jsonl"), {"prompt": "a"})
    page = ("--html", "page.html")
    attach = ("batch", "--attach", "-o", "out.jsonl", *page)
    with serving() as (url, _):
        serve(laptop, url)
        laptop.run("batch", "in.jsonl", "-o", "out.jsonl", *page, "--detach")
        laptop.run("batch", "--attach")
    output, away = laptop.jobs / "out/out.jsonl", laptop.folder / "away"
    output.rename(away)
    assert laptop.run(*attach)["output"] is None
    away.rename(output)
    handle = os.open(laptop.folder / "home/ropeway", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    held = laptop.run(*attach, code=1)["error"]
    assert "has been changing what runs on this host" in held["what"]
    assert output.exists()
    os.close(handle)
    assert laptop.run(*attach)["output"] == "out.jsonl"
    assert not laptop.jobs.exists()


@pytest.mark.real_time
def test_a_command_that_the_job_refuses_leaves_one_that_has_ended_to_be_fetched(laptop):
    for name in ("in.jsonl", "other.jsonl"):
        columns(Path(name), {"prompt": name})
    with serving() as (url, endpoint):
        serve(laptop, url)
        laptop.run("batch", "in.jsonl", "-o", "out.jsonl", "--detach")
        laptop.run("batch", "--attach")
        said = laptop.run("batch", "other.jsonl", "-o", "out.jsonl", "--detach", code=2)["error"]
        assert said["what"] == "this is not the job that began this output"
        [job] = laptop.run("status")["jobs"]
        assert (job["state"], job["exit_code"]) == ("ended", 0)
        end = laptop.run("batch", "--attach", "-o", "out.jsonl")
    assert (end["outcomes"]["answered"], endpoint.requests) == (1, 1)
    assert len(texts(Path("out.jsonl"))) == 1
    assert not laptop.jobs.exists()


@pytest.mark.real_time
def test_a_job_that_is_stopped_or_killed_goes_on_and_no_row_is_answered_twice(laptop):
    columns(Path("in.jsonl"), *({"prompt": f"say {n}"} for n in range(2000)))
    args = ("batch", "in.jsonl", "-o", "out.jsonl", "--detach", "--in-flight", "4")
    with serving(seconds=0.01) as (url, endpoint):
        serve(laptop, url)
        laptop.run(*args)
        running = laptop.run(*args, code=2)
        assert running["error"]["what"] == "the job `out` runs already"
        wait_for(lambda: endpoint.requests > 100, what="rows")
        assert laptop.run("batch", "--stop", "--name", "life")["state"] == "stopped"
        assert (laptop.jobs / "out/out.jsonl.journal/manifest.json").exists()
        asked = endpoint.requests
        assert laptop.run("batch", "--attach", code=2)["error"]["what"] == "there is no batch job"
        laptop.run(*args)
        [job] = [one for one in fake_docker._all(laptop.containers) if "pid" in one]
        wait_for(lambda: endpoint.requests > asked + 100, what="more rows")
        fake_docker._end(job, fake_docker.signal.SIGKILL)
        lost = laptop.run("batch", "--attach", code=1)
        assert lost["error"]["what"] == "the batch job `out` was stopped"
        endpoint.seconds = 1.0  # it is not to end before what follows has looked at it
        laptop.run(*args)
        listed = laptop.run("status")["jobs"]
        assert [(one["job"], one["state"], one["rows"]) for one in listed] == [
            ("out", "running", 2000)
        ]
        [line] = laptop.run("logs", "--job", "out", "-n", "1")["lines"]
        assert line["source"] == "npu0 batch"
        [warning] = laptop.run("down")["warnings"]
        assert "the batch job out stays on npu0" in warning
        endpoint.seconds = 0.01
        end = laptop.run("batch", "--attach", "-o", "out.jsonl")
    assert end["outcomes"]["answered"] == len(texts(Path("out.jsonl"))) == 2000
    assert endpoint.requests < 2500, "only what was not committed yet is asked again"


@pytest.mark.real_time
def test_what_a_job_has_that_ended_early_is_fetched_and_its_error_told(laptop):
    columns(Path("in.jsonl"), *({"prompt": f"say {n}"} for n in range(400)))
    with serving(faults=Faults(refused=0.5)) as (url, _):
        serve(laptop, url)
        laptop.run("batch", "in.jsonl", "-o", "out.jsonl", "--detach", "--max-errors", "10%")
        end = laptop.run("batch", "--attach", "-o", "out.jsonl", code=1)
    assert "more than 10%" in end["error"]["what"]
    assert end["ended"] == "errors"
    assert len(texts(Path("out.jsonl"))) == end["outcomes"]["answered"] > 0


@pytest.mark.real_time
def test_what_the_job_refuses_is_refused_here_and_nothing_runs(laptop):
    Path("in.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with serving() as (url, endpoint):
        serve(laptop, url)
        said = laptop.run("batch", "in.jsonl", "-o", "out.jsonl", "--detach", code=2)["error"]
        assert said["where"].endswith("-in.jsonl:2")
        assert endpoint.requests == 0
        assert laptop.run("status")["jobs"] == []
        laptop.run("batch", "--remove", "--job", "out", "--name", "life")
        assert not laptop.jobs.exists()
        gone = laptop.run("batch", "--remove", "--job", "out", "--name", "life", code=2)
        assert gone["error"]["what"] == "there is no batch job `out`"


@pytest.mark.real_time
def test_a_job_with_rows_in_error_stays_for_another_try(laptop, monkeypatch):
    monkeypatch.setenv("LIFE_KEY", KEY)
    head = laptop.folder / "data"
    head.mkdir()
    columns(head / "in.jsonl", *({"prompt": f"say {n}"} for n in range(100)))
    args = ("batch", f"head:{head}/*.jsonl", "-o", "out.jsonl", "--detach")
    with serving(faults=Faults(refused=0.2)) as (url, _):
        serve(laptop, url, api_key_env="LIFE_KEY")
        laptop.run(*args)
        end = laptop.run("batch", "--attach", "-o", "out.jsonl", code=1)
    assert end["outcomes"]["refused"] > 0
    assert (laptop.jobs / "out/job.secrets").stat().st_mode & 0o777 == 0o600
    assert KEY not in (laptop.jobs / "out/job.sh").read_text()
    with serving() as (url, _):
        serve(laptop, url, api_key_env="LIFE_KEY")
        laptop.run(*args, "--retry-errors")
        Path("mine.jsonl").write_text("mine\n")
        other = laptop.run("batch", "--attach", "-o", "mine.jsonl", code=2)["error"]
        assert other["what"] == "the file is there already, and it is another one"
        end = laptop.run("batch", "--attach", "-o", "out.jsonl")
    assert end["outcomes"]["answered"] == len(texts(Path("out.jsonl"))) == 100
    assert not laptop.jobs.exists()


def test_a_key_that_is_not_set_is_said_before_anything_is_sent(laptop, monkeypatch):
    monkeypatch.delenv("LIFE_KEY", raising=False)
    columns(Path("in.jsonl"), {"prompt": "a"})
    serve(laptop, "http://127.0.0.1:9/v1", api_key_env="LIFE_KEY")
    said = laptop.run("batch", "in.jsonl", "-o", "out.jsonl", "--detach", code=2)["error"]
    assert said["what"] == "the service asks for a key, and `LIFE_KEY` is not set"
    assert not laptop.jobs.exists()


def test_a_job_needs_a_service(laptop):
    columns(Path("in.jsonl"), {"prompt": "a"})
    said = laptop.run("batch", "in.jsonl", "-o", "out.jsonl", "--detach", code=2)["error"]
    assert said["what"] == "`life` is not running"
    assert click.unstyle(said["hint"]) == "a job needs its service: `ropeway up`"
