"""A batch job in a container: what is decided, written and started for it."""

import io
import itertools
import json
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ropeway.batch.progress import Cost, Left, Progress, Rates, ReplicaProgress
from ropeway.batch.rows import Outcome
from ropeway.batch.stores import check_no_keys
from ropeway.cli.batch import batch
from ropeway.cli.batch_options import BatchFlags, BatchRequest, as_words
from ropeway.cli.batch_sent import send_job
from ropeway.cli.call import Call
from ropeway.cli.main import exit_code
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused
from ropeway.hosts.local import LocalHost
from ropeway.launch import labels
from ropeway.launch.detached import DetachedJob, Place, mounted_folder, place_of
from ropeway.launch.docker import run_argv
from ropeway.launch.lock import Author
from ropeway.launch.own_code import own_code
from ropeway.report.console import Screen
from ropeway.spec.model import Spec, parse_spec
from waiting import wait_for

KEY = "a-key-that-nobody-may-see"


def spec(**serve: object) -> Spec:
    document = {
        "name": "life",
        "cluster": {"hosts": [{"address": "10.0.0.1", "npus": 8}], "nic": "eth0", "chip": "910B4"},
        "runtime": {"command": "docker"},
        "model": {"path": "/data/m", "served_name": "fake"},
        "serve": {"layout": "TP8", "context": 4096, **serve},
    }
    return parse_spec(json.dumps(document), "spec")


def place(**changed: Any) -> Place:
    known: dict[str, Any] = {
        "service": "life", "host": "npu0", "folder": "/var/lib/ropeway/life.batch",
        "runtime": "docker", "image": "image", "urls": ("http://127.0.0.1:8001/v1",),
        "model": "fake", "spec": spec(),
    }  # fmt: skip
    return Place(**{**known, **changed})


# What is decided


def flags_of(*args: str) -> BatchFlags:
    """The flags of a job as they are parsed."""
    context = batch.make_context("batch", list(args), obj=Call())
    names = BatchFlags.__dataclass_fields__
    return BatchFlags(**{name: context.params[name] for name in names})


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--api", "embeddings", "--format", "csv", "--no-pictures", "--skip-bad", "--ordered"),
        ("--template", "it's {text}\n", "--set", "a=1", "--set", "b=x y", "-n", "4"),
        ("--retry-errors", "--in-flight", "7", "--tries", "2", "--max-errors", "3%"),
        ("--dedupe", "--until", "2027-01-31T18:00", "--price", "1.5", "--max-cost", "70"),
        ("--token-price", "0.1", "2", "--currency", "CNY"),
    ],
)
def test_the_job_is_given_the_flags_that_were_typed(args):
    typed = flags_of("in.jsonl", *args)
    words = as_words(typed)
    assert flags_of("in.jsonl", *words) == typed
    named = flags_of("in", "-o", "/a", "--errors", "/b", "--check", "/c", "--html", "/d", "--plan")
    assert as_words(named) == as_words(flags_of("in"))


@pytest.mark.parametrize(
    ("serve", "typed", "given"),
    [
        ({"max_sequences": 7}, (), ["7"]),
        ({"max_sequences": 7, "layout": "DP2×TP4"}, (), ["14"]),
        ({"max_sequences": 7}, ("--at-first", "3"), ["3"]),
        ({}, (), ["64"]),
    ],
)
def test_the_job_begins_with_what_the_spec_lets_a_replica_run(tmp_path, serve, typed, given):
    args = ("head:/data/in.jsonl", "-o", "answers.jsonl", "--detach", *typed)
    request = BatchRequest(
        (args[0],), flags_of(*args), (Endpoint("http://127.0.0.1:8000/v1"),), None
    )
    where = place(folder=str(tmp_path), spec=spec(**serve))
    with batch.make_context("batch", list(args), obj=Call()):
        job = send_job(request, DetachedJob(where, "answers"), LocalHost("npu0"), Screen())
    pairs = itertools.pairwise(job.argv)
    assert [value for flag, value in pairs if flag == "--at-first"] == given


