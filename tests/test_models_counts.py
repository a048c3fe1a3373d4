"""Parameter counts and names: tables of published models, the catalogue, the rules behind them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_files import CONFIGS, INDEX, LLAMA, SMALL_LLAMA, config_of
from ropeway.errors import ModelError
from ropeway.models.build import count, counted_bytes, kv_bytes_per_token, read_shape, state_bytes
from ropeway.models.known import (
    WITHOUT_CONFIG,
    entry_of,
    known,
    published_files,
    published_name,
    without_formats,
)
from ropeway.models.shape import numbers

# Billions of parameters, all and active, as their makers publish them (model cards and reports).
# Active counts have the embeddings in them; of gpt-oss, the head alone.
PUBLISHED = [
    (name, float(total), float(active))
    for name, total, active in map(
        str.split, CONFIGS.with_name("published_models.tsv").read_text().splitlines()[1:]
    )
]


def test_every_stored_config_is_in_the_table():
    assert {path.name for path in CONFIGS.glob("*.json")} == {row["file"] for row in INDEX}


@pytest.mark.parametrize("row", INDEX, ids=[row["file"] for row in INDEX])
def test_a_stored_config_gives_the_published_numbers(row):
    """`kept_per_token`: numbers kept by all layers. DeepSeek-V3.2 and GLM-5 keep 128 more in each
    for the indexer; of Gemma 4, 25 layers keep 2 × 8 heads × 256 and 5 keep 2 × 2 × 512."""
    shape = read_shape(config_of(row["file"].removesuffix(".json")))
    fields = ("layers", "heads", "kv_heads", "experts", "experts_per_token")
    assert [getattr(shape, name) for name in fields] == [int(row[name]) for name in fields]
    assert kv_bytes_per_token(shape, 1) == int(row["kept_per_token"])
    assert sum(block.count for block in shape.blocks) == shape.layers
    assert all(block.weights for block in shape.blocks)
    counted = count(shape)
    assert counted.language / 1e9 == pytest.approx(float(row["derived_total_params_b"]), rel=0.01)
    assert counted.active / 1e9 == pytest.approx(float(row["derived_active_params_b"]), rel=0.01)
    assert counted.language / 1e9 == pytest.approx(float(row["published_total_params_b"]), rel=0.04)
    # The catalogue has all that a shape is made from.
    name = row["file"].removesuffix(".json").replace("__", "/")
    assert count(known(name)).language == pytest.approx(counted.language, rel=0.01)


@pytest.mark.parametrize(("name", "total", "active"), PUBLISHED)
def test_other_families_come_out_as_published(name, total, active):
    counted = count(known(name))
    numbers = counted.active - (counted.embedding if name.startswith("gpt-oss") else 0)
    assert counted.language / 1e9 == pytest.approx(total, rel=0.04)
    assert numbers / 1e9 == pytest.approx(active, rel=0.06)


def test_llama_8b_is_counted_to_the_last_number():
    # 8,030,261,248: what the safetensors files of Llama-3.1-8B add up to
    assert count(read_shape(LLAMA)).language == 8_030_261_248


def test_the_conventions_of_a_vision_model_with_mtp_layers_are_told_apart():
    counted = count(known("Qwen3.5-35B-A3B"))
    assert counted.embedding == counted.head == 248_320 * 2048
    assert counted.without_embeddings == counted.language - 2 * 248_320 * 2048
    assert counted.with_mtp - counted.language == counted.mtp > 0
    assert counted.with_vision is not None and counted.vision is not None
    # 27 layers of 1152: what transformers builds for this vision_config has 446,570,224 numbers
    assert counted.vision == pytest.approx(446_570_224, rel=0.001)


def test_a_tied_head_is_counted_once_and_still_multiplies():
    tied = read_shape({**LLAMA, "tie_word_embeddings": True})
    loose = read_shape(LLAMA)
    assert count(loose).language - count(tied).language == 128_256 * 4096
    assert count(tied).head == 0
    flops = [weight.flops for weight in tied.outer if weight.component == "head"]
    assert flops == [2 * 128_256 * 4096]


def test_of_two_parts_that_speak_of_the_tie_the_outer_decides():
    # Qwen3-VL repeats its class's default in `text_config`
    nested = {**LLAMA, "tie_word_embeddings": True}
    loose = {"text_config": nested, "tie_word_embeddings": False}
    assert read_shape(loose).tied_embeddings is False
    assert read_shape({"text_config": nested}).tied_embeddings is True


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        # 43 layers of a window of 512 numbers; 21 with an entry for 4 tokens and 128 numbers of
        # index for 4, 20 with an entry for 128; two have the window alone
        ("DeepSeek-V4-Flash", 2 * (43 * 512 + 21 * (128 + 32) + 20 * 4)),
        # only 24 of 93 layers keep a latent
        ("Kimi-K3", 2 * 24 * 576),
        # only 21 of 78 layers own an indexer
        ("GLM-5.2", 2 * (78 * 576 + 21 * 128)),
        # 57 of 60 layers are sparse, with 128 numbers of index
        ("MiniMax-M3", 2 * (60 * 2 * 4 * 128 + 57 * 128)),
        # 9 full layers of 4 heads, 39 windowed of 8; 192 numbers of key and 128 of value
        ("MiMo-V2-Flash", 2 * (9 * 4 + 39 * 8) * 320),
    ],
)
def test_cache_bytes_per_token(name, bytes_per_token):
    assert kv_bytes_per_token(known(name), 2) == bytes_per_token


@pytest.mark.parametrize(
    ("name", "size"),
    [
        # 36 layers: 32 heads × 128 × 128 and 3 × 8192 of convolution, all in 16 bits
        ("Qwen3-Next-80B-A3B", 36 * 2 * (32 * 128 * 128 + 3 * 8192)),
        # 23 Mamba layers: 64 heads × 64 × 128 in float32, as the config says, 3 × 6144 of
        # convolution in 16 bits
        ("NVIDIA-Nemotron-3-Nano-30B-A3B", 23 * (4 * 64 * 64 * 128 + 2 * 3 * 6144)),
        # Kimi delta attention in 69 of 93 layers: 96 heads × 128 × 128 in 32 bits, and 3 of the
        # convolution for each of Q, K and V
        ("Kimi-K3", 69 * (4 * 96 * 128 * 128 + 2 * 3 * 3 * 96 * 128)),
    ],
)
def test_recurrent_state(name, size):
    assert state_bytes(known(name)) == size


def test_layers_of_gpt_oss_alternate():
    shape = read_shape(config_of("openai__gpt-oss-120b"))
    kinds = [block.attention.kind for block in shape.blocks for _ in range(block.count)]
    assert kinds == ["window", "full"] * 18
    assert {block.attention.window for block in shape.blocks} == {0, 128}


def test_the_first_layers_of_deepseek_are_dense_and_mtp_is_the_14_billion_of_its_card():
    shape = known("DeepSeek-V3")
    assert count(shape).mtp / 1e9 == pytest.approx(14, rel=0.05)
    kinds = [(block.count, bool(block.feed.experts)) for block in shape.blocks]
    assert kinds == [(3, False), (58, True)]
    assert (shape.intermediate_size, shape.expert_size, shape.head_dim) == (18_432, 2048, 192)


def test_nemotron_letters_are_layers_of_one_part():
    config = SMALL_LLAMA | {
        "model_type": "nemotron_h", "hybrid_override_pattern": "M-*E", "mlp_hidden_act": "relu2",
        "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 16, "n_routed_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    }  # fmt: skip
    del config["num_hidden_layers"]
    shape = read_shape(config)
    parts = [(bool(block.attention), bool(block.feed)) for block in shape.blocks]
    assert parts == [(True, False), (False, True)] * 2
    # relu2 has no gate: two matrices of 64 × 128, and the norm
    assert numbers(shape.blocks[1].feed.weights) == 2 * 64 * 128 + 64
    with pytest.raises(ModelError, match="hybrid_override_pattern"):
        read_shape({**config, "hybrid_override_pattern": "M?*"})


def test_llama_4_has_a_shared_expert_that_no_key_names():
    shape = known("Llama-4-Scout-17B-16E")
    assert {block.feed.shared_width for block in shape.blocks} == {8192}
    # chunks of 8192 tokens in three layers of four
    windows = [block.attention.window for block in shape.blocks for _ in range(block.count)]
    assert windows[:4] == [8192, 8192, 8192, 0]


def test_qwen2_has_a_window_in_its_config_and_does_not_use_it():
    shape = read_shape(config_of("Qwen__Qwen2.5-7B-Instruct"))
    assert {block.attention.window for block in shape.blocks} == {0}
    used = read_shape({**LLAMA, "model_type": "mistral", "sliding_window": 4096})
    assert {block.attention.window for block in used.blocks} == {4096}


def test_an_unknown_family_is_counted_by_the_usual_rules_and_says_so():
    shape = read_shape({**LLAMA, "model_type": "novelty"})
    assert count(shape).language == count(read_shape(LLAMA)).language
    (note,) = shape.assumed
    assert "`novelty`" in note


def test_an_unknown_kind_of_layer_is_said():
    shape = read_shape({**LLAMA, "layer_types": ["full_attention", "dream"] * 16})
    assert shape.assumed == ("layers of kind `dream` are not known: counted as full attention",)


@pytest.mark.parametrize(
    ("config", "lacking"),
    [
        ({"intermediate_size": None}, "feed-forward width"),
        ({"kv_lora_rank": 512}, "width of a query without position"),
        ({"num_experts": 8}, "experts per token"),
        ({"num_experts_per_tok": 8, "moe_intermediate_size": 64}, "experts"),
        ({"layer_types": ["linear_attention"] * 32}, "key heads of linear attention"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding window"),
    ],
)
def test_what_a_family_needs_and_lacks_is_named(config, lacking):
    with pytest.raises(ModelError, match=rf"does not say: {lacking}$"):
        read_shape({**LLAMA, **config})


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        # what the weight files of these are, in 10^9 bytes
        ("openai__gpt-oss-120b", 65.2),
        ("Qwen__Qwen3-30B-A3B", 61.1),
        ("Qwen__Qwen3-32B", 65.5),
    ],
)
def test_weight_bytes_follow_the_quantisation(name, gigabytes):
    assert counted_bytes(read_shape(config_of(name))) / 1e9 == pytest.approx(gigabytes, rel=0.01)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_runs_hold_every_layer_in_order(kinds):
    named = ["sliding_attention" if windowed else "full_attention" for windowed in kinds]
    config = {**LLAMA, "num_hidden_layers": len(kinds), "layer_types": named, "sliding_window": 64}
    shape = read_shape(config)
    unrolled = [bool(block.attention.window) for block in shape.blocks for _ in range(block.count)]
    assert unrolled == kinds
    assert all(left != right for left, right in zip(shape.blocks, shape.blocks[1:], strict=False))


@pytest.mark.parametrize("name", sorted(published_files()))
def test_every_entry_is_a_shape_with_its_source(name):
    entry = entry_of(name)
    shape = read_shape(entry.config)
    assert entry.name == name
    assert entry.source.startswith("https://")
    assert shape.layers and count(shape).language > 10**8
    assert published_name(name) == name


@pytest.mark.parametrize(
    ("written", "name", "scheme"),
    [
        ("Qwen3-32B", "Qwen/Qwen3-32B", "bf16"),
        ("qwen/qwen3-32b", "Qwen/Qwen3-32B", "bf16"),
        ("vllm-ascend/Qwen3-32B-W8A8", "Qwen/Qwen3-32B", "w8a8"),
        ("Qwen2.5-32B-Instruct-AWQ", "Qwen/Qwen2.5-32B", "awq"),
        ("Qwen2.5-14B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-14B", "gptq"),
        ("DeepSeek-R1-0528-W4A8", "deepseek-ai/DeepSeek-R1-0528", "w4a8"),
        ("deepseek-r1-0611", "deepseek-ai/DeepSeek-R1", "fp8"),
        ("Mistral-Nemo", "mistralai/Mistral-Nemo-Instruct-2407", "bf16"),
        ("Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-7B", "bf16"),
        ("Kimi-K2", "moonshotai/Kimi-K2-Instruct", "fp8"),
        ("Qwen3_Next_80B_A3B", "Qwen/Qwen3-Next-80B-A3B-Instruct", "bf16"),
        ("Qwen3-30B-A3B-Thinking-2507-FP8", "Qwen/Qwen3-30B-A3B-Thinking-2507", "fp8"),
        # As published by Eco-Tech and vllm-ascend on ModelScope, and by Red Hat.
        ("MiniMax-M2.7-w8a8-QuaRot", "MiniMaxAI/MiniMax-M2.7", "w8a8"),
        ("Eco-Tech/GLM-4.7-W8A8-floatmtp", "zai-org/GLM-4.7", "w8a8"),
        ("Eco-Tech/Qwen3-32B-w8a8sc-310-vllm", "Qwen/Qwen3-32B", "w8a8sc"),
        ("DeepSeek-R1-0528-w8a8-mtp-QuaRot", "deepseek-ai/DeepSeek-R1-0528", "w8a8"),
        ("Qwen3-235B-A22B-Instruct-2507-w8a8-rot", "Qwen/Qwen3-235B-A22B-Instruct-2507", "w8a8"),
        ("MiniMax-M2.7-w8a8c8-QuaRot", "MiniMaxAI/MiniMax-M2.7", "w8a8"),
        ("DeepSeek-V3.1_w8a8mix_mtp", "deepseek-ai/DeepSeek-V3.1", "w8a8mix"),
        ("Qwen3-30B-A3B-FP8-Instruct-2507", "Qwen/Qwen3-30B-A3B-Instruct-2507", "fp8"),
        ("Qwen3-32B-W8A8-MXFP8", "Qwen/Qwen3-32B", "mxfp8"),
        ("vllm-ascend/GLM5-w4a8", "zai-org/GLM-5", "w4a8"),
        ("Qwen2.5-3B-quantized.w8a8", "Qwen/Qwen2.5-3B", "int-quantized"),
        ("Qwen3-32B-quantized.w4a16", "Qwen/Qwen3-32B", "pack-quantized"),
        ("QuantTrio/GLM-4.7-GPTQ-Int4-Int8Mix", "zai-org/GLM-4.7", "gptq"),
        ("Qwen3-32B-int4-AutoRound", "Qwen/Qwen3-32B", "gptq"),
        ("unsloth/Qwen3-32B-GGUF", "Qwen/Qwen3-32B", "gguf"),
        ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-ai/DeepSeek-R1-0528", "nvfp4"),
        ("unsloth/Qwen3-8B-unsloth-bnb-4bit", "Qwen/Qwen3-8B", "bitsandbytes"),
        ("Qwen3-8B-bnb-8bit", "Qwen/Qwen3-8B", "bitsandbytes"),
        ("Qwen3-8B-Q4_K_M.gguf", "Qwen/Qwen3-8B", "gguf"),
        ("Qwen3-8B.Q8_0.gguf", "Qwen/Qwen3-8B", "gguf"),
        ("Qwen3-8B-UD-IQ4_XS", "Qwen/Qwen3-8B", "gguf"),
        ("Qwen3-8B-BF16.gguf", "Qwen/Qwen3-8B", "gguf"),
        ("Qwen3-32B-Q4_K_M-00001-of-00002.gguf", "Qwen/Qwen3-32B", "gguf"),
        ("DeepSeek-V3-BF16", "deepseek-ai/DeepSeek-V3", "bf16"),
        ("gpt-oss-120b-bf16", "openai/gpt-oss-120b", "bf16"),
    ],
)
def test_names_are_found_in_every_usual_spelling(written, name, scheme):
    assert published_name(written) == name
    assert known(written).precision.scheme == scheme


def test_a_name_like_none_gets_no_suggestion():
    with pytest.raises(ModelError) as caught:
        known("xyzzy")
    assert caught.value.hint.startswith("give the directory of the model, or its `config.json`")


@pytest.mark.parametrize("name", WITHOUT_CONFIG)
def test_a_model_without_a_public_config_is_told_apart(name):
    with pytest.raises(ModelError, match=r"no config\.json of"):
        known(name)


def test_a_note_of_the_catalogue_reaches_the_shape():
    assert "`Qwen/Qwen2.5-32B`" in known("QwQ-32B").assumed[0]
    thinking = known("Kimi-K2-Thinking")
    assert (thinking.encoders, thinking.model_type, thinking.max_positions) == (
        (), "kimi_k2", 262144,
    )  # fmt: skip
    assert known("Kimi-K2.5").encoders


@pytest.mark.parametrize(
    "name",
    ["DeepSeek-R1-w4a8-pruning", "Qwen3-30B-A3B-W8A8-Puring", "Qwen3-32B-w8a8-eagle3-draft"],
)
def test_a_part_of_a_model_is_not_taken_for_the_whole(name):
    with pytest.raises(ModelError, match="its own size is not known here") as error:
        known(name)
    assert "did you mean" not in str(error.value.hint)


@pytest.mark.parametrize(
    ("name", "language", "published", "context"),
    [
        ("Qwen2.5-72B-Instruct", 72.7, "Qwen2.5-72B-Instruct", 32_768),
        ("Qwen3-Omni-30B-A3B-Instruct-W8A8", 30.5, "Qwen3-Omni-30B-A3B-Instruct", 0),
        ("Qwen3-VL-Embedding-8B", 7.6, "Qwen3-VL-Embedding-8B", 262_144),
        ("gte-Qwen2-7B-instruct", 7.1, "gte-Qwen2-7B-instruct", 32_768),
        ("DeepSeek-R1-Distill-Qwen-7B-w8a8", 7.6, "DeepSeek-R1-Distill-Qwen-7B", 32_768),
        ("Kimi-K2-Instruct-0905-w8a8", 1026.4, "Kimi-K2-Instruct-0905", 262_144),
        ("GLM-4.6V-FP8", 106.9, "GLM-4.6V", 65_536),
        ("GLM-4.5V", 106.9, "GLM-4.5V", 65_536),
    ],
)
def test_names_that_people_ask_for_are_known(name, language, published, context):
    shape = known(name)
    assert published_name(name).rpartition("/")[2] == published
    assert count(shape).language == pytest.approx(language * 1e9, rel=0.01)
    assert shape.max_positions == context
    assert (" 0 tokens" in shape.positions_doubt) is False


@pytest.mark.parametrize("name", ["Qwen3-32B-speculator.eagle3", "EAGLE3-Qwen3-32B", "x-medusa"])
def test_of_a_model_that_drafts_it_is_said_where_it_belongs(name):
    with pytest.raises(ModelError) as error:
        known(name)
    assert "speculative-config: {method: eagle3, model:" in str(error.value.hint)


@pytest.mark.parametrize("ending", ["AWQ", "FP4", "Q4_K_M.gguf", "unsloth-bnb-4bit"])
def test_a_hint_does_not_repeat_the_format_that_is_not_loaded(ending):
    assert without_formats(f"Qwen3-32B-{ending}") == "Qwen3-32B"
    assert without_formats("/data/Qwen3-32B-AWQ-W8A8") == "/data/Qwen3-32B"
    assert without_formats("Qwen3_32B_W8A8") == "Qwen3_32B"
    assert without_formats("DeepSeek-V3.1-w8a8-mtp-QuaRot") == "DeepSeek-V3.1"
    assert without_formats("Qwen3-8B") == "Qwen3-8B"
    with pytest.raises(ModelError) as error:
        known("Qwen9-32B-AWQ-W8A8")
    assert "W8A8" not in str(error.value.hint)
