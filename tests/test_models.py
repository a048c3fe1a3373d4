"""Model directories: published configs against their known numbers, and every way to be broken."""

import json
from pathlib import Path

import pytest

from ropeway.errors import Exit, ModelError
from ropeway.models.build import kv_bytes_per_token, read_shape
from ropeway.models.read import read_model
from ropeway.models.weights import find_weight_files, read_header

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
}
QWEN_VL = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"],
    "model_type": "qwen3_vl_moe",
    "tie_word_embeddings": False,
    "text_config": {
        "dtype": "bfloat16",
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "model_type": "qwen3_vl_moe_text",
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "vocab_size": 151936,
    },
}
HYBRID = {
    "hidden_size": 2048,
    "head_dim": 256,
    "num_attention_heads": 16,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "intermediate_size": 5120,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
    "vocab_size": 248320,
}


CONFIGS = Path(__file__).parent / "model_configs"
# layers, heads, KV heads, experts, experts per token, numbers kept per token by all layers;
# from the model cards and papers. DeepSeek-V3.2 and GLM-5 keep 128 more in each layer for the
# indexer; of Gemma 4, 25 layers keep 2 × 8 heads × 256 and 5 keep 2 × 2 × 512.
PUBLISHED = {
    "MiniMaxAI__MiniMax-M2": (62, 48, 8, 256, 8, 62 * 2048),
    "Qwen__Qwen2.5-7B-Instruct": (28, 28, 4, 0, 0, 28 * 1024),
    "Qwen__Qwen3-0.6B": (28, 16, 8, 0, 0, 28 * 2048),
    "Qwen__Qwen3-1.7B": (28, 16, 8, 0, 0, 28 * 2048),
    "Qwen__Qwen3-4B": (36, 32, 8, 0, 0, 36 * 2048),
    "Qwen__Qwen3-8B": (36, 32, 8, 0, 0, 36 * 2048),
    "Qwen__Qwen3-14B": (40, 40, 8, 0, 0, 40 * 2048),
    "Qwen__Qwen3-32B": (64, 64, 8, 0, 0, 64 * 2048),
    "Qwen__Qwen3-30B-A3B": (48, 32, 4, 128, 8, 48 * 1024),
    "Qwen__Qwen3-235B-A22B": (94, 64, 4, 128, 8, 94 * 1024),
    "Qwen__Qwen3-Coder-480B-A35B-Instruct": (62, 96, 8, 160, 8, 62 * 2048),
    "Qwen__Qwen3-Next-80B-A3B-Instruct": (48, 16, 2, 512, 10, 12 * 1024),
    "Qwen__Qwen3-VL-30B-A3B-Instruct": (48, 32, 4, 128, 8, 48 * 1024),
    "Qwen__Qwen3-VL-32B-Instruct": (64, 64, 8, 0, 0, 64 * 2048),
    "Qwen__Qwen3.5-35B-A3B": (40, 16, 2, 256, 8, 10 * 1024),
    "deepseek-ai__DeepSeek-V2-Lite": (27, 16, 16, 64, 6, 27 * 576),
    "deepseek-ai__DeepSeek-V3": (61, 128, 128, 256, 8, 61 * 576),
    "deepseek-ai__DeepSeek-R1": (61, 128, 128, 256, 8, 61 * 576),
    "deepseek-ai__DeepSeek-V3.2": (61, 128, 128, 256, 8, 61 * (576 + 128)),
    "google__gemma-4-26B-A4B": (30, 16, 8, 128, 8, 25 * 4096 + 5 * 2048),
    "meta-llama__Llama-2-7b-hf": (32, 32, 32, 0, 0, 32 * 8192),
    "meta-llama__Llama-3.1-8B": (32, 32, 8, 0, 0, 32 * 2048),
    "meta-llama__Llama-3.1-70B": (80, 64, 8, 0, 0, 80 * 2048),
    "mistralai__Mistral-Nemo-Instruct-2407": (40, 32, 8, 0, 0, 40 * 2048),
    "mistralai__Mixtral-8x7B-v0.1": (32, 32, 8, 8, 2, 32 * 2048),
    "moonshotai__Kimi-K2-Instruct": (61, 64, 64, 384, 8, 61 * 576),
    "openai__gpt-oss-120b": (36, 64, 8, 128, 4, 36 * 1024),
    "zai-org__GLM-5": (78, 64, 64, 256, 8, 78 * (576 + 128)),
}


