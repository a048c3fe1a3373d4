"""How fast doctor looks at a cluster: against ansible over real SSH, and at a thousand hosts.

    python benchmarks/doctor.py ssh --hosts 64      # beside ansible with 64 forks
    python benchmarks/doctor.py fleet --hosts 1000  # virtual hosts, with the pings

`ssh`: every host is an sshd of its own on loopback (tests/sshd.py), with stand-ins for npu-smi and
hccn_tool that print what a virtual machine would. Ansible gets the same commands as a playbook, one
`raw` task each (no Python on the hosts, its fastest way), `gather_facts: false`, pipelining on; and
once more as a single task that runs our whole script. It is installed from PyPI into a folder of
its own unless `--ansible` names one.
"""

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from running import conditions

from ropeway.doctor.checks import examine
from ropeway.doctor.cluster import Requirements
from ropeway.doctor.survey import Effort, survey
from ropeway.facts.gather import gather
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.questions import questions
from ropeway.facts.script import script
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import run_on_all
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hosts import VirtualHost, virtual_hosts
from ropeway.spec.cluster import Cluster, RemoteHost

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sshds import many

from sshd import USER, why_not

FORKS = 64
FAULTS = ("link-down:host77:2", "tls-on:host500", "hosts-apart:host300", "driver-differs:host900")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("ssh", "fleet"))
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--npus", type=int, help="a host  [default: 1 with ssh, 8 with fleet]")
    parser.add_argument("--ansible", help="a folder with ansible-playbook")
    asked = parser.parse_args()
    print(f"{asked.hosts} hosts; {conditions()}\n", flush=True)
    if asked.what == "fleet":
        virtual(asked.hosts, asked.npus or 8)
        return
    if reason := why_not():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as name:
        beside_ansible(Path(name), asked.hosts, asked.npus or 1, asked.ansible)


def virtual(hosts: int, npus: int) -> None:
    """The whole of doctor over virtual hosts, with four faults, pings and all."""
    faults = [one for one in FAULTS if int(one.partition(":host")[2].partition(":")[0]) <= hosts]
    fleet = faulty_fleet(f"{hosts}x{npus}-910B4", faults)
    machines = virtual_hosts(fleet)
    wanted = Requirements(npus={one.name: npus for one in machines}, model_path=fleet.model.path)
    started = time.monotonic()
    report = examine(survey(machines, wanted, Effort(), lambda _: None))
    seconds = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{report.npus:,} NPUs, {report.pings:,} pings: {seconds:.1f} s, {memory:.0f} MB at most")
    for finding in report.findings:
        if finding.cause is None:
            print(f"  {finding.level}  {finding.check}: {finding.title}")


def beside_ansible(folder: Path, hosts: int, npus: int, ansible: str | None) -> None:
    """Ropeway's facts and ansible's answers, from the same sshds."""
    asked = expanded(npus)
    tools = stand_ins(folder / "tools", npus, asked)
    playbook = Path(ansible or install_ansible(folder)) / "ansible-playbook"
    # SHLVL: under sshd bash reads ~/.bashrc for every command, unless it believes it is nested;
    # what a developer has there may take longer than the commands.
    own = f"PATH={tools}:{os.environ['PATH']} SHLVL=1"
    with many(folder, hosts, {"SetEnv": own}) as (config, names):
        remote = tuple(RemoteHost(address=name, npus=npus, user=USER) for name in names)
        ours = ropeway(Cluster(hosts=remote), config, asked)
        everything = Question("all", shell(script(asked, "R")), Parsed.of)
        whole = play(playbook, folder, config, names, [everything])
        theirs = play(playbook, folder, config, names, asked)
    print(f"\n{len(asked)} commands a host")
    print(f"ropeway                       {ours:7.1f} s")
    print(f"ansible, one task a command   {theirs:7.1f} s   {theirs / ours:.1f} times as long")
    print(f"ansible, our script as a task {whole:7.1f} s   {whole / ours:.1f} times as long")


