"""Everything doctor asks of a host, as one list. Every command only reads.

tests/test_questions.py holds this list to commands that change nothing: a new question must be put
there too, on purpose.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from ropeway.facts import (
    containers,
    docker,
    driver_paths,
    filesystems,
    images,
    limits,
    memory,
    names,
    network,
    ports,
    processor,
)
from ropeway.facts import ping as ethernet
from ropeway.facts.script import Ask, Pings
from ropeway.facts.storage import hashes_command, model_directory_command
from ropeway.facts.system import COMMANDS as SYSTEM

# Hashing 60 GB from a disk of 1 GB/s takes a minute; from shared storage several.
_HASH_SECONDS = 3600
_MODEL_SECONDS = 60
DOCKER_ROOT, PODMAN_ROOT = "/var/lib/docker", "/var/lib/containers"

_HOST = (
    *(Ask(key, SYSTEM[key]) for key in ("os-release", "uname", "id")),
    Ask("nproc", processor.COMMANDS["nproc"]),
    Ask("lscpu", processor.COMMANDS["lscpu"]),
    Ask("cpu-governor", processor.COMMANDS["cpu-governor"]),
    Ask("meminfo", memory.COMMANDS["meminfo"]),
    Ask("transparent-hugepages", memory.COMMANDS["transparent-hugepages"]),
    Ask("proc-limits", limits.COMMANDS["proc-limits"]),
    Ask("sysctl", limits.COMMANDS["sysctl"]),
    Ask("home", driver_paths.HOME),
    Ask("own-name", names.COMMANDS["own-name"]),
    Ask("ip-addr", network.COMMANDS["ip-addr"]),
    Ask("ip-route", network.COMMANDS["ip-route"]),
    Ask("ss", ports.COMMANDS["ss"]),
    Ask("proc-net-tcp", ports.COMMANDS["proc-net-tcp"], unless="ss"),
    Ask("processes", ("ps", "-eo", "pid=,comm=")),
)
# A daemon that is away or hangs says the same to each, and takes the time limit each time.
_DOCKER = tuple(
    Ask(key, argv, limit=30, after="docker-version" if key != "docker-version" else None)
    for commands in (docker.COMMANDS, images.COMMANDS, containers.COMMANDS)
    for key, argv in commands.items()
)
_ASCEND = (
    Ask("devices", ("sh", "-c", "ls /dev | grep -E '^davinci[0-9]+$'")),
    Ask("driver-paths", driver_paths.COMMAND),
    Ask("lspci", ("lspci", "-d", "19e5:")),
    Ask("driver-version-info", ("cat", "/usr/local/Ascend/driver/version.info")),
    Ask("firmware-version-info", ("cat", "/usr/local/Ascend/firmware/version.info")),
    Ask(
        "cann-install-info",
        ("sh", "-c", "cat /usr/local/Ascend/ascend-toolkit/latest/*/ascend_toolkit_install.info"),
    ),
    Ask("npu-smi-info", ("npu-smi", "info"), limit=60),
    Ask("npu-smi-m", ("npu-smi", "info", "-m")),
    Ask("npu-smi-topo", ("npu-smi", "info", "-t", "topo")),
)
_EACH_NPU = (
    *(
        Ask(f"npu-smi-{kind}", ("npu-smi", "info", "-t", kind, "-i", "N"), each="npu")
        for kind in ("board", "health", "ecc")
    ),
    *(
        Ask(f"hccn-{name.replace('_', '-')}", ("hccn_tool", "-i", "N", f"-{name}", "-g"), "device")
        for name in (
            "ip", "link", "net_health", "netdetect", "gateway", "lldp", "tls", "optical", "stat",
            "link_stat", "vnic",
        )
    ),
    Ask("hccn-conf", ("cat", "/etc/hccn.conf")),
)  # fmt: skip


def questions(
    *, model_path: str | None = None, deep: bool = False, npus: bool = True, runtime: str = "docker"
) -> tuple[Ask, ...]:
    """What to ask every host. `deep`: hash every file of the model too; without `npus`: nothing of
    single NPUs and their ports, which takes seconds. `runtime` is the container engine's command.
    """
    found = [
        *_HOST,
        *(_with(runtime, ask) for ask in _DOCKER),
        *_ASCEND,
        *(_EACH_NPU if npus else ()),
    ]
    if model_path is not None:
        found.append(
            Ask("model-directory", model_directory_command(model_path), limit=_MODEL_SECONDS)
        )
        if deep:
            found.append(Ask("sha256sum", hashes_command(model_path), limit=_HASH_SECONDS))
    root = PODMAN_ROOT if runtime == "podman" else DOCKER_ROOT
    found.append(Ask("df", filesystems.df_command("/", "/dev/shm", root)))
    return tuple(found)


def _with(runtime: str, ask: Ask) -> Ask:
    """The question with another container engine's command in it."""
    if runtime == "docker":
        return ask
    return replace(ask, argv=tuple(re.sub(r"\bdocker\b", runtime, word) for word in ask.argv))


def pings(
    targets: Sequence[tuple[int, Sequence[str]]], hosts: Sequence[str]
) -> tuple[Ask | Pings, ...]:
    """The second round: the clock, then other hosts over Ethernet, then RoCE from each NPU.

    targets  device → RoCE addresses; hosts: addresses of other hosts
    """
    return (
        Ask("date", SYSTEM["date"]),
        *(Ask(f"ping::{address}", ethernet.ping_command(address)) for address in hosts),
        *(Pings(device, tuple(addresses)) for device, addresses in targets if addresses),
    )
