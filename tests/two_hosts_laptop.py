"""A laptop from which real hosts are steered, through the command, as a user would."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import INTERRUPTIBLE
from json_documents import read_document
from local_cluster import ROPEWAY, directory
from ropeway.spec.model import dump_spec, parse_spec
from two_hosts import TwoHosts
from waiting import wait_for

KEY = "a-key-that-nobody-may-see"
MODEL = "tiny-qwen3-moe"


@dataclass
class Begun:
    """A verb that runs; what it says goes into `log`."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def until(self, there: Callable[[], object], seconds: float = 180) -> None:
        """Wait for a moment that comes while it runs."""
        wait_for(
            lambda: there() or self.process.poll() is not None,
            seconds=seconds, what=self.log.read_text,
        )  # fmt: skip
        assert self.process.poll() is None, f"it has ended: {self.log.read_text()}"

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """As if the laptop slept: what hosts were asked goes on, and nothing new is asked."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def ended(self, seconds: float = 120) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        return self.process.wait(seconds), self.log.read_text()


@dataclass
class Laptop:
    """A folder from which hosts are steered; `hosts` are what it steers."""

    folder: Path
    hosts: TwoHosts

    def write(
        self,
        layout: str,
        *,
        model: str = MODEL,
        cluster: Mapping[str, object] = {},
        runtime: Mapping[str, object] = {},
        **serve: object,
    ) -> None:
        """The spec."""
        spec = {
            "name": "life",
            "cluster": {**self.hosts.cluster, **cluster},
            "runtime": {**self.hosts.runtime, **runtime},
            "model": {"path": directory(model), "served_name": "m"},
            "serve": {
                "layout": layout, "context": 256, "dtype": "float32", "address": "0.0.0.0",
                "api_key_env": "ROPEWAY_KEY", "start_timeout": 600, **serve,
            },
        }  # fmt: skip
        text = dump_spec(parse_spec(json.dumps(spec), "spec"))
        (self.folder / "ropeway.yaml").write_text(text)

    def run(self, *args: str, timeout: float = 700) -> "subprocess.CompletedProcess[str]":
        """A verb. No output of ours has the key in it."""
        done = subprocess.run(
            (ROPEWAY, *args), cwd=self.folder, env=self._env, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert KEY not in done.stdout + done.stderr
        return done

    @contextmanager
    def begin(self, *args: str) -> Iterator[Begun]:
        """A verb that is not waited for. It does not outlive the block."""
        log = self.folder / f"{args[0]}.log"
        argv = (*INTERRUPTIBLE, ROPEWAY, *args)
        with log.open("wb") as file, subprocess.Popen(
            argv, cwd=self.folder, env=self._env, stdout=file, stderr=file
        ) as process:  # fmt: skip
            try:
                yield Begun(process, log)
            finally:
                if process.poll() is None:
                    process.terminate()
        assert KEY not in log.read_text()

    def json(self, *args: str, code: int | None = 0) -> dict[str, Any]:
        done = self.run(*args, "--json")
        assert code is None or done.returncode == code, done.stdout + done.stderr
        found: dict[str, Any] = read_document(done.stdout)
        return found

    @property
    def _env(self) -> dict[str, str]:
        return {**self.hosts.environment, "ROPEWAY_KEY": KEY}

    @property
    def url(self) -> str:
        return f"http://{self.hosts[0].address}:8000/v1"

    def check_views(self) -> None:
        """Check what any machine sees of it, with or without the spec: hosts, logs, programs."""
        first, second = self.hosts
        # From a machine without the spec, by any of the hosts.
        status = self.json("status", "-c", "none.yaml", "--host", f"root@{second.address}")
        assert [(one["host"], one["role"], one["devices"]) for one in status["containers"]] == [
            (first.address, "head", [0, 1]), (second.address, "follower", [0, 1]),
        ]  # fmt: skip
        lines = self.json("logs", "-n", "400")["lines"]
        times = [line["time"] for line in lines if line["time"]]
        assert times == sorted(times)
        assert {time[-1] for time in times} == {"Z"}
        assert {line["source"].split()[-1] for line in lines} == {"head", "follower"}
        names = self.run("exec", "--all", "--", "hostname").stdout.split()
        assert names == [first.name, second.name]

    def is_fit(self) -> bool:
        """Whether `ropeway doctor` reaches both hosts and finds nothing that fails."""
        report = self.json("doctor", code=None)
        failures = [one for one in report["findings"] if one["level"] == "fail"]
        return report["answered"] == 2 and not failures

    def answers(self) -> bool:
        done = self.run("chat", "--url", self.url, "--key-env", "ROPEWAY_KEY", "-p", "hi",
                        "--max-tokens", "4")  # fmt: skip
        return done.returncode == 0

    def left(self) -> list[str]:
        """What there is on the hosts beside what was there before: nothing, once it is down."""
        found = []
        for host in self.hosts:
            found += host.run(self.hosts.engine, "ps", "--all", "--quiet").split()
            found += host.run("sh", "-c", "ls /var/lib/ropeway | grep -v -x 'audit.log\\|holder'; :"
                              ).split()  # fmt: skip
            found += host.run("sh", "-c", "ls /dev/shm | grep -v -x libpod_lock; :").split()
        return found


@contextmanager
def steering(folder: Path, hosts: TwoHosts) -> Iterator[Laptop]:
    """A laptop whose service is taken down on leaving; then nothing of it may be left."""
    found = Laptop(folder, hosts)
    try:
        yield found
    finally:
        if (folder / "ropeway.yaml").exists():
            found.run("down")
    assert found.left() == []
