"""A model's directory as a host's shell shows it, and how its weights are quantised."""

import hashlib
import json
import struct
from pathlib import Path

import pytest

from ropeway.facts.quantisation import Quantisation, name_hint, recognise_quantisation
from ropeway.facts.storage import (
    BrokenFile,
    FileHash,
    FileHashes,
    ModelDirectory,
    ModelFile,
    WeightIndex,
    hashes_command,
    model_directory_command,
    parse_hashes,
    parse_model_directory,
)
from ropeway.hosts.local import LocalHost

RECORDINGS = Path(__file__).parent / "recordings"
CONFIGS = Path(__file__).parent / "model_configs"


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


def shard(number: int, of: int = 4) -> str:
    return f"model-{number:05}-of-{of:05}.safetensors"


def write_weights(path: Path, tensors: dict[str, int]) -> int:
    """A safetensors file of zeros, tensor → bytes; returns its size."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, size in tensors.items():
        table[name] = {"dtype": "I8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(table, separators=(",", ":")).encode()
    return path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(end))


def listed(path: Path) -> ModelDirectory:
    """The directory as this machine's shell shows it."""
    reading = parse_model_directory(LocalHost().run(model_directory_command(str(path))).stdout)
    assert (reading.state, reading.unread) == ("ok", ())
    assert reading.value is not None
    return reading.value


def test_faults_of_a_directory_are_all_seen():
    reading = parse_model_directory(recording("model_directory_faults.txt"))
    assert reading.state == "ok"
    assert reading.value == ModelDirectory(
        path="/models/Qwen3-tiny",
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": 64,
            "num_hidden_layers": 2,
        },
        files=(
            ModelFile("config.json", 123),
            ModelFile("generation_config.json", 3),
            ModelFile(shard(1), 414, 414),
            ModelFile(shard(2), 159, 259),
            ModelFile(shard(3), 65),
            ModelFile(shard(4) + ".incomplete", 3),
            ModelFile("model.safetensors.index.json", 394),
            ModelFile("tokenizer.json", 2),
        ),
        indexes=(
            WeightIndex(
                "model.safetensors.index.json",
                {shard(1): 2, shard(2): 1, shard(3): 1, shard(4): 1},
                1024,
            ),
        ),
        missing=(shard(4),),
        short=(ModelFile(shard(2), 159, 259),),
        long=(),
        broken=(BrokenFile(shard(3), "a pointer of Git LFS, not the file itself"),),
        dangling=("merges.txt",),
        unfinished=(shard(4) + ".incomplete",),
        quantisation=Quantisation("none", None),
        description={},
        has_tokenizer=True,
        has_generation_config=True,
    )


def test_a_checkpoint_of_modelslim_is_recognised():
    reading = parse_model_directory(recording("model_directory_w8a8.txt"))
    assert reading.state == "ok" and reading.value is not None
    directory = reading.value
    assert directory.quantisation == Quantisation(
        "ascend",
        "W8A8_DYNAMIC",
        (
            "`quant_model_description.json`: FLOAT 1, W8A8_DYNAMIC 2",
            "`quant_model_weight_w8a8.safetensors`",
        ),
    )
    assert directory.description == {
        "model_quant_type": "W8A8_DYNAMIC",
        "version": "1.0.0",
        "group_size": "0",
    }
    assert directory.broken == (BrokenFile("empty.safetensors", "empty, or not readable"),)
    assert (directory.missing, directory.short) == ((), ())


def test_a_listing_cut_off_is_partial():
    text = recording("model_directory_faults.txt")
    reading = parse_model_directory(text[: text.index("== headers")])
    assert reading.state == "partial" and reading.value is not None
    assert reading.value.missing == (shard(4),)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("/models/x: No such file or directory\n", "absent"),
        ("/models/x: Permission denied\n", "error"),
        ("", "unknown"),
        ("== files\n1 81a4 a\n", "unknown"),
    ],
)
def test_a_directory_that_cannot_be_listed(text, state):
    assert parse_model_directory(text).state == state


