"""What `up` knows, assumes and refuses before anything starts, on virtual hosts."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from model_files import MOE
from rehearsed import Cluster, Make, cluster, fleet_with  # noqa: F401
from ropeway.cli.layout_choice import planned_locally
from ropeway.cli.main import exit_code
from ropeway.doctor.checks import CHECKS, GROUPS
from ropeway.doctor.start import asked_before
from ropeway.errors import Refused
from ropeway.launch.served_model import served_model
from ropeway.models.build import read_shape
from ropeway.plan import calibration
from ropeway.plan.calibration import Calibration, calibration_path, write_calibration
from ropeway.spec.model import Layout, Model, Serve, load_spec, local_spec, parse_spec

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


def test_a_container_engine_that_is_down_is_told_with_what_doctor_says_of_it(cluster: Make):  # noqa: F811
    two = cluster(fleet_with("docker-down"))
    assert two.run("up") == 1
    assert "`docker` does not answer\n  at host2" in two.error
    assert "or start it:\n      systemctl start docker\n" in two.error
    assert "--name ropeway-rehearsal-0-1" in dry_run(two), "it is not needed to show the script"


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


def test_what_would_not_have_been_checked_is_not_said_to_be_skipped(
    cluster: Make,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster()
    two.serve(layout="TP4", replicas=2, backend=None, api_key_env="MY_KEY")
    assert two.run("up", "--skip-checks") == 0, two.err
    said = " ".join(two.err.split())
    assert "not checked: hosts, NPUs, versions, containers, model, ports" in said
    assert "network" not in said


def test_checks_of_how_hosts_reach_each_other_are_of_the_hosts_of_one_engine():
    network = {check.id for subject in ("ports", "network") for check in GROUPS[subject]}
    between = {check.id for check in CHECKS if check.between_hosts}
    # The chips of one host talk over virtual interfaces; ranks compare their clocks.
    assert between == network - {"roce-vnic"} | {"host-clock"}


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


# The layout: the plan's choice where there is none, and what does not fit.


def write_open(two: Cluster, model: str, chip: str | None = None, **serve: object) -> None:
    """A spec of real hosts as one writes it, with nothing said of what is not named here."""
    hosts = [{"address": machine.name, "npus": 8} for machine in two.fleet.machines]
    where = {"hosts": hosts, **({"chip": chip} if chip else {})}
    data = {"name": "open", "cluster": where, "model": {"path": model}, "serve": serve}
    (two.folder / "ropeway.yaml").write_text(json.dumps(data))


def test_a_layout_that_is_not_named_is_the_plans_choice(cluster: Make, monkeypatch):  # noqa: F811
    """Also where the hosts themselves have to say which chip they have."""
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster()
    write_open(two, "/data/model", context=4096, api_key_env="MY_KEY", start_timeout=30)
    up = two.json("up")
    npus = 8 * len(two.fleet.machines)
    assert sum(len(one["devices"]) for one in two.json("status")["containers"]) > npus / 2
    assert up["notes"][0].startswith("layout: the plan's choice, ")
    assert up["layout"] in up["notes"][0]
    assert two.json("up")["start_s"] is None, "the choice is the same again"


def test_in_a_dry_run_too(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    two = cluster(fleet_with(*DOWN))
    write_open(two, "/data/Qwen3-235B-A22B-W8A8", "910B4", context=4096, api_key_env="MY_KEY")
    script = dry_run(two)
    assert "# note: layout: the plan's choice, " in script
    assert "TP1" not in script.splitlines()[1]
    write_open(two, "/data/Qwen3-235B-A22B-W8A8", context=4096)
    assert two.run("up", "--dry-run") == 2
    assert "which chip the hosts have is not known" in two.error


def test_a_choice_that_needs_a_key_says_so(cluster: Make):  # noqa: F811
    two = cluster(fleet_with(*DOWN))
    write_open(two, "/data/Qwen3-30B-A3B", "910B4", context=4096)
    assert two.run("up", "--dry-run") == 2
    assert "replicas of" in two.error
    assert "`serve.api_key_env` names the environment variable" in two.error


@pytest.mark.parametrize("hosts", ["answer", "are down"])
def test_a_layout_that_does_not_fit_is_refused_with_the_numbers(hosts: str, cluster: Make):  # noqa: F811
    two = cluster(fleet_with(*(DOWN if hosts == "are down" else ())))
    path = "/data/Qwen3-30B-A3B" if hosts == "are down" else "/data/model"
    write_open(two, path, "910B4", layout="TP1")
    assert two.run("up", *(("--dry-run",) if hosts == "are down" else ())) == 2
    assert "TP1 does not fit: " in two.error
    assert "GiB are missing on an NPU of 910B4" in two.error
    assert "56.9 weights" in two.error


def test_a_layout_that_just_fits_is_warned_of(cluster: Make):  # noqa: F811
    two = cluster(fleet_with(*DOWN))
    write_open(two, "/data/Qwen3-30B-A3B", "910B4", layout="TP4", memory=0.58)
    assert "such figures may be off by 716.8 MiB" in dry_run(two)


def test_on_this_machine_the_samples_layout_is_taken_until_it_is_measured(tmp_path):
    shape = read_shape(MOE)
    spec = local_spec()
    found, notes = planned_locally(spec, shape, tmp_path)
    assert str(found.serve.layout) == "TP2×PP2+EP"
    assert "`ropeway calibrate --local`" in notes[0]
    with pytest.raises(Refused, match="cannot run"):
        planned_locally(local_spec(hosts=1, npus=2), shape, tmp_path)
    named = local_spec(serve=Serve(layout=Layout()))
    assert planned_locally(named, shape, tmp_path) == (named, ())


def test_and_then_the_plans_choice(tmp_path):
    machine = replace(calibration._START, cores=2)
    made = Calibration(machine, (), "smollm2-moe", "2 cores", "2026-11-28")
    write_calibration(made, calibration_path(tmp_path))
    found, notes = planned_locally(local_spec(), read_shape(MOE), tmp_path)
    assert notes[0].startswith(f"layout: the plan's choice, {found.serve.layout}: ")


@pytest.mark.parametrize(
    ("serve", "spans"),
    [("{layout: TP8, replicas: 2}", False), ("{layout: TP8×PP2}", True), ("{context: 4096}", True)],
)
def test_ports_are_asked_only_where_an_engine_may_span_hosts(serve: str, spans: bool):
    hosts = "[{address: 192.168.0.1, npus: 8}, {address: 192.168.0.2, npus: 8}]"
    spec = parse_spec(f"cluster: {{hosts: {hosts}}}\nmodel: {{path: /m}}\nserve: {serve}", "spec")
    assert ("hccn-link" in asked_before(spec)) is spans
    assert "npu-smi-health" in asked_before(spec)


@pytest.mark.parametrize("model", ["Qwen3-235B-A22B-W8A8", "DeepSeek-R1-W4A8", "Qwen3-30B-A3B"])
def test_up_takes_what_plan_has_written(model: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROPEWAY_API_KEY", "a-key")
    hosts = ", ".join(f"{{address: 192.168.0.{n}, npus: 8}}" for n in (1, 2, 3, 4))
    (tmp_path / "ropeway.yaml").write_text(
        f"cluster: {{chip: 910B4, hosts: [{hosts}]}}\nmodel: {{path: /data/{model}}}\n"
        "serve: {context: 4096}\n"
    )
    assert exit_code(["plan", "--write"]) == 0, capsys.readouterr().err
    written = load_spec(tmp_path / "ropeway.yaml").serve
    capsys.readouterr()
    assert exit_code(["up", "--rehearse", "--dry-run"]) == 0, capsys.readouterr().err
    assert f"# {written.layout.times(written.replicas)} of " in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["TP3", "TP3xPP2,EP"])
def test_a_layout_that_the_model_cannot_be_split_into_is_refused(layout: str, cluster: Make):  # noqa: F811
    two = cluster()
    two.serve(layout=layout)
    for more in ((), ("--dry-run",)):
        assert two.run("up", *more) == 2
        assert "tensor parallel 3 does not divide" in two.error
    assert two.remains() == []


def test_a_dry_run_needs_no_secret(cluster: Make, monkeypatch):  # noqa: F811
    monkeypatch.delenv("MY_KEY", raising=False)
    two = cluster()
    two.serve(api_key_env="MY_KEY", address="0.0.0.0")
    assert two.run("up", "--dry-run") == 0, two.err
    assert "${MY_KEY:?}" in two.out
    assert two.run("up") == 2
    assert "`MY_KEY`, which is not set" in two.err


def test_a_dry_run_on_this_machine_makes_no_checkpoint(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert exit_code(["up", "--local", "--model", "tiny-qwen3-moe", "--dry-run"]) == 2
    assert "ropeway model fetch tiny-qwen3-moe" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_a_published_name_is_a_folder_on_hosts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["up", "--rehearse", "2x8-910B4", "--model", "qwen3-30b-a3b"]) == 2
    assert "`--model /data/Qwen3-30B-A3B`" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["docker", "nerdctl"])
def test_labels_that_no_engine_takes_are_refused_before_anything_ends(
    runtime: str,
    cluster: Make,  # noqa: F811
):
    two = cluster()
    size = 140_000 if runtime == "docker" else 4_000
    two.change("runtime", command=runtime)
    two.serve(engine_args={"chat-template": "x" * size})
    for more in (("--dry-run",), *([()] if runtime == "docker" else [])):  # no nerdctl is there
        assert two.run("up", *more) == 2
        assert "the label `ropeway.spec` would have" in two.err


def test_a_config_stands_for_a_model_that_no_host_shows(cluster: Make, tmp_path):  # noqa: F811
    config = tmp_path / "config.json"
    config.write_text(json.dumps(MOE))
    two = cluster(fleet_with(*DOWN))
    two.write(two.spec.model_copy(update={"model": Model(path="/data/Ours-w8a8-QuaRot")}))
    two.serve(layout="TP4", context=4096)
    assert two.run("up", "--dry-run") == 2
    assert "`up --model-config FILE`" in two.error
    script = dry_run(two, "--model-config", str(config))
    assert assumed(script)[:2] == [
        f"the hosts' model has the config in {config}",
        "its weights are quantised as w8a8, with ModelSlim",
    ]
    assert "--quantization ascend" in script
    two.change("model", config=str(config))
    assert assumed(dry_run(two)) == assumed(script)


def test_virtual_hosts_have_a_model_of_which_there_is_only_a_config(cluster: Make, tmp_path):  # noqa: F811
    config = tmp_path / "config.json"
    config.write_text(json.dumps(MOE))
    two = cluster()
    two.write(two.spec.model_copy(update={"model": Model(path="/data/Ours", config=str(config))}))
    two.serve(layout="TP4", context=4096)
    assert two.run("up", "--dry-run", "--rehearse", "910B4") == 0, two.err
    assert assumed(two.out) == []


def test_an_unknown_release_is_taken_as_the_nearest_wherever_it_is_told(cluster: Make):  # noqa: F811
    two = cluster()
    two.change("runtime", image="r.example/vllm-ascend:v0.33.0")
    assert "note: note" not in dry_run(two) and "warning: note" not in two.err
    assert "# note: Ropeway does not know release 0.33.0" in dry_run(two)
    assert "does not know release 0.33.0" in two.err and "0.32.0rc1" in two.err
    document = two.json("up", "--dry-run", "--release-like", "0.30.0")
    assert document["release"] == "0.30.0"
    assert any("0.33.0" in note for note in document["notes"])


def test_a_start_is_checked_by_the_rules_of_the_release_that_the_user_names(cluster: Make):  # noqa: F811
    two = cluster()
    two.change("runtime", image="r.example/vllm-ascend:v0.33.0")
    assert two.run("up") == 0, two.err
    assert "warning: Ropeway does not know release 0.33.0" in two.err
    assert "judged as 0.32.0rc1" in two.err
    assert two.run("down") == 0, two.err
    assert two.run("up", "--release-like", "0.30.0") == 0, two.err
    assert "judged as" not in two.err


def test_a_file_that_flags_name_is_looked_for_before_the_start(cluster: Make):  # noqa: F811
    fleet = fleet_with()
    first, second = fleet.machines
    second = replace(second, missing=second.missing | {"/data/tokenizer"})
    two = cluster(replace(fleet, machines=(first, second)))
    two.serve(engine_args={"tokenizer": "/data/tokenizer"})
    script = dry_run(two)
    assert "source=/data/tokenizer,target=/data/tokenizer,readonly" in script
    assert "# note: mounted read-only" in script and "not on host2" in script
    two.fails(1, "missing on hosts", "/data/tokenizer", "host2")


def test_a_file_that_flags_name_and_hosts_have_is_mounted(cluster: Make):  # noqa: F811
    two = cluster()
    two.serve(engine_args={"tokenizer": "/data/tokenizer"})
    assert two.run("up") == 0, two.err
