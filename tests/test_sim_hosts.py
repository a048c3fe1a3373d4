"""A virtual host and a real shell give the same facts from the same script."""

import shlex
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ropeway.facts.gather import Answers, ask, facts_from
from ropeway.facts.question import Question
from ropeway.facts.questions import pings, questions
from ropeway.facts.script import Pings
from ropeway.hosts.local import LocalHost
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hosts import VirtualHost, virtual_hosts

ASCEND = ("npu-smi", "hccn_tool")


def stand_ins(folder: Path, host: VirtualHost, lines: list[Question[object] | Pings]) -> None:
    """Programs that print what the virtual host would, for every question of these."""
    cases: dict[str, list[str]] = {name: [] for name in ASCEND}
    numbers = {
        "npu": {chip.npu for chip in host.machine.chips},
        "device": {chip.device for chip in host.machine.chips},
    }
    commands = [("npu-smi", "info", "-l")]
    for one in lines:
        if isinstance(one, Pings):
            head = ("hccn_tool", "-i", str(one.device), "-ping", "-g", "address")
            commands += [(*head, address) for address in one.addresses]
        elif one.each:
            commands += [
                tuple(str(number) if word == "N" else word for word in one.argv)
                for number in sorted(numbers[one.each])
            ]
        elif one.argv[0] in ASCEND:
            commands.append(one.argv)
    for argv in commands:
        code, text = host.answer(argv)
        answer = f"printf %s {shlex.quote(text)}; exit {code}"
        cases[argv[0]].append(f"{shlex.quote(' '.join(argv[1:]))}) {answer};;")
    for name, branches in cases.items():
        path = folder / name
        path.write_text("\n".join(["#!/bin/sh", 'case "$*" in', *branches, "esac", ""]))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


class WithStandIns(LocalHost):
    """This machine with other programs first in its PATH."""

    def run(self, argv, **named):
        return super().run(("env", f"PATH={self.address}:/usr/bin:/bin", *argv), **named)


@pytest.mark.parametrize(
    "words",
    [
        "", "-ip -g", "-i 0", "-i 0 -nothing -g", "-i 9 -ip -g", "-i 0 -ip", "-i 0 -ip -s",
        "-i 0 -ping -g address", "-i 0 -ping -s address 10.0.0.1",
    ],
)  # fmt: skip
def test_wrong_usage_of_hccn_tool_is_an_error(words):
    host = virtual_hosts(faulty_fleet("1x2-910B4", ()))[0]
    code, text = host.answer(("hccn_tool", *words.split()))
    assert code == 1
    assert text.startswith("Get ")


@pytest.mark.parametrize("size", ["2x2-910B4", "2x2-A3"])
@pytest.mark.parametrize("fault", ["link-down:host1:1", "no-address:host1:1", "npu-busy:host1"])
def test_a_real_shell_and_a_virtual_host_agree(tmp_path, size, fault):
    fleet = faulty_fleet(size, [fault])
    host = virtual_hosts(fleet)[0]
    # /dev/davinciN is the machine's own; the questions for each device are asked by number here.
    lines = [
        replace(one, argv=tuple("1" if word == "N" else word for word in one.argv), each=None)
        if isinstance(one, Question) and one.each == "device"
        else one
        for one in questions()
        if one.argv[0] in ASCEND
    ]
    lines += [one for one in pings([(1, [fleet.machines[1].chips[0].address])], []) if
              isinstance(one, Pings)]  # fmt: skip
    stand_ins(tmp_path, host, lines)
    here = ask(WithStandIns("here", str(tmp_path)), lines, timeout=60)
    there = ask(host, lines, timeout=60)
    shown, expected = (
        [replace(one, text=one.text.rstrip("\n")) for one in each] for each in (here, there)
    )
    assert shown == expected
    assert facts_from("x", "y", Answers(here)) == facts_from("x", "y", Answers(there))


def test_every_fact_of_a_sound_machine_is_known():
    host = virtual_hosts(faulty_fleet("2x8-910B4", ()))[0]
    facts = facts_from(
        host.name, host.address, Answers(ask(host, questions(model_path="/data/model"), timeout=9))
    )
    assert facts.unread == ()
    unknown = {name for name, value in vars(facts).items() if value is None}
    assert unknown == {
        "cann", "clock_s", "hypervisor", "memlock_bytes", "npu_problem",
    }  # fmt: skip
    assert len(facts.npus) == 8
    npu = facts.npus[3]
    assert (npu.device, npu.name, npu.health, npu.hbm_mb, npu.hbm_used_mb) == (
        3, "910B4", "OK", 32768, 2860,
    )  # fmt: skip
    assert npu.roce.address == "10.20.0.3"
    assert npu.roce.switch_port == "400GE1/4/1"
    assert (npu.roce.tls, npu.roce.link, npu.roce.health) == (0, "UP", "Success")
    assert facts.model is not None
    assert (facts.model.there, facts.model.missing, facts.model.scheme) == (True, (), "none")


def test_the_tools_of_hosts_without_npus_start_without_any_package() -> None:
    """Tests with real hosts start them hundreds of times, by an interpreter without packages."""
    tools = Path(__file__).parent / "host_tools.py"
    argv = (sys.executable, "-S", tools, "2x8-910B4", "0", "npu-smi", "info")
    source = str(tools.parent.parent / "src")
    done = subprocess.run(argv, env={"PYTHONPATH": source}, capture_output=True, text=True)
    assert "910B4" in done.stdout, done.stderr
