"""Up and down with an engine that is a real process, but no model: and every way to fail."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from json_documents import read_document
from model_files import SMALL_LLAMA, write_weights
from ports import free_port
from ropeway.cli.bringup import StartContext
from ropeway.cli.main import exit_code
from ropeway.cli.measure import up
from ropeway.engines.base import Node
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import Exit, HostError, LaunchError, Refused
from ropeway.hosts.base import run_command
from ropeway.hosts.local import LocalHost
from ropeway.hosts.processes import find
from ropeway.launch.attempt import start
from ropeway.launch.local.prepare import complete
from ropeway.launch.local.process_start import ProcessStart
from ropeway.launch.local.running import deployment_of, parts, services, take_down
from ropeway.launch.local.steps import as_record, probe_of
from ropeway.report.console import Screen
from ropeway.spec.model import Layout, Model, Serve, dump_spec, local_spec
from test_launch import FACTS, SHAPE

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parent.parent
HOSTS = {"host0": LocalHost("host0", "127.0.0.2")}
# Serves one token as vLLM would, or fails in the way asked for.
SERVER = """
import http.server, json, os, sys, time
way, port = sys.argv[1], int(sys.argv[2])
print("(APIServer pid=1) INFO 11-23 21:23:04 [x.py:1] Starting to load model /m...", flush=True)
if way == "dies":
    print("Traceback (most recent call last):\\n  File 'x.py', line 1, in <module>", flush=True)
    print("(EngineCore pid=2) ValueError: no room for the KV cache", flush=True)
    sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
if way == "mute":
    sys.exit(3)
if way == "hangs":
    time.sleep(10**6)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        key = os.environ.get("VLLM_API_KEY")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        allowed = key is None or self.headers["Authorization"] == "Bearer " + key
        self.send_response(200 if allowed and body["model"] == "moe" else 401)
        self.end_headers()
        tokens = 0 if way == "empty" else body["max_tokens"]
        self.wfile.write(json.dumps({"usage": {"completion_tokens": tokens}}).encode())

