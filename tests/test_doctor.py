"""Every fault that can be rehearsed is found by the check meant for it, and named first."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from model_files import LLAMA
from ropeway.doctor.checks import CAUSES, GROUPS, examine, ordered
from ropeway.doctor.cluster import Cluster, Requirements
from ropeway.doctor.finding import (
    Examination,
    Finding,
    Location,
    format_locations,
    format_ranges,
)
from ropeway.doctor.rule import Check, Hit, outlier_hits
from ropeway.doctor.survey import Effort, survey
from ropeway.errors import HostError, Refused
from ropeway.facts.host import Container, Docker, HostFacts, Image, ModelFiles, Npu, Roce
from ropeway.sim.faults import FAULTS, faulty_fleet
from ropeway.sim.hosts import virtual_hosts

SIZES = ("2x8-910B4", "4x8-910B3", "3x16-910C")
H1, H2 = Location("host1"), Location("host2")


def examined(size: str, *faults: str, **changes: object) -> Examination:
    fleet = faulty_fleet(size, faults)
    hosts = virtual_hosts(fleet)
    requirements = Requirements(
        npus={host.name: len(host.machine.chips) for host in hosts},
        model_path=fleet.model.path,
        ports={6379: "Ray", 8000: "the server"},
    )
    return examine(survey(hosts, replace(requirements, **changes), Effort(), lambda _: None))


def findings_of(*hosts: HostFacts, **changes: object) -> tuple[Finding, ...]:
    """Findings from facts alone, without pings."""
    names = tuple(host.name for host in hosts)
    return examine(Cluster(Requirements(**changes), hosts, {}, names)).findings


def outline(findings: Sequence[Finding]) -> list[tuple[str, tuple[Location, ...], str | None]]:
    return [(finding.check, finding.locations, finding.cause) for finding in findings]


@pytest.mark.parametrize("size", [*SIZES, "1x8-910B2", "12x4-910B1"])
def test_nothing_is_found_where_nothing_is_wrong(size):
    examination = examined(size)
    assert examination.findings == ()
    assert examination.sound
    subjects = tuple(GROUPS) if examination.hosts > 1 else tuple(GROUPS)[:-1]
    assert (examination.passed, examination.not_checked) == (subjects, ())


@pytest.mark.parametrize(
    ("image", "like", "known", "old"),
    [
        ("r.example/vllm-ascend:v0.99.0", None, False, True),
        ("r.example/vllm-ascend:v0.99.0", "0.30.0", True, True),
        ("r.example/vllm-ascend:v0.99.0", "0.9.0rc1", True, False),
        ("r.example/vllm-ascend:prod", None, False, False),
        ("r.example/vllm-ascend:prod", "0.30.0", True, True),
    ],
)
def test_an_image_is_judged_by_the_release_that_the_user_says_it_is_like(image, like, known, old):
    examination = examined(SIZES[0], "driver-old", image=image, release_like=like)
    whys = [why for one in examination.not_checked for why in one.why]
    assert any("judged as" in why or "is not known" in why for why in whys) != known
    assert ("driver-image" in [one.check for one in examination.findings]) == old


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(FAULTS))
def test_each_fault_is_named_first_by_its_check(name, size):
    findings = examined(size, name).findings
    assert findings[0].check == FAULTS[name].check
    assert [finding.check for finding in findings if finding.cause is None] == [FAULTS[name].check]
    assert findings[0].level in ("fail", "warn")
    for finding in findings:
        assert finding.evidence and finding.expected and finding.fix
        assert "None" not in f"{finding.title} {finding.evidence} {finding.expected} {finding.fix}"


@pytest.mark.parametrize(
    ("size", "faults", "causes"),
    [
        ("4x8-910B4", ["link-down:host4:6"], {"roce-link": (Location("host4", 6),)}),
        ("40x8-910B4", ["link-down:host31:7", "hosts-apart:host12"],
         {"roce-link": (Location("host31", 7),),
          "roce-ping": (Location("host11"), Location("host12"))}),
        ("3x8-910B4", ["host-down:host1", "tls-on:host3"],
         {"host-reach": (H1,), "roce-tls": (Location("host3", 3),)}),
        ("2x8-910B4", ["host-down:host1", "host-down:host2"], {"host-reach": (H1, H2)}),
    ],
    ids=["one", "far apart", "beside a host that is down", "all down"],
)  # fmt: skip
def test_faults_are_found_where_they_are(size, faults, causes):
    findings = examined(size, *faults).findings
    assert {check: places for check, places, cause in outline(findings) if not cause} == causes


def test_two_faults_are_two_causes_with_their_own_consequences():
    faults = ("link-down:host2:1", "no-light:host3:5", "tls-on:host1")
    findings = outline(examined("4x8-910B4", *faults).findings)
    assert [row for row in findings if row[2] is None] == [
        ("roce-optical", (Location("host3", 5),), None),
        ("roce-link", (Location("host2", 1),), None),
        ("roce-tls", (Location("host1", 3),), None),
    ]
    assert ("roce-link", (Location("host3", 5),), "roce-optical") in findings
    assert ("roce-health", (Location("host2", 1),), "roce-link") in findings


def test_the_same_at_many_places_is_one_finding():
    faults = (f"shm-small:host{number}" for number in range(2, 12))
    [finding] = examined("12x8-910B4", *faults).findings
    assert (finding.check, len(finding.locations), finding.total) == ("host-shm", 10, 12)


def test_commands_name_the_npu_and_its_host():
    assert "-i 6 " in examined("4x8-910B4", "link-down:host4:6").findings[0].fix
    finding = examined("4x8-910B4", "dead-process:host4:6").findings[0]
    assert "host4" in finding.fix and "-i 6 -c 0" in finding.fix


@pytest.mark.parametrize(
    ("changes", "check", "level", "locations"),
    [
        ({"npus": {"host1": 16, "host2": 8}}, "npu-count", "fail", (H1,)),
        ({"image": "quay.io/ascend/vllm-ascend:v0.18.0"}, "image-there", "warn", (H1, H2)),
    ],
)
def test_what_the_spec_requires_and_hosts_lack(changes, check, level, locations):
    [finding] = examined("2x8-910B4", **changes).findings
    assert (finding.check, finding.level, finding.locations) == (check, level, locations)


def test_a_hard_need_of_the_driver_counts_before_a_newer_recommendation():
    """0.30.0rc1 recommends 26.0.rc1; its CANN fails with drivers below 25.0."""
    images = (Image("quay.io/ascend/vllm-ascend:v0.30.0rc1", "sha256:1"),)
    levels = []
    for driver in ("24.1", "25.5.2"):
        host = HostFacts("a", "10.0.0.1", driver=driver, docker=Docker("27", None, images))
        [finding] = findings_of(host)
        levels.append((finding.check, finding.level))
    assert levels == [("driver-image", "fail"), ("driver-image", "warn")]


def test_a_file_that_most_hosts_lack_is_named():
    whole = {"config.json": 9, "model.safetensors": 7}
    files = ({**whole, "a": 5}, whole, whole)
    hosts = [
        HostFacts(f"h{n}", f"10.0.0.{n}", model=ModelFiles("/m", True, sizes))
        for n, sizes in enumerate(files)
    ]
    [finding] = findings_of(*hosts)
    assert (finding.check, finding.locations) == ("model-same", (Location("h0"),))
    assert "5 bytes" in finding.evidence and "absent" in finding.evidence


def test_a_directory_without_weights_is_no_model():
    [finding] = findings_of(
        HostFacts("h", "10.0.0.1", model=ModelFiles("/m", True, {"config.json": 9}))
    )
    assert (finding.check, finding.level) == ("model-weights", "fail")


def test_two_npus_of_a_host_that_share_an_address_are_both_found():
    npus = tuple(Npu(device, roce=Roce("10.0.0.1", "255.255.0.0")) for device in (0, 1))
    hosts = HostFacts("a", "10.1.0.1", npus=npus, hccn_conf={}), HostFacts("b", "10.1.0.2")
    checks = {finding.check: finding for finding in findings_of(*hosts)}
    assert set(checks["roce-address-unique"].locations) == {Location("a", 0), Location("a", 1)}


def test_a_gateway_with_masked_digits_is_not_a_crash():
    npus = (Npu(0, roce=Roce("10.0.0.1", "255.255.0.0", "10.0.*.*")),)
    hosts = HostFacts("a", "10.1.0.1", npus=npus, hccn_conf={}), HostFacts("b", "10.1.0.2")
    assert findings_of(*hosts) == ()


def test_a_container_that_holds_npus_is_told_by_name_with_its_engine():
    docker = Docker("5", None, containers=(Container("old", "img", (0, 1, 5)),))
    [finding] = findings_of(HostFacts("a", "10.0.0.1", docker=docker), runtime="podman")
    assert (finding.check, len(finding.locations), finding.total) == ("npu-container", 3, 3)
    assert "0-1,5" in finding.evidence and "podman stop old" in finding.fix


def test_a_finding_that_is_explained_in_part_becomes_two():
    cause = Finding("roce-link", "fail", "down", (Location("a", 1),))
    both = Finding("roce-health", "fail", "sick", (Location("a", 1), Location("b", 2)))
    assert outline(ordered([both, cause])) == [
        ("roce-link", (Location("a", 1),), None),
        ("roce-health", (Location("a", 1),), "roce-link"),
        ("roce-health", (Location("b", 2),), None),
    ]


def test_failures_come_before_warnings():
    findings = ordered([Finding("a", "warn", "w"), Finding("b", "fail", "f")])
    assert [finding.check for finding in findings] == ["b", "a"]


def test_no_finding_is_lost_in_the_ordering():
    checks = sorted((*CAUSES, "roce-tls", "other"))
    findings = [Finding(check, "fail", check, (Location("h", 0),)) for check in checks]
    assert sorted(finding.check for finding in ordered(findings)) == checks


def test_a_host_of_which_nothing_is_known_is_not_a_crash():
    assert findings_of(HostFacts("bare", "10.0.0.1")) == ()


def test_unreachable_hosts_are_grouped_by_what_ssh_says():
    failures = {
        "a": HostError("connection refused", hint="is sshd running?"),
        "b": HostError("connection refused", hint="is sshd running?"),
        "c": HostError("unknown host key"),
    }
    findings = examine(Cluster(Requirements(), (), failures, ("a", "b", "c"))).findings
    counts = {finding.evidence: len(finding.locations) for finding in findings}
    assert counts == {"connection refused": 2, "unknown host key": 1}
    assert findings[0].fix == "is sshd running?"
    assert findings[1].fix.endswith("\n$ ssh c true")


def test_hits_with_equal_values_are_one_finding_with_some_of_the_evidence():
    hits = [Hit((Location(f"h{n}"),), f"{n} GiB", {"kind": "small"}) for n in range(5)]
    hits += [Hit((Location("x"),), "{odd}", {"kind": "{odd}"}, level="fail")]
    check = Check("c", "warn", "a {kind} one", lambda _: hits, "more", "`ls` on {host}")
    small, odd = check.findings(Cluster(Requirements(), (), {}, ("a",)))
    assert (small.title, small.level) == ("a small one", "warn")
    assert small.fix == "`ls` on h0\nlikewise for the other: 4 hosts"
    assert small.evidence == "0 GiB on h0; 1 GiB on h1; 2 GiB on h2; and 2 more"
    assert (odd.title, odd.level, odd.evidence) == ("a {odd} one", "fail", "{odd}")


def test_locations_are_formatted_short():
    places = [Location("h1", number) for number in (0, 1, 2, 7)]
    assert format_locations([*places, Location("h2")]) == "h1 NPU 0-2,7, h2"
    assert format_locations([Location(f"h{n}") for n in range(6)], limit=2) == "h0, h1 and 4 more"
    assert format_ranges([3, 1, 2, 9]) == "1-3,9"


def test_outliers_are_those_unlike_most():
    values = [(Location("a"), 1), (Location("b"), 2), (Location("c"), 1), (Location("d"), None)]
    assert list(outlier_hits(values, file="f")) == [
        Hit((Location("b"),), "1 (2 hosts), 2 (1 host)", {"usual": 1, "file": "f"})
    ]
    assert list(outlier_hits([(Location("a"), 1), (Location("b"), None)])) == []
    assert list(outlier_hits([])) == []


NO_SIZES = ("", "2x8", "2x8-H100", "0x8-910B4", "2x99-910B4", "x8-910B4", "9999x8-910B4")
NO_FAULTS = ("no-such", "link-down:host9", "link-down:host1:99", "tls-on::x")


@pytest.mark.parametrize(
    ("size", "faults"),
    [*((size, ()) for size in NO_SIZES), *(("2x8-910B4", (fault,)) for fault in NO_FAULTS)],
)
def test_a_malformed_fleet_or_fault_is_refused(size, faults):
    with pytest.raises(Refused):
        faulty_fleet(size, faults)


@pytest.mark.parametrize(
    ("method", "scheme", "tag", "found"),
    [
        ("fp8", "cuda", "v0.23.0", True),
        ("fp8", "cuda", "v0.23.0-a5", False),
        ("compressed-tensors", "compressed-tensors", "v0.23.0", False),
        ("compressed-tensors", "compressed-tensors", "v0.23.0-310p", True),
        ("awq", "cuda", None, True),
    ],
)
def test_weights_are_judged_for_the_chips_and_the_release(method, scheme, tag, found):
    groups = {"g": {"weights": {"num_bits": 8}, "targets": ["Linear"]}}
    marks = {"quant_method": method, "format": "int-quantized", "config_groups": groups}
    config = LLAMA | {"quantization_config": marks}
    sizes = {"config.json": 9, "model.safetensors": 7}
    model = ModelFiles("/m", True, sizes, config=config, scheme=scheme)
    images = (Image(f"quay.io/ascend/vllm-ascend:{tag}", "sha256:1"),) if tag else ()
    host = HostFacts("a", "10.0.0.1", docker=Docker("27", None, images), model=model)
    assert ("model-quantisation" in {one.check for one in findings_of(host)}) == found
