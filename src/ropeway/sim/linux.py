"""What everything but the Ascend tools prints on a virtual machine: files, Docker, the network.

A command is known by the question of facts/ that it belongs to, so that one that changes there is
not answered here by accident.
"""

import json
import time
from collections.abc import Callable, Sequence

from ropeway.facts import containers, model_directory
from ropeway.facts.ascend import driver, hccn
from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.script import NOT_FOUND
from ropeway.sim.machine import MODEL_INDEX, Container, Fleet, Image, Machine

Answer = tuple[int, str]
_DRIVER_FILE, _FIRMWARE_FILE = driver.DRIVER.argv[-1], driver.FIRMWARE.argv[-1]
_HEADER_BYTES = 12_000  # of a shard's safetensors header, about what Qwen3-30B-A3B's have


def answer(machine: Machine, fleet: Fleet, argv: Sequence[str]) -> Answer:
    """Return exit code and output of a command; one that is unknown here is not installed."""
    command = tuple(argv)
    if known := _KNOWN.get(command):
        return known(machine)
    if command[:2] == ("df", "-Pk"):
        return _df(machine, command[2:])
    if command[0] == "ping":
        return _ping(machine, fleet, command[-1])
    if command == model_directory.MODEL.about(fleet.model_path).argv:
        return _model(machine, fleet.model_path)
    if command == model_directory.HASHES.about(fleet.model_path).argv:
        rows = (f"{_hash(machine, name)}  {name}" for name in sorted(machine.model))
        return 0, "".join(f"{row}\n" for row in rows)
    return NOT_FOUND, ""


def _prints(text: Callable[[Machine], str]) -> Callable[[Machine], Answer]:
    return lambda machine: (0, text(machine))


def _no_file(path: str) -> Answer:
    return 1, f"cat: {path}: No such file or directory\n"


def _driver(machine: Machine) -> Answer:
    if "driver" in machine.missing:
        return _no_file(_DRIVER_FILE)
    return 0, (
        f"Version={machine.driver}\nascendhal_version=7.35.23\n"
        f"compatible_version_fw=[7.0.0,8.9.9]\npackage_version={machine.driver}\n"
    )


def _firmware(machine: Machine) -> Answer:
    if "driver" in machine.missing:
        return _no_file(_FIRMWARE_FILE)
    return 0, f"Version={machine.firmware}\nfirmware_version=1.0\n"


def _paths(machine: Machine) -> Answer:
    return 0, "".join(f"{path}\n" for path in driver.USUAL if "driver" not in machine.missing)


def _cann(machine: Machine) -> Answer:
    if machine.cann is None:
        pattern = "/usr/local/Ascend/ascend-toolkit/latest/*/ascend_toolkit_install.info"
        return _no_file(f"'{pattern}'")
    return 0, (
        f"package_name=Ascend-cann-toolkit\nversion={machine.cann}\n"
        f"arch={machine.architecture}\nos=linux\n"
        f"path=/usr/local/Ascend/ascend-toolkit/{machine.cann}/{machine.architecture}-linux\n"
    )


def _devices(machine: Machine) -> Answer:
    there = [chip.device for chip in machine.chips if not chip.dropped]
    if "driver" in machine.missing or not there:
        return 1, ""
    return 0, "".join(f"davinci{device}\n" for device in there)


def _lspci(machine: Machine) -> str:
    cards = sorted({chip.npu for chip in machine.chips if not chip.dropped})
    return "".join(
        f"{0xC1 - card:02x}:00.0 Processing accelerators: Huawei Technologies Co., Ltd. "
        "Device d802 (rev 20)\n"
        for card in cards
    )


def _processes(machine: Machine) -> str:
    processes = [process for chip in machine.chips for process in chip.processes]
    rows = [(process.pid, process.name) for process in processes if process.alive]
    rows += [(1, "systemd"), (1189, "sshd")]
    if machine.raylet:
        rows.append((88120, "raylet"))
    return "".join(f"{pid:7} {name}\n" for pid, name in sorted(rows))


def _lscpu(machine: Machine) -> str:
    text = f"Architecture:          {machine.architecture}\n"
    if machine.hypervisor:
        text += f"Hypervisor vendor:     {machine.hypervisor}\n"
    return text


def _limits(machine: Machine) -> str:
    rows = [
        ("Max cpu time", "unlimited", "unlimited", "seconds"),
        ("Max open files", machine.nofile, machine.nofile, "files"),
        ("Max locked memory", machine.memlock, machine.memlock, "bytes"),
        ("Max processes", 6191234, 6191234, "processes"),
    ]
    head = f"{'Limit':<26}{'Soft Limit':<21}{'Hard Limit':<21}{'Units':<10}\n"
    return head + "".join(
        f"{name:<26}{soft!s:<21}{hard!s:<21}{unit:<10}\n" for name, soft, hard, unit in rows
    )


