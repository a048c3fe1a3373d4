"""`--rehearse`: whose hosts are rehearsed, and what is left of it."""

import json
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from rehearsed import QUICK
from ropeway.cli.main import exit_code
from ropeway.errors import Refused
from ropeway.models.known import entry_of
from ropeway.sim.faults import FAULTS, with_faults
from ropeway.sim.hosts import virtual_hosts
from ropeway.sim.launching import Rehearsal
from ropeway.sim.machine import Fleet, parse_fleet, sound_fleet
from ropeway.sim.model_folder import published
from ropeway.sim.own_hosts import own_fleet
from ropeway.sim.virtual_endpoint import VirtualEndpoint
from ropeway.spec.model import load_spec

# What a start says of a fault where it does not say the title of doctor's finding.
OWN_WORDS = {
    "host-down": "there is no route to the host",
    "shm-small": "`up` does not play `shm-small`",
    "port-taken": "`nginx` listens there",
    "no-driver": "dcmi module initialize failed",
    "card-dropped": "host2 has 7 NPUs, but not /dev/davinci3",
    "container-holds": "container `old-vllm`",
    "docker-down": "Cannot connect to the Docker daemon",
    "model-awq": "`cuda` quantisation",
    "model-new": "first release with Qwen3-VL",
}
REFUSED = ("shm-small", "model-awq", "model-new")  # by the spec's model and image, before any check

