"""Bits per number, from every mark that quantisers leave."""

import json

import pytest

from model_files import CONFIGS, SMALL_LLAMA
from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.known import known
from ropeway.models.quantisation import (
    Quantisation,
    component_of,
    precision_named,
    recognise_quantisation,
)
from ropeway.models.read import read_directory_shape
from ropeway.models.shape import Precision

INT4 = {"weights": {"num_bits": 4, "group_size": 32, "strategy": "group"}, "targets": ["Linear"]}
FP8 = {"weights": {"num_bits": 8, "type": "float"}, "targets": ["model.layers.0.self_attn.q_proj"]}
FP4 = {"weights": {"num_bits": 4, "group_size": 16, "type": "float"}, "targets": []}
EXPERT_TARGETS = ["model.layers.0.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.0.up_proj"]


def stored(marks: dict[str, object] | None, **changed: object) -> Precision:
    quantised = {} if marks is None else {"quantization_config": marks}
    return read_shape({**SMALL_LLAMA, **quantised, **changed}).precision


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
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": INT4},
          "ignore": ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|down)_proj.*"]},
         16, 16, 4.5),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
          "config_groups": {"a": FP8, "b": {**FP4, "targets": EXPERT_TARGETS}}}, 8, 16, 4.5),
        ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0.mlp"]}, 8, 8, 8),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.*.self_attn"]}, 16, 8, 8),
        # as in NVIDIA's Gemma-4-26B-A4B-NVFP4, whose experts are the only thing quantised
        ({"quant_method": "fp8", "ignore": ["model.language_model.layers.7.mlp*"]}, 8, 16, 8),
    ],
)  # fmt: skip
def test_the_marks_in_config_json(marks, attention, dense, routed):
    bits = stored(marks)
    expected = pytest.approx((attention, dense, routed, 16), abs=0.001)
    assert (bits.attention, bits.dense, bits.routed, bits.head) == expected


def test_fp4_experts_amid_fp8():
    bits = stored({"quant_method": "fp8"}, expert_dtype="fp4")
    assert (bits.routed, bits.shared) == (4.25, 8)


def test_a_mark_that_cannot_be_read_is_said():
    shape = read_shape({**SMALL_LLAMA, "quantization_config": {"quant_method": "novelty"}})
    assert shape.precision.scheme == "unknown"
    assert "`quantization_config`" in shape.assumed[0]


def test_float32_takes_32_bits():
    bits = stored(None, torch_dtype="float32")
    assert {bits.attention, bits.dense, bits.routed, bits.shared, bits.head} == {32}


def test_the_description_of_modelslim_decides_by_most_matrices(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    table = {"model_quant_type": "W4A8_DYNAMIC", "model.embed_tokens.weight": "FLOAT"}
    for layer in range(4):
        name = f"model.layers.{layer}"
        table[f"{name}.mlp.experts.0.up_proj.weight"] = "W4A8_DYNAMIC"
        table[f"{name}.mlp.experts.0.up_proj.weight_scale"] = "W4A8_DYNAMIC"
        table[f"{name}.self_attn.o_proj.weight"] = "W8A8_DYNAMIC"
        table[f"{name}.mlp.gate.weight"] = "FLOAT"
    table["model.layers.0.self_attn.o_proj.weight"] = "FLOAT"
    (tmp_path / "quant_model_description.json").write_text(json.dumps(table))
    bits = read_directory_shape(tmp_path).precision
    assert (bits.attention, bits.routed, bits.router, bits.embedding) == (8, 4, 16, 16)
    assert bits.scheme == "w4a8"


def test_bits_of_thousands_of_digits_are_none(tmp_path):
    named = f"W{'9' * 5000}A8"
    assert stored({"quant_method": named.lower()}).attention == 16
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    table = {"model.layers.0.mlp.up_proj.weight": named}
    (tmp_path / "quant_model_description.json").write_text(json.dumps(table))
    assert read_directory_shape(tmp_path).precision.dense == 16


def test_modelopts_own_file_is_read_where_config_json_is_silent(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
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
    bits = precision_named(name, known("Qwen3-30B-A3B"))
    assert (bits.attention, bits.dense, bits.routed) == (attention, dense, routed)


def test_w4a16_of_a_dense_model_is_every_matrix_and_auto_is_what_the_model_is_stored_in():
    assert precision_named("w4a16", known("Qwen3-32B")).attention < 5
    shape = known("DeepSeek-V4-Flash")
    assert precision_named("auto", shape) is shape.precision


def test_an_unknown_scheme_lists_the_known():
    with pytest.raises(ModelError, match="w3a3") as caught:
        precision_named("w3a3", known("Qwen3-32B"))
    assert caught.value.hint and "`w8a8`" in caught.value.hint


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


METHOD = "`quantization_config.quant_method` = "


CUDA = ("awq", "gptq", "fp8", "bitsandbytes", "modelopt", "mxfp4", "fbgemm_fp8", "quark", "aqlm")


@pytest.mark.parametrize(
    ("config", "scheme", "evidence"),
    [
        *(({"quantization_config": {"quant_method": method.upper()}},
           "cuda", (f"{METHOD}{method}",)) for method in CUDA),
        *(({"quantization_config": blank}, "none", ()) for blank in (None, {}, "fp8")),
        ({}, "none", ()),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}},
         "cuda", (f"`text_config.{METHOD[1:]}fp8",)),
        ({"quantization_config": {"load_in_4bit": True}}, "cuda", (f"{METHOD}bitsandbytes",)),
        ({"compression_config": {"format": "pack-quantized"}},
         "compressed-tensors", ("`compression_config.quant_method` = compressed-tensors",)),
        ({"quantization_config": {"quant_method": "ascend"}}, "ascend", (f"{METHOD}ascend",)),
        ({"quantization_config": {"quant_method": "novel"}}, "unknown", (f"{METHOD}novel",)),
        ({"quantization_config": {"bits": 4}}, "unknown", ("`quantization_config`",)),
        ({"quantize": "w8a8_dynamic", "moe_quantize": "w4a8_dynamic"},
         "ascend", ("`quantize` = w8a8_dynamic", "`moe_quantize` = w4a8_dynamic")),
    ],
)  # fmt: skip
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
    marks = recognise_quantisation(config, ["quant_model_description.json"], {"W8A8": 9})
    evidence = ("`quant_model_description.json`: W8A8 9", f"{METHOD}fp8")
    assert marks == Quantisation("ascend", evidence)


def test_published_configs_are_recognised():
    schemes = {
        path.stem: recognise_quantisation(json.loads(path.read_text())).scheme
        for path in CONFIGS.iterdir()
    }
    assert {name for name, scheme in schemes.items() if scheme != "none"} == {
        "MiniMaxAI__MiniMax-M2", "deepseek-ai__DeepSeek-R1", "deepseek-ai__DeepSeek-V3",
        "deepseek-ai__DeepSeek-V3.2", "moonshotai__Kimi-K2-Instruct", "openai__gpt-oss-120b",
    }  # fmt: skip
