"""`ropeway up --lang zh` on virtual hosts with each fault: whole in Chinese."""

import re
from dataclasses import replace

import pytest

from rehearsed import Make, cluster, fleet_with  # noqa: F401
from ropeway.cli.main import exit_code
from ropeway.engines.vllm import _ACTIVITIES
from ropeway.report.chinese import COMMAND, chinese
from ropeway.sim.faults import FAULTS, LAUNCH_FAULTS
from test_doctor_chinese import english_in

# What others wrote: a log's line, what a daemon answered, why vLLM-Ascend cannot.
OUTSIDE = re.compile(
    r"RuntimeError: .*|Cannot connect to the Docker.*|Error response from daemon: .*"
)

TYPED = re.compile(rf"\s*(?:提示：)?(?:\$ |{COMMAND})")


def english_of(text: str) -> list[str]:
    """Return what is in English: sentences, and labels of errors that had no Chinese."""
    lines = [OUTSIDE.sub("", line) for line in text.splitlines() if not TYPED.match(line)]
    labels = re.findall(r"^(?:error|warning|hint|  at)\b.*", text, re.M)
    return [*labels, *english_in("\n".join(lines))]


PLAYED = {name for name, fault in (FAULTS | LAUNCH_FAULTS).items() if not fault.harmless}


@pytest.mark.parametrize("fault", sorted(PLAYED))
def test_a_start_with_a_fault_is_told_in_chinese_alone(fault: str, cluster: Make):  # noqa: F811
    two = cluster(fleet_with(fault))
    two.run("up", "--lang", "zh")
    assert english_of(two.err) == [], two.err
    assert not re.search(r"[\u4e00-\u9fff]: |[\u4e00-\u9fff], ", two.err), two.err


def test_each_step_of_the_engine_has_chinese():
    assert {words for _, words in _ACTIVITIES} - set(chinese()) == set()


@pytest.mark.parametrize("fault", ["no-such", "shm-small", "link-down:host9", "link-down:host2:99"])
def test_a_fault_that_is_not_there_is_refused_in_chinese(fault: str, capsys):
    exit_code(["up", "--rehearse", "2x8-910B4", "--fault", fault, "--lang", "zh"])
    assert english_of(capsys.readouterr().err) == []


def test_the_verbs_after_a_start_speak_chinese_alone(cluster: Make):  # noqa: F811
    """Of a service that runs, of one that half of the hosts know of, and of none."""
    two = cluster()
    assert two.run("up") == 0
    for verb in ("status", "logs", "restart", "bundle -o all.zip"):
        assert two.run(*verb.split(), "--lang", "zh") == 0, two.err
        assert english_of(two.err + ("" if verb == "logs" else two.out)) == []
    state = two.virtual.state("host2")
    alive, state.machine = state.machine, replace(state.machine, failure="No route to host")
    for verb in ("status", "bundle -o half.zip", "down"):
        assert two.run(*verb.split(), "--lang", "zh") == 1, two.out
        assert english_of(two.err + two.out) == []
    state.machine = alive
    for verb in ("down", "down", "status", "logs", "restart"):
        two.run(verb, "--lang", "zh")
        assert english_of(two.err + two.out) == []
