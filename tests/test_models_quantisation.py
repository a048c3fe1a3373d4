"""Bits per number, from every mark that quantisers leave."""

import json
from pathlib import Path

import pytest

from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.known import known
from ropeway.models.quantisation import (
    Quantisation,
    component_of,
    kv_bits_named,
    precision_named,
    recognise_quantisation,
    stored_precision,
)
from ropeway.models.read import read_directory_shape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "torch_dtype": "bfloat16",
}
INT4 = {"weights": {"num_bits": 4, "group_size": 32, "strategy": "group"}, "targets": ["Linear"]}
FP8 = {"weights": {"num_bits": 8, "type": "float"}, "targets": ["model.layers.0.self_attn.q_proj"]}
FP4 = {"weights": {"num_bits": 4, "group_size": 16, "type": "float"}, "targets": []}
EXPERT_TARGETS = ["model.layers.0.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.0.up_proj"]


def stored(marks: dict[str, object] | None, **changed: object) -> dict[str, float]:
    quantised = {} if marks is None else {"quantization_config": marks}
    found = read_shape({**LLAMA, **quantised, **changed}).precision
    return {
        "attention": found.attention,
        "dense": found.dense,
        "routed": found.routed,
        "shared": found.shared,
        "head": found.head,
    }


@pytest.mark.parametrize(
    ("marks", "attention", "dense", "routed"),
    [
        (None, 16, 16, 16),
        ({"quant_method": "fp8"}, 8, 8, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8.002, 8.002, 8.002),
        ({"quant_method": "mxfp4"}, 16, 16, 4.25),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.156, 4.156, 4.156),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8, 8, 8),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, 8, 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5, 4.5, 4.5),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": INT4},
                "ignore": ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|down)_proj.*"],
            },
            16,
            16,
            4.5,
        ),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "config_groups": {"a": FP8, "b": {**FP4, "targets": EXPERT_TARGETS}},
            },
            8,
            16,
            4.5,
        ),
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]}, 8, 8, 8),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.*.self_attn"]}, 16, 8, 8),
    ],
)
def test_the_marks_in_config_json(marks, attention, dense, routed):
    found = stored(marks)
    assert found["attention"] == pytest.approx(attention, abs=0.001)
    assert found["dense"] == pytest.approx(dense, abs=0.001)
    assert found["routed"] == pytest.approx(routed, abs=0.001)
    assert found["head"] == 16


def test_fp4_experts_amid_fp8():
    assert stored({"quant_method": "fp8"}, expert_dtype="fp4")["routed"] == 4.25
    assert stored({"quant_method": "fp8"}, expert_dtype="fp4")["shared"] == 8


def test_a_list_that_leaves_out_the_dense_part_does_not_leave_out_the_experts():
    # as in NVIDIA's Gemma-4-26B-A4B-NVFP4, whose experts are the only thing quantised
    found = stored({"quant_method": "fp8", "ignore": ["model.language_model.layers.7.mlp*"]})
    assert (found["dense"], found["routed"]) == (16, 8)


def test_a_mark_that_cannot_be_read_is_said():
    shape = read_shape({**LLAMA, "quantization_config": {"quant_method": "novelty"}})
    assert shape.precision.scheme == "unknown"
    assert "`quantization_config`" in shape.assumed[0]


def test_float32_takes_32_bits():
    assert set(stored(None, torch_dtype="float32").values()) == {32}


def test_the_description_of_modelslim_decides_by_most_matrices(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    table = {"model_quant_type": "W4A8_DYNAMIC", "model.embed_tokens.weight": "FLOAT"}
    for layer in range(4):
        name = f"model.layers.{layer}"
        table[f"{name}.mlp.experts.0.up_proj.weight"] = "W4A8_DYNAMIC"
        table[f"{name}.mlp.experts.0.up_proj.weight_scale"] = "W4A8_DYNAMIC"
        table[f"{name}.self_attn.o_proj.weight"] = "W8A8_DYNAMIC"
        table[f"{name}.mlp.gate.weight"] = "FLOAT"
    table["model.layers.0.self_attn.o_proj.weight"] = "FLOAT"
    (tmp_path / "quant_model_description.json").write_text(json.dumps(table))
    found = read_directory_shape(tmp_path).precision
    assert (found.attention, found.routed, found.router, found.embedding) == (8, 4, 16, 16)
    assert found.scheme == "w4a8"


def test_modelopts_own_file_is_read_where_config_json_is_silent(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    marks = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(marks))
    assert read_directory_shape(tmp_path).precision.attention == 4.5


@pytest.mark.parametrize(
    ("name", "attention", "dense", "routed"),
    [
        ("bf16", 16, 16, 16),
        ("W8A8", 8, 8, 8),
        ("w8a8c8", 8, 8, 8),
        ("int8", 8, 8, 8),
        ("w4a8", 8, 4, 4),
        ("w4a8c8", 8, 4, 4),
        ("w4a16", 16, 16, 4.5),
        ("mxfp8", 8.25, 8.25, 8.25),
        ("mxfp8-mxfp4", 8.25, 8.25, 4.25),
        ("float16", 16, 16, 16),
    ],
)
def test_names_of_schemes(name, attention, dense, routed):
    found = precision_named(name, known("Qwen3-30B-A3B"))
    assert (found.attention, found.dense, found.routed) == (attention, dense, routed)


def test_w4a16_of_a_dense_model_is_every_matrix():
    assert precision_named("w4a16", known("Qwen3-32B")).attention < 5


def test_auto_is_what_the_model_is_stored_in():
    shape = known("DeepSeek-V4-Flash")
    assert precision_named("auto", shape) is shape.precision


def test_an_unknown_scheme_lists_the_known():
    with pytest.raises(ModelError, match="w3a3") as caught:
        precision_named("w3a3", known("Qwen3-32B"))
    assert caught.value.hint and "`w8a8`" in caught.value.hint


def test_the_cache_in_a_schemes_name():
    assert [kv_bits_named(name) for name in ("w8a8c8", "w4a8", "bf16", "w4a4c4")] == [8, 16, 16, 4]


@pytest.mark.parametrize(
    ("tensor", "component"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.norm.weight", "norm"),
        ("model.layers.0.self_attn.q_norm.weight", "norm"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.linear_attn.in_proj_ba.weight", "attention"),
        ("model.layers.0.mlp.up_proj.weight", "dense"),
        ("model.layers.0.mlp.gate_proj.weight", "dense"),
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "routed"),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", "shared"),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", "routed"),
    ],
)
def test_names_of_tensors(tensor, component):
    assert component_of(tensor) == component


