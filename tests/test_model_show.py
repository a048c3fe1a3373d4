"""`ropeway model show`: a directory, a config.json or a name in; a screen or a document out."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from json_documents import read_document
from model_files import CONFIGS, SMALL_LLAMA, write_weights
from ropeway.cli.main import exit_code
from ropeway.errors import Exit, ModelError
from ropeway.models.build import read_shape
from ropeway.models.stored import StoredWeights, compare, read_stored
from ropeway.models.weights import INDEX

Captured = pytest.CaptureFixture[str]
TINY = SMALL_LLAMA | {"tie_word_embeddings": False}
# embeddings and head 2 × 256 × 64; a layer 64 × (64 + 32 + 32 + 64) + 3 × 64 × 128 + 2 × 64;
# the last norm 64
NUMBERS = 32_768 + 2 * (12_288 + 24_576 + 128) + 64


def run(*args: str) -> int:
    return exit_code(["model", "show", *args])


def document(capsys: Captured, *args: str) -> Any:
    assert run(*args, "--json") == Exit.OK
    return read_document(capsys.readouterr().out)


def directory(folder: Path, numbers: int = NUMBERS) -> Path:
    (folder / "config.json").write_text(json.dumps(TINY))
    names = ("model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.weight")
    sizes = zip(names, (10_000, numbers - 10_000), strict=True)
    tensors = {name: ("BF16", [size], 2 * size) for name, size in sizes}
    write_weights(folder / "model.safetensors", tensors)
    return folder


def test_the_screen_of_a_directory(tmp_path: Path, capsys: Captured) -> None:
    assert run(str(directory(tmp_path))) == Exit.OK
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "LlamaForCausalLM"
    shown = lines[lines.index("") :]
    assert shown == [
        "",
        "parameters 107 k, language model with embeddings",
        "74 k without embeddings",
        "vocabulary 256 tokens × 64, untied output head",
        "context 512 tokens",
        "",
        "stored as bf16, 16 bits",
        "weights 208.6 KiB counted from config.json",
        "208.6 KiB according to the headers of 1 file",
        "agrees: +0.00% from 208.6 KiB (language model)",
        "KV cache 256 B per token at 16 bits",
        "",
        "parameters",
        "layers kind each",
        "2 full attention: 4 heads of 16, 2 KV heads 37 k",
        "dense, 128 wide",
        "2 in total 74 k",
    ]


def test_a_disagreement_is_said_with_its_numbers(tmp_path: Path, capsys: Captured) -> None:
    run(str(directory(tmp_path, numbers=2 * NUMBERS)))
    assert "DISAGREES: +100.00% from 208.6 KiB" in capsys.readouterr().out


def test_the_document_of_a_directory(tmp_path: Path, capsys: Captured) -> None:
    shape = document(capsys, str(directory(tmp_path)))
    assert shape["schema"] == 1
    assert (shape["layers"], shape["heads"], shape["kv_heads"], shape["head_dim"]) == (2, 4, 2, 16)
    assert shape["parameters"]["language"] == NUMBERS
    assert shape["weight_bytes"] == shape["counted_weight_bytes"] == 2 * NUMBERS
    assert shape["weight_files"] == [str(tmp_path / "model.safetensors")]
    sizes = {"embedding": 20_000, "attention": 2 * (NUMBERS - 10_000)}
    assert shape["stored"]["component_bytes"] == sizes
    assert shape["stored"]["numbers"] == NUMBERS
    assert (shape["stored"]["agrees"], shape["stored"]["difference"]) == (True, 0)
    assert shape["kv_bytes_per_token"] == 256
    (block,) = shape["blocks"]
    assert (block["count"], block["feed"]["dense_width"]) == (2, 128)


def test_a_bare_config_needs_no_weights(capsys: Captured) -> None:
    shape = document(capsys, str(CONFIGS / "Qwen__Qwen3-30B-A3B.json"))
    assert shape["parameters"]["language"] == 30_532_122_624
    assert (shape["weight_bytes"], shape["stored"]) == (0, None)


def test_a_directory_may_hold_config_json_alone(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert document(capsys, str(tmp_path))["stored"] is None


def test_an_index_without_its_files_gives_the_true_size(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    index = {"metadata": {"total_size": 2 * NUMBERS + 10}, "weight_map": {"a": "gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shape = document(capsys, str(tmp_path))
    assert shape["stored"]["total_bytes"] == 2 * NUMBERS + 10
    assert "not all files are here" in shape["stored"]["source"]
    assert shape["weight_files"] == []


def test_a_published_name_needs_nothing_here(capsys: Captured) -> None:
    assert run("Qwen3-30B-A3B-W8A8") == Exit.OK
    out = capsys.readouterr().out
    assert "Qwen/Qwen3-30B-A3B, as read in github.com/Ascend/msmodeling" in out
    assert "30.53 B, language model with embeddings" in out
    assert "3.35 B per token, 2.73 B without embeddings" in out
    bits = "w8a8; 8 bits: attention, dense layers, experts, shared experts; 16 bits: output head"
    assert bits in " ".join(out.split())
    assert "48  full attention: 32 heads of 128, 4 KV heads" in out
    assert "8 of 128 experts, 768" in out


@pytest.mark.parametrize(
    "name", ["DeepSeek-V4-Pro", "Kimi-K3", "MiniMax-M3", "Nemotron-H-56B", "LongCat-Flash"]
)
def test_every_kind_fits_into_80_columns(name: str, capsys: Captured) -> None:
    assert run(name, "--layout", "TP8xPP2") == Exit.OK
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_a_layout_shows_what_one_npu_holds(capsys: Captured) -> None:
    shape = document(capsys, "Qwen3-30B-A3B", "--layout", "tp8xpp2+ep")
    assert shape["layout"] == "TP8×PP2+EP"
    assert shape["layout_problems"] == []
    assert [stage["layers"] for stage in shape["stages"]] == [24, 24]
    assert [stage["experts"] for stage in shape["stages"]] == [16, 16]
    assert [stage["kv_bytes_per_token"] for stage in shape["stages"]] == [12_288, 12_288]


def test_a_layout_that_vllm_refuses_is_shown_with_the_reason(capsys: Captured) -> None:
    assert run("Qwen3-30B-A3B", "--layout", "TP3") == Exit.NO
    out = capsys.readouterr().out
    assert "tensor parallel 3 does not divide 32 attention heads" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["Qwen3-33B"], "neither a path nor a known model"),
        (["Qwen3-30B"], "did you mean `Qwen/Qwen3-30B-A3B`"),
        (["Qwen3-33B"], "did you mean `Qwen/Qwen3-32B`"),
        (["./nowhere"], "the model directory does not exist"),
        (["/data/Qwen3-30B-A3B"], "ropeway model show Qwen3-30B-A3B"),
        (["Qwen3-32B", "--layout", "TPX"], "is not a layout"),
    ],
)
def test_what_is_not_there_is_refused(args: list[str], words: str, capsys: Captured) -> None:
    assert run(*args) == Exit.REFUSED
    assert words in capsys.readouterr().err


def test_stored_bytes_are_compared_with_the_parts_that_come_nearest() -> None:
    config = {**TINY, "num_nextn_predict_layers": 1}
    shape = read_shape(config)
    with_mtp = 2 * (NUMBERS + sum(weight.numbers for weight in shape.mtp_outer))
    with_mtp += 2 * sum(weight.numbers for weight in shape.mtp[0].weights)
    nearest = compare(shape, StoredWeights("a file", with_mtp, {}))
    assert (nearest.parts, nearest.difference) == ("language model and MTP layers", 0)
    assert compare(shape, StoredWeights("a file", 2 * NUMBERS, {})).parts == "language model"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 200_000),
        ("num_hidden_layers", 10**15),
        ("layer_types", ["full_attention"] * 1_000_000),
        ("hybrid_override_pattern", "M*" * 1_000_000),
        ("moe_layers_enum", "1," * 1_000_000),
        ("layers_block_type", ["mlp"] * 2000),
        ("block_configs", [{}] * 2000),
        ("vocab_size", 10**39),
    ],
)
def test_what_no_model_has_is_refused_with_its_key(key: str, value: object) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    with pytest.raises(ModelError, match=f"`{key}`.*no model has more than"):
        read_shape(SMALL_LLAMA | experts | {key: value})


def test_patterns_that_take_for_ever_leave_the_bits_unknown() -> None:
    for ignore in (
        [r"re:(\w+\.?)+!"],
        ["re:" + ".*" * 20 + "!"],
        ["*a" + str(n) for n in range(20_000)],
    ):
        marks = {"quant_method": "fp8", "ignore": ignore}
        shape = read_shape(SMALL_LLAMA | {"quantization_config": marks})
        assert shape.precision.scheme == "unknown"


HOSTILE = {
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "huge number": b'{"num_hidden_layers": 1' + b"0" * 5000 + b"}",
    "half a character": json.dumps(SMALL_LLAMA | {"model_type": "\ud800"}).encode(),
    "not text": b'{"model_type": "\xff"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "name",
    ["config.json", "quant_model_description.json", "hf_quant_config.json", INDEX, "x.safetensors"],
)
def test_no_file_of_a_model_makes_a_bug_of_it(name: str, text: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    header = len(text).to_bytes(8, "little") if name.endswith("safetensors") else b""
    (tmp_path / name).write_bytes(header + text)
    assert run(str(tmp_path), "--json") in (Exit.OK, Exit.REFUSED)


@pytest.mark.parametrize(
    "name", ["config.json", "quant_model_description.json", INDEX, "x.safetensors"]
)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(
    name: str, kind: str, tmp_path: Path, capsys: Captured
) -> None:
    file = tmp_path / name
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.mkdir()
    assert run(str(tmp_path)) == Exit.REFUSED
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("size", [float("nan"), float("inf"), -1, True, "7", 10**30])
def test_a_total_size_that_is_none_is_not_shown(size: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL_LLAMA))
    index = {"metadata": {"total_size": size}, "weight_map": {"a": "x" * 300, "b": "b\0"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    assert read_stored(tmp_path) is None