def test_a_time_of_day_is_that_of_the_machine_where_it_was_typed():
    words = as_words(flags_of("in.jsonl", "--until", "2027-01-31T18:00"))
    given = datetime.fromisoformat(words[words.index("--until") + 1])
    assert given.tzinfo is not None
    assert given.timestamp() == datetime(2027, 1, 31, 18).timestamp()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "no input is named"),
        (("in", "--detach", "--attach"), "`--detach`, `--attach` contradict each other"),
        (("in", "--detach", "--plan"), "`--detach`, `--plan` contradict each other"),
        (("in", "--detach", "--pictures-from", "."), "`--detach`, `--pictures-from` contradict"),
        (("in", "--detach", "--on", "ray"), "`--detach`, `--on ray` contradict each other"),
        (("in", "--detach", "--journal", "j"), "`--detach`, `--journal` contradict each other"),
        (("in", "--detach", "-o", "s3://b/o?region=x"), "`--attach` fetches them"),
        (("--attach", "-o", "s3://b/o?region=x"), "`--attach` fetches them"),
        (("in", "--stop"), "`--stop` is about a job that has its input"),
        (("in", "--detach", "--url", "h:1"), "`--detach`, `--url` contradict each other"),
        (("--attach", "--job", "A b"), "invalid value for `--job`"),
        (("s3://KEY:HIDE@b/i", "-o", "o", "--detach"), "the URL has keys in it"),
        (("s3://HIDE@b/i", "-o", "o", "--detach"), "the URL has keys in it"),
        (("s3://KEY:HI/DE@b/i", "-o", "o", "--detach"), "the URL has keys in it"),
        (("abfs://c@a/i?client_secret=HIDE", "-o", "o", "--on", "ray"), "the URL has keys in it"),
        (("in", "-o", "o", "--detach"), "there is no `ropeway.yaml` here"),
        (("in", "-o", "o", "--detach", "-c", "local.yaml"), "only a service on real hosts"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(args, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("local.yaml").write_text("cluster: {local: {hosts: 1, npus: 1}}\nmodel: {name: smollm2}\n")
    assert exit_code(["batch", *args]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "HIDE" not in err


def test_a_command_whose_output_has_keys_is_not_told_to_ray(monkeypatch, capsys):
    args = ["batch", "in", "--out=s3://KEY:HIDE@b/o?region=x", "--on", "ray"]
    monkeypatch.setattr(sys, "argv", ["ropeway", *args])
    assert exit_code(args) == 2
    err = capsys.readouterr().err
    assert "the URL has keys in it" in err
    assert "HIDE" not in err


def test_a_url_without_keys_goes_to_other_machines():
    check_no_keys(["in@x.jsonl?key=a", "s3://b/a@b/*.gz?region=x", "abfs://c@a.net/i", "-"])
    check_no_keys(["hdfs://h:8020/a@b", "hdfs://me@h:8020/a", "gs://anonymous@b/i:j@k"])


def test_what_a_job_says_is_read_as_it_was():
    progress = Progress(
        rows=9, done={Outcome.ANSWERED: 3, Outcome.POISON: 1}, in_flight=2, again=1,
        faults={"500": 2}, rates=Rates(1.0, 2.0, 3.0), elapsed_s=4.0, left=Left(1.0, 2.0, 3.0),
        replicas=(ReplicaProgress("u", "away", "why", 1, 2, 3, Rates(4.0)),), sample="a: b",
        cost=1.0, cost_in_all=Cost(2.0, 3.0, 4.0), ceiling=5.0,
    )  # fmt: skip
    said = json.loads(json.dumps(progress.as_json()))
    assert Progress.from_json(said) == progress
    with pytest.raises(ValueError, match="rows"):
        Progress.from_json({"event": "progress"})


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/data/a.jsonl", "/data"),
        ("/data/part-*/x/*.csv", "/data"),
        ("/data/b/[ab].csv", "/data/b"),
        ("/a.jsonl", "/"),
        ("data/a.jsonl", None),
        ("/data/../etc/x", None),
    ],
)
def test_a_job_sees_the_folder_of_a_file_of_the_head(path, folder):
    if folder is None:
        with pytest.raises(Refused):
            mounted_folder(path)
    else:
        assert mounted_folder(path) == folder


def test_the_key_stands_in_one_file_that_only_its_owner_reads():
    job = DetachedJob(place(), "a", ("batch", "x"), seen=("/data",), key=KEY)
    marks = job.labels(Author("me@here", "run", "now"))
    argv = run_argv("docker", job.container, marks, restart=True)
    modes = {file.name: file.mode for file in job.written() if KEY.encode() in file.content}
    assert modes == {"job.secrets": 0o600}
    assert KEY not in shlex.join(argv) + repr(job)
    mounts = [word for flag, word in itertools.pairwise(argv) if flag == "--mount"]
    assert mounts == [
        "type=bind,source=/var/lib/ropeway/life.batch/a,target=/run/ropeway",
        "type=bind,source=/data,target=/head/data,readonly",
    ]
    assert not {labels.SERVICE} & set(marks), "or `down` would take it down"


def test_a_job_runs_where_the_endpoint_is_and_asks_each_replica():
    def one(role: str, number: int, url: str) -> labels.ServiceContainer:
        marks = {
            labels.SERVICE: "life", labels.ROLE: role, "ropeway.replica": str(number),
            labels.FOLDER: "/home/u/.ropeway/life", "ropeway.endpoint": url,
            "ropeway.model": "fake", "ropeway.spec": json.dumps(spec().as_json()),
        }  # fmt: skip
        host = "npu1" if role == "router" else f"npu{number}"
        return labels.ServiceContainer(host, role, role, "running", 0, 0, "", "image", marks)

    urls = ("http://10.0.0.1:8001/v1", "http://127.0.0.1:8002/v1")
    heads = [one("head", number, url) for number, url in enumerate(urls)]
    router = one("router", 0, "http://127.0.0.1:8000/v1")
    found = place_of(labels.Reached({}, "docker", "life", (*heads, router), {}))
    assert (found.host, found.urls) == ("npu1", urls)
    assert found.folder == "/home/u/.ropeway/life.batch"
    alone = place_of(labels.Reached({}, "docker", "life", (heads[0],), {}))
    assert (alone.host, alone.urls) == ("npu0", urls[:1])
    with pytest.raises(Refused):
        place_of(labels.Reached({}, "docker", "life", (), {}))


def test_podman_is_told_at_once_to_restart_it():
    job = DetachedJob(place(runtime="podman"), "a", ("batch", "x"))
    argv = run_argv("podman", job.container, {}, restart=True)
    assert argv[argv.index("--restart") + 1] == "always"


def test_our_own_code_runs_from_a_folder(tmp_path):
    with zipfile.ZipFile(io.BytesIO(own_code())) as zipped:
        zipped.extractall(tmp_path)
    said = subprocess.run(
        (sys.executable, "-c", "import ropeway.cli.batch as b, ropeway; print(ropeway.__file__)"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(tmp_path / "ropeway" / "__init__.py")


# What its container does


@pytest.fixture
def container(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Start the script of a job whose `ropeway` is this line for a shell; `asks`: its watch.py."""
    job = DetachedJob(place(), "a", ("batch", "x"), once=("--retry-errors",))
    script = job.script.replace("/run/ropeway", str(tmp_path))
    python = tmp_path / "bin/python3"
    python.parent.mkdir()

    def start(line: str, asks: str = "exit 1") -> "subprocess.Popen[bytes]":
        python.write_text(
            f'#!/bin/sh\n[ "$1" != -c ] || exec {sys.executable} "$@"\n'
            f"case $2 in zipfile) exit 0;; once) {asks};; esac\necho begun >&2\n{line}\n"
        )
        python.chmod(0o755)
        return subprocess.Popen(
            ("bash", "-c", script), env={"PATH": f"{python.parent}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    return start


def ended(process: "subprocess.Popen[bytes]") -> int:
    """End a container as its engine does, and return its exit code."""
    process.terminate()
    return process.wait(30)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_container_whose_job_has_ended_waits_and_knows_it_when_started_again(
    container, tmp_path, code
):
    end = f"ropeway: the job has ended: {code}\n".encode()
    for lines in ([b"begun\n", end], [end]):  # not begun a second time
        with container(f"echo {{}}; exit {code}") as process:
            assert [process.stdout.readline() for _ in lines] == lines
            assert process.poll() is None
            assert ended(process) == 0
    assert (tmp_path / "ended").read_text() == f"{code}\n"
    assert (tmp_path / "result.json").read_text() == "{}\n"


def test_a_job_that_was_killed_goes_on_when_its_service_answers(container, tmp_path):
    with container("kill -9 $$") as process:
        assert process.wait(30) == 137, "so that it is started again"
    assert not (tmp_path / "ended").exists()
    asks = f"[ -e {tmp_path}/up ] && exit 0; : >{tmp_path}/asked; exit 1"
    with container("exit 0", asks) as process:
        assert process.stdout.readline() == (
            b"ropeway: the job goes on as soon as the service answers\n"
        )
        wait_for((tmp_path / "asked").exists)
        assert ended(process) == 130, "as long as it waits it can be stopped"
    (tmp_path / "up").touch()
    with container("exit 0", asks) as process:
        said = [process.stdout.readline() for _ in range(3)]
        assert said[1:] == [b"begun\n", b"ropeway: the job has ended: 0\n"]
        assert ended(process) == 0


def test_an_exit_code_of_which_a_power_cut_left_nothing_is_none(container, tmp_path):
    for name in ("begun", "ended", "result.json"):
        (tmp_path / name).touch()
    with container("echo {}; exit 1", asks="exit 0") as process:
        try:
            wait_for(lambda: (tmp_path / "ended").read_text() == "1\n")
        finally:
            assert ended(process) == 0
    assert (tmp_path / "result.json").read_text() == "{}\n"


def test_errors_are_retried_once_however_often_the_job_is_started_again(container, tmp_path):
    words, killed = tmp_path / "words", tmp_path / "killed"
    line = f'echo "$@" >>{words}; [ -e {killed} ] && exit 0; : >{killed}; kill -9 $$'
    with container(line) as process:
        assert process.wait(30) == 137
    with container(line, asks="exit 0") as process:
        wait_for((tmp_path / "ended").exists)
        assert ended(process) == 0
    first, second = words.read_text().splitlines()
    assert second == "-m ropeway batch x --json"
    assert first == f"{second} --retry-errors"


def test_a_container_that_is_stopped_interrupts_its_job_and_waits_for_it(container, tmp_path):
    asked = f"trap 'echo asked >{tmp_path}/asked; exit 130' INT"
    with container(f"{asked}; echo ready >&2; while :; do sleep 0.1; done") as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"begun\n", b"ready\n"]
        assert ended(process) == 130
    assert (tmp_path / "asked").exists()
    assert not (tmp_path / "ended").exists()