def test_the_shell_lists_what_is_there(tmp_path):
    size = write_weights(tmp_path / shard(1, 2), {"a.weight": 64, "b.weight": 32})
    write_weights(tmp_path / "more.safetensors", {"c.weight": 8})
    with (tmp_path / "more.safetensors").open("ab") as file:
        file.write(b"too much")
    index = {"metadata": {"total_size": 96}, "weight_map": {"a.weight": shard(1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text('{"model_type": "a\\"b"}')
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a file").write_text("x")
    directory = listed(tmp_path)
    assert directory.config == {"model_type": 'a"b'}
    assert {file.name for file in directory.files} == {
        "a file",
        "config.json",
        "model.safetensors.index.json",
        shard(1, 2),
        "more.safetensors",
    }
    assert ModelFile(shard(1, 2), size, size) in directory.files
    assert [file.name for file in directory.long] == ["more.safetensors"]
    assert (directory.missing, directory.short, directory.broken) == ((), (), ())


@pytest.mark.parametrize("keep", [1.0, 0.9, 0.5, 0.1, 0.01])
def test_a_shard_that_ends_too_early_is_short(tmp_path, keep):
    whole = write_weights(tmp_path / "model.safetensors", {"a": 10_000, "b": 5_000})
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(whole * keep)])
    directory = listed(tmp_path)
    assert [file.name for file in directory.short] == ([] if keep == 1 else ["model.safetensors"])
    if keep >= 0.1:  # the header itself is whole
        assert directory.files[-1].expected_bytes == whole


def test_links_into_a_cache_are_followed(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    size = write_weights(blobs / "0a1b", {"a": 16})
    (snapshot / "model.safetensors").symlink_to("../blobs/0a1b")
    (snapshot / "tokenizer.model").symlink_to("../blobs/gone")
    directory = listed(snapshot)
    assert directory.files == (ModelFile("model.safetensors", size, size),)
    assert directory.dangling == ("tokenizer.model",)
    assert not directory.has_tokenizer


def test_an_empty_directory_has_nothing(tmp_path):
    directory = listed(tmp_path)
    assert (directory.files, directory.config, directory.dangling) == ((), None, ())


def test_without_an_index_the_names_tell_what_is_missing(tmp_path):
    for number in (1, 3):
        write_weights(tmp_path / shard(number, 3), {"a": 1})
    assert listed(tmp_path).missing == (shard(2, 3),)


def test_a_config_that_is_no_json_is_said(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    reading = parse_model_directory(LocalHost().run(model_directory_command(str(tmp_path))).stdout)
    assert reading.state == "partial" and reading.value is not None
    assert (reading.value.config, reading.unread) == (None, ("config.json is not JSON",))


def test_a_directory_that_is_not_there_is_absent(tmp_path):
    result = LocalHost().run(model_directory_command(str(tmp_path / "it's; echo $(no)")))
    assert parse_model_directory(result.stdout).state == "absent"


def test_contents_are_hashed(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "a folder").mkdir()
    (tmp_path / "b c").write_bytes(b"")
    reading = parse_hashes(LocalHost().run(hashes_command(str(tmp_path))).stdout)
    assert reading.state == "ok"
    assert reading.value == FileHashes(
        (
            FileHash("b c", hashlib.sha256(b"").hexdigest()),
            FileHash("config.json", hashlib.sha256(b"{}").hexdigest()),
        )
    )


def test_hashes_of_a_recording():
    value = parse_hashes(recording("model_hashes.txt")).value
    assert value is not None and len(value.hashes) == 5
    assert value.hashes[1] == FileHash("empty.safetensors", hashlib.sha256(b"").hexdigest())


@pytest.mark.parametrize(
    "method",
    ["awq", "gptq", "fp8", "bitsandbytes", "modelopt", "mxfp4", "fbgemm_fp8", "quark", "aqlm"],
)
def test_formats_of_cuda_are_known(method):
    found = recognise_quantisation({"quantization_config": {"quant_method": method.upper()}})
    said = f"`quantization_config.quant_method` = {method}"
    assert found == Quantisation("cuda", method, (said,))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, Quantisation("none", None)),
        ({"quantization_config": None}, Quantisation("none", None)),
        ({"quantization_config": {}}, Quantisation("none", None)),
        ({"quantization_config": "fp8"}, Quantisation("none", None)),
        (
            {"text_config": {"quantization_config": {"quant_method": "fp8"}}},
            Quantisation("cuda", "fp8", ("`text_config.quantization_config.quant_method` = fp8",)),
        ),
        (
            {"quantization_config": {"load_in_4bit": True}},
            Quantisation(
                "cuda", "bitsandbytes", ("`quantization_config.quant_method` = bitsandbytes",)
            ),
        ),
        (
            {"quantization_config": {"quant_method": "compressed-tensors"}},
            Quantisation(
                "compressed-tensors",
                "compressed-tensors",
                ("`quantization_config.quant_method` = compressed-tensors",),
            ),
        ),
        (
            {"quantization_config": {"quant_method": "ascend"}},
            Quantisation("ascend", "ascend", ("`quantization_config.quant_method` = ascend",)),
        ),
        (
            {"quantization_config": {"quant_method": "brand-new"}},
            Quantisation(
                "unknown", "brand-new", ("`quantization_config.quant_method` = brand-new",)
            ),
        ),
        (
            {"quantize": "w8a8_dynamic", "moe_quantize": "w4a8_dynamic"},
            Quantisation(
                "ascend",
                "w8a8_dynamic",
                ("`quantize` = w8a8_dynamic", "`moe_quantize` = w4a8_dynamic"),
            ),
        ),
    ],
)
def test_a_config_tells_its_quantisation(config, expected):
    assert recognise_quantisation(config) == expected


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
    assert recognise_quantisation({}, files, {"FLOAT": 12, "W4A16": 3}).method == "W4A16"


def test_marks_that_contradict_each_other_are_both_told():
    config = {"quantization_config": {"quant_method": "fp8"}}
    found = recognise_quantisation(config, ["quant_model_description.json"], {"W8A8": 9})
    assert found == Quantisation(
        "ascend",
        "W8A8",
        (
            "`quant_model_description.json`: W8A8 9",
            "`quantization_config.quant_method` = fp8",
        ),
        conflict="`quantization_config.quant_method` = fp8",
    )


def test_published_configs_are_recognised():
    found = {
        path.stem: recognise_quantisation(json.loads(path.read_text()))
        for path in CONFIGS.iterdir()
    }
    quantised = {name: one.method for name, one in found.items() if one.scheme != "none"}
    assert quantised == {
        "MiniMaxAI__MiniMax-M2": "fp8",
        "deepseek-ai__DeepSeek-R1": "fp8",
        "deepseek-ai__DeepSeek-V3": "fp8",
        "deepseek-ai__DeepSeek-V3.2": "fp8",
        "moonshotai__Kimi-K2-Instruct": "fp8",
        "openai__gpt-oss-120b": "mxfp4",
    }


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Qwen/Qwen3-32B-AWQ", "AWQ"),
        ("Qwen3-235B-A22B-FP8", "FP8"),
        ("/models/DeepSeek-R1-W8A8/", "W8A8"),
        ("Qwen2-7B-Instruct-GPTQ-Int4", "GPTQ"),
        ("Qwen3-32B", None),
        ("fp8", None),
    ],
)
def test_a_name_gives_a_hint(name, hint):
    assert name_hint(name) == hint
