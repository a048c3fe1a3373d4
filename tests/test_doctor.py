"""Every fault that can be rehearsed is found by the check meant for it, and named first."""

from dataclasses import replace

import pytest

from ropeway.doctor.checks import CAUSES, examine, ordered
from ropeway.doctor.cluster import Cluster, Wanted, odd
from ropeway.doctor.finding import Examination, Finding, Place, hosts_in, numbers
from ropeway.doctor.survey import Effort, survey
from ropeway.errors import HostError, Refused
from ropeway.facts.host import HostFacts
from ropeway.sim.faults import FAULTS, inject
from ropeway.sim.hosts import virtual_hosts
from ropeway.sim.machine import Fleet, parse_fleet, sound_fleet

SIZES = ("2x8-910B4", "4x8-910B3", "3x8-A3")


def fleet_of(text: str, *faults: str) -> Fleet:
    fleet = sound_fleet(*parse_fleet(text))
    for fault in faults:
        fleet, _ = inject(fleet, fault)
    return fleet


def seen_in(fleet: Fleet, **wanted: object) -> Examination:
    hosts = virtual_hosts(fleet)
    asked = Wanted(
        npus={host.name: len(host.machine.chips) for host in hosts},
        model_path=fleet.model_path,
        ports={6379: "Ray", 8000: "the server"},
    )
    return examine(survey(hosts, replace(asked, **wanted), Effort(), lambda _: None))


@pytest.mark.parametrize("size", [*SIZES, "1x8-910B2", "12x4-910B1"])
def test_nothing_is_found_where_nothing_is_wrong(size):
    seen = seen_in(fleet_of(size))
    assert seen.findings == ()
    assert seen.sound
    assert seen.passed == ("hosts", "NPUs", "versions", "containers", "model", "network")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_fault_is_named_first_by_its_check(name, size):
    seen = seen_in(fleet_of(size, name))
    assert seen.findings[0].check == FAULTS[name].check
    assert [one.check for one in seen.findings if one.follows is None] == [FAULTS[name].check]
    first = seen.findings[0]
    assert first.seen and first.wanted and first.fix
    assert first.level in ("fail", "warn")


def test_there_are_at_least_thirty_faults():
    assert len(FAULTS) >= 30


def test_a_fault_is_found_where_it_was_put():
    seen = seen_in(fleet_of("4x8-910B4", "link-down:host4:6"))
    assert seen.findings[0].places == (Place("host4", 6),)


def test_two_faults_are_two_causes_with_their_own_consequences():
    seen = seen_in(fleet_of("4x8-910B4", "link-down:host2:1", "no-light:host3:5", "tls-on:host1"))
    told = [(one.check, one.places, one.follows) for one in seen.findings]
    assert [one for one in told if one[2] is None] == [
        ("roce-optical", (Place("host3", 5),), None),
        ("roce-link", (Place("host2", 1),), None),
        ("roce-tls", (Place("host1", 3),), None),
    ]
    assert ("roce-link", (Place("host3", 5),), "roce-optical") in told
    assert ("roce-health", (Place("host2", 1),), "roce-link") in told


def test_what_follows_stands_right_below_its_cause():
    seen = seen_in(fleet_of("2x8-910B4", "link-down", "shm-small"))
    checks = [one.check for one in seen.findings]
    at = checks.index("roce-link")
    assert checks[at : at + 3] == ["roce-link", "roce-health", "roce-ping"]


def test_a_thing_at_many_places_is_one_finding():
    fleet = fleet_of("12x8-910B4", *(f"shm-small:host{number}" for number in range(2, 12)))
    [finding] = seen_in(fleet).findings
    assert (finding.check, len(finding.places), finding.of) == ("host-shm", 10, 12)


def test_a_fault_far_apart_in_a_large_fleet_is_found_too():
    seen = seen_in(fleet_of("40x8-910B4", "link-down:host31:7", "hosts-apart:host12"))
    assert {one.check for one in seen.findings if one.follows is None} == {
        "roce-link",
        "roce-ping",
    }


def test_a_host_that_is_down_does_not_hide_the_others():
    seen = seen_in(fleet_of("3x8-910B4", "host-down:host1", "tls-on:host3"))
    assert [one.check for one in seen.findings] == ["host-reach", "roce-tls"]
    assert (seen.hosts, seen.answered) == (3, 2)


