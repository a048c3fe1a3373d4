"""What Linux says of a host: system, limits, network, pings."""

import pytest

from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.question import Question
from ropeway.facts.questions import questions_in
from ropeway.hosts.local import LocalHost


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("cat: /etc/os-release: No such file or directory\n", "absent"),
        ("sh: 1: uname: not found\n", "absent"),
        ("bash: nproc: command not found\n", "absent"),
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
        system.OS_RELEASE, system.KERNEL, system.USER_ID, system.CORES, system.MEMORY, system.HOME,
        limits.LIMITS, limits.SYSCTL, limits.DISKS.about("/", "/dev/shm"), network.PROC_NET_TCP,
        network.OWN_NAME, ping.CLOCK,
    )  # fmt: skip
    for question in asking:
        assert question.parse(LocalHost().run(question.argv).stdout).state == "ok", question.key