server = http.server.HTTPServer(("127.0.0.1", port), Handler)
print("(APIServer pid=1) INFO:     Application startup complete.", flush=True)
server.serve_forever()
"""


class StandIn(CpuReplica):
    """An engine whose server is the script above; it fails in the way that its model is called."""

    def serve_argv(self, node: Node) -> tuple[str, ...]:
        assert node == self.head
        return (self.python, "-c", SERVER, self.model, str(self.port))

    def environment(self, node: Node) -> Mapping[str, str]:
        return {"TMPDIR": self.scratch, "VLLM_HOST_IP": node.address}


def failing(plan: CpuReplica, way: str) -> StandIn:
    """The same deployment with a server that fails in this way."""
    return StandIn(**{**vars(plan), "model": way})


@pytest.fixture
def plan(tmp_path) -> Iterator[CpuReplica]:
    """A deployment under a name of its own; nothing of it is there afterwards."""
    service = f"t-{os.getpid()}-{time.monotonic_ns() % 10**7}"
    serve = Serve(port=free_port(), start_timeout=30, engine_args={"x": "it's\n$HOME"})
    spec = local_spec(Model(path="/m", served_name="moe"), serve=serve, name=service)
    place = {"user": os.getuid(), "python": sys.executable, "logs": str(tmp_path / "a run")}
    deployment = StandIn(**vars(complete(spec, Layout(), ("/m", SHAPE), FACTS, **place)))
    yield deployment
    take_down(service, deployment.scratch)


def is_clean(plan: CpuReplica) -> bool:
    """Whether nothing but the logs is left."""
    return not find(plan.service) and not Path(plan.scratch).exists()


def test_it_is_up_when_a_token_came_and_down_leaves_nothing(plan):
    told: list[str] = []
    start(ProcessStart(plan, HOSTS), told.append)
    assert told[:3] == ["make the log folder", "write down what runs here", "start the engine: TP1"]
    assert told[-1] == "waiting for the first token"
    assert "Ray" not in "".join(told), "one rank needs none"
    [part] = parts(find(plan.service))
    assert (part.host, part.role, len(part.pids)) == ("host0", "engine", 1)
    assert part.memory_bytes > 10**6
    assert os.getsid(part.pids[0]) == part.pids[0] != os.getsid(0), "it does not hang on us"
    assert plan.service in services(os.getuid())
    assert deployment_of(plan.service, os.getuid(), LocalHost()) == CpuReplica(**vars(plan))
    assert Path(plan.scratch).stat().st_mode & 0o777 == 0o700
    gone = take_down(plan.service, plan.scratch)
    assert (gone.processes, gone.folders) == (1, (plan.scratch,))
    assert is_clean(plan)
    assert Path(plan.engine_log).exists(), "the log stays"
    assert plan.service not in services(os.getuid())


def test_the_verbs_see_it_and_take_it_down(plan, capsys):
    start(ProcessStart(plan, HOSTS), lambda _: None)
    named = ["--name", plan.service, "--json"]
    assert exit_code(["status", *named]) == 0
    shown = read_document(capsys.readouterr().out)
    assert shown["ok"] is True
    assert (shown["url"], shown["layout"], shown["model"]) == (plan.url, "TP1", "moe")
    assert exit_code(["logs", *named]) == 0
    assert "startup complete" in read_document(capsys.readouterr().out)["lines"][1]["text"]
    assert exit_code(["down", *named]) == 0
    assert read_document(capsys.readouterr().out)["removed"]["processes"] == 1
    assert is_clean(plan)
    assert exit_code(["status", *named]) == 1
    assert exit_code(["down", *named]) == 0, "what is not there is no error"
    assert exit_code(["logs", *named]) == 2


def test_down_takes_no_service_that_nobody_named(plan, capsys, tmp_path, monkeypatch):
    start(ProcessStart(plan, HOSTS), lambda _: None)
    monkeypatch.chdir(tmp_path)
    assert exit_code(["down"]) == 2
    assert f"ropeway down --name {plan.service}\n" in capsys.readouterr().err
    (tmp_path / "ropeway.yaml").write_text(dump_spec(local_spec(name="not-running")))
    assert exit_code(["down"]) == 0
    assert capsys.readouterr().out == "`not-running` was not running\n"
    assert find(plan.service)


def test_an_engine_that_wants_a_key_is_asked_with_it(plan, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cr3t")
    plan = replace(plan, serve=plan.serve.model_copy(update={"api_key_env": "MY_KEY"}))
    start(ProcessStart(plan, HOSTS), lambda _: None)
    assert "s3cr3t" not in "".join(process.title for process in find(plan.service))
    monkeypatch.setenv("MY_KEY", "wrong")
    assert not run_command(LocalHost(), probe_of(plan)).ok


def test_a_second_start_is_refused_and_harms_nothing(plan):
    start(ProcessStart(plan, HOSTS), lambda _: None)
    before = find(plan.service)
    with pytest.raises(Refused, match=f"`{plan.service}` is already running") as caught:
        start(ProcessStart(plan, HOSTS), lambda _: None)
    assert f"pid {before[0].pid}" in caught.value.evidence[0]
    assert f"ropeway down --name {plan.service}" in caught.value.hint
    context = StartContext(local_spec(), "", SHAPE, FACTS, HOSTS)
    with pytest.raises(Refused, match="is already running"), up(context, plan, Screen(quiet=True)):
        pass
    after = find(plan.service)
    assert [process.pid for process in after] == [process.pid for process in before]
    assert run_command(LocalHost(), probe_of(plan)).ok


def test_a_start_beside_another_that_has_the_name_already_is_refused_and_harms_nothing(plan):
    Path(plan.scratch).mkdir(mode=0o700)
    (Path(plan.scratch) / "theirs").touch()
    with pytest.raises(Refused, match="is being started by somebody else, or was not taken down"):
        start(ProcessStart(plan, HOSTS), lambda _: None)
    assert (Path(plan.scratch) / "theirs").exists()
    assert not find(plan.service)


@pytest.mark.parametrize(
    ("way", "what", "last"),
    [
        ("dies", "the engine failed: ValueError: no room for the KV cache", ""),
        ("mute", "the engine ended while it was starting", "Starting to load model"),
    ],
)
def test_an_engine_that_dies_is_told_with_its_cause_or_last_line_and_undone(plan, way, what, last):
    with pytest.raises(LaunchError) as caught:
        start(ProcessStart(failing(plan, way), HOSTS), lambda _: None)
    error = caught.value
    assert (error.what, error.where, error.exit_code) == (what, plan.engine_log, Exit.NO)
    assert last in error.evidence[-1]
    assert is_clean(plan)


@pytest.mark.parametrize("way", ["hangs", "empty"])
def test_an_engine_that_never_gives_a_token_is_undone_when_the_time_is_up(plan, way):
    plan = replace(plan, serve=plan.serve.model_copy(update={"start_timeout": 1}))
    with pytest.raises(LaunchError, match="the engine was not ready within 1 s"):
        start(ProcessStart(failing(plan, way), HOSTS), lambda _: None)
    assert is_clean(plan)


def test_a_step_that_fails_is_undone(plan, tmp_path):
    (tmp_path / "a file").touch()
    plan = replace(plan, logs=str(tmp_path / "a file" / "logs"))
    with pytest.raises(LaunchError, match="make the log folder failed") as caught:
        start(ProcessStart(plan, HOSTS), lambda _: None)
    assert "Not a directory" in caught.value.evidence[-1]
    assert is_clean(plan)


# Starts the deployment given on stdin, as `ropeway up` would, and says what it is doing.
CALLER = """
import sys
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.local.steps import from_record
from ropeway.launch.local.process_start import ProcessStart
from ropeway.launch.attempt import start
from test_lifecycle import HOSTS, failing
plan = from_record(sys.stdin.read(), "stdin")
with interruptible():
    start(ProcessStart(failing(plan, "hangs"), HOSTS), lambda what: print(what, flush=True))