def test_when_every_host_is_down_that_is_all_there_is_to_say():
    seen = seen_in(fleet_of("2x8-910B4", "host-down:host1", "host-down:host2"))
    assert [one.check for one in seen.findings] == ["host-reach"]
    assert seen.findings[0].places == (Place("host1"), Place("host2"))


def test_more_npus_asked_for_than_there_are():
    seen = seen_in(fleet_of("2x8-910B4"), npus={"host1": 16, "host2": 8})
    assert [(one.check, one.places) for one in seen.findings] == [("npu-count", (Place("host1"),))]


def test_an_image_that_no_host_has_is_told():
    seen = seen_in(fleet_of("2x8-910B4"), image="quay.io/ascend/vllm-ascend:v0.18.0")
    assert [(one.check, one.level, len(one.places)) for one in seen.findings] == [
        ("image-there", "warn", 2)
    ]


def test_a_finding_that_is_explained_in_part_is_told_in_two():
    cause = Finding("roce-link", "fail", "down", (Place("a", 1),))
    both = Finding("roce-health", "fail", "sick", (Place("a", 1), Place("b", 2)))
    found = ordered([both, cause])
    assert [(one.check, one.places, one.follows) for one in found] == [
        ("roce-link", (Place("a", 1),), None),
        ("roce-health", (Place("a", 1),), "roce-link"),
        ("roce-health", (Place("b", 2),), None),
    ]


def test_failures_come_before_warnings():
    found = ordered([Finding("a", "warn", "w"), Finding("b", "fail", "f")])
    assert [one.check for one in found] == ["b", "a"]


def test_no_finding_is_lost_in_the_ordering():
    found = [
        Finding(check, "fail", check, (Place("h", 0),)) for check in (*CAUSES, "roce-tls", "other")
    ]
    assert sorted(one.check for one in ordered(found)) == sorted(one.check for one in found)


def test_a_host_of_which_nothing_is_known_is_no_crash():
    cluster = Cluster(Wanted(), (HostFacts("bare", "10.0.0.1"),), {}, ("bare",))
    assert [one.check for one in examine(cluster).findings] == []


def test_unreachable_hosts_are_grouped_by_what_ssh_says():
    failures = {
        "a": HostError("connection refused", hint="is sshd running?"),
        "b": HostError("connection refused", hint="is sshd running?"),
        "c": HostError("unknown host key"),
    }
    seen = examine(Cluster(Wanted(), (), failures, ("a", "b", "c")))
    assert [(one.seen, len(one.places), one.fix) for one in seen.findings] == [
        ("connection refused", 2, "is sshd running?"),
        ("unknown host key", 1, "try it by hand: `ssh c true`"),
    ]


def test_places_are_told_short():
    places = [Place("h1", 0), Place("h1", 1), Place("h1", 2), Place("h1", 7), Place("h2")]
    assert hosts_in(places) == "h1 NPU 0-2,7, h2"
    assert hosts_in([Place(f"h{n}") for n in range(6)], shown=2) == "h0, h1 and 4 more"
    assert numbers([3, 1, 2, 9]) == "1-3,9"


def test_the_odd_ones_are_those_unlike_most():
    found = odd([(Place("a"), 1), (Place("b"), 2), (Place("c"), 1), (Place("d"), None)])
    assert found is not None
    assert (found.usual, found.count, found.places) == (1, 2, (Place("b"),))
    assert odd([(Place("a"), 1), (Place("b"), None)]) is None


@pytest.mark.parametrize(
    "text", ["", "2x8", "2x8-H100", "0x8-910B4", "2x99-910B4", "x8-910B4", "9999x8-910B4"]
)
def test_a_fleet_that_is_none_is_refused(text):
    with pytest.raises(Refused):
        parse_fleet(text)


@pytest.mark.parametrize("text", ["no-such", "link-down:host9", "link-down:host1:99", "tls-on::x"])
def test_a_fault_that_is_none_is_refused(text):
    with pytest.raises(Refused):
        inject(fleet_of("2x8-910B4"), text)
