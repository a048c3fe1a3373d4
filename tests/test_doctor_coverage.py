"""Nothing is called ok that nobody saw, and the checks name every question that they read."""

import dataclasses
from collections.abc import Sequence

import pytest

from ropeway.doctor.checks import CHECKS, GROUPS, examine
from ropeway.doctor.cluster import Requirements
from ropeway.doctor.finding import Examination
from ropeway.doctor.rule import Check
from ropeway.doctor.survey import Effort, questions_of, survey
from ropeway.facts.questions import ALL, SECOND_ROUND
from ropeway.facts.script import NOT_FOUND
from ropeway.hosts.base import Result
from ropeway.sim.faults import FAULTS, faulty_fleet
from ropeway.sim.hosts import VirtualHost, virtual_hosts

SIZE = "2x8-910B4"
QUESTIONS = [question for question in ALL if question not in SECOND_ROUND]


class WithoutAnswer(VirtualHost):
    """A virtual host on which one command is missing: its answers are those of a shell."""

    key = ""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", **more: object) -> Result:
        result = super().run(argv, stdin=stdin, **more)
        frame = stdin.decode().partition("=")[2].partition("\n")[0]
        first, *pieces = result.stdout.split(f"\n{frame} ")
        kept = [first]
        missing = False
        for piece in pieces:
            if piece.startswith("= "):
                kept.append(f"= {NOT_FOUND}\n" if missing else piece)
                continue
            head, _, text = piece.partition("\n")
            missing = head.partition(":")[0] == self.key
            kept.append(f"{head}\n" if missing else f"{head}\n{text}")
        return dataclasses.replace(result, stdout=f"\n{frame} ".join(kept))


def examined(
    *faults: str, missing: str = "", checks: Sequence[Check] = CHECKS, size: str = SIZE
) -> Examination:
    fleet = faulty_fleet(size, faults)
    hosts = list(virtual_hosts(fleet))
    if missing:
        hosts[1] = WithoutAnswer(hosts[1].machine, fleet, hosts[1].hccn)
        hosts[1].__dict__["key"] = missing
    requirements = Requirements(
        npus={host.name: len(host.machine.chips) for host in hosts},
        model_path=fleet.model.path,
        ports={6379: "Ray", 8000: "the server"},
    )
    cluster = survey(hosts, requirements, Effort(), lambda _: None, checks)
    return examine(cluster, checks)


def readers(key: str) -> set[str]:
    """The subjects that have a check which cannot do without this question."""
    return {
        subject
        for subject, checks in GROUPS.items()
        for check in checks
        if any(need.key == key for need in check.reads if not isinstance(need, tuple))
    }


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.key)
def test_what_was_not_answered_is_not_called_ok(question):
    examination = examined(missing=question.key)
    unseen = set() if question.optional else readers(question.key)
    assert not unseen & set(examination.passed)
    told = {one.subject for one in examination.not_checked}
    found = {check for check in GROUPS if check not in examination.passed} - told
    assert unseen <= told | found


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_no_subject_is_ok_where_questions_were_not_answered(name):
    """Each subject is ok, or has a finding, or says what it did not see."""
    examination = examined(name)
    told = {one.subject for one in examination.not_checked}
    assert not told & set(examination.passed)
    subject_of = {check.id: subject for subject, checks in GROUPS.items() for check in checks}
    with_findings = {subject_of[finding.check] for finding in examination.findings}
    assert told | with_findings | set(examination.passed) == set(GROUPS)
    if examination.answered < examination.hosts:
        assert not examination.passed


def test_a_host_that_is_down_leaves_the_network_unchecked():
    examination = examined("host-down")
    *partly, network = examination.not_checked
    assert (network.subject, network.partly) == ("network", False)
    assert network.why == ("no pings: 1 of 2 hosts answered",)
    assert all(one.partly and one.why == ("host2: no answer",) for one in partly)
    alone = {one.subject: one.partly for one in examined("host-down", size="3x8-A3").not_checked}
    assert alone == dict.fromkeys(GROUPS, True)


def test_nothing_is_ok_where_no_host_answers():
    examination = examined("host-down:host1", "host-down:host2")
    assert examination.passed == ()
    assert not any(one.partly for one in examination.not_checked)
    assert [one.subject for one in examination.not_checked] == list(GROUPS)


def test_pings_that_nobody_asked_for_are_not_ok():
    hosts = virtual_hosts(faulty_fleet(SIZE, ()))
    cluster = survey(hosts, Requirements(model_path="/data/model"), Effort(partners=0), print)
    examination = examine(cluster)
    assert [(one.subject, one.why) for one in examination.not_checked] == [
        ("network", ("no pings were sent",))
    ]


def test_a_model_that_nobody_named_is_not_ok():
    hosts = virtual_hosts(faulty_fleet(SIZE, ()))
    examination = examine(survey(hosts, Requirements(), Effort(), lambda _: None))
    assert {one.subject: one.partly for one in examination.not_checked} == {"model": False}


@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"host-down"}))
def test_a_check_names_every_question_that_it_reads(name):
    """Asked only what its checks read, doctor finds the fault as it does with all questions."""
    fault = FAULTS[name]
    checks = [check for check in CHECKS if check.id == fault.check]
    alone = list(examined(name, checks=checks).findings)
    [among_all] = [one for one in examined(name).findings if one.check == fault.check]
    assert alone == [among_all]


def test_checks_ask_only_what_they_read():
    [tls] = [check for check in CHECKS if check.id == "roce-tls"]
    assert questions_of([tls]) == {"npu-smi-info", "npu-smi-m", "hccn-tls"}
    assert all(check.reads for check in CHECKS if check.id != "host-reach")