"""


MOMENTS = ("make the log folder", "start the engine", "loading weights")


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        *((signal.SIGINT, moment) for moment in MOMENTS),
        (signal.SIGTERM, MOMENTS[1]),
        *(pytest.param(signal.SIGTERM, each, marks=pytest.mark.slow) for each in MOMENTS[::2]),
    ],
)
def test_an_interrupt_at_any_moment_undoes_everything(plan, number, moment):
    with subprocess.Popen(
        (sys.executable, "-c", CALLER),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}/tests:{os.environ.get('PYTHONPATH', '')}"},
    ) as caller:  # fmt: skip
        caller.stdin.write(as_record(plan))
        caller.stdin.close()
        caller.stdin = None
        while not (line := caller.stdout.readline()).startswith(moment):
            assert line, caller.communicate()[1]
        caller.send_signal(number)
        caller.send_signal(number)  # people press it twice
        rest, error = caller.communicate(timeout=15)
    assert "KeyboardInterrupt" in error
    assert "undoing what was started" in rest
    assert is_clean(plan)


def test_a_record_that_cannot_be_read_is_told_and_down_still_works(plan, capsys):
    start(ProcessStart(plan, HOSTS), lambda _: None)
    (Path(plan.scratch) / "deployment.json").write_text("{")
    with pytest.raises(HostError, match="the record of what runs here cannot be read"):
        deployment_of(plan.service, os.getuid(), LocalHost())
    assert exit_code(["down", "--name", plan.service]) == 0
    assert is_clean(plan)
    capsys.readouterr()


# Bad input, through the command: one clear error with a hint, exit code 2, nothing left.


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder with a small model beside it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SMALL_LLAMA))
    write_weights(model / "model.safetensors", {"a": ("BF16", [4], 8)})
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


@pytest.fixture
def refused(folder, plan, capsys) -> Callable[..., None]:
    """Check that `ropeway up` is refused with these parts of the error and of its hint.

    flags  of the command, in place of those of `plan`; `change` replaces some of these

    The folder is as it was, and nothing of the service is there.
    """

    def check(what: str, hint: str, *flags: str, **change: str) -> None:
        model, port = str(folder.parent / "model"), str(plan.serve.port)
        usual = {"name": plan.service, "model": model, "layout": "tp1", "port": port, **change}
        before = sorted(Path.cwd().iterdir())
        given = flags or ("--local", *(f"--{name}={value}" for name, value in usual.items()))
        assert exit_code(["up", "--json", *given]) == 2
        error = read_document(capsys.readouterr().out)["error"]
        assert what in error["what"]
        assert hint in (error["hint"] or "")
        assert sorted(Path.cwd().iterdir()) == before, "nothing is left behind"
        assert is_clean(plan)

    return check


def test_a_spec_that_is_not_yaml_is_refused(folder, refused):
    (folder / "ropeway.yaml").write_text("cluster: {local: [\n")
    refused("not valid YAML: ", "", "-v")


def test_no_spec_is_refused_with_what_to_type(refused):
    refused("there is no `ropeway.yaml` here", "ropeway init", "-v")


def test_a_model_without_config_is_refused(folder, refused):
    (folder.parent / "model" / "config.json").unlink()
    refused("config.json", " ")


def test_a_truncated_weight_file_is_refused(folder, refused):
    weights = folder.parent / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused("truncated", " ")


def test_a_layout_that_cannot_run_is_refused_with_the_nearest(refused):
    what = "layout `TP3` cannot run model on 2 hosts of 2 NPUs"
    refused(what, "nearest that work: `", layout="tp3")


def test_hosts_elsewhere_are_refused_and_not_taken_for_virtual_ones(folder, refused):
    spec = folder.parent / "elsewhere.yaml"
    spec.write_text(
        "cluster: {hosts: [{address: 192.0.2.1, npus: 2}]}\n"
        f"model: {{path: {folder.parent / 'model'}}}\nserve: {{engine: vllm-cpu}}\n"
    )
    what = "`vllm-cpu` is the engine of virtual hosts, and these are real"
    refused(what, "cluster: {local:", "-c", str(spec))


def test_a_port_in_use_is_refused(refused):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        refused(f"port {port} is in use", "serve.port", port=str(port))


@pytest.mark.parametrize("name", ["../x", "a/../../home", "A", "", "a" * 32, "a b"])
@pytest.mark.parametrize("verb", ["up", "down", "status", "logs"])
def test_a_name_that_no_spec_could_have_is_refused(verb, name, capsys):
    assert exit_code([verb, "--json", "--name", name]) == 2
    assert "is not a name" in read_document(capsys.readouterr().out)["error"]["what"]
