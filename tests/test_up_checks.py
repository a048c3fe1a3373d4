"""What `up` knows, assumes and refuses before anything starts, on virtual hosts."""

import json

import pytest

from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.doctor.start import LEFT_OUT
from ropeway.launch.served_model import served_model
from ropeway.sim.faults import FAULTS
from ropeway.sim.launching import rehearsal_spec
from ropeway.spec.model import Model

DOWN = ("host-down:host1", "host-down:host2")


def dry_run(two: Cluster, *args: str) -> str:
    """The script of hosts as they are."""
    assert two.run("up", "--dry-run", *args) == 0, two.err
    assert two.out.endswith("\n")
    assert two.remains() == []
    return two.out


def assumed(script: str) -> list[str]:
    prefix = "# assumed: "
    return [line.removeprefix(prefix) for line in script.splitlines() if line.startswith(prefix)]


@pytest.mark.parametrize(
    ("folder", "published", "weights", "flag"),
    [
        (
            "Qwen3-235B-A22B-W8A8", "Qwen/Qwen3-235B-A22B",
            "quantised as w8a8, with ModelSlim", True,
        ),
        ("Qwen3-30B-A3B", "Qwen/Qwen3-30B-A3B", "not quantised (bf16)", False),
    ],
)  # fmt: skip
def test_a_model_that_no_host_shows_is_the_published_one_and_said_to_be(
    folder: str,
    published: str,
    weights: str,
    flag: bool,
    cluster: Make,  # noqa: F811
):
    two = cluster(fleet_with(*DOWN))
    two.write(two.spec.model_copy(update={"model": Model(path=f"/data/{folder}")}))
    script = dry_run(two)
    assert assumed(script)[:2] == [
        f"/data/{folder} is the published {published}", f"its weights are {weights}",
    ]  # fmt: skip
    assert ("--quantization ascend" in script) == flag
    assert "`serve.context` is not set, so the engine takes the model's: 40,960 tokens" in script


def test_what_hosts_show_is_not_assumed(cluster: Make):  # noqa: F811
    assert assumed(dry_run(cluster())) == []


def test_a_directory_that_is_not_there_is_told_as_such(cluster: Make):  # noqa: F811
    two = cluster()
    two.change("model", path="/data/elsewhere")
    assert two.run("up") == 1
    assert "host1: there is no such directory" in two.error
    assert "None" not in two.error


def test_a_model_on_this_machine_is_taken_with_its_quantisation(tmp_path):
    config = {
        "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
        "torch_dtype": "bfloat16", "head_dim": 16, "architectures": ["Qwen3ForCausalLM"],
        "max_position_embeddings": 1024,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    table = {"model.layers.0.mlp.down_proj.weight": "W8A8_DYNAMIC"}
    (tmp_path / "quant_model_description.json").write_text(json.dumps(table))
    found = served_model(str(tmp_path), {})
    assert found.scheme == "ascend"
    assert found.assumed[0] == f"the hosts have the same model as this machine in {tmp_path}"


def test_a_fault_that_doctor_calls_a_failure_stops_up_before_it_starts(cluster: Make):  # noqa: F811
    """Unless `up` knows better, and says why."""
    for name, fault in FAULTS.items():
        fleet = fleet_with(name)
        two = cluster(fleet)
        two.write(rehearsal_spec(fleet))
        failed = {
            finding["check"]
            for finding in examined(two, name)
            if finding["level"] == "fail" and not finding["cause"]
        }
        code = two.run("up")
        if failed - LEFT_OUT.keys():
            assert code in (1, 2), (name, fault.title)
            assert not any(command.starts_containers for command in two.virtual.commands), name
        elif not failed & {"host-reach", "npu-dropped", "npu-count"}:
            assert code == (1 if name == "container-holds" else 0), (name, two.err)
        if code == 0:
            assert two.run("down") == 0


def examined(two: Cluster, fault: str) -> list[dict[str, str]]:
    found = two.json("doctor", "--rehearse", "2x8-910B4", "--fault", fault)
    findings: list[dict[str, str]] = found["findings"]
    return findings


def test_warnings_of_the_checks_are_listed_and_stop_nothing(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("few-files:host2", "hot:host1"))
    notes = two.json("up")["notes"]
    assert "NPUs are hot while idle: host1 NPU 3: 92 °C" in notes
    assert "the limit of open files is low: host2: 1,024" in notes


def test_what_is_skipped_is_named(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("hosts-apart"))
    assert two.run("up", "--skip-checks") == 0
    warned = " ".join(two.err.split())
    assert "not checked: hosts, NPUs, versions, containers, model, ports, network" in warned


def test_only_the_hosts_of_one_engine_must_reach_each_other_over_roce(
    cluster: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster(fleet_with("hosts-apart", "link-down:host2:7"))
    two.serve(layout="TP4", replicas=2, backend=None, api_key_env="MY_KEY")
    assert two.run("up") == 0, two.err
    assert not [one for one in two.virtual.commands if "ping" in str(one.argv)]


def test_npus_that_the_service_itself_holds_are_not_in_the_way(cluster: Make):  # noqa: F811
    two = cluster()
    assert two.run("up") == 0, two.err
    for machine in fleet_with("npu-busy:host1:3", "npu-busy:host2:3").machines:
        two.virtual.state(machine.name).machine = machine
    two.serve(max_sequences=32)
    assert two.run("up", "--yes") == 0, two.err
