"""What goes wrong while a service starts, on two real hosts: real SSH, Docker, disks and networks.

tests/test_launch_faults.py tries the same, and more, on virtual hosts. Here each goes through the
command, from outside, as a user's laptop would: a clear error, and nothing left, or the very
command that finishes the undoing. The engine is not what fails, so most starts wait for one that
never begins: `vllm` is a `sleep` there.
"""

import contextlib
import getpass
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_cluster import directory
from two_hosts import IMAGE, NIC, Node, TwoHosts, why_not
from two_hosts_image import HOME
from two_hosts_laptop import MODEL, Begun, Laptop
from waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.two_hosts]
OURS = "/var/lib/ropeway"
FOLDER = f"{OURS}/life"
DOCKERS = "/var/lib/docker"


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := why_not(docker=True):
        pytest.skip(reason)
    with TwoHosts(share=(Path(directory(MODEL)),)) as running:
        for node in running:
            give_vllm(node, "exec sleep 1000")
        yield running


@pytest.fixture
def laptop(hosts: TwoHosts, tmp_path: Path) -> Iterator[Laptop]:
    """With a spec whose engine never begins. Whatever happens, nothing may be left."""
    found = Laptop(tmp_path, hosts)
    write(found)
    yield found
    if left := found.left():
        found.run("down")  # for the next test
    assert left == []
    for node in hosts:
        wait_for(lambda node=node: not processes(node, "_mark=|docker run"))
        node.run("flock", "--nonblock", OURS, "true")


def give_vllm(node: Node, script: str) -> None:
    """What runs in place of the engine on this host."""
    program = node.folder / "data/vllm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def write(laptop: Laptop, layout: str = "TP2×PP2+EP", **changes: object) -> None:
    seen = [*laptop.hosts.runtime["mounts"], f"/data/vllm:{HOME}/bin/vllm:ro"]
    laptop.write(layout, runtime={"mounts": seen, **changes.pop("runtime", {})}, **changes)


def told(code: int, said: str, expected: int) -> str:
    """The error, without the lines of progress before it."""
    assert code == expected, said
    error = said[said.index("error: ") :]
    print(f"\n{error}")  # to be read by people: pytest -s
    return error


def fails(laptop: Laptop, code: int) -> str:
    """The error of an `up`."""
    done = laptop.run("up", timeout=120)
    return told(done.returncode, done.stderr, code)


def interrupted(up: Begun) -> None:
    up.interrupt()
    code, said = up.ended()
    assert code == 130, said


# What a host does beside us.


