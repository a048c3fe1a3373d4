"""What a host of two_hosts.py has and the machine has not: sshd, dockerd, the driver, as files.

Pure: path → file. Each program in SERVICES is started by PID 1 (two_hosts.sh).
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from host_tools import fleet_of
from ropeway.sim import linux

CHECKOUT = Path(__file__).parent.parent
DOCKER_ROOT, PODMAN_ROOT = "/var/lib/docker", "/var/lib/containers"
TOOLS = str(Path(__file__).with_name("host_tools.py"))
SERVICES = "/etc/two_hosts.d"
BASE = Path(sys.base_prefix)
PYTHON = BASE / f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # on every host
_FETCHED = CHECKOUT / ".venv/docker"


@dataclass(frozen=True)
class File:
    """Its text; `link` is set instead for a symbolic link."""

    text: str = ""
    mode: int = 0o644
    link: str | None = None


Files = Mapping[str, File]


def program(*lines: str) -> File:
    """A shell script."""
    return File("".join(f"{line}\n" for line in ("#!/bin/sh", *lines)), 0o755)


def tools_folder() -> Path | None:
    """Where programs lie that the machine lacks: $ROPEWAY_DOCKER, or what get-docker fetched."""
    places = (os.environ.get("ROPEWAY_DOCKER"), _FETCHED)
    return next((Path(place) for place in places if place and Path(place, "bin").is_dir()), None)


def tool(name: str) -> str | None:
    """The path of a program, fetched or the machine's own."""
    folder = tools_folder()
    return shutil.which(name, path=f"{folder}/bin:{SEARCH_PATH}" if folder else SEARCH_PATH)


def tool_files(*, podman: bool = False) -> Files:
    """The fetched programs, as commands of the host; podman is on those alone that ask for it."""
    folder = tools_folder()
    paths = sorted((folder / "bin").iterdir()) if folder else ()
    links = {path.name: File(link=str(path)) for path in paths if podman or path.name != "podman"}
    return {f"/usr/local/bin/{name}": link for name, link in links.items()}


def name_files(name: str, addresses: Mapping[str, str]) -> Files:
    """The host's own name, and where the others are."""
    lines = "".join(f"{address} {other}\n" for other, address in addresses.items())
    return {
        "/etc/hostname": File(f"{name}\n"),
        "/etc/hosts": File(f"127.0.0.1 localhost\n{lines}"),
    }


def sshd_files(sshd: str, host_key: str, users: str) -> Files:
    """A sshd on port 22 that lets root in by key. `users` are public keys."""
    config = "/etc/ssh/two_hosts_config"
    return {
        config: File(_SSHD_CONFIG),
        "/etc/ssh/two_hosts_key": File(host_key, 0o600),
        "/etc/ssh/two_hosts_users": File(users),
        f"{SERVICES}/sshd": program(f"exec {shlex.quote(sshd)} -D -e -f {config}"),
    }


_SSHD_CONFIG = """\
Port 22
HostKey /etc/ssh/two_hosts_key
AuthorizedKeysFile /etc/ssh/two_hosts_users .ssh/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 1000
LogLevel VERBOSE
"""


def dockerd_files(cgroup: str) -> Files:
    """A dockerd whose containers are below `cgroup`.

    There is no bridge and no firewall, so containers have the host's network or none.
    """
    dockerd = (
        "dockerd", "--storage-driver=overlay2", "--bridge=none", "--iptables=false",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent={cgroup}", f"--data-root={DOCKER_ROOT}",
    )  # fmt: skip
    # Left by a daemon that died with its host, it keeps the next one from starting.
    start = program("rm -f /var/run/docker.pid", f"exec {shlex.join(dockerd)}")
    return {f"{SERVICES}/dockerd": start, **_limited_runc()}


