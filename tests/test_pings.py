"""Who pings whom, and what explains the pings that fail."""

from collections.abc import Callable

import pytest

from ropeway.doctor.pings import PARTNERS, PingMatrix, distances, partners_of, rail_only, suspects

Port = tuple[int, int]
NPUS = 8


def pinged(hosts: int, loss: Callable[[Port, Port], float], npus: int = NPUS) -> PingMatrix:
    """All pings of a cluster, with the loss that `loss` says."""
    matrix = PingMatrix()
    for host in range(hosts):
        for other in partners_of(host, hosts):
            for device in range(npus):
                for far in range(npus):
                    matrix.add((host, device), (other, far), loss((host, device), (other, far)))
    return matrix


def told(matrix: PingMatrix) -> list[tuple[str, tuple[int, ...], int | None, int]]:
    return [(one.kind, one.hosts, one.device, one.explained) for one in suspects(matrix)]


@pytest.mark.parametrize("hosts", [2, 3, 9])
def test_few_hosts_all_ping_each_other(hosts):
    for host in range(hosts):
        assert set(partners_of(host, hosts)) == set(range(hosts)) - {host}


@pytest.mark.parametrize("hosts", [10, 17, 64, 1000, 4096])
def test_with_many_hosts_each_pings_eight_and_is_pinged_by_eight(hosts):
    found = distances(hosts)
    assert len(set(found)) == PARTNERS
    assert found[0] == 1
    assert max(found) < hosts
    pinged_by = [0] * hosts
    for host in range(hosts):
        for other in partners_of(host, hosts):
            assert other != host
            pinged_by[other] += 1
    assert set(pinged_by) == {PARTNERS}


def test_the_number_of_pings_grows_with_the_hosts_and_not_with_their_square():
    assert pinged(100, lambda *_: 0.0).total * 10 == pinged(1000, lambda *_: 0.0).total


def test_nothing_is_suspect_when_all_arrive():
    assert suspects(pinged(4, lambda *_: 0.0)) == ()


def test_a_port_is_one_suspect_for_all_pings_it_takes_part_in():
    matrix = pinged(2, lambda a, b: 100.0 * ((1, 3) in (a, b)))
    assert told(matrix) == [("npu", (1,), 3, 16)]


def test_two_hosts_that_do_not_reach_each_other_are_named_together():
    assert told(pinged(2, lambda *_: 100.0)) == [("hosts apart", (0, 1), None, 128)]
    matrix = pinged(4, lambda a, b: 33.3 if {a[0], b[0]} == {1, 2} else 0.0)
    assert told(matrix) == [("hosts apart", (1, 2), None, 128)]
    assert suspects(matrix)[0].loss == 33.3


def test_a_host_that_nobody_reaches_is_named_alone():
    matrix = pinged(3, lambda a, b: 100.0 * (1 in (a[0], b[0])))
    assert told(matrix) == [("host", (1,), None, 256)]


def test_one_number_on_every_host_is_a_rail():
    matrix = pinged(4, lambda a, b: 100.0 * (5 in (a[1], b[1])))
    assert told(matrix) == [("rail", (), 5, 180)]


def test_when_nothing_arrives_anywhere_it_is_one_suspect():
    assert told(pinged(5, lambda *_: 100.0)) == [("all", (), None, 1280)]


def test_two_faults_are_two_suspects_the_larger_first():
    matrix = pinged(16, lambda a, b: 100.0 * ((4, 2) in (a, b) or 9 in (a[0], b[0])))
    assert told(matrix) == [("host", (9,), None, 1024), ("npu", (4,), 2, 120)]


def test_a_single_lost_ping_is_told_as_itself():
    matrix = pinged(4, lambda a, b: 66.7 * (a == (0, 2) and b == (1, 3)))
    [one] = suspects(matrix)
    assert (one.kind, one.hosts, one.device, one.other_device) == ("pings", (0, 1), 2, 3)


def test_a_lossy_link_that_lets_some_pings_through_is_still_one_suspect():
    """At 30 % loss a third of the pings arrive whole."""
    matrix = pinged(4, lambda a, b: 33.3 * ({a[0], b[0]} == {0, 3} and (a[1] + b[1] * 3) % 3 != 0))
    assert told(matrix)[0][:3] == ("hosts apart", (0, 3), None)


def test_rails_without_a_switch_between_them_are_known():
    assert rail_only(pinged(2, lambda a, b: 100.0 * (a[1] != b[1])))
    assert not rail_only(pinged(2, lambda a, b: 100.0 * (a[1] == 3 or b[1] == 3)))
    assert not rail_only(pinged(2, lambda *_: 0.0))


def test_an_outcome_that_could_not_be_read_is_neither_good_nor_bad():
    matrix = PingMatrix()
    matrix.add((0, 0), (1, 0), None)
    assert (matrix.total, matrix.failures, matrix.unknown[0, 1]) == (0, [], 1)