@contextlib.contextmanager
def listening(node: Node, port: int) -> Iterator[None]:
    """A program that listens at the host's address."""
    program = (
        f"import socket, sys; s = socket.create_server(({node.address!r}, {port}))\n"
        "print('listens', flush=True); sys.stdin.read()"
    )
    enter = ("nsenter", "--target", str(node.pid), "--all", "--wdns=/", "--")
    python = f"{sys.base_prefix}/bin/python3"
    with subprocess.Popen(
        (*enter, python, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # it ends with its input
        assert process.stdout.readline()
        yield
        process.stdin.close()


@contextlib.contextmanager
def small(node: Node, folder: str, limit: str) -> Iterator[None]:
    """A filesystem of its own in this folder; what lies there is hidden meanwhile."""
    node.run("mkdir", "-p", folder)
    node.run("mount", "-t", "tmpfs", "-o", limit, "small", folder)
    try:
        yield
    finally:
        node.run("umount", "--lazy", folder)


@contextlib.contextmanager
def unplugged(node: Node) -> Iterator[None]:
    (route,) = node.run("ip", "route", "show", "default").splitlines()
    node.run("ip", "link", "set", NIC, "down")
    try:
        yield
    finally:
        node.run("ip", "link", "set", NIC, "up")
        node.run("ip", "route", "add", *route.split())


def processes(node: Node, pattern: str) -> list[str]:
    """Pids, as the host counts, of processes whose command line has this."""
    lines = [line.split(maxsplit=1) for line in node.run("ps", "-eo", "pid=,args=").splitlines()]
    return [pid for pid, args in lines if re.search(pattern, args)]


def listeners(node: Node) -> list[str]:
    """The sshd that waits for connections."""
    return processes(node, r"sshd.*\[listener\]")


def connections(node: Node) -> list[str]:
    """The sshds that serve one."""
    return processes(node, "sshd.*@notty")


def asked(node: Node) -> int:
    """How many commands run over its connections, beside the lock."""
    parents = node.run("ps", "-eo", "ppid=").split()
    return sum(parents.count(pid) for pid in connections(node)) - 1


def containers(node: Node) -> list[str]:
    """Those of a service: not the one that asks the image for its versions."""
    return node.run("docker", "ps", "--quiet", "--filter", "name=ropeway-life-").split()


def there(node: Node, path: str) -> bool:
    return "yes" in node.run("sh", "-c", f"[ ! -e {path} ] || echo yes")


# What is in the way: seen before anything is started, exit code 2.


def test_a_port_that_is_taken_is_named_with_who_listens(laptop):
    write(laptop, "TP4", backend="ray")
    node = laptop.hosts[0]
    with listening(node, 6379):
        error = fails(laptop, 1)
    assert f"port 6379 is in use on {node.address}, and Ray needs it" in error
    assert "`python3` listens there" in error


@pytest.fixture
def lacking(hosts: TwoHosts) -> Iterator[Node]:
    """The second host, which does not have the image."""
    node = hosts[1]
    node.run("docker", "tag", IMAGE, "kept:1")
    node.run("docker", "rmi", IMAGE)
    yield node
    node.run("docker", "tag", "kept:1", IMAGE)
    node.run("docker", "rmi", "kept:1")


def test_an_image_that_one_host_lacks_and_may_not_pull(laptop, lacking):
    """The disk has too little room for it, and need not have."""
    with small(lacking, DOCKERS, "size=2G"):
        error = fails(laptop, 1)
    assert f"{lacking.address} does not have the image `{IMAGE}`" in error
    assert f"docker pull {IMAGE}" in error


def test_an_image_that_one_host_lacks_and_whose_mirror_is_out_of_reach(laptop, lacking):
    write(laptop, runtime={"pull": "missing", "mirror": "192.0.2.7:5000/hub"})
    with small(lacking, DOCKERS, "size=64G"):  # a limit, no reservation
        error = fails(laptop, 1)
    assert "cannot pull 192.0.2.7:5000/hub/ascend/vllm-ascend" in error
    assert f"at {lacking.address}" in error
    assert "route" in error or "unreachable" in error
    assert "runtime.mirror" in error


def test_no_room_for_the_image_on_the_host_that_lacks_it(laptop, lacking):
    write(laptop, runtime={"pull": "missing"})
    with small(lacking, DOCKERS, "size=2G"):
        error = fails(laptop, 1)
    assert f"{lacking.address}: 2.0 GiB free, and the image takes" in error
    assert laptop.hosts[0].address not in error
    assert "docker image prune" in error


# A disk that is full.


@pytest.mark.parametrize(
    ("limit", "what"),
    [("nr_inodes=1", "cannot lock the host"), ("size=12k", f"cannot write `{FOLDER}/")],
    ids=["at the lock", "at the scripts"],
)
def test_a_disk_that_is_full(limit, what, laptop):
    node = laptop.hosts[1]
    with small(node, OURS, limit):
        error = fails(laptop, 1)
        assert laptop.left() == []
    assert what in error
    assert f"at {node.address}" in error
    assert "no space left on device" in error.lower()
    assert "df -h" in error


def test_a_disk_that_fills_while_containers_start(laptop):
    node = laptop.hosts[1]
    with laptop.begin("up") as up:
        up.until(lambda: there(node, FOLDER))
        with small(node, f"{DOCKERS}/containers", "nr_inodes=1"):
            error = told(*up.ended(), 1)
    assert "cannot start `ropeway-life-0-1`" in error
    assert f"at {node.address}" in error
    assert "no space left on device" in error.lower()
    assert max(map(len, error.splitlines())) < 400


# SSH that drops.


def test_ssh_that_drops_while_a_container_starts(laptop):
    """The undoing reaches the host again, and finds what its daemon has started alone."""
    node = laptop.hosts[1]
    with laptop.begin("up") as up:
        up.until(lambda: processes(node, "^(/.*/)?docker run --detach"))
        node.run("kill", "-9", *connections(node))
        error = told(*up.ended(), 1)
    assert "connection was lost" in error
    assert f"at {node.address}" in error
    assert "what was started has been removed" in error


def finish(laptop: Laptop, error: str, node: Node) -> None:
    """Carry out the command that an error tells, as somebody would paste it."""
    (command,) = re.findall(r"^ +(ssh .*)$", error, re.MULTILINE)
    assert node.address in command
    subprocess.run(("sh", "-c", command), env=laptop.hosts.environment, check=True)


def test_ssh_that_is_gone_for_good(laptop):
    """After the container has been started. The command that the error has finishes the undoing."""
    node = laptop.hosts[1]
    with laptop.begin("up") as up:
        up.until(lambda: containers(node))
        node.run("kill", "-9", *listeners(node), *connections(node))
        error = told(*up.ended(), 1)
    assert "1 of 2 hosts could not be cleaned up" in error
    assert f"at {node.address}" in error
    assert not containers(laptop.hosts[0])
    assert containers(node)
    sshd = "setsid /etc/two_hosts.d/sshd </dev/null >>/var/log/sshd.log 2>&1 &"
    node.run("sh", "-c", sshd)
    wait_for(lambda: listeners(node))
    finish(laptop, error, node)


def test_a_host_whose_cable_is_pulled(laptop):
    """In the middle of the start. Nothing ends the connection, so each side must find out."""
    node = laptop.hosts[0]
    node.run("sysctl", "-q", "-w", "net.ipv4.tcp_retries2=3")  # seconds, not a quarter of an hour
    with laptop.begin("up") as up, contextlib.ExitStack() as cable:
        up.until(lambda: containers(node))
        with up.paused():
            up.until(lambda: not asked(node))  # nothing is on its way
            cable.enter_context(unplugged(node))
        error = told(*up.ended(), 1)
        wait_for(lambda: not processes(node, "_mark="))
        node.run("flock", "--nonblock", OURS, "true")
    assert "1 of 2 hosts could not be cleaned up" in error
    assert f"\n  {node.address}: " in error
    assert not containers(laptop.hosts[1])
    finish(laptop, error, node)


# What ends by itself.


def test_a_follower_that_ends_at_once(laptop):
    node = laptop.hosts[1]
    give_vllm(node, "echo of no meaning; exit 7")
    try:
        error = fails(laptop, 1)
    finally:
        give_vllm(node, "exec sleep 1000")
    assert f"the follower on {node.address} ended while the engine was starting" in error
    assert "ropeway-life-0-1: exited, exit code 7" in error
    assert "of no meaning" in error
    (log,) = re.findall(r"the whole log: less (\S+)", error)
    assert "of no meaning" in (laptop.folder / log).read_text()


# Two at once, and Ctrl-C.


def test_a_start_goes_on_beside_a_second_one_and_over_a_dropped_connection(laptop, tmp_path):
    """The second is told who makes the first. The connection drops between two questions."""
    other = Laptop(tmp_path / "other", laptop.hosts)
    other.folder.mkdir()
    write(other)
    node = laptop.hosts[1]
    with laptop.begin("up") as up:
        up.until(lambda: "ask 2 hosts" in up.log.read_text())
        error = fails(other, 1)
        up.until(lambda: all(map(containers, laptop.hosts)))
        with up.paused():
            up.until(lambda: not asked(node))
            node.run("kill", "-9", *connections(node))
        up.until(lambda: connections(node))
        interrupted(up)
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    assert re.search(rf"{who} has been changing what runs on this host since 20\d\d-\S+Z", error)


MOMENTS: dict[str, Callable[[Node], object]] = {
    "locked": lambda node: there(node, f"{OURS}/holder"),
    "asking the image": lambda node: node.run("docker", "ps", "--all", "--quiet"),
    "writing scripts": lambda node: there(node, FOLDER),
    "starting a container": lambda node: processes(node, "docker run --detach") or containers(node),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_nothing(moment, laptop):
    node = laptop.hosts[0]
    node.run("rm", "-f", f"{OURS}/holder")
    with laptop.begin("up") as up:
        up.until(lambda: MOMENTS[moment](node))
        interrupted(up)


@pytest.mark.engine
def test_ctrl_c_while_vllm_starts_leaves_nothing(laptop):
    laptop.write("TP2×PP2+EP")
    with laptop.begin("up") as up:
        up.until(lambda: all(map(containers, laptop.hosts)))
        up.until(lambda: "importing vLLM" in up.log.read_text())
        interrupted(up)