def _sysctl(machine: Machine) -> str:
    return (
        f"/proc/sys/kernel/numa_balancing:{machine.numa_balancing}\n"
        "/proc/sys/net/ipv4/ip_local_port_range:32768\t60999\n"
        "/proc/sys/net/ipv4/ip_local_reserved_ports:60000-60015\n"
    )


def _own_name(machine: Machine) -> str:
    address = machine.own_name or machine.address
    return f"hostname: {machine.name}\n{address:<15} {machine.name}\n{address:<15} STREAM\n"


def _ip_addr(machine: Machine) -> str:
    return (
        "1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN group default "
        "qlen 1000\n    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00\n"
        "    inet 127.0.0.1/8 scope host lo\n       valid_lft forever preferred_lft forever\n"
        f"2: {machine.nic}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu {machine.mtu} qdisc mq state UP "
        "group default qlen 1000\n    link/ether 9c:b2:e8:01:02:03 brd ff:ff:ff:ff:ff:ff\n"
        f"    inet {machine.address}/16 brd 192.168.255.255 scope global {machine.nic}\n"
        "       valid_lft forever preferred_lft forever\n"
    )


def _ip_route(machine: Machine) -> str:
    return (
        f"default via 192.168.255.254 dev {machine.nic} proto static\n"
        f"192.168.0.0/16 dev {machine.nic} proto kernel scope link src {machine.address}\n"
    )


def _ss(machine: Machine) -> str:
    rows = [
        f"LISTEN 0      128          0.0.0.0:{port}      0.0.0.0:*    "
        f'users:(("{program}",pid=3001,fd=6))'
        for port, program in [(22, "sshd"), *machine.ports.items()]
    ]
    head = "State  Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    return head + "".join(f"{row}\n" for row in rows)


def _proc_net_tcp(machine: Machine) -> str:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    return head + "".join(
        f"   {number}: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000"
        "     0        0 30861 1 0000000000000000 100 0 0 10 0\n"
        for number, port in enumerate([22, *machine.ports])
    )


def _docker(output: Callable[[Machine], str]) -> Callable[[Machine], Answer]:
    """Return the answer of a command of the client that needs the daemon."""

    def run(machine: Machine) -> Answer:
        if machine.docker is None:
            return NOT_FOUND, ""
        if not machine.docker_answers:
            return 1, (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                "Is the docker daemon running?\n"
            )
        return 0, output(machine)

    return run


def _docker_version(machine: Machine) -> str:
    version = {"Version": machine.docker, "ApiVersion": "1.45"}
    return json.dumps({"Client": version, "Server": version}) + "\n"


def _image_rows(machine: Machine) -> str:
    return "".join(json.dumps(_image_row(image)) + "\n" for image in machine.images)


def _image_row(image: Image) -> dict[str, str]:
    repository, _, tag = image.name.rpartition(":")
    return {"Repository": repository, "Tag": tag, "ID": image.id}


def _containers(machine: Machine) -> str:
    return "".join(json.dumps(_container_row(container)) + "\n" for container in machine.containers)


def _container_row(container: Container) -> dict[str, object]:
    paths = [f"/dev/davinci{device}" for device in container.devices]
    return {
        "name": f"/{container.name}",
        "image": container.image,
        "privileged": container.privileged,
        "devices": [{"PathOnHost": path, "PathInContainer": path} for path in paths],
    }


def _df(machine: Machine, paths: Sequence[str]) -> Answer:
    """One row for each path, as coreutils prints them."""
    rows = ["Filesystem     1024-blocks       Used  Available Capacity Mounted on"]
    for path in paths:
        total = machine.shm_bytes if path == "/dev/shm" else 3500 * 2**30
        free = machine.shm_bytes if path == "/dev/shm" else machine.disk_free_bytes
        device, mount = ("tmpfs", path) if path == "/dev/shm" else ("/dev/nvme0n1p3", "/")
        used = total - free
        percent = round(used * 100 / total) if total else 0
        rows.append(
            f"{device:<14} {total // 1024:>11} {used // 1024:>10} {free // 1024:>10} "
            f"{percent:>7}% {mount}"
        )
    return 0, "\n".join(rows) + "\n"


def _ping(machine: Machine, fleet: Fleet, address: str) -> Answer:
    other = fleet.up.get(address)
    alive = other is not None and not (
        address in machine.unreachable or machine.address in other.unreachable
    )
    head = f"PING {address} ({address}) 56(84) bytes of data.\n"
    if not alive:
        return 1, (
            f"{head}\n--- {address} ping statistics ---\n"
            "2 packets transmitted, 0 received, 100% packet loss, time 1031ms\n\n"
        )
    return 0, (
        f"{head}64 bytes from {address}: icmp_seq=1 ttl=64 time=0.118 ms\n"
        f"64 bytes from {address}: icmp_seq=2 ttl=64 time=0.092 ms\n\n"
        f"--- {address} ping statistics ---\n"
        "2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n"
        "rtt min/avg/max/mdev = 0.092/0.105/0.118/0.013 ms\n"
    )