OWN = """\
name: mine
cluster:
  hosts:
    - {address: 192.168.0.147, npus: 8}
    - {address: node-b.example.org, npus: 8}
  chip: 910B4
  nic: eth7
model: {path: /mnt/models/Qwen3-30B-A3B}
serve: {layout: TP8xPP2+EP, port: 9100}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a spec of real hosts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ropeway.cli.rehearsal._PACE", QUICK)
    (tmp_path / "ropeway.yaml").write_text(OWN)
    return tmp_path


def own(folder: Path, old: str = "", new: str = "", chip: str = "") -> Fleet:
    """The virtual hosts of the spec, in which something was replaced."""
    (folder / "ropeway.yaml").write_text(OWN.replace(old, new) if old else OWN)
    return own_fleet(load_spec(folder / "ropeway.yaml"), chip)


def test_the_hosts_of_a_spec_are_rehearsed_under_their_names(folder, capsys):
    assert exit_code(["up", "--rehearse", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rehearsal"] is True
    assert (document["name"], document["model"], document["layout"]) == (
        "mine", "Qwen3-30B-A3B", "TP8×PP2+EP",
    )  # fmt: skip
    (run,) = (folder / "runs").iterdir()
    assert run.stat().st_mode & 0o777 == 0o700
    script = (run / "commands.sh").read_text()
    assert "--nnodes 2" in script, "joined as this release does it"
    assert "192.168.0.147" in script and "eth7" in script


@pytest.mark.usefixtures("folder")
def test_what_ended_with_the_rehearsal_is_not_offered(capsys):
    assert exit_code(["up", "--rehearse"]) == 0
    said = capsys.readouterr()
    assert "rehearsal: Qwen3-30B-A3B came up" in said.out
    assert "with the published Qwen/Qwen3-30B-A3B" in " ".join(said.err.split())
    assert "is up at" not in said.out
    assert "ropeway down" not in said.err and "ropeway chat" not in said.err


def test_weights_that_are_not_those_published_are_in_the_title(folder, capsys):
    spec = (folder / "ropeway.yaml").read_text()
    (folder / "ropeway.yaml").write_text(spec.replace("Qwen3-30B-A3B", "Qwen3-30B-A3B-W8A8"))
    assert exit_code(["up", "--rehearse", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "with Qwen/Qwen3-30B-A3B, its weights as w8a8" in said


def test_a_dry_run_of_made_up_hosts_says_that_no_plan_chose_the_layout(capsys):
    word = "`ropeway plan` says which to run"
    assert exit_code(["up", "--rehearse", "2x8-910B4", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"the layout is DP2×TP8+EP, over all of these hosts, so that each takes part: {word}"
        in said
    )
    assert exit_code(["up", "--rehearse", "2x8-910B4", "--dry-run", "--layout", "TP8"]) == 0
    assert word not in " ".join(capsys.readouterr().err.split())


@pytest.mark.usefixtures("folder")
def test_doctor_rehearses_the_same_hosts(capsys):
    assert exit_code(["doctor", "--rehearse"]) == 0
    capsys.readouterr()
    assert exit_code(["doctor", "--rehearse", "--fault", "link-down:192.168.0.147:5"]) == 1
    assert "192.168.0.147" in capsys.readouterr().out


def test_doctor_says_how_to_try_a_host_as_the_spec_logs_in(folder, capsys):
    spec = OWN.replace("node-b.example.org,", "node-b.example.org, user: ops, port: 2222,")
    (folder / "ropeway.yaml").write_text(spec)
    assert exit_code(["doctor", "--rehearse", "--fault", "host-down:node-b.example.org"]) == 1
    assert "try: ssh -l ops -p 2222 node-b.example.org true" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.usefixtures("folder")
def test_a_size_makes_hosts_up_and_says_that_the_spec_is_not_read(capsys):
    assert exit_code(["up", "--rehearse", "3x8-910B3"]) == 0
    said = capsys.readouterr()
    assert "`ropeway.yaml` is not read" in said.err
    assert "3 containers on 3 virtual hosts" in said.err
    assert said.err.index("note: not verified on NPU hardware") < said.err.index("the first token")


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        ("--rehearse 2x8-910B4 -c ropeway.yaml", "not both", "-c ropeway.yaml --rehearse"),
        ("--rehearse 2x8-910B4 --fault tls-on:h", "no host `h`", "hosts are host1, host2"),
        ("--rehearse 5x8-910B4 --fault tls-on:h", "no host", "are host1, host2, host3, host4 …"),
        ("--rehearse two", "names no cluster", "2x8-910B4"),
        ("--rehearse -c absent.yaml", "absent.yaml", ""),
        ("--fault tls-on", "`--fault` is for virtual hosts", "--rehearse"),
        ("--rehearse --fault shm-small", "does not play `shm-small`: containers", "doctor"),
        ("--rehearse --skip-checks --fault tls-on", "`--fault tls-on` is not played", "leave"),
        ("--keep", "`--keep` is for virtual hosts", "--rehearse"),
        ("--rehearse 2x8-910B4 --fault model-short", "model-short", "did you mean `shard-short`"),
        ("--rehearse 2x8-910B4 --fault no-such", "no-such", "never-joins"),
        ("--rehearse --model /data/mine", "no published model", "--model /data/Qwen3-30B-A3B"),
        ("--rehearse 2x15-910C", "15 are no whole cards", "/dev/davinciN"),
        ("--rehearse 2x8-310P3", "`310P3` cannot be rehearsed", "up --dry-run` without"),
        ("--rehearse 310P3 --dry-run", "virtual NPUs have HBM and a RoCE port", "910B4"),
        ("--rehearse 2x8-950DT --dry-run", "`950DT` cannot be rehearsed", "910B4"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_rehearsed_is_refused(capsys, args, what, hint):
    assert exit_code(["up", *args.split(), "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert what in error["what"] + str(error["evidence"]) + str(error["where"])
    assert hint in (error["hint"] or "")


@pytest.mark.parametrize("size, end", [("2x8-910B4", "host2"), ("4x8-910B4", "host4")])
def test_hosts_that_are_all_named_are_not_followed_by_dots(size, end, capsys):
    assert exit_code(["doctor", "--rehearse", size, "--fault", "tls-on:h"]) == 2
    assert capsys.readouterr().err.rstrip().endswith(end)


def test_where_there_is_no_spec_the_light_way_is_offered_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["up", "--json"]) == 2
    hint = json.loads(capsys.readouterr().out)["error"]["hint"]
    ways = ["ropeway init --host root@ADDRESS", "up --rehearse 2x8-910B4", "up --local"]
    assert sorted(ways, key=hint.index) == ways


@pytest.mark.parametrize("fault", ["mindie-config", "model-new", "model-written"])
def test_a_model_with_a_finding_is_not_called_ok(fault, capsys):
    exit_code(["doctor", "--rehearse", "2x8-910B4", "--fault", fault, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] and "model" not in document["passed"]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("folder")
def test_a_start_ends_on_hosts_as_doctor_says(fault, capsys):
    """It fails for what `doctor` calls unsound there, or says that it does not play it."""
    on_hosts = ["--rehearse", "2x8-910B4", "--fault", fault, "--json"]
    code = exit_code(["up", *on_hosts])
    document = json.loads(capsys.readouterr().out)
    sound = exit_code(["doctor", *on_hosts]) == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    titles = [one["title"] for one in findings if one["check"] == FAULTS[fault].check]
    assert len(titles) == 1
    assert code == (2 if fault in REFUSED else int(not sound or fault in OWN_WORDS))
    if code == 0:
        assert f"it came up in spite of {fault}" in document["warnings"][-1]
    else:
        error = document["error"]
        assert OWN_WORDS.get(fault, titles[0]) in "\n".join([error["what"], *error["evidence"]])


@pytest.mark.usefixtures("folder")
def test_no_value_that_is_absent_is_shown_as_none(capsys):
    assert exit_code(["up", "--rehearse", "2x8-910B4", "--model", "/data/elsewhere"]) == 1
    said = capsys.readouterr().err
    assert "no host has the model" in said
    assert "None" not in said


def test_the_model_is_the_published_one_with_its_config_and_its_bytes(folder):
    fleet = own(folder, "Qwen3-30B-A3B", "Qwen3-235B-A22B-W8A8")
    assert fleet.model.published == "Qwen/Qwen3-235B-A22B"
    assert fleet.model.path == "/mnt/models/Qwen3-235B-A22B-W8A8"
    config = json.loads(fleet.machines[1].config)
    assert config == entry_of("Qwen/Qwen3-235B-A22B").config
    assert sum(fleet.model.files[name] for name in fleet.model.shards) == pytest.approx(236e9, 0.01)
    assert fleet.model.kind == "W8A8"
    assert "awq" in published("Qwen3-32B-AWQ", "/m").config


def test_hosts_that_share_an_address_or_have_a_name_get_addresses_of_their_own(folder):
    first, second = own(folder).machines
    assert (first.name, first.address) == ("192.168.0.147", "192.168.0.147")
    assert (second.name, second.nic) == ("node-b.example.org", "eth7")
    assert second.address == "192.168.0.2"
    ports = ("192.168.0.147, npus: 8", "10.1.2.3, npus: 8, port: 22")
    both = own(folder, *ports).machines[0]
    assert (both.address, str(both.network)) == ("10.1.2.3", "10.1.0.0/16")


@pytest.mark.parametrize(
    ("old", "new", "chip", "what"),
    [
        ("  chip: 910B4\n", "", "", "which chip"),
        ("serve:", "runtime: {command: podman}\nserve:", "", "have Docker"),
    ],
)
def test_what_virtual_hosts_do_not_have_is_refused(folder, old, new, chip, what):
    with pytest.raises(Refused, match=what):
        own(folder, old, new, chip)
    assert own(folder, "  chip: 910B4\n", "", "910B3").machines[0].kind.name == "910B3"


def test_one_word_is_one_count():
    """A 910C is one die, as in `plan`; npu-smi numbers the cards, and each has two."""
    hosts, npus, kind = parse_fleet("2x16-A3")
    fleet = sound_fleet(hosts, npus, kind)
    assert fleet.title.startswith("2 virtual hosts of 16 NPUs (910C)")
    host = virtual_hosts(fleet)[0]
    _, table = host.answer(("npu-smi", "info"))
    rows = [line.split()[1] for line in table.splitlines() if "Ascend910" in line]
    assert rows == [str(number // 2) for number in range(16)]
    _, devices = host.answer(("npu-smi", "info", "-l"))
    assert "Total Count                    : 8" in devices


def test_a_fault_names_a_host_that_has_a_port_in_its_name():
    fleet = sound_fleet(*parse_fleet("2x8-910B4"))
    names = ["10.0.0.1:22", "10.0.0.1:2222"]
    machines = [type(one)(**{**vars(one), "name": name}) for one, name in
                zip(fleet.machines, names, strict=True)]  # fmt: skip
    named = type(fleet)(**{**vars(fleet), "machines": tuple(machines)})
    for text in ("link-down:10.0.0.1:2222", "link-down:10.0.0.1:2222:5"):
        chips = with_faults(named, [text]).machines[1].chips
        assert [chip.device for chip in chips if chip.link == "DOWN"] == [5 if "5" in text else 3]


def test_as_many_clients_may_connect_to_a_rehearsal_at_once_as_a_batch_has():
    virtual = Rehearsal(sound_fleet(*parse_fleet("2x8-910B4")), QUICK)
    with VirtualEndpoint(virtual, 0, "m") as endpoint, ExitStack() as clients:  # none is served yet
        for _ in range(256):
            clients.enter_context(socket.create_connection(endpoint.server_address, timeout=5))
