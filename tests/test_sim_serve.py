"""The fork server of the local engine: workers forked from it are as if Ray had started them."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from children import is_gone
from ropeway.hosts import processes
from ropeway.sim import serve
from waiting import wait_for

CLIENT = Path(serve.__file__).with_name("fork_client.py")
# A stand-in for the API server: imports a module, starts the fork server, waits for its stdin.
SERVER = """\
import sys, types
sys.modules["ray"] = ray = types.ModuleType("ray")
sys.modules["ray._raylet"] = ray._raylet = types.ModuleType("ray._raylet")
imported = sys.modules["imported_once"] = types.ModuleType("imported_once")
from pathlib import Path
from ropeway.sim.serve import start_fork_server
start_fork_server(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.read()
"""
WORKER = """\
import json, os, sys
forked = "imported_once" in sys.modules
if forked:
    sys.modules["ray._raylet"].setproctitle("ray::Worker")
print(json.dumps([forked, sys.argv, os.getcwd(), os.environ.get("OWN"), os.getpid()]), flush=True)
print("to stderr", file=sys.stderr, flush=True)
sys.stdin.read()
"""
HOME = "ropeway-test-fork"


@dataclass
class Server:
    process: "subprocess.Popen[str]"
    socket: Path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    path = tmp_path / "s"
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Server(process, path)
        process.kill()


def start_client(socket: Path, folder: Path) -> "subprocess.Popen[str]":
    """Start a worker on `host2`, as Ray would, with its streams in our hands."""
    script = folder / "worker.py"
    script.write_text(WORKER)
    labels = {processes.SERVICE: HOME, processes.HOST: "host2", processes.ROLE: "ray"}
    return subprocess.Popen(
        [sys.executable, "-S", "-E", CLIENT, socket, script, "--flag"],
        cwd=folder, env={**os.environ, **labels, "OWN": "x"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_worker_is_forked_with_what_its_client_was_started_with(
    server: Server, tmp_path: Path
) -> None:
    with start_client(server.socket, tmp_path) as client:
        assert client.stdout is not None
        forked, arguments, folder, own, pid = json.loads(client.stdout.readline())
        assert forked
        assert arguments == [str(tmp_path / "worker.py"), "--flag"]
        assert (folder, own) == (str(tmp_path), "x")
        workers = [each for each in processes.find(HOME) if each.pid == pid]
        assert [(each.title, each.host, each.role) for each in workers] == [
            ("ray::Worker", "host2", "ray")
        ]
        assert workers[0].session == pid
        _, errors = client.communicate()  # its stdin ends, and so does the worker
        assert errors == "to stderr\n"
    wait_for(lambda: is_gone(pid), what="the worker's end")


def test_a_worker_ends_with_its_client(server: Server, tmp_path: Path) -> None:
    with start_client(server.socket, tmp_path) as client:
        assert client.stdout is not None
        pid = json.loads(client.stdout.readline())[-1]
        client.kill()
        assert client.stdout.read() == "", "the worker had it open as well"
    wait_for(lambda: is_gone(pid), what="the worker's end")


def test_the_fork_server_ends_with_the_api_server_and_clients_then_start_python(
    server: Server, tmp_path: Path
) -> None:
    assert server.process.stdin is not None and server.process.stdout is not None
    server.process.stdin.close()
    assert server.process.stdout.read() == "", "the fork server had it open as well"
    with start_client(server.socket, tmp_path) as client:
        output, _ = client.communicate()
    forked, arguments, folder, own, pid = json.loads(output)
    assert (forked, pid) == (False, client.pid)
    assert arguments == [str(tmp_path / "worker.py"), "--flag"]
    assert (folder, own) == (str(tmp_path), "x")


def test_ray_is_hidden_during_the_shared_imports_and_there_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("here = True\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "uses_ray.py").write_text(
        "try:\n    import ray\nexcept ImportError:\n    ray = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(serve, "_USES_RAY", "package.uses_ray")
    for name in ("ray", "package", "package.uses_ray"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    serve.import_without_ray(["package.uses_ray"])
    assert "ray" not in sys.modules
    assert not hasattr(sys.modules["package"], "uses_ray")
    from package import uses_ray  # type: ignore[import-not-found]

    assert isinstance(uses_ray.ray, types.ModuleType)


def test_workers_keep_the_rest_of_rays_runtime_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWAY_FORK_SERVER", "/tmp/a b/s")
    environment = serve.with_fork_client({"env_vars": {"A": "1"}})
    assert environment["env_vars"] == {"A": "1"}
    assert environment["py_executable"] == f"{sys.executable} -S -E {CLIENT} '/tmp/a b/s'"
    assert set(serve.with_fork_client(None)) == {"py_executable"}
