"""What holds for every test: how much hypothesis tries, what shares a worker, sshds."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sshd import Server, sshd, why_not

# `make test-all` takes the second: --hypothesis-profile=all.
settings.register_profile("test", max_examples=20, deadline=None)
settings.register_profile("all", max_examples=200, deadline=None)
settings.load_profile("test")

os.environ["COLUMNS"] = "80"
os.environ["LC_ALL"] = "C.UTF-8"  # whose language is English

# For the fake endpoint, which tests and benchmarks share.
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker where they share hosts or servers that are dear."""
    for item in items:
        if item.get_closest_marker("two_hosts") or item.get_closest_marker("servers"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def _sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if reason := why_not():
        pytest.skip(reason)
    with sshd(tmp_path_factory.mktemp("ssh")) as running:
        yield running


# One for all tests of a file, which do it no harm; and one that a test may harm.
server = pytest.fixture(_sshd, scope="module", name="server")
alone = pytest.fixture(_sshd, name="alone")
