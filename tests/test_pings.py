"""Who pings whom, and what explains the pings that fail."""

from collections.abc import Callable

import pytest

from ropeway.doctor.pings import PARTNERS, PingMatrix, distances, partners_of, rail_only, suspects
from ropeway.doctor.survey import Ping, plan_pings
from ropeway.facts.host import HostFacts, Nic, Npu, Roce
from ropeway.facts.script import Pings

Port = tuple[int, int]
NPUS = 8


def pinged(hosts: int, loss: Callable[[Port, Port], float], npus: int = NPUS) -> PingMatrix:
    """Return the matrix of a cluster whose pings have the losses that `loss` returns."""
    matrix = PingMatrix()
    for host in range(hosts):
        for other in partners_of(host, hosts):
            for device in range(npus):
                for far in range(npus):
                    matrix.add((host, device), (other, far), loss((host, device), (other, far)))
    return matrix


def summary(matrix: PingMatrix) -> list[tuple[str, tuple[int, ...], int | None, int]]:
    return [(row.kind, row.hosts, row.device, row.explained) for row in suspects(matrix)]


@pytest.mark.parametrize("hosts", [2, 3, 9])
def test_few_hosts_all_ping_each_other(hosts):
    for host in range(hosts):
        assert set(partners_of(host, hosts)) == set(range(hosts)) - {host}


@pytest.mark.parametrize("hosts", [10, 17, 64, 1000, 4096])
def test_with_many_hosts_each_pings_eight_and_is_pinged_by_eight(hosts):
    steps = distances(hosts)
    assert len(set(steps)) == PARTNERS
    assert steps[0] == 1
    assert max(steps) < hosts
    pinged_by = [0] * hosts
    for host in range(hosts):
        for other in partners_of(host, hosts):
            assert other != host
            pinged_by[other] += 1
    assert set(pinged_by) == {PARTNERS}


@pytest.mark.parametrize(
    ("hosts", "loss", "expected"),
    [
        (4, lambda *_: 0.0, []),
        (2, lambda a, b: 100.0 * ((1, 3) in (a, b)), [("npu", (1,), 3, 16)]),
        (2, lambda *_: 100.0, [("hosts apart", (0, 1), None, 128)]),
        (4, lambda a, b: 33.3 * ({a[0], b[0]} == {1, 2}), [("hosts apart", (1, 2), None, 128)]),
        (3, lambda a, b: 100.0 * (1 in (a[0], b[0])), [("host", (1,), None, 256)]),
        (4, lambda a, b: 100.0 * (5 in (a[1], b[1])), [("rail", (), 5, 180)]),
        (5, lambda *_: 100.0, [("all", (), None, 1280)]),
        (16, lambda a, b: 100.0 * ((4, 2) in (a, b) or 9 in (a[0], b[0])),
         [("host", (9,), None, 1024), ("npu", (4,), 2, 120)]),
    ],
    ids=["none", "a port", "two hosts", "two of four hosts", "a host", "a rail", "all", "two"],
)  # fmt: skip
def test_the_fewest_suspects_explain_the_pings_that_fail(hosts, loss, expected):
    matrix = pinged(hosts, loss)
    assert summary(matrix) == expected
    assert all(row.loss == max(ping[2] for ping in matrix.failures) for row in suspects(matrix))


def test_a_single_lost_ping_is_reported_as_itself():
    matrix = pinged(4, lambda a, b: 66.7 * (a == (0, 2) and b == (1, 3)))
    [ping] = suspects(matrix)
    assert (ping.kind, ping.hosts, ping.device, ping.other_device) == ("pings", (0, 1), 2, 3)


def test_a_lossy_link_that_lets_some_pings_through_is_still_one_suspect():
    """At 30% loss a third of the pings arrive whole."""
    matrix = pinged(4, lambda a, b: 33.3 * ({a[0], b[0]} == {0, 3} and (a[1] + b[1] * 3) % 3 != 0))
    assert summary(matrix)[0][:3] == ("hosts apart", (0, 3), None)


def test_rails_without_a_switch_between_them_are_recognised():
    assert rail_only(pinged(2, lambda a, b: 100.0 * (a[1] != b[1])))
    assert not rail_only(pinged(2, lambda a, b: 100.0 * (a[1] == 3 or b[1] == 3)))
    assert not rail_only(pinged(2, lambda *_: 0.0))


def test_an_outcome_that_could_not_be_read_is_neither_good_nor_bad():
    matrix = PingMatrix()
    matrix.add((0, 0), (1, 0), None)
    assert (matrix.total, matrix.failures, matrix.unknown) == (0, [], [((0, 0), (1, 0))])


def host(number: int, *addresses: str | None) -> HostFacts:
    npus = tuple(Npu(device, roce=Roce(address)) for device, address in enumerate(addresses))
    address = f"10.1.0.{number}"
    return HostFacts(
        f"host{number}", address, nics=(Nic("eth0", (address,), 1500, True),), npus=npus
    )


def test_a_plan_pings_every_address_of_the_hosts_that_answered():
    names = ("host0", "host1", "host2")
    plan = plan_pings(names, (host(0, "10.0.0.1", None, "10.0.0.1"), host(2, "10.0.0.3")), 8)
    assert set(plan.questions) == {"host0", "host2"}
    roce = [ask for ask in plan.questions["host0"] if isinstance(ask, Pings)]
    assert [(ask.device, ask.addresses) for ask in roce] == [(0, ("10.0.0.3",)), (2, ("10.0.0.3",))]
    assert "10.1.0.0" in " ".join(ask.line() for ask in plan.questions["host2"])


def test_a_plan_pings_as_many_partners_as_it_may():
    facts = tuple(host(number, f"10.0.0.{number}") for number in range(3))
    plan = plan_pings(("host0", "host1", "host2"), facts, 1)
    targets = [
        ask.addresses for asks in plan.questions.values() for ask in asks if isinstance(ask, Pings)
    ]
    assert targets == [("10.0.0.1",), ("10.0.0.2",), ("10.0.0.0",)]


def test_outcomes_are_counted_by_the_place_of_their_hosts():
    plan = plan_pings(("host0", "host1", "host2"), (host(0, "10.0.0.1"), host(2, "10.0.0.3")), 8)
    outcomes = {
        "host0": [Ping(0, "10.0.0.3", 100.0), Ping(0, "10.9.9.9", 0.0), Ping(None, "10.1.0.2", 0)],
        "host2": [Ping(0, "10.0.0.1", None), Ping(None, "10.0.0.1", 0), Ping(0, "10.1.0.0", 0)],
    }
    roce, ethernet = plan.count(outcomes)
    assert roce.failures == [((0, 0), (2, 0), 100.0)]
    assert (roce.total, len(roce.unknown)) == (1, 1)
    assert dict(ethernet.tested) == {(0, 2): 1}
