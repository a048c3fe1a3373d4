"""The hosts of two_hosts.py: that they are hosts, that nothing of them stays, that Ropeway and the
engine run on them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_tools import fleet_of, main
from local_cluster import directory
from ropeway.errors import HostError
from ropeway.launch.images import Images
from ropeway.sim.hosts import virtual_hosts
from ropeway.spec.cluster import Runtime
from sshd import descendants
from two_hosts import IMAGE, NIC, Node, TwoHosts, mounts, sweep, why_not
from two_hosts_laptop import MODEL, Laptop
from two_hosts_vllm import for_cpu
from waiting import wait_for


def on_hosts(test):
    """A test that takes seconds, and root."""
    return pytest.mark.two_hosts(pytest.mark.slow(test))


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    """Two hosts for all tests that do them no lasting harm."""
    if reason := why_not():
        pytest.skip(reason)
    with TwoHosts(share=[Path(directory(MODEL))]) as running:
        yield running
    assert traces(running.mark) == []


def said(node: Node, *argv: str, timeout: float = 120) -> str:
    """What a command prints, over SSH."""
    result = node.ssh.run(argv, timeout=timeout)
    assert result.ok, result
    return result.stdout


def traces(mark: str) -> list[str]:
    """What the machine has of a harness: folders, cgroups, processes."""
    places = [Path("/dev/shm"), Path("/sys/fs/cgroup"), Path(os.environ.get("TMPDIR", "/tmp"))]
    found = [str(path) for place in places for path in place.glob(f"{mark}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{mark}*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != str(os.getpid()):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_text()
                found += [words.replace("\0", " ")] if mark in words else []
    return found


# The tools


@pytest.mark.parametrize(
    "argv",
    [
        ("npu-smi", "info"),
        ("npu-smi", "info", "-t", "topo"),
        ("npu-smi", "nonsense"),
        ("hccn_tool", "-i", "1", "-link", "-g"),
        ("hccn_tool", "-i", "0", "-ping", "-g", "address", "10.20.0.0"),
    ],
)
def test_a_tool_answers_as_the_virtual_host_does(argv, capsys):
    fleet = "2x2-910B4,link-down:host2:1"
    for number, host in enumerate(virtual_hosts(fleet_of(fleet))):
        assert (main((fleet, f"{number}", *argv)), capsys.readouterr().out) == host.answer(argv)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("--version", "--version"),
        (
            "serve /m --port 1",
            "serve /m --port 1 --enforce-eager --kv-cache-memory-bytes 268435456",
        ),
        (
            "serve /m --quantization ascend --enforce-eager --kv-cache-memory-bytes=5 --nnodes 2",
            "serve /m --enforce-eager --kv-cache-memory-bytes=5 --nnodes 2",
        ),
        (
            "serve /m --additional-config={} --disable-log-requests --headless",
            "serve /m --headless --enforce-eager --kv-cache-memory-bytes 268435456",
        ),
    ],
)
def test_flags_of_the_chip_do_not_reach_vllm_cpu(given, expected):
    assert for_cpu(given.split()) == expected.split()


# The hosts


@on_hosts
def test_each_host_has_its_own_name_network_processes_and_devices(hosts):
    for number, node in enumerate(hosts):
        assert said(node, "hostname") == f"npu{number}\n"
        assert f"inet {node.address}/24" in said(node, "ip", "-4", "addr", "show", "dev", NIC)
        card = said(node, "cat", f"/sys/class/net/{NIC}/address").strip()
        assert f"link/ether {card} " in said(node, "ip", "link", "show", "dev", NIC)
        assert said(node, "ps", "-p", "1", "-o", "comm=").startswith("two_hosts")
        listed = said(node, "ls", "/dev").split()
        assert {"davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"} < set(listed)
        assert "davinci2" not in listed
    assert not list(Path("/dev").glob("davinci*"))


@on_hosts
def test_hosts_reach_each_other_and_nothing_beyond(hosts):
    first, second = hosts
    assert reaches(first, second)
    assert said(second, "getent", "hosts", "npu0").split() == [first.address, "npu0"]
    beyond = first.ssh.run(("bash", "-c", "echo >/dev/tcp/192.0.2.77/80"), timeout=20)
    assert "No route to host" in beyond.stderr or "unreachable" in beyond.stderr


def reaches(node: Node, other: Node) -> bool:
    """Whether one host gets an answer of the other's sshd within 10 seconds."""
    hello = f"read -r hello </dev/tcp/{other.address}/22; echo $hello"
    return said(node, "timeout", "10", "bash", "-c", hello).startswith("SSH-2.0")


