"""Two real hosts with podman in place of Docker: what a container gets, a service's life."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from local_cluster import directory
from ropeway.launch import docker
from ropeway.launch.docker import Container, in_utc
from ropeway.launch.labels import SERVICE, ServiceContainer, containers_on
from test_two_hosts import said, traces
from two_hosts import IMAGE, Node, TwoHosts, why_not
from two_hosts_laptop import MODEL, Laptop, steering
from waiting import wait_for

pytestmark = pytest.mark.two_hosts
_ONE = Container(
    host="npu1", name="probe", role="head", replica=0, node_rank=0, image=IMAGE,
    argv=("bash", "-c", "trap '' TERM; while :; do sleep 1; done"),
    devices=("/dev/davinci1", "/dev/davinci_manager"), shm=2**30,
)  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := why_not(podman=True):
        pytest.skip(reason)
    with TwoHosts(podman=True, share=[Path(directory(MODEL))]) as running:
        # As on most such machines. Docker writes times of UTC all the same, podman does not.
        said(running[1], "ln", "-sf", "/usr/share/zoneinfo/Asia/Shanghai", "/etc/localtime")
        yield running
    assert traces(running.mark) == []


@pytest.fixture
def laptop(hosts: TwoHosts, tmp_path: Path) -> Iterator[Laptop]:
    with steering(tmp_path, hosts) as found:
        yield found


def start(node: Node, one: Container, *, restart: bool = False) -> None:
    said(node, *docker.run_argv("podman", one, {SERVICE: "probe"}, restart=restart))


def became(node: Node, service: str, **fields: object) -> ServiceContainer:
    """The only container of the service, once it is so."""

    def container() -> ServiceContainer | None:
        (one,) = containers_on(node.ssh, "podman", service)
        return one if all(getattr(one, key) == value for key, value in fields.items()) else None

    return wait_for(container, what=fields)


def now() -> str:
    """As a container engine writes it."""
    return in_utc(datetime.now(UTC).isoformat())


@pytest.mark.slow
def test_a_container_has_what_docker_gives_it_and_goes_at_once(hosts):
    node = hosts[1]
    before = now()
    start(node, _ONE)
    found = became(node, "probe", state="running", image=IMAGE, restarts=0)
    assert before < found.started < now(), "not in UTC"
    script = "grep NoNew /proc/1/status; ls /dev | grep davinci; df --output=size /dev/shm"
    inside = said(node, *docker.exec_argv("podman", "probe", ("sh", "-c", script))).split()
    assert inside == ["NoNewPrivs:", "1", "davinci1", "davinci_manager", "1K-blocks", "1048576"]
    most = said(node, "sh", "-c", "cat $(find /sys/fs/cgroup -path '*/libpod-*/pids.max')")
    assert set(most.split()) == {"max"}, "podman's own limit is 2048 threads"
    # Would it wait for a process that does not hear SIGTERM, then for ten minutes.
    said(node, *docker.remove_argv("podman", ["probe"]))


@pytest.mark.slow
def test_what_ends_is_started_again_and_told_and_comes_back_after_a_reboot(hosts):
    node = hosts[1]
    start(node, replace(_ONE, argv=("sh", "-c", "test -e /tmp/one && exec sleep 1000; >/tmp/one")),
          restart=True)  # fmt: skip
    found = became(node, "probe", restarts=1, state="running")
    assert found.exit_code == 0, "nothing but `restarts` tells that it has ended"
    hosts.reboot(node)  # podman-restart.service, as two_hosts_files.py has it
    again = became(node, "probe", state="running")
    assert (again.id, again.started > found.started) == (found.id, True)
    said(node, *docker.remove_argv("podman", ["probe"]))


@pytest.mark.engine
def test_the_life_of_a_service_with_podman(laptop):
    laptop.write("TP2×PP2+EP")
    assert laptop.is_fit()
    up = laptop.json("up")
    assert "podman-restart.service" in "".join(up["notes"])
    assert laptop.answers()
    assert laptop.json("up")["start_s"] is None
    laptop.check_views()
    assert laptop.json("down")["removed"]["containers"] == 2
