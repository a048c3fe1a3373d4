"""What is planned and said of models that do not generate, and of one side of a service."""

import json
from dataclasses import replace

import pytest

from json_documents import read_document
from ropeway.cli.main import exit_code
from ropeway.engines.ascend_releases import release_of
from ropeway.engines.disaggregated import kv_role, role_notes
from ropeway.errors import SpecError
from ropeway.hardware import chip_named
from ropeway.launch.complete import Inputs, complete
from ropeway.launch.rollout import Service
from ropeway.launch.served_model import ServedModel
from ropeway.models.known import known
from ropeway.plan.choice import room, with_layout, with_task
from ropeway.plan.choose import choose
from ropeway.plan.request import request_for_hosts
from ropeway.spec.model import Layout, Spec, parse_spec

SPEC = """
name: t
cluster:
  hosts:
    - {{address: 192.0.2.11, npus: 1}}
  nic: enp67s0f5
  chip: 910B3
model: {{path: /data/{model}, served_name: m}}
serve:
  version: 0.18.0
  layout: TP1
  context: {context}
  memory: 0.9
  engine_args: {args}
workload: {{clients: 8, input_tokens: 1024, output_tokens: 512}}
"""
PRODUCER = {"kv_connector": "MooncakeConnectorV1", "kv_role": "kv_producer", "kv_port": "30000"}


def spec_of(model: str, context: int = 8192, **args: object) -> Spec:
    text = SPEC.format(model=model, context=context, args=json.dumps(args))
    return parse_spec(text, "spec")


def service_of(spec: Spec, model: str) -> Service:
    release = release_of("0.18.0")
    assert release is not None
    return complete(spec, ("192.0.2.11",), Inputs({}, {}, "image", ServedModel(known(model))))


def planned(capsys, tmp_path, model: str, context: int = 8192, *flags: str, **args: object):
    file = tmp_path / "ropeway.yaml"
    file.write_text(SPEC.format(model=model, context=context, args=json.dumps(args)))
    code = exit_code(["plan", "-c", str(file), *flags])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("model", "context", "args", "where"),
    [
        ("Qwen3-Embedding-8B", 32768, {"runner": "pooling"}, "embeds texts at /v1/embeddings"),
        ("Qwen3-8B", 8192, {"runner": "pooling"}, "embeds texts at /v1/embeddings"),
        ("bge-m3", 8192, {}, "embeds texts at /v1/embeddings"),
        ("bge-reranker-v2-m3", 8192, {}, "scores pairs of texts at /rerank"),
        ("Qwen3-8B", 8192, {"convert": "reward"}, "rates texts at /pooling"),
    ],
)
def test_a_model_that_does_not_generate_is_planned_by_what_it_reads(
    capsys, tmp_path, model, context, args, where
):
    version = "0.13.0" if "convert" in args else "0.18.0"  # 0.16 takes no `reward`
    flags = ("--engine-version", version)
    code, output = planned(capsys, tmp_path, model, context, *flags, **args)
    text = " ".join(output.out.split())
    assert (code, output.err) == (0, "")
    assert where in text and "requests/s" in text and "prompt tokens/s" in text
    assert "the arithmetic of reading prompts" in text
    for word in (" tokens/s, ", "per token", "80%", "512 out", "was measured by others"):
        assert word not in text.replace("prompt tokens/s", "")


def test_its_document_has_no_output(capsys, tmp_path):
    _, output = planned(capsys, tmp_path, "Qwen3-Embedding-8B", 8192, "--json", "--price", "18")
    document = read_document(output.out)
    forecast, request = document["chosen"]["forecast"], document["request"]
    assert (request["task"], request["kv_role"]) == ("embed", None)
    assert (forecast["output_tokens_per_s"], forecast["tpot_s"]) == (0, None)
    assert request["load"]["output_tokens"] == 0
    assert forecast["prompt_tokens_per_s"] == pytest.approx(1024 * forecast["requests_per_s"])
    per_hour = 3600 * forecast["prompt_tokens_per_s"] / 1e6
    assert document["chosen"]["cost"]["price_per_million_tokens"] * per_hour == pytest.approx(18)


def test_its_page_has_no_time_per_token(capsys, tmp_path):
    page = tmp_path / "plan.html"
    code, _ = planned(capsys, tmp_path, "bge-m3", 8192, "--html", str(page))
    text = page.read_text()
    assert code == 0 and "prompt tokens/s" in text
    assert "per output token" not in text and "80%" not in text


def test_a_bound_on_tokens_is_refused_for_it(capsys, tmp_path):
    code, output = planned(capsys, tmp_path, "bge-m3", 8192, "--max-tpot", "50")
    assert code == 2 and "for engines that generate" in output.err


def test_a_whole_context_of_prompt_is_no_longer_than_the_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tokens, expected in (("512", 0), ("513", 2)):
        flags = ["--model", "bge-large-zh-v1.5", "--chip", "910B4", "--input-tokens", tokens]
        assert exit_code(["plan", *flags]) == expected
    assert "513 in" in capsys.readouterr().err


def test_no_room_for_an_answer_is_asked_of_a_spec_whose_flags_say_that_there_is_none():
    assert spec_of("Qwen3-Embedding-8B", 1024, runner="pooling").serve.context == 1024
    for flags in ({}, {"runner": "generate"}):
        with pytest.raises(SpecError, match="1536"):
            spec_of("Qwen3-8B", 1024, **flags)


