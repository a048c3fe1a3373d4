"""What `ropeway plan` makes of limits, names and configs of models."""

import json
import re

import pytest

from model_files import LLAMA
from plan_requests import SPEC
from ropeway.cli.main import exit_code
from test_plan_command import document, run


@pytest.fixture(name="spec")
def _spec(tmp_path, monkeypatch):
    """A spec in a folder of its own, where the verb runs."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ropeway.yaml"
    path.write_text(SPEC)
    return path


STAND_IN = SPEC.replace("Qwen3-30B-A3B", "Kimi-K2-Instruct-1127-w8a8").replace("910B4", "910C")


def test_the_context_of_a_stand_in_is_a_doubt_and_no_refusal(capsys, spec):
    spec.write_text(STAND_IN.replace("serve:\n", "serve:\n  context: 200000\n", 1))
    made = document(capsys, "--engine-version", "0.18.0")
    said = "the longest context of `Kimi-K2-Instruct-1127-w8a8` is not known here"
    assert any(said in doubt for doubt in made["doubts"])
    spec.write_text(STAND_IN.replace("serve:\n", "serve:\n  context: 100000\n", 1))
    made = document(capsys, "--engine-version", "0.18.0")
    assert not any(said in doubt for doubt in made["doubts"])


def test_a_longer_context_by_yarn_is_planned_as_the_release_takes_it(capsys, spec):
    yarn = "{rope_type: yarn, factor: 4.0, original_max_position_embeddings: 32768}"
    keys = (
        f"serve:\n  context: 98304\n  engine_args: {{hf-overrides: {{rope_parameters: {yarn}}}}}\n"
    )
    spec.write_text(SPEC.replace("serve:\n", keys, 1))
    assert document(capsys, "--engine-version", "0.18.0")["exit"] == 0
    code, _, err = run(capsys, "--engine-version", "0.30.0rc1")
    assert code == 2 and "is longer than the model's 40,960" in err
    spec.write_text(SPEC.replace("serve:\n", "serve:\n  context: 98304\n", 1))
    assert run(capsys, "--engine-version", "0.18.0")[0] == 2


def test_a_fault_of_the_overrides_has_their_line(capsys, spec):
    keys = "serve:\n  engine_args: {hf-overrides: {num_hidden_layers: -1}}\n"
    spec.write_text(SPEC.replace("serve:\n", keys, 1))
    code, _, err = run(capsys)
    assert code == 2 and "at ropeway.yaml:12, serve.engine_args, hf-overrides\n" in err


@pytest.mark.parametrize("version", ["0.18.0", "0.30.0"])
def test_the_way_to_a_longer_context_is_one_that_is_taken(capsys, spec, version):
    longer = SPEC.replace("serve:\n", "serve:\n  context: 98304\n", 1)
    spec.write_text(longer)
    code, _, err = run(capsys, "--engine-version", version)
    assert code == 2 and "at ropeway.yaml:12\n" in err and "40,960 is what its config.json" in err
    (form,) = re.findall(r"`(hf-overrides: .*)`", err)
    spec.write_text(longer.replace("serve:\n", f"serve:\n  engine_args: {{{form}}}\n", 1))
    assert document(capsys, "--engine-version", version)["exit"] == 0
    assert "hf-overrides: {" not in run(capsys, "--context", "200000")[2]


def test_what_is_wrong_in_a_spec_is_said_with_its_line(capsys, spec):
    spec.write_text(SPEC.replace("serve:\n", "serve:\n  engine_args: {no-such: 1}\n", 1))
    assert "at ropeway.yaml:12, serve.engine_args, vLLM-Ascend" in run(capsys)[2]
    spec.write_text(SPEC.replace("Qwen3-30B-A3B", "Qwen3-30B-A3B-FP8"))
    assert "at ropeway.yaml:10, vLLM-Ascend 0.11.0rc0, Qwen3-30B-A3B-FP8" in run(capsys)[2]
    spec.write_text(SPEC.replace("Qwen3-30B-A3B", "No-Such-8B"))
    assert "at ropeway.yaml:10\n  /data/No-Such-8B\n" in run(capsys)[2]


@pytest.mark.usefixtures("spec")
def test_a_release_that_is_taken_as_another_is_marked(capsys):
    out = run(capsys, "--engine-version", "0.33.0")[1]
    assert "vLLM-Ascend 0.33.0 (taken as 0.32.0rc1)" in " ".join(out.split())


def test_a_config_in_the_spec_stands_for_a_model_that_only_hosts_have(capsys, spec, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    spec.write_text(SPEC.replace("Qwen3-30B-A3B", "Our-8B-w8a8-QuaRot"))
    code, _, err = run(capsys)
    assert code == 2 and "`config` below `model` keeps it in the spec" in err
    lines = spec.read_text().replace("model:\n", "model:\n  config: config.json\n", 1)
    spec.write_text(lines)
    made = document(capsys)
    assert made["exit"] == 0
    assert "its weights are w8a8, by its name alone" in made["notes"]


def test_a_name_that_contradicts_its_config_is_said_to(capsys, tmp_path):
    folder = tmp_path / "Our-8B-BF16"
    folder.mkdir()
    marked = LLAMA | {"quantization_config": {"quant_method": "int8", "bits": 8}}
    (folder / "config.json").write_text(json.dumps(marked))
    made = document(capsys, "--model", str(folder), "--chip", "910B4")
    assert any("its name says bf16, its config.json int8" in note for note in made["notes"])


@pytest.mark.parametrize("name", ["a" * 5000, "/" + "a" * 5000, "~nobody-of-this-name/x", "a\0b"])
@pytest.mark.parametrize("verb", [("plan", "--chip", "910B4", "--model"), ("model", "show")])
def test_a_path_that_no_system_takes_is_not_there(verb, name, capsys):
    assert exit_code([*verb, name]) == 2
    assert "error: " in capsys.readouterr().err


def test_weights_by_a_name_alone_are_said_to_be_so(tmp_path, capsys):
    spec = tmp_path / "s.yaml"
    hosts = "{chip: 910B4, hosts: [{address: 192.168.0.1, npus: 8}]}"
    for name, said in (("Qwen3-32B", False), ("Qwen3-32B-W8A8", True)):
        spec.write_text(f"cluster: {hosts}\nmodel: {{path: /data/{name}}}\n")
        assert exit_code(["plan", "-c", str(spec), "--json"]) == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert any("with w8a8 weights, by its own name" in note for note in notes) == said


def test_the_specs_own_layout_is_said_to_fail_where_that_was_reported(capsys, spec):
    lora = "serve:\n  engine_args: {enable-lora: true}\n"
    spec.write_text(SPEC.replace("serve:\n", lora, 1).replace("0.11.0rc0", "0.23.0"))
    doubts = document(capsys)["doubts"]
    assert re.search(r"has TP8 .*, which `up` starts: LoRA with tensor .*#16586", doubts[0]), doubts
