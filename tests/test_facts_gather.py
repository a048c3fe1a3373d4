"""One host's answers joined: what is known, what was not understood, and who holds the NPUs."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from ropeway.facts import containers, model_directory
from ropeway.facts.ascend import driver, hccn, npu_smi
from ropeway.facts.gather import Answers, facts_from
from ropeway.facts.host import Container, HostFacts
from ropeway.facts.linux import network, system
from ropeway.facts.question import Parsed, Question
from ropeway.facts.questions import ALL
from ropeway.facts.script import TIMED_OUT, Answer


def answered(question: Question[object], text: str, number: int | None = None) -> Answer:
    return Answer(question.key, number, None, 0, text)


def facts_of(*answers: Answer) -> HostFacts:
    return facts_from("h", "10.0.0.1", Answers(answers))


def test_keys_of_questions_are_their_own():
    keys = [question.key for question in ALL]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("sign", ["#", "$", "%", ">", "```"])
def test_no_line_of_an_answer_is_taken_for_a_prompt(sign):
    """A page's quote marks and a shell's prompts are lines like any other in an answer of ours."""
    facts = facts_of(answered(system.PROCESSES, f"1 systemd\n2 {sign}\n{sign} 5 errors\n"))
    assert [unread.why for unread in facts.unread] == [f"not understood: `{sign} 5 errors`"]
    ports = f'LISTEN 0 128 0.0.0.0:6379 *:* users:(("{sign}odd",pid=1,fd=2))\n'
    assert facts_of(answered(network.SS, ports)).ports == {6379: f"{sign}odd"}


def test_an_answer_that_did_not_come_is_not_known():
    facts = facts_of()
    assert (facts.os, facts.kernel, facts.docker.version if facts.docker else "", facts.model) == (
        None, None, None, None,
    )  # fmt: skip
    assert facts.unread == ()


@pytest.mark.parametrize("text", ["", " \n", "cat: /etc/hccn.conf: No such file or directory\n"])
def test_an_empty_answer_and_a_missing_file_are_absent(text):
    answers = Answers([answered(hccn.CONF, text)])
    assert answers.parsed(hccn.CONF) == Parsed.absent(text)
    assert (answers[hccn.CONF], answers.unread) == (None, [])


def test_a_command_that_hung_is_an_error_of_its_own():
    facts = facts_of(Answer(npu_smi.TABLE.key, None, None, TIMED_OUT, "| npu-smi"))
    assert facts.npu_problem is not None and facts.npu_problem.kind == "timeout"


def test_what_is_not_understood_is_told_once_with_its_npu():
    facts = facts_of(
        answered(npu_smi.TABLE, "| 0 910B3 | OK | 97.6 52 0 / 0 |\n"),
        answered(hccn.LINK, "the moon is full\n", 0),
    )
    assert [(unread.name, unread.state) for unread in facts.unread] == [
        ("npu-smi-info", "partial"),
        ("hccn-link 0", "unknown"),
    ]


CONTAINER = {"name": "/x", "image": "i", "privileged": True, "devices": []}


@pytest.mark.parametrize(
    ("devices", "numbers"), [([], ()), ([{"PathOnHost": "/dev/davinci1"}], (1,))]
)
def test_a_privileged_container_has_the_npus_that_it_was_given_by_name(devices, numbers):
    row = json.dumps({**CONTAINER, "devices": devices})
    facts = facts_of(
        answered(driver.DEVICES, "davinci0\ndavinci1\ndavinci10\n"),
        answered(containers.CONTAINERS, row + "\n"),
    )
    assert facts.docker is not None
    assert facts.docker.containers == (Container("x", "i", numbers, privileged=True),)


def test_a_model_that_cannot_be_listed_says_why():
    for text, problem in (
        ("/m: No such file or directory\n", None),
        ("/m: Permission denied\n", "/m: Permission denied"),
    ):
        model = facts_of(answered(model_directory.MODEL, text)).model
        assert model is not None
        assert (model.there, model.problem) == (False, problem)


@pytest.mark.parametrize("field", ["DockerRootDir", "Store.GraphRoot"])
def test_images_lie_on_the_disk_of_the_root_that_the_engine_names(field, tmp_path):
    root = Path("/dev/shm")  # a file system of its own on every Linux
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$3" != "{{{{.{field}}}}}" ] || exec echo {root}\nexit 1\n')
    docker.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    text = subprocess.run(containers.DISK.argv, env=path, capture_output=True, text=True).stdout
    assert list(containers.DISK.parse(text).value or ()) == [str(root)]
    free = answered(containers.DISK, "/dev/a 9 1 8 1% /data\n")
    assert facts_of(free).disk_free_bytes == 8 * 1024