def podman_files(cgroup: str) -> Files:
    """A podman that works without systemd, whose containers are below `cgroup`; and what its
    podman-restart.service does on a host with systemd (`ExecStart` of 4.3.1), after a boot."""
    helpers = [f"{folder}/usr/lib/podman" for folder in (tools_folder(),) if folder]
    helpers += ["/usr/libexec/podman", "/usr/lib/podman"]
    real = shlex.quote(tool("podman") or "podman")
    return {
        "/etc/containers/containers.conf": File(_CONTAINERS.replace("HELPERS", repr(helpers))),
        "/etc/containers/storage.conf": File(_STORAGE.replace("ROOT", PODMAN_ROOT)),
        "/etc/containers/policy.json": File('{"default": [{"type": "insecureAcceptAnything"}]}'),
        "/usr/local/bin/podman": program(
            f'[ "$1" != run ] || {{ shift; set -- run --cgroup-parent={cgroup} "$@"; }}',
            f'exec {real} "$@"',
        ),
        f"{SERVICES}/podman-restart": program(
            "exec podman start --all --filter restart-policy=always"
        ),
        **_limited_runc(),
    }


_CONTAINERS = """\
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
stop_timeout = 600
conmon_path = ["/usr/local/bin/conmon", "/usr/bin/conmon"]
helper_binaries_dir = HELPERS
runtime = "runc"
[engine.runtimes]
runc = ["/usr/local/bin/runc", "/usr/sbin/runc", "/usr/bin/runc"]
"""
_STORAGE = """\
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "ROOT/storage"
"""


def _limited_runc() -> Files:
    """What stands for runc where root may not raise its own limits: CAP_SYS_RESOURCE, number 24."""
    status = Path("/proc/self/status").read_text()
    if int(status.partition("CapEff:")[2].split()[0], 16) >> 24 & 1:
        return {}
    text = _RUNC.replace("PYTHON", str(PYTHON)).replace("REAL", repr(tool("runc")))
    return {"/usr/local/bin/runc": File(text, 0o755)}


# Where root may not raise limits, `--ulimit nofile=655350` ends with "error setting rlimit type 7:
# operation not permitted". Containers then get what there is; `docker exec` asks once more.
_RUNC = """\
#!PYTHON -IS
import json, os, resource, sys

def lower(path, process_of):
    with open(path) as file:
        content = json.load(file)
    for limit in process_of(content).get("rlimits") or ():
        most = resource.getrlimit(getattr(resource, limit["type"]))[1]
        if most != resource.RLIM_INFINITY:
            limit.update(hard=min(limit["hard"], most), soft=min(limit["soft"], most))
    with open(path, "w") as file:
        json.dump(content, file)

argv = sys.argv[1:]
if "create" in argv:
    lower(argv[argv.index("--bundle") + 1] + "/config.json", lambda content: content["process"])
elif "exec" in argv and "--process" in argv:
    lower(argv[argv.index("--process") + 1], lambda content: content)
os.execv(REAL, ["runc", *argv])
"""


def ascend_files(fleet: str, number: int) -> Files:
    """What the driver puts on a host: its files, and tools that answer as this host of the fleet.

    The device files are made by two_hosts.sh.
    """
    cluster = fleet_of(fleet)
    machine = cluster.machines[number]
    copied = (
        "/usr/local/Ascend/driver/version.info",
        "/usr/local/Ascend/firmware/version.info",
        "/etc/hccn.conf",
    )
    texts = {path: linux.answer(machine, cluster, ("cat", path))[1] for path in copied}
    return {
        **{path: File(text) for path, text in texts.items()},
        "/etc/ascend_install.info": File(),
        "/usr/local/Ascend/driver/lib64/libdrvdsmi_host.so": File(),
        "/usr/local/dcmi/libdcmi.so": File(),
        "/usr/local/bin/npu-smi": _stand_in(fleet, number, "npu-smi"),
        "/usr/local/Ascend/driver/tools/hccn_tool": _stand_in(fleet, number, "hccn_tool"),
    }


def _stand_in(fleet: str, number: int, name: str) -> File:
    """`-S` leaves out site-packages: a doctor's visit starts these a hundred times."""
    line = shlex.join((str(PYTHON), "-S", TOOLS, fleet, str(number), name))
    return program(f'PYTHONPATH={shlex.quote(f"{CHECKOUT}/src")} exec {line} "$@"')
