"""What Linux says of a host, and of this machine before a local cluster starts on it."""

import sys

import pytest

from ropeway.errors import HostError
from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.local import CORES, gather, parse_packages
from ropeway.facts.question import Question
from ropeway.facts.questions import questions_in
from ropeway.hosts.base import Result
from ropeway.hosts.local import LocalHost


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("cat: /etc/os-release: No such file or directory\n", "absent"),
        ("sh: 1: uname: not found\n", "absent"),
        ("cat: /etc/os-release: 没有那个文件或目录\n", "absent"),
        ("cat: /etc/os-release: Permission denied\n", "error"),
        ("cat: /etc/os-release: 权限不够\n", "error"),
        ("what?\n", "unknown"),
    ],
)
def test_what_a_shell_says_is_no_value(text, state):
    for question in questions_in(system, limits, network):
        parsed = question.parse(text)
        assert (parsed.state, parsed.value) == (state, None), question.key


def test_the_commands_answer_on_this_machine():
    asking: tuple[Question[object], ...] = (
        system.OS_RELEASE, system.KERNEL, system.USER_ID, CORES, system.MEMORY, system.HOME,
        limits.LIMITS, limits.SYSCTL, limits.SHM, network.PROC_NET_TCP,
        network.OWN_NAME, ping.CLOCK,
    )  # fmt: skip
    for question in asking:
        assert question.parse(LocalHost().run(question.argv).stdout).state == "ok", question.key


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"ray": "2.60.0", "torch": "2.12.0+cpu"}\n', {"ray": "2.60.0", "torch": "2.12.0+cpu"}),
        ("{}\n", {}),
        ("[]\n", None),
        ("", None),
        ("Traceback (most recent call last):\n", None),
    ],
)
def test_packages_are_unknown_when_python_does_not_answer(text, expected):
    assert parse_packages(text).value == expected


def test_this_machine_answers():
    facts = gather(LocalHost(), sys.executable, "/tmp")
    assert facts.cores >= 1
    assert facts.memory_bytes is not None and facts.memory_bytes > 10**7
    assert facts.disk_bytes is not None


class EmptyHost(LocalHost):
    """A host that has none of the programs."""

    def run(self, argv, **_) -> Result:
        raise HostError(f"cannot run `{argv[0]}`: no such file or directory", where=self.name)


def test_a_host_without_the_programs_is_no_crash():
    facts = gather(EmptyHost(), "/no/python", "/tmp")
    assert (facts.cores, facts.memory_bytes, facts.disk_bytes) == (1, None, None)
    assert (facts.ports, facts.packages) == (frozenset(), {})