def _model(machine: Machine, path: str) -> Answer:
    """Answer as facts/model_directory.py's script does: sizes, config, index, shards' headers."""
    if not machine.model:
        return 1, f"{path}: No such file or directory\n"
    lines = [f"== directory {path}", "== files"]
    lines += [f"{size} 81a4 {name}" for name, size in sorted(machine.model.items())]
    if "config.json" in machine.model:
        lines += ["", "== json config.json", machine.config]
    index = "model.safetensors.index.json"
    if index in machine.model:
        shards = sorted(set(json.loads(MODEL_INDEX)["weight_map"].values()))
        total = json.loads(MODEL_INDEX)["metadata"]["total_size"]
        lines += ["", f"== index {index}", f'"total_size": {total}']
        lines += [f"      1 {shard}" for shard in shards]
    lines += ["", "== headers"]
    whole = max((s for n, s in machine.model.items() if n.endswith(".safetensors")), default=0)
    header = " ".join(str(byte) for byte in _HEADER_BYTES.to_bytes(8, "little"))
    lines += [
        f"{whole - _HEADER_BYTES - 8} : {header} : {name}"
        for name in sorted(machine.model)
        if name.endswith(".safetensors")
    ]
    return 0, "\n".join([*lines, "== end"]) + "\n"


def _hash(machine: Machine, name: str) -> str:
    return machine.model_hashes.get(name, f"{sum(name.encode()):064x}")


def _hccn_conf(machine: Machine) -> Answer:
    if not machine.hccn_conf:
        return _no_file("/etc/hccn.conf")
    lines = []
    for chip in machine.chips:
        lines += [f"address_{chip.device}={chip.address}", f"netmask_{chip.device}={chip.netmask}"]
        if chip.gateway:
            lines.append(f"gateway_{chip.device}={chip.gateway}")
        if chip.netdetect:
            lines.append(f"netdetect_{chip.device}={chip.netdetect}")
        lines += [f"send_arp_status_{chip.device}=1", f"tls_enable_{chip.device}={chip.tls}"]
    return 0, "\n".join(lines) + "\n"


_KNOWN: dict[tuple[str, ...], Callable[[Machine], Answer]] = {
    system.OS_RELEASE.argv: _prints(
        lambda m: (
            f'NAME="{m.os[0]}"\nVERSION="{m.os[1]}"\nID="{m.os[0]}"\n'
            f'VERSION_ID="{m.os[1].split()[0]}"\nPRETTY_NAME="{m.os[0]} {m.os[1]}"\n'
        )
    ),
    system.KERNEL.argv: _prints(lambda m: f"Linux {m.kernel} {m.architecture}\n"),
    system.USER_ID.argv: _prints(lambda m: f"{m.uid}\n"),
    system.CORES.argv: _prints(lambda m: f"{m.cores}\n"),
    system.HYPERVISOR.argv: _prints(_lscpu),
    system.GOVERNOR.argv: _prints(lambda m: f"    {m.cores} {m.governor}\n"),
    system.MEMORY.argv: _prints(
        lambda m: (
            f"MemTotal:       {m.memory_bytes // 1024} kB\n"
            f"MemFree:        {m.memory_bytes // 2048} kB\n"
            f"MemAvailable:   {m.memory_bytes * 9 // 10240} kB\n"
        )
    ),
    system.HUGEPAGES.argv: _prints(
        lambda m: (
            " ".join(
                f"[{mode}]" if mode == m.hugepages else mode
                for mode in ("always", "madvise", "never")
            )
            + "\n"
        )
    ),
    system.HOME.argv: _prints(lambda m: "/root\n" if m.uid == 0 else "/home/ops\n"),
    system.PROCESSES.argv: _prints(_processes),
    ping.CLOCK.argv: _prints(lambda m: f"{time.time() + m.clock_s:.9f}\n"),
    limits.LIMITS.argv: _prints(_limits),
    limits.SYSCTL.argv: _prints(_sysctl),
    network.OWN_NAME.argv: _prints(_own_name),
    network.NICS.argv: _prints(_ip_addr),
    network.DEFAULT_NIC.argv: _prints(_ip_route),
    network.SS.argv: _prints(_ss),
    network.PROC_NET_TCP.argv: _prints(_proc_net_tcp),
    containers.ENGINE.argv: _docker(_docker_version),
    containers.ROOT.argv: _docker(lambda _: "/var/lib/docker\n"),
    containers.IMAGES.argv: _docker(_image_rows),
    containers.CONTAINERS.argv: _docker(_containers),
    driver.DRIVER.argv: _driver,
    driver.FIRMWARE.argv: _firmware,
    driver.CANN.argv: _cann,
    driver.DEVICES.argv: _devices,
    driver.PATHS.argv: _paths,
    driver.PCI.argv: _prints(_lspci),
    hccn.CONF.argv: _hccn_conf,
}
