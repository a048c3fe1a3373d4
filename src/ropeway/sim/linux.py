"""What everything but the Ascend tools prints on a virtual machine: files, Docker, the network.

A command is known by the question of facts/ that it belongs to, so that one that changes there is
not answered here by accident. Texts in which nothing is computed are in outputs.toml.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from ropeway.facts import containers, model_directory
from ropeway.facts.ascend import driver, hccn
from ropeway.facts.linux import network, ping, system
from ropeway.facts.question import Question
from ropeway.facts.questions import ALL
from ropeway.facts.script import NOT_FOUND
from ropeway.sim.machine import GIB, OUTPUTS, Fleet, Machine
from ropeway.sim.model_folder import ModelFolder

Answer = tuple[int, str]
_HEADER_BYTES = 12_000  # of a shard's safetensors header, about what Qwen3-30B-A3B's have


def answer(machine: Machine, fleet: Fleet, argv: Sequence[str]) -> Answer:
    """Return exit code and output of a command; one that is unknown here is not installed."""
    command = tuple(argv)
    if known := _KNOWN.get(command):
        return known(machine)
    if command[:2] == ("df", "-Pk"):
        return _df(machine, command[2:])
    if command[:3] == ("ls", "-1dL", "--"):  # of what flags name, it has all but what is missing
        there = [path for path in command[3:] if path not in machine.missing]
        return 0, "".join(f"{path}\n" for path in there)
    if command[0] == "ping":
        return _ping(machine, fleet, command[-1])
    if command[:-1] == model_directory.MODEL.argv:
        return _model(machine, fleet.model, command[-1])
    if command == model_directory.HASHES.about(fleet.model.path).argv:
        rows = (f"{sum(name.encode()):064x}  {name}\n" for name in sorted(machine.model))
        return 0, "".join(rows)
    return NOT_FOUND, ""


def _no_file(path: str) -> Answer:
    return 1, f"cat: {path}: No such file or directory\n"


def _paths(machine: Machine) -> str:
    return "".join(f"{path}\n" for path in driver.USUAL if "driver" not in machine.missing)


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
    rows += [(1, "systemd"), (1189, "sshd"), *[(88120, "raylet")] * machine.raylet]
    return "".join(f"{pid:7} {name}\n" for pid, name in sorted(rows))


def _lscpu(machine: Machine) -> str:
    vendor = f"Hypervisor vendor:     {machine.hypervisor}\n" if machine.hypervisor else ""
    return f"Architecture:          aarch64\n{vendor}"


def _own_name(machine: Machine) -> str:
    address = machine.own_name or machine.address
    return f"hostname: {machine.name}\n{address:<15} {machine.name}\n{address:<15} STREAM\n"


def _ss(machine: Machine) -> str:
    rows = [
        f"LISTEN 0      128          0.0.0.0:{port}      0.0.0.0:*    "
        f'users:(("{program}",pid=3001,fd=6))'
        for port, program in [(22, "sshd"), *machine.ports.items()]
    ]
    head = "State  Recv-Q Send-Q Local Address:Port  Peer Address:Port Process\n"
    return head + "".join(f"{row}\n" for row in rows)


def _docker(output: Callable[[Machine], str]) -> Callable[[Machine], Answer]:
    """Return the answer of a command of the client that needs the daemon."""

    def run(machine: Machine) -> Answer:
        if not machine.docker_answers:
            return 1, (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
                "Is the docker daemon running?\n"
            )
        return 0, output(machine)

    return run


def _docker_version(_: Machine) -> str:
    version = {"Version": "26.1.3", "ApiVersion": "1.45"}
    return json.dumps({"Client": version, "Server": version}) + "\n"


def _json_lines(rows: Iterable[Mapping[str, object]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def _images(machine: Machine) -> str:
    names = ((image.name.rpartition(":"), image.id) for image in machine.images)
    return _json_lines({"Repository": name, "Tag": tag, "ID": id_} for (name, _, tag), id_ in names)


def _containers(machine: Machine) -> str:
    return _json_lines(
        {
            "name": f"/{container.name}",
            "image": container.image,
            "privileged": container.privileged,
            "devices": [{"PathOnHost": f"/dev/davinci{device}"} for device in container.devices],
        }
        for container in machine.containers
    )


def _df(machine: Machine, paths: Sequence[str]) -> Answer:
    """One row for each path, as coreutils prints them."""
    rows = ["Filesystem     1024-blocks       Used  Available Capacity Mounted on"]
    for path in paths:
        device, mount, total, free = "/dev/nvme0n1p3", "/", 3500 * GIB, machine.disk_free_bytes
        if path == "/dev/shm":
            device, mount, total, free = "tmpfs", path, machine.shm_bytes, machine.shm_bytes
        sizes = " ".join(f"{size // 1024:>11}" for size in (total, total - free, free))
        rows.append(f"{device:<14} {sizes} {1 - free / total:>7.0%} {mount}")
    return 0, "\n".join(rows) + "\n"


def _ping(machine: Machine, fleet: Fleet, address: str) -> Answer:
    other = fleet.up.get(address)
    if other is None or address in machine.unreachable or machine.address in other.unreachable:
        return 1, OUTPUTS["ping-lost"].format(address=address)
    return 0, OUTPUTS["ping"].format(address=address)


def _model(machine: Machine, whole: ModelFolder, path: str) -> Answer:
    """Answer as facts/model_directory.py's script does: sizes, config, index, shards' headers."""
    if path != whole.path or not machine.model:
        return 1, f"{path}: No such file or directory\n"
    lines = [f"== directory {whole.path}", "== files"]
    lines += [f"{size} 81a4 {name}" for name, size in sorted(machine.model.items())]
    lines += ["", "== json config.json", machine.config]
    total = sum(whole.files[shard] for shard in whole.shards)
    lines += ["", "== index model.safetensors.index.json", f'"total_size": {total}']
    lines += [f"      1 {shard}" for shard in whole.shards]
    if whole.kind:
        lines += ["", "== kinds quant_model_description.json", f"      1 {whole.kind}"]
    header = " ".join(str(byte) for byte in _HEADER_BYTES.to_bytes(8, "little"))
    lines += ["", "== headers"]
    lines += [
        f"{whole.files[shard] - _HEADER_BYTES - 8} : {header} : {shard}"
        for shard in whole.shards
        if shard in machine.model
    ]
    return 0, "\n".join([*lines, "== end"]) + "\n"


def _hccn_conf(machine: Machine) -> Answer:
    if not machine.hccn_conf:
        return _no_file("/etc/hccn.conf")
    return 0, "".join(f"address_{chip.device}={chip.address}\n" for chip in machine.chips)


def _prints(text: Callable[[Machine], str]) -> Callable[[Machine], Answer]:
    return lambda machine: (0, text(machine))


def _output(key: str) -> Callable[[Machine], Answer]:
    return lambda machine: (0, OUTPUTS[key].format(machine=machine))


def _of_driver(question: Question[object]) -> Callable[[Machine], Answer]:
    """Return the answer of a file that the driver brings."""
    there, absent = _output(question.key), _no_file(question.argv[-1])
    return lambda machine: absent if "driver" in machine.missing else there(machine)


_KNOWN: dict[tuple[str, ...], Callable[[Machine], Answer]] = {
    **{question.argv: _output(question.key) for question in ALL if question.key in OUTPUTS},
    system.HYPERVISOR.argv: _prints(_lscpu),
    system.PROCESSES.argv: _prints(_processes),
    ping.CLOCK.argv: _prints(lambda machine: f"{time.time() + machine.clock_s:.9f}\n"),
    network.OWN_NAME.argv: _prints(_own_name),
    network.SS.argv: _prints(_ss),
    containers.ENGINE.argv: _docker(_docker_version),
    containers.DISK.argv: _docker(lambda machine: _df(machine, ("/",))[1]),
    containers.IMAGES.argv: _docker(_images),
    containers.CONTAINERS.argv: _docker(_containers),
    driver.DRIVER.argv: _of_driver(driver.DRIVER),
    driver.FIRMWARE.argv: _of_driver(driver.FIRMWARE),
    driver.CANN.argv: lambda _: _no_file(f"'{driver.CANN.argv[-1].removeprefix('cat ')}'"),
    driver.DEVICES.argv: _devices,
    driver.PATHS.argv: _prints(_paths),
    driver.PCI.argv: _prints(_lspci),
    hccn.CONF.argv: _hccn_conf,
}
