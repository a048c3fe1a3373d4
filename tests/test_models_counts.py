"""Parameter counts: whole tables of published models, and the rules behind them."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.errors import ModelError
from ropeway.models.build import count, counted_bytes, kv_bytes_per_token, read_shape, state_bytes
from ropeway.models.known import known
from ropeway.models.shape import Block, FeedForward, Weight, as_runs, numbers

CONFIGS = Path(__file__).parent / "model_configs"
INDEX = list(csv.DictReader(CONFIGS.with_suffix(".tsv").read_text().splitlines(), delimiter="\t"))
EVERY = pytest.mark.parametrize("row", INDEX, ids=[row["file"] for row in INDEX])

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}

# Billions of parameters, all and active, as their makers publish them (model cards and reports).
# Active counts have the embeddings in them; of gpt-oss, the head alone.
PUBLISHED = [
    ("DeepSeek-V4-Flash", 284, 13),
    ("DeepSeek-V4-Pro", 1600, 49),
    ("MiMo-V2-Flash", 309, 15),
    ("Step-3.7-Flash", 196, 11),
    ("NVIDIA-Nemotron-3-Nano-30B-A3B", 31.6, 3.6),
    ("NVIDIA-Nemotron-3-Super-120B-A12B", 120.6, 12.7),
    ("Nemotron-H-56B-Base-8K", 56, 56),
    ("Llama-3_3-Nemotron-Super-49B-v1", 49.9, 49.9),
    ("Llama-4-Maverick-17B-128E", 400, 17),
    ("Llama-3.1-405B", 405, 405),
    ("Mixtral-8x22B", 141, 39),
    ("gpt-oss-20b", 20.9, 3.6),
    ("LongCat-Flash", 560, 27),
    ("Hy3-preview", 295, 21),
    ("GLM-4.5", 355, 32),
    ("GLM-4.7-Flash", 30, 3.9),
    ("GLM-5.2", 744, 41),
    ("ERNIE-4.5-21B-A3B", 21.8, 3.3),
    ("Phi-3.5-MoE", 41.9, 6.6),
    ("Solar-Open-100B", 102.6, 12),
    ("Qwen3.5-397B-A17B", 397, 17),
    ("Qwen3.5-122B-A10B", 122, 10),
    ("Qwen3.5-27B", 27, 27),
    ("gemma-4-31B", 30.7, 30.7),
    ("Qwen2.5-14B", 14.7, 14.7),
    ("Kimi-K2-Thinking", 1026, 32),
]


def config_of(name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((CONFIGS / name).read_text())
    return found


@EVERY
def test_a_count_is_within_one_percent_of_the_derived(row):
    counted = count(read_shape(config_of(row["file"])))
    assert counted.language / 1e9 == pytest.approx(float(row["derived_total_params_b"]), rel=0.01)
    assert counted.active / 1e9 == pytest.approx(float(row["derived_active_params_b"]), rel=0.01)


@EVERY
def test_a_count_is_within_four_percent_of_the_published(row):
    published = float(row["published_total_params_b"])
    assert count(read_shape(config_of(row["file"]))).language / 1e9 == pytest.approx(
        published, rel=0.04
    )


@pytest.mark.parametrize(("name", "total", "active"), PUBLISHED)
def test_other_families_come_out_as_published(name, total, active):
    counted = count(known(name))
    seen = counted.active - (counted.embedding if name.startswith("gpt-oss") else 0)
    assert counted.language / 1e9 == pytest.approx(total, rel=0.04)
    assert seen / 1e9 == pytest.approx(active, rel=0.06)


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


def test_mtp_of_deepseek_is_the_14_billion_of_its_card():
    assert count(known("DeepSeek-V3")).mtp / 1e9 == pytest.approx(14, rel=0.05)


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
    assert (
        read_shape({"text_config": nested, "tie_word_embeddings": False}).tied_embeddings is False
    )
    assert read_shape({"text_config": nested}).tied_embeddings is True


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [
        ("Qwen3-30B-A3B", 98_304),
        ("Qwen3-32B", 262_144),
        ("Qwen3-235B-A22B", 192_512),
        ("Llama-3.1-70B", 327_680),
        ("DeepSeek-V3", 70_272),
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


def test_recurrent_state_of_qwen3_next():
    # 36 layers: 32 heads × 128 × 128 and 3 × 8192 of convolution, all in 16 bits
    assert state_bytes(known("Qwen3-Next-80B-A3B")) == 36 * 2 * (32 * 128 * 128 + 3 * 8192)


def test_recurrent_state_is_in_32_bits_where_the_config_says_so():
    # 23 Mamba layers: 64 heads × 64 × 128 in float32, 3 × 6144 of convolution in 16 bits
    expected = 23 * (4 * 64 * 64 * 128 + 2 * 3 * 6144)
    assert state_bytes(known("NVIDIA-Nemotron-3-Nano-30B-A3B")) == expected


def test_kimi_delta_attention_keeps_its_state_in_32_bits():
    # 69 of 93 layers: 96 heads × 128 × 128, and 3 of the convolution for each of Q, K and V
    assert state_bytes(known("Kimi-K3")) == 69 * (4 * 96 * 128 * 128 + 2 * 3 * 3 * 96 * 128)


def test_layers_of_gpt_oss_alternate():
    shape = read_shape(config_of("openai__gpt-oss-120b.json"))
    kinds = [block.attention.kind for block in shape.blocks for _ in range(block.count)]
    assert kinds == ["window", "full"] * 18
    assert {block.attention.window for block in shape.blocks} == {0, 128}


def test_the_first_layers_of_deepseek_are_dense():
    shape = known("DeepSeek-V3")
    assert [(block.count, bool(block.feed.experts)) for block in shape.blocks] == [
        (3, False),
        (58, True),
    ]
    assert (shape.intermediate_size, shape.expert_size) == (18_432, 2048)


def test_nemotron_letters_are_layers_of_one_part():
    config = {
        "model_type": "nemotron_h",
        "hybrid_override_pattern": "M-*E",
        "mlp_hidden_act": "relu2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 256,
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "ssm_state_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    shape = read_shape(config)
    assert [(bool(block.attention), bool(block.feed)) for block in shape.blocks] == [
        (True, False),
        (False, True),
        (True, False),
        (False, True),
    ]
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
    shape = read_shape(config_of("Qwen__Qwen2.5-7B-Instruct.json"))
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
        ("openai__gpt-oss-120b.json", 65.2),
        ("Qwen__Qwen3-30B-A3B.json", 61.1),
        ("Qwen__Qwen3-32B.json", 65.5),
    ],
)
def test_weight_bytes_follow_the_quantisation(name, gigabytes):
    assert counted_bytes(read_shape(config_of(name))) / 1e9 == pytest.approx(gigabytes, rel=0.01)


def test_runs_join_only_equal_neighbours():
    narrow, wide = FeedForward((Weight("w", "dense", 1),)), FeedForward((Weight("w", "dense", 2),))
    layers = [Block(1, None, feed) for feed in (narrow, narrow, wide, narrow)]
    assert [block.count for block in as_runs(layers)] == [2, 1, 1]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_runs_hold_every_layer_in_order(kinds):
    named = ["sliding_attention" if windowed else "full_attention" for windowed in kinds]
    config = {**LLAMA, "num_hidden_layers": len(kinds), "layer_types": named, "sliding_window": 64}
    shape = read_shape(config)
    unrolled = [bool(block.attention.window) for block in shape.blocks for _ in range(block.count)]
    assert unrolled == kinds
    assert all(left != right for left, right in zip(shape.blocks, shape.blocks[1:], strict=False))


def test_every_layer_of_every_config_has_weights():
    for row in INDEX:
        shape = read_shape(config_of(row["file"]))
        assert sum(block.count for block in shape.blocks) == shape.layers
        assert all(block.weights for block in shape.blocks)