def test_every_published_config_at_hand_is_in_the_table():
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_published_numbers(name):
    shape = read_shape(json.loads((CONFIGS / f"{name}.json").read_text()))
    assert (
        shape.layers,
        shape.heads,
        shape.kv_heads,
        shape.experts,
        shape.experts_per_token,
        kv_bytes_per_token(shape, 1),
    ) == PUBLISHED[name]


def test_a_dense_config_is_read_whole():
    shape = read_shape(LLAMA)
    assert (shape.architecture, shape.model_type) == ("LlamaForCausalLM", "llama")
    assert (shape.layers, shape.hidden_size, shape.intermediate_size) == (32, 4096, 14336)
    assert (shape.heads, shape.kv_heads, shape.head_dim) == (32, 8, 128)
    assert (shape.experts, shape.experts_per_token, shape.expert_size) == (0, 0, 0)
    assert (shape.vocab_size, shape.max_positions, shape.dtype) == (128256, 131072, "bfloat16")
    assert not shape.tied_embeddings


def test_the_language_model_is_found_inside_a_vision_model():
    shape = read_shape(QWEN_VL)
    assert shape.architecture == "Qwen3VLMoeForConditionalGeneration"
    assert shape.model_type == "qwen3_vl_moe"
    assert (shape.layers, shape.heads, shape.kv_heads) == (48, 32, 4)
    assert (shape.experts, shape.experts_per_token, shape.expert_size) == (128, 8, 768)


@pytest.mark.parametrize(
    ("spelling", "per_token"),
    [
        ({"num_experts": 8, "num_experts_per_tok": 2}, 2),
        ({"num_local_experts": 8, "experts_per_token": 2}, 2),
        ({"n_routed_experts": 8, "top_k_experts": 2}, 2),
        ({"moe_num_experts": [8, 8], "moe_k": 2}, 2),
    ],
)
def test_each_spelling_of_the_experts_is_known(spelling, per_token):
    shape = read_shape({**LLAMA, **spelling})
    assert (shape.experts, shape.experts_per_token) == (8, per_token)
    assert shape.expert_size == 14336


def test_a_family_without_kv_heads_has_one_for_each_head():
    config = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
    assert read_shape(config).kv_heads == 32


def test_kv_bytes_of_llama_8b_are_128_kib_a_token():
    # 2 (key and value) x 32 layers x 8 heads x 128 numbers x 2 bytes
    assert kv_bytes_per_token(read_shape(LLAMA), 2) == 131072


def test_kv_bytes_of_deepseek_are_the_latents():
    # DeepSeek-V2 paper, table 1: (512 + 64) numbers a layer; 61 layers of 2 bytes here
    assert kv_bytes_per_token(read_shape(DEEPSEEK), 2) == 70272
    assert read_shape(DEEPSEEK).head_dim == 192


def test_linear_attention_layers_keep_no_cache():
    assert read_shape(HYBRID).kv_layers == 10
    by_interval = {**HYBRID, "layer_types": None, "full_attention_interval": 4}
    assert read_shape(by_interval).kv_layers == 10


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


def model_directory(folder: Path, config: object = LLAMA, files: tuple[str, ...] = ()) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    for name in files:
        write_safetensors(folder / name)
    return folder


def write_safetensors(path: Path, header: object = None, data: int = 24) -> None:
    table = header or {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
    }
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * data)


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert caught.value.exit_code == Exit.REFUSED
    assert caught.value.where and str(path) in caught.value.where
    return caught.value