def test_an_encoder_takes_no_cache_and_reads_a_prompt_in_one_piece():
    spec, shape, chip = spec_of("bge-reranker-v2-m3"), known("bge-reranker-v2-m3"), "910B4"
    made = room(spec, shape, chip_named(chip), "0.18.0")
    assert made.fits and not made.tight
    request = request_for_hosts(spec, shape, chip_named(chip), "0.18.0")
    assert request.shape.precision.attention == 16, "vLLM loads 32-bit weights in 16"


@pytest.mark.parametrize(
    ("model", "args", "task", "words"),
    [
        ("Qwen3-Embedding-8B", {"runner": "pooling"}, "embed", "/v1/embeddings, and generates"),
        ("bge-reranker-v2-m3", {}, "score", "/rerank, and generates nothing"),
        ("Qwen3-Reranker-8B", {}, "generate", "Qwen3ForSequenceClassification"),
        ("Qwen3-8B", {}, "generate", ""),
    ],
)
def test_up_says_what_a_model_answers(model, args, task, words):
    service = service_of(spec_of(model, **args), model)
    assert service.task == task
    assert words in " ".join(service.notes)
    assert ("generates nothing" in " ".join(service.notes)) == (task != "generate")


def test_a_new_spec_has_the_flags_by_which_its_model_does_what_it_is_for():
    for model, flags in (
        ("Qwen3-Embedding-8B", {"runner"}),
        ("Qwen3-Reranker-8B", {"runner", "hf-overrides"}),
        ("Qwen3-8B", set()),
    ):
        spec = with_task(spec_of(model), known(model))
        assert spec.serve.engine_args.keys() == flags
        assert parse_spec(json.dumps(spec.as_json()), "spec").serve == spec.serve


@pytest.mark.parametrize(
    "written",
    [
        {"kv-transfer-config": PRODUCER},
        {"kv_transfer_config": json.dumps(PRODUCER)},
        {"kv-transfer-config.kv_role": "kv_producer"},
    ],
)
def test_a_role_is_read_however_it_is_written(written):
    assert kv_role(written) == "kv_producer"
    assert len(role_notes(written)) == 1


def test_a_role_that_is_none_is_silent():
    for odd in ({}, {"kv-transfer-config": "{"}, {"kv-transfer-config": {"kv_role": 3}}):
        assert (kv_role(odd), role_notes(odd)) == ("", ())


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("kv_producer", ("which reads the prompts", "proxy_server_example.py")),
        ("kv_consumer", ("which generates the answers", "proxy_server_example.py")),
        ("kv_both", ("a whole engine", "MooncakeConnectorV1")),
    ],
)
def test_plan_and_up_say_in_one_line_what_a_side_of_a_service_is(capsys, tmp_path, role, words):
    args = {"kv-transfer-config": {**PRODUCER, "kv_role": role}}
    notes = service_of(spec_of("Qwen3-8B", **args), "Qwen3-8B").notes
    (note,) = [note for note in notes if role in note]
    assert all(word in note for word in words)
    _, output = planned(capsys, tmp_path, "Qwen3-8B", 8192, "--json", **args)
    document = read_document(output.out)
    assert note in document["doubts"] and document["request"]["kv_role"] == role
    assert (document["chosen"]["forecast"]["output_tokens_per_s"] == 0) == (role == "kv_producer")
    labelled = any(doubt.startswith("the figures are") for doubt in document["doubts"])
    assert labelled == (role != "kv_both")


def test_layerwise_connectors_have_another_proxy():
    config = {**PRODUCER, "kv_connector": "MooncakeLayerwiseConnector"}
    assert "layerwise_server" in role_notes({"kv-transfer-config": config})[0]


@pytest.mark.parametrize(
    ("model", "chip", "memory", "left"),
    [("bge-m3", "910B4", 0.05, "MiB an NPU"), ("bge-m3", "910B4", 0.06, "MiB an NPU"),
     ("bge-m3", "910B4", 0.9, ""), ("bge-reranker-v2-m3", "310P3", 0.9, "")],
)  # fmt: skip
def test_what_is_left_of_the_budget_is_said_of_encoders_too(model, chip, memory, left):
    text = SPEC.format(model=model, context=1024, args="{}").replace("910B3", chip)
    text = text.replace("memory: 0.9", f"memory: {memory}").replace("tokens: 1024", "tokens: 512")
    spec = parse_spec(text, "spec")
    shape, chip = known(model), chip_named(chip)
    plan = choose(replace(request_for_hosts(spec, shape, chip, "0.18.0"), layout=Layout()))
    found = room(spec, shape, chip, "0.18.0")
    tight = [doubt for doubt in plan.doubts if " fits by " in doubt or "fits, but" in doubt]
    assert found.fits and found.tight is bool(left)
    assert [left in doubt and "by 0 B" not in doubt for doubt in tight] == [True] * bool(left)


def test_a_mask_whose_copies_have_no_room_is_said_without_a_figure():
    text = SPEC.format(model="Qwen3-8B", context=40960, args="{}").replace("910B3", "310P3")
    text = text.replace("npus: 1", "npus: 2").replace("TP1", "TP2").replace("  memory: 0.9\n", "")
    spec = parse_spec(text.replace("0.18.0", "0.23.0"), "spec")
    spec, notes = with_layout(spec, known("Qwen3-8B"), chip_named("310P3"), "0.23.0")
    assert any("three copies of it" in note for note in notes)
    assert not any("by 0 B" in note for note in notes)
