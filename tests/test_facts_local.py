"""What starting the local cluster asks of this machine."""

import sys

import pytest

from ropeway.errors import HostError
from ropeway.facts.local import gather, parse_packages
from ropeway.hosts.base import Result
from ropeway.hosts.local import LocalHost


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