@on_hosts
def test_what_a_host_writes_stays_there(hosts):
    first, second = hosts
    paths = [f"{place}/two_hosts_wrote" for place in ("/etc", "/usr/local", "/tmp", "/run", "/opt")]
    said(first, "touch", *paths)
    assert sorted(said(first, "ls", *paths).split()) == sorted(paths)
    assert not any(Path(path).exists() for path in paths)
    assert not second.ssh.run(("ls", *paths)).stdout
    assert not first.ssh.run(("touch", f"{mounts()[-1]}/two_hosts_wrote")).ok
    said(first, "rm", *paths)


@on_hosts
def test_orphans_are_reaped(hosts):
    pid = said(hosts[0], "sh", "-c", "(sleep 0.01 >/dev/null & echo $!)").strip()
    wait_for(lambda: pid not in said(hosts[0], "ps", "-eo", "pid=").split(), what="a zombie stays")


@on_hosts
def test_containers_run_with_npus_limits_and_the_hosts_network(hosts):
    """With what `up` asks for, over SSH, on both. The image answers for its versions by itself."""
    for node in hosts:
        flags = ("--net=host", "--device", "/dev/davinci0", "--device", "/dev/davinci_manager",
                 "--ulimit", "nofile=655350:655350", "--ulimit", "memlock=-1:-1",
                 "--security-opt", "no-new-privileges", "--cap-drop=MKNOD")  # fmt: skip
        program = "ls /dev; ip -br -4 addr; hostname"
        printed = said(node, "docker", "run", "--rm", *flags, IMAGE, "bash", "-c", program)
        assert "davinci0\ndavinci_manager\n" in printed and "davinci1" not in printed
        assert node.address in printed and node.name in printed
        ask = "import importlib.metadata as m; print(m.version('vllm_ascend'))"
        alone = ("--network=none", "--entrypoint", "python3", IMAGE, "-c", ask)
        assert said(node, "docker", "run", "--rm", *alone) == "0.23.0.post1\n"
    ids = {said(node, "docker", "image", "inspect", "-f", "{{.Id}}", IMAGE) for node in hosts}
    assert len(ids) == 1


@on_hosts
def test_doctor_finds_them_sound(hosts, tmp_path):
    """Its warnings are of the machine below: limits, huge pages, virtual, the disk."""
    found = doctor(hosts, tmp_path, "--image", IMAGE, "--model", directory(MODEL))
    assert (found["answered"], found["npus"], found["pings"]) == (2, 4, 8)
    assert not found["unread"]
    assert {one["check"].partition("-")[0] for one in found["findings"]} <= {"host"}
    assert found["ok"], found["findings"]


@on_hosts
@pytest.mark.usefixtures("hosts")
def test_doctor_finds_a_fault_that_is_there(tmp_path):
    with TwoHosts(docker=False, faults=["link-down:host2:1"]) as hosts:
        found = doctor(hosts, tmp_path)
        place = {"host": hosts[1].address, "device": 1}
    failed = [one for one in found["findings"] if place in one["locations"]]
    assert "link" in failed[0]["check"] and failed[0]["level"] == "fail"


def doctor(hosts: TwoHosts, folder: Path, *more: str) -> dict:
    """What `ropeway doctor` says of them, over SSH, as data."""
    laptop = Laptop(folder, hosts)
    laptop.write("TP2")
    return laptop.json("doctor", *more, code=None)


@on_hosts
def test_a_host_that_lost_power_comes_back_with_its_containers(hosts):
    node = hosts[1]
    said(node, "docker", "run", "-d", "--name", "stays", "--net=host", IMAGE, "sleep", "1000")
    said(node, "docker", "update", "--restart", "unless-stopped", "stays")
    said(node, "touch", "/tmp/gone", "/etc/kept", "/data/kept")
    card = said(node, "cat", f"/sys/class/net/{NIC}/address")
    hosts.reboot(node)
    # With another one, who spoke to it before would not find it for a minute.
    assert said(node, "cat", f"/sys/class/net/{NIC}/address") == card
    assert said(node, "docker", "exec", "stays", "hostname") == "npu1\n"
    assert said(node, "ls", "/tmp", "/etc/kept", "/data/kept").split()[:2] == [
        "/data/kept",
        "/etc/kept",
    ]
    said(node, "docker", "rm", "--force", "stays")
    said(node, "rm", "/etc/kept", "/data/kept")
    assert reaches(hosts[0], node)


