"""The whole life on two real hosts: SSH, Docker, Ray and vLLM-CPU are real, the chip is not.

Everything goes through the command, from outside, as a user's laptop would.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local_cluster import directory
from ropeway.spec import dump_spec, parse_spec
from two_hosts import TwoHosts, why_not

pytestmark = [pytest.mark.engine, pytest.mark.two_hosts]
KEY = "a-key-that-nobody-may-see"
_MODEL = "tiny-qwen3-moe"


@dataclass
class Laptop:
    """A folder from which hosts are steered; `hosts` are what it steers."""

    folder: Path
    hosts: TwoHosts

    def write(self, layout: str, **serve: object) -> None:
        """The spec."""
        spec = {
            "name": "life",
            "cluster": self.hosts.cluster,
            "runtime": self.hosts.runtime,
            "model": {"path": directory(_MODEL), "served_name": "m"},
            "serve": {
                "layout": layout, "context": 256, "dtype": "float32", "address": "0.0.0.0",
                "api_key_env": "ROPEWAY_KEY", "start_timeout": 600, **serve,
            },
        }  # fmt: skip
        text = dump_spec(parse_spec(json.dumps(spec), "spec"))
        (self.folder / "ropeway.yaml").write_text(text)

    def run(self, *args: str, timeout: float = 700) -> "subprocess.CompletedProcess[str]":
        """A verb. No output of ours has the key in it."""
        env = {**self.hosts.environment, "ROPEWAY_KEY": KEY}
        argv = (str(Path(sys.executable).with_name("ropeway")), *args)
        done = subprocess.run(
            argv, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        assert KEY not in done.stdout + done.stderr
        return done

    def json(self, *args: str, code: int | None = 0) -> dict[str, Any]:
        done = self.run(*args, "--json")
        assert code is None or done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    @property
    def url(self) -> str:
        return f"http://{self.hosts[0].address}:8000/v1"

    def answers(self) -> bool:
        done = self.run("chat", "--url", self.url, "--key-env", "ROPEWAY_KEY", "-p", "hi",
                        "--max-tokens", "4")  # fmt: skip
        return done.returncode == 0

    def left(self) -> list[str]:
        """What there is on the hosts beside what was there before: nothing, once it is down."""
        found = []
        for host in self.hosts:
            found += host.run("docker", "ps", "--all", "--quiet").split()
            found += host.run("sh", "-c", "ls /var/lib/ropeway | grep -v -x 'audit.log\\|holder'; :"
                              ).split()  # fmt: skip
            found += host.run("sh", "-c", "ls /dev/shm; :").split()
        return found


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := why_not(docker=True):
        pytest.skip(reason)
    with TwoHosts(share=(Path(directory(_MODEL)),)) as running:
        yield running


@pytest.fixture
def laptop(hosts: TwoHosts, tmp_path: Path) -> Iterator[Laptop]:
    found = Laptop(tmp_path, hosts)
    try:
        yield found
    finally:
        if (tmp_path / "ropeway.yaml").exists():
            found.run("down")
    assert found.left() == []


def recovered(laptop: Laptop, began: float) -> float:
    """Seconds until it generates tokens again, having been seen not to."""
    failed = False
    while time.monotonic() - began < 600:
        if not laptop.json("status", code=None)["serving"]:
            failed = True
        elif failed:
            return time.monotonic() - began
        time.sleep(1)
    raise AssertionError(laptop.run("logs", "-n", "200").stdout)


def kill_engine(laptop: Laptop, host: int) -> None:
    """As if it had run out of memory: the container's first process dies."""
    name = laptop.hosts[host].run("docker", "ps", "--quiet").split()[0]
    script = f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {name})"
    laptop.hosts[host].run("sh", "-c", script)


def processes_show(laptop: Laptop, word: str) -> list[str]:
    """Lines of any host's list of processes, with environment, that have the word."""
    lines = [line for host in laptop.hosts for line in host.run("ps", "axww").splitlines()]
    return [line for line in lines if word in line]


def test_doctor_finds_the_hosts_fit_and_the_plan_can_be_printed(laptop):
    laptop.write("TP2×PP2+EP")
    seen = laptop.json("doctor", code=None)
    assert seen["answered"] == 2
    assert [one for one in seen["findings"] if one["level"] == "fail"] == []
    script = laptop.run("up", "--dry-run").stdout
    assert "# assumed" not in script
    assert "--headless" in script and "--mount" in script