def expanded(npus: int) -> list[Question[object]]:
    """Every question of doctor, one for each NPU; a model's directory is not asked for.

    Without those that depend on another's answer, since a playbook would ask them regardless.
    """
    asked: list[Question[object]] = []
    for one in questions():
        if one.after or one.unless:
            continue
        for number in range(npus if one.each else 1):
            argv = tuple(str(number) if word == "N" else word for word in one.argv)
            asked.append(replace(one, argv=argv, each=None))
    return asked


def stand_ins(folder: Path, npus: int, asked: list[Question[object]]) -> Path:
    """npu-smi and hccn_tool as small shell programs that print a virtual machine's answers."""
    folder.mkdir()
    host: VirtualHost = virtual_hosts(faulty_fleet(f"2x{npus}-910B4", ()))[0]
    for name in ("npu-smi", "hccn_tool"):
        branches = []
        for argv in {one.argv for one in asked if one.argv[0] == name}:
            text = shlex.quote(host.answer(argv)[1])
            branches.append(f"{shlex.quote(' '.join(argv[1:]))}) printf %s {text};;")
        path = folder / name
        path.write_text("\n".join(["#!/bin/sh", 'case "$*" in', *branches, "esac", ""]))
        path.chmod(0o755)
    return folder


def ropeway(cluster: Cluster, config: Path, asked: list[Question[object]]) -> float:
    """Seconds from nothing connected to all facts joined."""
    started = time.monotonic()
    with connected(cluster, ssh_config=str(config)) as hosts:
        outcomes = run_on_all(hosts, lambda host: gather(host, asked))
    seconds = time.monotonic() - started
    lost = [one.error for one in outcomes if one.error is not None]
    if lost:
        sys.exit(f"{len(lost)} hosts failed, first: {lost[0]}")
    npus = sum(len(one.result.npus) for one in outcomes if one.result)
    print(f"ropeway: {len(outcomes)} hosts, {npus} NPUs read, {seconds:.1f} s", flush=True)
    return seconds


def install_ansible(folder: Path) -> str:
    """ansible-core from PyPI, in a virtual environment of its own; its folder of programs."""
    print("installing ansible-core …", flush=True)
    home = folder / "ansible"
    venv.create(home, with_pip=True)
    subprocess.run([home / "bin" / "pip", "install", "--quiet", "ansible-core"], check=True)
    return str(home / "bin")


def play(
    playbook: Path,
    folder: Path,
    config: Path,
    names: tuple[str, ...],
    asked: Sequence[Question[object]],
) -> float:
    """Seconds for a playbook with one `raw` task for each command."""
    tasks = "".join(
        f"    - raw: {yaml_text('PATH=$PATH:/usr/sbin:/sbin; ' + shlex.join(one.argv))}\n"
        "      failed_when: false\n      changed_when: false\n"
        for one in asked
    )
    book = folder / "playbook.yml"
    book.write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}")
    inventory = folder / "inventory"
    inventory.write_text("".join(f"{name}\n" for name in names))
    env = {
        **os.environ,
        "ANSIBLE_FORKS": str(FORKS),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_SSH_ARGS": f"-F {config} -C -o ControlMaster=auto -o ControlPersist=60s",
        "ANSIBLE_REMOTE_USER": USER,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_HOME": str(folder / "ansible-home"),
    }
    started = time.monotonic()
    done = subprocess.run(
        [playbook, "-i", inventory, book], env=env, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(
            f"ansible-playbook: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr}"
        )
    print(f"ansible: {len(asked)} tasks, {seconds:.1f} s", flush=True)
    return seconds


def yaml_text(text: str) -> str:
    """A text as a double-quoted scalar of YAML; Jinja's braces are left alone by `!unsafe`."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'!unsafe "{escaped}"'


if __name__ == "__main__":
    main()
