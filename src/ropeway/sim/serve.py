"""`python -m ropeway.sim.serve FLAGS`: vLLM's API server, with ranks that are forked from it.

Ray starts a process for each rank, and each would import vLLM anew: 8 s of a core, for the same
modules. Here the server imports them once and forks itself before it does anything else. The copy,
the fork server, listens on a Unix socket. Ray starts `fork_client.py` in place of each worker; for
each of these the fork server forks a process, which becomes the worker.

Ray's C++ part reads its environment when it is imported, and this differs between workers. So the
`ray` package is hidden during the common imports; vLLM then takes it for not installed.

A worker can be found and ended as if Ray had started it: it leads a session of its own, shows its
host's labels in /proc (hosts/processes.py) beside Ray's title, and ends with its client.
"""

import ctypes
import gc
import json
import os
import runpy
import selectors
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path

from ropeway.hosts.processes import HOST, ROLE, SERVICE

_SOCKET = "ROPEWAY_FORK_SERVER"
# What a rank imports, and the engine core, which is a Ray worker too with data parallel. Not our
# worker: importing it changes vLLM, and a rank may be asked to use vLLM's own (`--worker-cls`).
_SHARED = (
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.layers.fused_moe.experts.cpu_moe",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.engine.core",
)
# The only shared module that imports ray; it is imported again, with ray, by those who need it.
_USES_RAY = "vllm.v1.executor.ray_utils"
_CLIENT = Path(__file__).with_name("fork_client.py")
_MAX_REQUEST_BYTES = 1 << 20


def main() -> None:
    """Import vLLM, start the fork server, and become vLLM's API server."""
    import_without_ray(_SHARED)
    path = Path(os.environ["TMPDIR"], "workers.sock")
    start_fork_server(path)
    os.environ[_SOCKET] = str(path)
    os.environ["RAY_RUNTIME_ENV_HOOK"] = "ropeway.sim.serve.with_fork_client"
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


def with_fork_client(runtime_env: Mapping[str, object] | None) -> dict[str, object]:
    """Add to a Ray runtime environment that its workers are started by the fork client.

    Ray calls it in `ray.init` (RAY_RUNTIME_ENV_HOOK); every actor inherits the result.
    """
    client = shlex.join((sys.executable, "-S", "-E", str(_CLIENT), os.environ[_SOCKET]))
    return {**(runtime_env or {}), "py_executable": client}


def import_without_ray(modules: Sequence[str]) -> None:
    """Import these modules as if ray were not installed, then forget the one that asked for it."""

    class HideRay(MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name.partition(".")[0] == "ray":
                raise ModuleNotFoundError(f"hidden from the shared imports: {name}", name=name)

    finder = HideRay()
    sys.meta_path.insert(0, finder)
    for module in modules:
        import_module(module)
    sys.meta_path.remove(finder)
    package, _, name = _USES_RAY.rpartition(".")
    del sys.modules[_USES_RAY]
    delattr(sys.modules[package], name)


def start_fork_server(path: Path) -> None:
    """Fork the fork server, which listens at `path` as long as this process or a child lives."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(64)
    parent_lives, keep_open = os.pipe()
    # What is not changed after a fork stays shared memory, and the garbage collector changes it.
    gc.collect()
    gc.freeze()
    if os.fork():
        os.close(parent_lives)
        listener.close()
        gc.unfreeze()
        return
    try:
        os.close(keep_open)
        _fork_workers(listener, parent_lives)
    finally:
        os._exit(0)


def _fork_workers(listener: socket.socket, parent_lives: int) -> None:
    """Fork a worker for each connection, until the API server is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that no zombies stay
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(parent_lives, selectors.EVENT_READ)
    while all(key.fileobj is not parent_lives for key, _ in selector.select()):
        connection, _ = listener.accept()
        if os.fork() == 0:
            selector.close()
            listener.close()
            os.close(parent_lives)
            _become_worker(connection)
        connection.close()


def _become_worker(connection: socket.socket) -> None:
    """Take the place of the client at the other end: its streams, folder, environment, program."""
    data, streams, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, 3)
    client = json.loads(data)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(client["folder"])
    os.environ.clear()
    os.environ.update(client["environment"])
    sys.argv = client["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    _show_in_proc(client["environment"])
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(0)


def _end_with(connection: socket.socket) -> None:
    """End this process when its client ends."""
    connection.recv(1)
    os._exit(1)


def _show_in_proc(environment: Mapping[str, str]) -> None:
    """Overwrite what /proc shows as this process's environment and title with the worker's own.

    Only our labels are shown of the environment. Ray's own function for the title would overwrite
    them, so it is replaced.
    """
    import ray._raylet

    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    title_begin, title_end, environment_begin, environment_end = map(int, fields[45:49])
    labels = [f"{name}={environment.get(name, '')}" for name in (SERVICE, HOST, ROLE)]
    _write(environment_begin, environment_end, "\0".join(labels))
    ray._raylet.setproctitle = lambda title: _write(title_begin, title_end, title)


def _write(begin: int, end: int, text: str) -> None:
    """Write text and zeros to this process's memory at these addresses."""
    ctypes.memmove(begin, text.encode()[: end - begin - 1].ljust(end - begin, b"\0"), end - begin)


if __name__ == "__main__":
    main()