@pytest.mark.parametrize(
    "method",
    ["awq", "gptq", "fp8", "bitsandbytes", "modelopt", "mxfp4", "fbgemm_fp8", "quark", "aqlm"],
)
def test_formats_of_cuda_are_known(method):
    found = recognise_quantisation({"quantization_config": {"quant_method": method.upper()}})
    assert found == Quantisation("cuda", (f"`quantization_config.quant_method` = {method}",))


@pytest.mark.parametrize(
    ("config", "scheme", "evidence"),
    [
        ({}, "none", ()),
        ({"quantization_config": None}, "none", ()),
        ({"quantization_config": {}}, "none", ()),
        ({"quantization_config": "fp8"}, "none", ()),
        (
            {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
            "cuda",
            ("`text_config.quantization_config.quant_method` = fp8",),
        ),
        (
            {"quantization_config": {"load_in_4bit": True}},
            "cuda",
            ("`quantization_config.quant_method` = bitsandbytes",),
        ),
        (
            {"compression_config": {"format": "pack-quantized"}},
            "compressed-tensors",
            ("`compression_config.quant_method` = compressed-tensors",),
        ),
        (
            {"quantization_config": {"quant_method": "ascend"}},
            "ascend",
            ("`quantization_config.quant_method` = ascend",),
        ),
        (
            {"quantization_config": {"quant_method": "brand-new"}},
            "unknown",
            ("`quantization_config.quant_method` = brand-new",),
        ),
        ({"quantization_config": {"bits": 4}}, "unknown", ("`quantization_config`",)),
        (
            {"quantize": "w8a8_dynamic", "moe_quantize": "w4a8_dynamic"},
            "ascend",
            ("`quantize` = w8a8_dynamic", "`moe_quantize` = w4a8_dynamic"),
        ),
    ],
)
def test_a_config_tells_its_quantisation(config, scheme, evidence):
    assert recognise_quantisation(config) == Quantisation(scheme, evidence)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("quant_model_description_w8a8.json", "ascend"),
        ("quant_model_weight_w8a8-00001-of-00004.safetensors", "ascend"),
        ("quantize_config.json", "cuda"),
        ("hf_quant_config.json", "cuda"),
        ("model.safetensors", "none"),
        ("my_quant_model_description.json", "none"),
    ],
)
def test_file_names_tell_it_too(file, expected):
    assert recognise_quantisation({}, ["config.json", file]).scheme == expected


def test_a_description_of_floats_alone_is_no_quantisation():
    files = ["quant_model_description.json"]
    assert recognise_quantisation({}, files, {"FLOAT": 12}).scheme == "none"
    assert recognise_quantisation({}, files, {"FLOAT": 12, "W4A16": 3}).scheme == "ascend"


def test_marks_that_contradict_each_other_are_both_evidence():
    config = {"quantization_config": {"quant_method": "fp8"}}
    found = recognise_quantisation(config, ["quant_model_description.json"], {"W8A8": 9})
    assert found == Quantisation(
        "ascend",
        (
            "`quant_model_description.json`: W8A8 9",
            "`quantization_config.quant_method` = fp8",
        ),
    )


def test_one_reader_of_marks_for_both_questions():
    """What names no method is the same to who asks for bits and to who asks for a scheme."""
    config = {"quantization_config": {"load_in_8bit": True}}
    assert stored_precision(config, "bfloat16").dense == 8
    assert recognise_quantisation(config).scheme == "cuda"


def test_published_configs_are_recognised():
    folder = Path(__file__).parent / "model_configs"
    schemes = {
        path.stem: recognise_quantisation(json.loads(path.read_text())).scheme
        for path in folder.iterdir()
    }
    assert {name for name, scheme in schemes.items() if scheme != "none"} == {
        "MiniMaxAI__MiniMax-M2",
        "deepseek-ai__DeepSeek-R1",
        "deepseek-ai__DeepSeek-V3",
        "deepseek-ai__DeepSeek-V3.2",
        "moonshotai__Kimi-K2-Instruct",
        "openai__gpt-oss-120b",
    }