def test_pipeline_and_experts_over_two_hosts_from_up_to_down(laptop):
    laptop.write("TP2×PP2+EP")
    up = laptop.json("up")
    assert (up["url"], up["release"]) == (laptop.url, "0.23.0.post1")
    assert laptop.answers()
    again = laptop.json("up")
    assert again["changed"] == []

    # From a machine without the spec, by any of the hosts.
    other = laptop.hosts[1].address
    seen = laptop.json("status", "-c", "none.yaml", "--host", f"root@{other}")
    assert [(one["host"], one["role"], one["devices"]) for one in seen["containers"]] == [
        (laptop.hosts[0].address, "head", [0, 1]), (other, "follower", [0, 1]),
    ]  # fmt: skip

    load = ("--clients", "4", "--requests", "8", "--input-tokens", "16", "--output-tokens", "16")
    laptop.json("bench", "--url", laptop.url, "--key-env", "ROPEWAY_KEY", *load)

    logs = laptop.json("logs", "-n", "400")
    times = [line["time"] for line in logs["lines"] if line["time"]]
    assert times == sorted(times)
    assert {line["source"].split()[-1] for line in logs["lines"]} == {"head", "follower"}
    names = laptop.run("exec", "--all", "--", "hostname").stdout.split()
    assert names == [host.name for host in laptop.hosts]
    assert processes_show(laptop, KEY) == []
    inspected = laptop.hosts[0].run("sh", "-c", "docker inspect $(docker ps -q)")
    assert KEY not in inspected

    bundle = laptop.json("bundle", "-o", str(laptop.folder / "bundle.zip"))
    assert {"spec.yaml", "containers.json"} <= set(bundle["files"])

    began = time.monotonic()
    kill_engine(laptop, 0)
    seconds = recovered(laptop, began)
    print(f"the head's engine was killed: it serves again after {seconds:.0f} s")
    assert laptop.answers()
    assert laptop.json("down")["containers"] == 2


def test_ray_over_two_hosts_comes_back_after_a_workers_host_was_rebooted(laptop):
    laptop.write("TP4", backend="ray")
    laptop.json("up")
    assert laptop.answers()
    began = time.monotonic()
    laptop.hosts.reboot(laptop.hosts[1])
    seconds = recovered(laptop, began)
    print(f"a worker's host was rebooted: it serves again after {seconds:.0f} s")
    assert laptop.answers()


def test_data_parallel_over_two_hosts(laptop):
    laptop.write("DP2×TP2")
    laptop.json("up")
    assert laptop.answers()


def test_replicas_share_one_endpoint_and_only_what_changed_is_replaced(laptop):
    laptop.write("TP1", replicas=2, env={"ROPEWAY_NOTE": "1"})
    laptop.json("up")
    assert laptop.answers()
    before = {one["name"]: one["started"] for one in laptop.json("status")["containers"]}
    assert set(before) == {"ropeway-life-0-0", "ropeway-life-1-0", "ropeway-life-router"}

    laptop.write("TP1", replicas=2, env={"ROPEWAY_NOTE": "2"})
    refused = laptop.run("up")
    assert refused.returncode != 0, "nobody was there to say yes"
    assert "serve.env.ROPEWAY_NOTE: 1 → 2" in refused.stderr
    laptop.json("up", "--yes")
    after = {one["name"]: one["started"] for one in laptop.json("status")["containers"]}
    assert after["ropeway-life-router"] == before["ropeway-life-router"]
    assert after["ropeway-life-0-0"] != before["ropeway-life-0-0"]
    assert laptop.answers()


def test_a_start_that_is_interrupted_leaves_nothing(laptop):
    laptop.write("TP2×PP2+EP")
    argv = (str(Path(sys.executable).with_name("ropeway")), "up")
    env = {**laptop.hosts.environment, "ROPEWAY_KEY": KEY}
    with subprocess.Popen(
        ("env", "--default-signal=INT", *argv), cwd=laptop.folder, env=env,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as up:  # fmt: skip
        while not laptop.hosts[1].run("docker", "ps", "--quiet"):
            assert up.poll() is None
        time.sleep(5)
        os.kill(up.pid, 2)
        out, _ = up.communicate(timeout=120)
    assert up.returncode == 130, out
    assert laptop.left() == []
