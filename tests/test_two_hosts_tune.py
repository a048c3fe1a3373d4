"""A search on two real hosts: SSH, Docker and vLLM-CPU are real, the chip is not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_cluster import directory
from two_hosts import TwoHosts, why_not
from two_hosts_laptop import MODEL, Laptop, steering

pytestmark = [pytest.mark.engine, pytest.mark.two_hosts]
LOAD = ("--clients", "2", "--requests", "4", "--input-tokens", "16", "--output-tokens", "16",
        "--rounds", "3", "--vary", "layout")  # fmt: skip


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := why_not(docker=True):
        pytest.skip(reason)
    with TwoHosts(share=(Path(directory(MODEL)),)) as running:
        yield running


@pytest.fixture
def laptop(hosts: TwoHosts, tmp_path: Path) -> Iterator[Laptop]:
    with steering(tmp_path, hosts) as found:
        yield found


def test_a_search_through_ssh_leaves_nothing_on_the_hosts_nor_does_an_interrupt(laptop):
    laptop.write("TP2", address="127.0.0.1")
    search = ("tune", *LOAD, "--layout", "TP2", "--layout", "TP2×PP2+EP", "--no-confirm")
    document = laptop.json(*search, "--out", "found")
    assert document["ended"] == "complete"
    one, both = document["trials"]
    assert (one["setting"]["layout"], both["setting"]["layout"]) == ("TP2", "TP2×PP2+EP")
    for trial in (one, both):
        assert trial["error"] is None
        assert trial["start_s"] > 0
        assert trial["answer"]
        assert min(trial["figures"]) > 0
    assert any("through the SSH connection" in note for note in document["notes"])
    assert laptop.left() == []

    laptop.write("TP2")  # where this machine reaches it without SSH
    with laptop.begin(*search, "--out", "broken-off") as begun:
        begun.until(lambda: "ok    4 requests from 2 clients" in begun.log.read_text())
        begun.interrupt()
        code, said = begun.ended()
    assert code == 130, said
    assert "take `life` down on 2 hosts" in said
    assert laptop.left() == []
    kept = json.loads((laptop.folder / "broken-off" / "tuning.json").read_text())
    assert kept["ended"] == "interrupted"
    assert not any("through the SSH connection" in note for note in kept["notes"])
    (conditions,) = (laptop.folder / "broken-off").glob("01-tp2/round-1/conditions.json")
    assert json.loads(conditions.read_text())["url"] == laptop.url