def test_weight_bytes_are_the_tensors_without_the_header(tmp_path):
    shape = read_model(model_directory(tmp_path, files=("model.safetensors",)))
    assert shape.weight_bytes == 24
    assert shape.weight_files == (tmp_path / "model.safetensors",)


def test_shards_are_added_up_by_the_index_and_nothing_else_counts(tmp_path):
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    model_directory(tmp_path, files=(*names, "consolidated.safetensors"))
    index = {"weight_map": {"a": names[0], "b": names[1], "c": names[0]}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shape = read_model(tmp_path)
    assert shape.weight_bytes == 48
    assert [path.name for path in shape.weight_files] == list(names)


def test_a_header_gives_each_tensors_place_in_the_file(tmp_path):
    write_safetensors(tmp_path / "m.safetensors")
    entries = read_header(tmp_path / "m.safetensors")
    assert list(entries) == ["a", "b"]
    assert entries["a"].shape == (2, 4)
    assert (tmp_path / "m.safetensors").stat().st_size == entries["b"].end
    assert entries["b"].begin == entries["a"].end == entries["a"].begin + 16


def test_a_missing_directory_is_refused(tmp_path):
    assert refusal(tmp_path / "nowhere").what == "the model directory does not exist"


def test_a_file_in_place_of_a_directory_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert "not a model directory" in refusal(file).what


def test_a_directory_without_config_is_refused(tmp_path):
    error = refusal(tmp_path)
    assert error.what == "the model directory has no `config.json`"
    assert error.hint


@pytest.mark.parametrize("text", ["", "{", "\xff\xfe", "<html>404</html>"])
def test_a_config_that_is_not_json_is_refused_with_its_size(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    error = refusal(tmp_path)
    assert error.what == "`config.json` is not JSON"
    assert error.evidence[0].startswith(f"{len(text)} bytes")


def test_a_config_that_is_a_list_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    assert refusal(tmp_path).evidence == ("it is a list",)


def test_a_directory_without_safetensors_says_what_it_holds(tmp_path):
    model_directory(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert refusal(tmp_path).evidence == ("it holds: config.json, pytorch_model.bin",)


def test_a_missing_shard_is_named(tmp_path):
    model_directory(tmp_path, files=("one.safetensors",))
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refusal(tmp_path)
    assert error.what.startswith("1 of 2 weight files")
    assert error.evidence == ("missing: two.safetensors",)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(tmp_path, content):
    model_directory(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match="has no `weight_map`"):
        find_weight_files(tmp_path)


def test_every_truncation_is_noticed(tmp_path):
    model_directory(tmp_path, files=("model.safetensors",))
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        error = refusal(tmp_path)
        assert error.what == "a weight file is truncated"
        assert f"size on disk: {length} bytes" in error.evidence[0]


def test_a_truncated_file_shows_both_sizes(tmp_path):
    model_directory(tmp_path, files=("model.safetensors",))
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert refusal(tmp_path).evidence == (
        f"size on disk: {len(whole) - 5} bytes ({len(whole) - 5} B)",
        f"its header needs: {len(whole)} bytes ({len(whole)} B)",
    )


def test_a_file_longer_than_its_header_says_is_refused(tmp_path):
    model_directory(tmp_path, files=("model.safetensors",))
    with (tmp_path / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert "longer than its header says" in refusal(tmp_path).what


@pytest.mark.parametrize(
    "content",
    [
        b"version https://git-lfs.github.com/spec/v1\n" + b"x" * 100,
        (5).to_bytes(8, "little") + b"{nope",
        (2).to_bytes(8, "little") + b"[]",
    ],
)
def test_something_else_with_that_name_is_refused(tmp_path, content):
    model_directory(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert refusal(tmp_path).what == "a weight file is not a safetensors file"


@pytest.mark.parametrize(
    "row",
    [
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        "F32",
    ],
)
def test_a_broken_row_in_the_header_is_named(tmp_path, row):
    model_directory(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"a": row}, data=8)
    error = refusal(tmp_path)
    assert error.what == "a weight file's header is broken"
    assert error.evidence[0].startswith("tensor `a`")
