"""Model directories: published configs against their known numbers, and every way to be broken."""

import json
from pathlib import Path

import pytest

from model_files import LLAMA, config_of, weight_file, write_weights
from ropeway.errors import Exit, ModelError
from ropeway.models.build import read_shape
from ropeway.models.read import read_model
from ropeway.models.stored import read_stored
from ropeway.models.weights import find_weight_files, read_header


def test_a_dense_config_is_read_whole():
    shape = read_shape(LLAMA)
    assert (shape.architecture, shape.model_type) == ("LlamaForCausalLM", "llama")
    assert (shape.layers, shape.hidden_size, shape.intermediate_size) == (32, 4096, 14336)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (32, 8, 128)
    assert (shape.experts, shape.experts_per_token, shape.expert_size) == (0, 0, 0)
    assert (shape.vocab_size, shape.max_positions, shape.dtype) == (128256, 131072, "bfloat16")
    assert not shape.tied_embeddings


def test_the_language_model_is_found_inside_a_vision_model():
    shape = read_shape(config_of("Qwen__Qwen3-VL-30B-A3B-Instruct"))
    assert shape.architecture == "Qwen3VLMoeForConditionalGeneration"
    assert shape.model_type == "qwen3_vl_moe"
    assert shape.expert_size == 768


@pytest.mark.parametrize(
    "spelling",
    [
        {"num_experts": 8, "num_experts_per_tok": 2},
        {"num_local_experts": 8, "experts_per_token": 2},
        {"n_routed_experts": 8, "top_k_experts": 2},
        {"moe_num_experts": [8, 8], "moe_k": 2},
    ],
)
def test_each_spelling_of_the_experts_is_known(spelling):
    shape = read_shape({**LLAMA, **spelling})
    assert (shape.experts, shape.experts_per_token, shape.expert_size) == (8, 2, 14336)


def test_a_family_without_kv_heads_has_one_for_each_head():
    config = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert read_shape(config).kv_heads == 32


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_config_without_a_needed_number_says_which(key):
    config = {name: value for name, value in LLAMA.items() if name != key}
    with pytest.raises(ModelError) as caught:
        read_shape(config, where="m/config.json")
    assert caught.value.where == "m/config.json"
    assert f"`{key}`" in caught.value.evidence[0]
    assert caught.value.exit_code == Exit.REFUSED


@pytest.mark.parametrize("value", ["32", 3.5, -1, True, {"a": 1}])
def test_a_number_that_is_no_whole_number_is_refused(value):
    with pytest.raises(ModelError, match=r"`num_hidden_layers` in `config\.json` is not a whole"):
        read_shape({**LLAMA, "num_hidden_layers": value})


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"num_hidden_layers": -1}, "`num_hidden_layers` in `hf-overrides` is not a whole number"),
        ({"num_hidden_layers": 10**30}, "`num_hidden_layers` in `hf-overrides` is out of reach"),
        ({"num_attention_heads": 0}, "`hf-overrides` does not say: attention heads"),
        ({"vision_config": {"depth": -1}}, "`depth` in `hf-overrides` is not a whole number"),
        ({"text_config": {"vocab_size": 1}}, "has no such part"),
    ],
)
def test_a_fault_of_the_overrides_is_the_specs(changed, what):
    with pytest.raises(ModelError) as caught:
        read_shape(LLAMA, "m/config.json", changed)
    assert what in caught.value.what and caught.value.where == "serve.engine_args, hf-overrides"
    with pytest.raises(ModelError) as caught:
        read_shape({**LLAMA, "hidden_size": 0}, "m/config.json", {"num_hidden_layers": 2})
    assert caught.value.where == "m/config.json"


TENSORS = {"a": ("BF16", [2, 4], 16), "b": ("F32", [2], 8)}


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    """A directory with a config and one file of weights."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    write_weights(tmp_path / "model.safetensors", TENSORS)
    return tmp_path


def write_index(folder: Path, **weight_map: str) -> None:
    index = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(index)


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert caught.value.exit_code == Exit.REFUSED
    assert caught.value.where and str(path) in caught.value.where
    return caught.value


def test_shards_are_added_up_by_the_index_and_nothing_else_counts(model):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name in names:
        write_weights(model / name, TENSORS)
    write_index(model, a=names[0], b=names[1], c=names[0])
    shape = read_model(model)
    assert shape.weight_bytes == 48
    assert [path.name for path in shape.weight_files] == names


def test_a_header_gives_each_tensors_place_in_the_file(model):
    entries = read_header(model / "model.safetensors")
    assert list(entries) == ["a", "b"]
    assert entries["a"].shape == (2, 4)
    assert (model / "model.safetensors").stat().st_size == entries["b"].end
    assert entries["b"].begin == entries["a"].end == entries["a"].begin + 16


def test_what_is_no_model_directory_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere").what == "the model directory does not exist"
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "not a model directory" in refusal(file).what
    error = refusal(tmp_path)
    assert error.what == "the model directory has no `config.json`"
    assert error.hint


@pytest.mark.parametrize(
    ("content", "evidence"),
    [
        *((text, f"{len(text)} bytes") for text in (b"", b"{", b"\xff\xfe", b"<html>404</html>")),
        (b"[1]", "it is a list"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused_with_what_it_is(tmp_path, content, evidence):
    (tmp_path / "config.json").write_bytes(content)
    assert refusal(tmp_path).evidence[0].startswith(evidence)


def test_a_directory_without_safetensors_says_what_it_holds(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert refusal(model).evidence == ("it holds: config.json, pytorch_model.bin",)


@pytest.mark.parametrize("name", ["../two.safetensors", "{}/two.safetensors", "a/../../two.bin"])
@pytest.mark.parametrize("read", [read_model, read_stored])
def test_a_file_outside_of_the_folder_is_refused_before_it_is_opened(model, read, name):
    name = name.format(model.parent)
    (model.parent / "two.safetensors").write_bytes(b"\xff" * 100)
    write_index(model, a="model.safetensors", b=name)
    with pytest.raises(ModelError, match="names a file outside of its folder") as caught:
        read(model)
    assert caught.value.evidence == (f"it names: {name}",)


def test_a_missing_shard_is_named(model):
    write_index(model, a="model.safetensors", b="two.safetensors")
    error = refusal(model)
    assert error.what.startswith("1 of 2 weight files")
    assert error.evidence == ("missing: two.safetensors",)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match="has no `weight_map`"):
        find_weight_files(tmp_path)


def test_every_truncation_is_noticed(model):
    file = model / "model.safetensors"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        error = refusal(model)
        assert error.what == "a weight file is truncated"
        assert error.evidence[0].startswith(f"size on disk: {length} bytes")
    assert error.evidence == (
        f"size on disk: {length} bytes ({length} B)",
        f"its header needs: {len(whole)} bytes ({len(whole)} B)",
    )


@pytest.mark.parametrize(
    ("content", "what", "evidence"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 100, "not a safetensors", ""),
        ((5).to_bytes(8, "little") + b"{nope", "not a safetensors", ""),
        ((2).to_bytes(8, "little") + b"[]", "not a safetensors", ""),
        (weight_file({}, 1), "longer than its header says", ""),
        *((weight_file({"a": row}, 8), "header is broken", "tensor `a`") for row in (
            {"dtype": "F32", "shape": [2]},
            {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
            {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
            "F32",
        )),
    ],
)  # fmt: skip
def test_something_else_with_that_name_is_refused(model, content, what, evidence):
    (model / "model.safetensors").write_bytes(content)
    error = refusal(model)
    assert what in error.what
    assert error.evidence[0].startswith(evidence)
