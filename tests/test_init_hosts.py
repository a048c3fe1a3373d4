"""`ropeway init --host`: a spec from what hosts say."""

import json
from dataclasses import replace

import pytest

from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.errors import CheckFailed
from ropeway.facts.described import cluster_of
from ropeway.facts.host import HostFacts, Nic, Npu
from ropeway.spec.cluster import RemoteHost
from ropeway.spec.model import load_spec

HOSTS = ("--host", "root@host1", "--host", "host2:22")


def init(hosts: Cluster, *args: str) -> int:
    return hosts.run("init", *args, spec=False)


def test_hosts_and_their_model_become_a_spec_that_comes_up(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.setenv("ROPEWAY_API_KEY", "secret")
    two = cluster()
    assert init(two, *HOSTS, "--model", two.fleet.model.path) == 0, two.err
    text, spec = (two.folder / "ropeway.yaml").read_text(), load_spec(two.folder / "ropeway.yaml")
    assert [(one.address, one.npus, one.user, one.port) for one in spec.cluster.hosts or ()] == [
        ("host1", 8, "root", None),
        ("host2", 8, None, 22),
    ]
    assert (spec.cluster.chip, spec.cluster.nic) == ("910B4", "enp189s0f0")
    assert spec.serve.layout.npus * spec.serve.replicas > 8, "both hosts are used"
    assert "tokens/s" in text.partition("  layout: ")[0].splitlines()[-1], "with the reason"
    assert "# layout:" not in text, "an example beside the value"
    assert two.run("up") == 0, two.err
    assert two.run("plan", "--write", "--model", "Qwen3-30B-A3B") == 0, two.err
    assert load_spec(two.folder / "ropeway.yaml") == spec, "it was planned as `plan` does it"


def test_without_a_model_its_directory_is_left_to_fill_in(cluster: Make):  # noqa: F811
    two = cluster()
    assert init(two, *HOSTS) == 0
    assert "`model.path`" in two.out
    assert "layout" not in load_spec(two.folder / "ropeway.yaml").serve.model_fields_set


@pytest.mark.parametrize(
    ("faults", "code", "words"),
    [
        (("host-down",), 1, "host2"),
        (("no-driver",), 1, "no NPU is known on"),
        (("model-missing:host1", "model-missing:host2"), 1, "no host has the model"),
    ],
)
def test_hosts_that_cannot_say_what_is_needed_leave_no_file(
    faults: tuple[str, ...],
    code: int,
    words: str,
    cluster: Make,  # noqa: F811
):
    two = cluster(fleet_with(*faults))
    assert init(two, *HOSTS, "--model", two.fleet.model.path) == code
    assert words in two.error
    assert not (two.folder / "ropeway.yaml").exists()


def test_a_host_that_lacks_the_model_is_named(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("model-missing:host2"))
    assert init(two, *HOSTS, "--model", two.fleet.model.path) == 0
    assert "warning: host2: /data/model is not there; see `ropeway model push`" in two.err


def test_a_file_that_is_there_is_kept_and_no_host_is_asked(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("host-down"))
    (two.folder / "ropeway.yaml").write_text("mine")
    assert init(two, *HOSTS) == 2
    assert "it was not changed" in two.error
    assert (two.folder / "ropeway.yaml").read_text() == "mine"


def facts(name: str, chip: str, *, nic: str = "eth0", hbm_mb: int = 65536) -> HostFacts:
    return HostFacts(
        name, name, devices=(0, 1), nics=(Nic(nic, (name,), 1500, True),),
        npus=tuple(Npu(device, name=chip, hbm_mb=hbm_mb) for device in (0, 1)),
    )  # fmt: skip


def test_what_differs_between_hosts_is_said_of_each():
    hosts = {name: RemoteHost(address=name, npus=1) for name in ("a", "b")}
    known = {"a": facts("a", "Ascend910"), "b": facts("b", "Ascend910", nic="eth1")}
    found = cluster_of(hosts, known)
    assert (found.chip, found.nic, found.hbm) == ("910C", None, None), "an A3, by its series"
    assert [(host.npus, host.nic) for host in found.hosts or ()] == [(2, "eth0"), (2, "eth1")]
    half = {name: facts(name, "910B3", hbm_mb=32768) for name in hosts}
    assert cluster_of(hosts, half).hbm == 32768 * 2**20
    with pytest.raises(CheckFailed, match="different chips") as caught:
        cluster_of(hosts, {**half, "b": facts("b", "910B4")})
    assert caught.value.evidence == ("a: 910B3", "b: 910B4")


@pytest.mark.parametrize(
    ("architecture", "flags"),
    [
        ("XLMRobertaForSequenceClassification", {"runner": "pooling"}),
        (
            "NewModel",
            {"runner": "pooling", "hf-overrides": {"architectures": ["GteNewModel"]}},
        ),
    ],
)
def test_a_model_that_does_not_generate_gets_the_flags_that_say_so(
    architecture: str,
    flags: dict[str, object],
    cluster: Make,  # noqa: F811
    monkeypatch,
):
    monkeypatch.setenv("ROPEWAY_API_KEY", "secret")
    fleet = fleet_with()
    config = {**json.loads(fleet.machines[0].config), "architectures": [architecture]}
    machines = tuple(replace(one, config=json.dumps(config)) for one in fleet.machines)
    two = cluster(replace(fleet, machines=machines))
    assert init(two, *HOSTS, "--model", two.fleet.model.path) == 0, two.err
    assert "requests/s" in two.err and "tokens/s" not in two.err
    text, spec = (two.folder / "ropeway.yaml").read_text(), load_spec(two.folder / "ropeway.yaml")
    assert spec.serve.engine_args == flags
    assert "tokens/s" not in text.partition("  layout: ")[0].splitlines()[-1]
    assert two.run("up") == 0, two.err
    assert "the first answer is there" in two.err and "ropeway chat" not in two.err
    assert "and generates nothing" in " ".join(two.err.split())