@on_hosts
@pytest.mark.usefixtures("hosts")
def test_harnesses_side_by_side_have_networks_of_their_own_and_leave_nothing():
    with TwoHosts(1, docker=False) as one, TwoHosts(1, docker=False, bandwidth=10**7) as other:
        assert one[0].address != other[0].address
        for hosts in (one, other):
            assert said(hosts[0], "hostname") == "npu0\n"
        assert not other[0].ssh.run(("bash", "-c", f"echo >/dev/tcp/{one[0].address}/22")).ok
        assert "tbf" not in said(one[0], "tc", "qdisc", "show", "dev", NIC)
        assert "tbf" in (shown := said(other[0], "tc", "qdisc", "show", "dev", NIC))
        assert "rate 80Mbit" in shown
        subnets = [hosts[0].address.rpartition(".")[0] for hosts in (one, other)]
    for hosts, subnet in zip((one, other), subnets, strict=True):
        assert traces(hosts.mark) == []
        assert f" {subnet}." not in interfaces()


def interfaces() -> str:
    """The machine's addresses."""
    return subprocess.run(
        ("ip", "-4", "-oneline", "addr", "show"), capture_output=True, text=True, check=True
    ).stdout


_FOREVER = """
import sys, time
from two_hosts import IMAGE, TwoHosts
hosts = TwoHosts(1)
with hosts:
    hosts[0].run("docker", "run", "-d", "--net=host", IMAGE, "sleep", "1000")
    print(hosts.mark, hosts[0].address, flush=True)
    time.sleep(1000)
"""


@on_hosts
def test_nothing_stays_of_a_harness_that_was_killed(hosts):
    """Its processes and network go with it; its folders and cgroups with the next harness."""
    with subprocess.Popen(
        (sys.executable, "-c", _FOREVER),
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    ) as process:
        try:
            mark, address = process.stdout.readline().split()
            socket.create_connection((address, 22), 5).close()
            assert len(traces(mark)) > 3
            family = descendants(process.pid)
            assert len(family) > 5  # PID 1 and its parent, dockerd, containerd, sshd …
        finally:
            os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not any(Path("/proc", str(pid)).exists() for pid in family))
    subnet = address.rpartition(".")[0]
    wait_for(lambda: f" {subnet}." not in interfaces())
    sweep()  # as a harness of another worker may have done by now
    assert traces(mark) == []
    assert traces(hosts.mark) != []


# Images


@on_hosts
def test_packages_are_put_on_the_image_once_and_by_name(hosts):
    """`runtime.pip`, from a folder of wheels: a real pip in a real container, no network."""
    for node in hosts:
        folder = node.folder / "data/wheels"
        folder.mkdir(exist_ok=True)
        write_wheel(folder)
    runtime = Runtime(pip=("ropeway-probe==1.0",), wheels="/data/wheels", pull="never")
    reach = {node.name: node.ssh for node in hosts}
    told: list[str] = []
    images = Images(reach, runtime)
    ids = images.ensure(IMAGE, told.append)
    image = images.ensure_derived(IMAGE, ids, told.append)
    assert len(told) == 2 and image != IMAGE
    for node in hosts:
        script = "import ropeway_probe; print(ropeway_probe.here)"
        assert said(node, "docker", "run", "--rm", image, "python3", "-c", script) == "yes\n"
        assert node.run("docker", "ps", "--all", "--quiet") == ""
    assert images.versions(image)["vllm_ascend"] == "0.23.0.post1"
    told.clear()
    assert images.ensure_derived(IMAGE, ids, told.append) == image
    assert told == [], "it is there, and is not made again"

    other = Runtime(pip=("no-such-package==9",), wheels="/data/wheels")
    with pytest.raises(HostError, match="cannot install no-such-package==9") as caught:
        Images(reach, other).ensure_derived(IMAGE, ids, told.append)
    assert "No matching distribution found" in "".join(caught.value.evidence)


def write_wheel(folder: Path) -> None:
    """A package of one line."""
    about = "ropeway_probe-1.0.dist-info"
    texts = {
        "ropeway_probe.py": "here = 'yes'\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: ropeway-probe\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(folder / "ropeway_probe-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(name, text)
