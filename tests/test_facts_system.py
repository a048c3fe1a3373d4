"""What a host says about itself, from the texts that its commands print."""

import sys

import pytest

from ropeway.errors import HostError
from ropeway.facts.system import (
    gather,
    parse_cores,
    parse_disk,
    parse_memory,
    parse_packages,
    parse_ports,
)
from ropeway.hosts.base import Result
from ropeway.hosts.local import LocalHost

MEMINFO = """\
MemTotal:       24073628 kB
MemFree:         1180340 kB
MemAvailable:   19844756 kB
Buffers:          180964 kB
SwapCached:            0 kB
HugePages_Total:       0
"""
# 127.0.0.1:8000 and 0.0.0.0:22 listen; 8000 is also talked to from 54321 (state 01).
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5821 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1093 1
   2: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 5824 1
   3: 0200007F:D431 0100007F:1F40 06 00000000:00000000 03:00000A3C 00000000     0        0 0 3
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1A0B 00000000000000000000000000000000:0000 0A 00000000:0
   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 01 00000000:0
"""
DF = """\
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/vda1        103081248 41833604  56978312      43% /
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MEMINFO, 19_844_756 * 1024),
        ("", None),
        ("MemTotal:       24073628 kB\n", None),  # before Linux 3.14
        ("MemAvailable:\n", None),
        ("cat: /proc/meminfo: No such file or directory\n", None),
    ],
)
def test_memory_is_what_can_be_had_in_bytes(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("192\n", 192), ("", 1), ("nproc: error\n", 1)])
def test_cores_are_one_when_nobody_knows(text, expected):
    assert parse_cores(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DF, 56_978_312 * 1024),
        (DF.replace(" /\n", " /mnt/a disk\n"), 56_978_312 * 1024),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on\n", None),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on\nproc 0 0 - - /proc\n", None),
        ("", None),
    ],
)
def test_disk_is_what_is_free_in_bytes(text, expected):
    assert parse_disk(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TCP, {8000, 22}),
        (TCP + TCP6, {8000, 22, 6667}),
        (TCP.splitlines()[0] + "\n", set()),
        ("", set()),
        ("a b:zz c 0A\n", set()),
    ],
)
def test_ports_are_those_listened_on(text, expected):
    assert parse_ports(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"ray": "2.60.0", "torch": "2.12.0+cpu"}\n', {"ray": "2.60.0", "torch": "2.12.0+cpu"}),
        ("{}\n", {}),
        ("[]\n", {}),
        ("null\n", {}),
        ("", {}),
        ("Traceback (most recent call last):\n", {}),
    ],
)
def test_packages_are_none_when_python_does_not_answer(text, expected):
    assert parse_packages(text) == expected


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
