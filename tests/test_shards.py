"""What a rank holds: published examples by hand, and what must hold for every model and layout."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_files import SMALL_LLAMA
from ropeway.models.build import read_shape
from ropeway.models.known import known, published_files
from ropeway.models.quantisation import precision_named
from ropeway.models.shape import COMPONENTS, ModelShape
from ropeway.plan.shards import StageShard, shard, stage_layers, touched_experts
from ropeway.spec.model import Layout

QWEN_MOE = known("Qwen3-30B-A3B")
QWEN = known("Qwen3-32B")
DEEPSEEK = known("DeepSeek-V3")
GPT_OSS = known("gpt-oss-120b")
NEXT = known("Qwen3-Next-80B-A3B")
NAMES = st.sampled_from(sorted(published_files()))


def kept_bytes(stage: StageShard, tokens: float) -> float:
    """Cache of one sequence of `tokens`, without recurrent state."""
    return sum(
        group.kept(tokens) * (group.bytes_per_token + group.index_bytes_per_token)
        for group in stage.caches
    )


def read_bytes(stage: StageShard, tokens: float) -> float:
    """What a decode step of the sequence reads of that."""
    return sum(
        group.read(tokens) * group.bytes_per_token
        + group.kept(tokens) * group.index_bytes_per_token
        for group in stage.caches
    )


def without_encoders(name: str) -> ModelShape:
    return replace(known(name), encoders=())


def only(shape: ModelShape, layout: str, **given_: object) -> StageShard:
    (stage,) = shard(shape, Layout.parse(layout), **given_)  # type: ignore[arg-type]
    return stage


@pytest.mark.parametrize(
    ("layout", "gigabytes", "kv_bytes"),
    # the table of what one NPU of the blog's cluster reads (Qwen3-VL-30B-A3B)
    [("TP8", 7.6, 24_576), ("TP16", 3.8, 24_576), ("TP8×PP2", 3.8, 12_288)],
)
def test_the_blogs_three_layouts(layout, gigabytes, kv_bytes):
    shape = without_encoders("Qwen3-VL-30B-A3B-Instruct")
    for stage in shard(shape, Layout.parse(layout)):
        assert stage.weights.total / 1e9 == pytest.approx(gigabytes, rel=0.03)
        assert stage.kv_bytes_per_token == kv_bytes


def test_a_whole_model_on_one_rank_is_the_model():
    stage = only(QWEN_MOE, "TP1")
    # the model's 30,532,122,624 numbers of two bytes
    assert stage.weights.total == 2 * 30_532_122_624
    assert (stage.first, stage.last, stage.layers, stage.moe_layers) == (True, True, 48, 48)
    assert (stage.experts, stage.all_experts, stage.experts_per_token) == (128, 128, 8)
    assert stage.expert_bytes == 2 * 3 * 2048 * 768
    assert stage.all_reduces == 0
    # 2 for each active number but the table, the norms and the KV heads' none
    assert stage.flops.total == pytest.approx(2 * (3_353_000_000 - 151_936 * 2048), rel=0.001)


def test_kv_heads_are_copied_beyond_their_number():
    bytes_of = {tp: only(QWEN_MOE, f"TP{tp}").kv_bytes_per_token for tp in (1, 2, 4, 8, 16)}
    assert bytes_of == {1: 98_304, 2: 49_152, 4: 24_576, 8: 24_576, 16: 24_576}


def test_a_latent_is_on_every_rank_whole():
    assert only(DEEPSEEK, "TP1").kv_bytes_per_token == 70_272
    assert only(DEEPSEEK, "TP16").kv_bytes_per_token == 70_272
    half = only(DEEPSEEK, "TP16", kv_bits=8)
    assert half.kv_bytes_per_token == 35_136


def test_query_and_latent_projections_into_the_latent_are_replicated():
    one, many = only(DEEPSEEK, "TP1").weights, only(DEEPSEEK, "TP8").weights
    replicated = 61 * (7168 * 1536 + 7168 * 576) * 8.001953125 / 8
    assert many.attention == pytest.approx((one.attention - replicated) / 8 + replicated)
    assert many.router == one.router
    assert many.norm == one.norm


def test_expert_parallel_deals_whole_experts_and_the_first_ranks_get_the_rest():
    assert only(DEEPSEEK, "DP2×TP8+EP").experts == 16
    uneven = only(DEEPSEEK, "DP3×TP8+EP")
    assert uneven.experts == 11  # 256 over 24: 16 ranks of 11, 8 of 10
    assert uneven.weights.routed == 58 * 11 * uneven.expert_bytes
    assert uneven.expert_bytes == pytest.approx(3 * 7168 * 2048 * 8.001953125 / 8)


def test_without_expert_parallel_each_expert_is_cut_over_tensor_and_data():
    sliced, whole = only(DEEPSEEK, "DP2×TP8"), only(DEEPSEEK, "DP2×TP8+EP")
    assert sliced.experts == 256
    assert sliced.expert_bytes == pytest.approx(whole.expert_bytes / 16)
    assert sliced.weights.routed == pytest.approx(whole.weights.routed)


@pytest.mark.parametrize(
    ("layers", "stages", "dealt"),
    # get_pp_indices of vLLM 0.32.0
    [
        (48, 2, (24, 24)),
        (61, 2, (31, 30)),
        (61, 4, (15, 15, 16, 15)),
        (61, 8, (7, 7, 8, 8, 8, 8, 8, 7)),
        (94, 4, (23, 24, 24, 23)),
        (7, 4, (2, 2, 2, 1)),
        (5, 5, (1, 1, 1, 1, 1)),
        (80, 1, (80,)),
    ],
)
def test_layers_are_dealt_as_vllm_deals_them(layers, stages, dealt):
    assert stage_layers(layers, stages) == dealt


def test_table_on_the_first_stage_and_head_on_the_last():
    first, middle, last = shard(QWEN, Layout.parse("PP3"))
    table = 151_936 * 5120 * 2
    assert (first.weights.embedding, first.weights.head) == (table, 0)
    assert (middle.weights.embedding, middle.weights.head) == (0, 0)
    assert (last.weights.embedding, last.weights.head) == (0, table)
    assert first.flops.head == middle.flops.head == 0
    assert last.flops.head == 2 * 151_936 * 5120


def test_a_tied_table_is_held_once_or_on_both_ends():
    shape = known("Qwen3-4B")
    table = 151_936 * 2560 * 2
    alone = only(shape, "TP1").weights
    assert (alone.embedding, alone.head) == (0, table)
    ends = shard(shape, Layout.parse("PP2"))
    assert (ends[0].weights.embedding, ends[1].weights.head) == (table, table)
    assert ends[1].flops.head == 2 * 151_936 * 2560


def test_the_vocabulary_is_padded_to_a_multiple_of_64():
    # 49,155 of Granite: padded to 49,216, which 8 ranks share as 6,152 rows
    shape = read_shape(SMALL_LLAMA | {"num_attention_heads": 8, "vocab_size": 49_155})
    assert only(shape, "TP8").weights.head == pytest.approx(6_152 * 64 * 2)


def test_windows_hold_the_last_tokens_only():
    stage = only(GPT_OSS, "TP1")
    kept = {group.window: group for group in stage.caches}
    each = 2 * 8 * 64 * 2
    assert {window: group.layers for window, group in kept.items()} == {0: 18, 128: 18}
    assert kept_bytes(stage, 100) == 36 * each * 100
    assert kept_bytes(stage, 10_000) == 18 * each * 10_000 + 18 * each * 128
    assert read_bytes(stage, 10_000) == kept_bytes(stage, 10_000)


def test_sparse_attention_reads_its_limit_and_the_whole_index():
    stage = only(known("DeepSeek-V3.2"), "TP8")
    assert kept_bytes(stage, 100_000) == 100_000 * 61 * (576 + 128) * 2
    assert read_bytes(stage, 100_000) == 61 * 2 * (2048 * 576 + 100_000 * 128)
    assert read_bytes(stage, 1_000) == kept_bytes(stage, 1_000)


def test_compressed_attention_keeps_a_window_beside_the_compressed_context():
    stage = only(known("DeepSeek-V4-Flash"), "TP8")
    windowed = 43 * 512 * 2
    compressed = 21 * (128 + 32) * 2 + 20 * 4 * 2
    assert kept_bytes(stage, 100_000) == 128 * windowed + 100_000 * compressed


def test_recurrent_state_is_cut_like_heads():
    whole = only(NEXT, "TP1").state_bytes
    assert only(NEXT, "TP4").state_bytes == whole / 4
    assert only(NEXT, "TP4").caches[0].layers == 12
    assert only(QWEN, "TP1").state_bytes == 0


def test_encoders_are_on_every_stage():
    stages = shard(known("Qwen3-VL-32B-Instruct"), Layout.parse("TP2×PP2"))
    assert all(stage.weights.vision == pytest.approx(0.595e9, rel=0.01) for stage in stages)


def test_all_reduces_are_two_a_layer_and_one_for_the_table():
    assert only(QWEN, "TP2").all_reduces == 2 * 64 + 1
    first, second = shard(QWEN, Layout.parse("TP2×PP2"))
    assert (first.all_reduces, second.all_reduces) == (65, 64)


def test_experts_touched_by_a_batch():
    assert touched_experts(128, 8, 1) == pytest.approx(8)
    assert touched_experts(128, 8, 256) == pytest.approx(128, rel=0.001)
    assert touched_experts(256, 8, 32) == pytest.approx(256 * (1 - (1 - 8 / 256) ** 32))
    assert touched_experts(0, 0, 10) == 0


def test_a_quantisation_may_be_asked_for():
    eight, four = (
        replace(QWEN_MOE, precision=precision_named(name, QWEN_MOE)) for name in ("w8a8", "w4a8")
    )
    half = only(eight, "TP8").weights
    whole = only(QWEN_MOE, "TP8").weights
    assert half.routed == whole.routed / 2
    assert half.head == whole.head
    assert only(four, "TP8").weights.routed == whole.routed / 4


def naive(shape: ModelShape, layout: Layout) -> dict[str, float]:
    """Bytes by component over all ranks of one data rank, copies too."""
    total = dict.fromkeys(COMPONENTS, 0.0)
    ranks, spread = layout.tensor, layout.tensor * layout.data
    for block in shape.blocks:
        for weight in block.weights:
            size = block.count * weight.numbers * shape.precision.bits(weight) / 8
            if weight.component == "routed":
                pieces = block.feed.experts if layout.expert else weight.pieces
                held = -(-pieces // spread) * ranks
            else:
                pieces = weight.pieces
                held = max(pieces, ranks)  # one divides the other
            total[weight.component] += size * held / pieces
    return total


def divides(shape: ModelShape, tensor: int) -> bool:
    weights = [weight for block in shape.blocks for weight in block.weights]
    inner = [weight for weight in weights if weight.component != "routed"]
    return all(max(w.pieces, tensor) % min(w.pieces, tensor) == 0 for w in inner)


@given(NAMES, st.sampled_from([1, 2, 4, 8]), st.integers(1, 6), st.integers(1, 4), st.booleans())
def test_shards_sum_to_the_whole(name, tensor, pipeline, data, expert):
    shape = without_encoders(name)
    if not divides(shape, tensor):
        return
    layout = Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)
    stages = shard(shape, layout)
    expected = naive(shape, layout if shape.experts else Layout(tensor=tensor))
    for component in ("attention", "dense", "routed", "shared", "router"):
        held = sum(tensor * getattr(stage.weights, component) for stage in stages)
        assert held == pytest.approx(expected[component], rel=1e-9)
    assert sum(stage.layers for stage in stages) == shape.layers
    once = only(shape, f"TP{tensor}")
    assert sum(stage.kv_bytes_per_token for stage in stages) == pytest.approx(
        once.kv_bytes_per_token
    )
    assert sum(stage.state_bytes for stage in stages) == pytest.approx(once.state_bytes)
    assert sum(stage.flops.total for stage in stages) == pytest.approx(once.flops.total)


@given(NAMES, st.integers(1, 16), st.integers(1, 8), st.integers(1, 8), st.booleans())
def test_all_ranks_together_hold_the_model_at_least_once(name, tensor, pipeline, data, expert):
    shape = without_encoders(name)
    layout = Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)
    ranks = tensor * (data if shape.experts else 1)
    stages = shard(shape, layout)
    held = sum(ranks * stage.weights.total for stage in stages)
    whole = only(shape, "TP1").weights.total
    assert held >= whole * (1 - 1e-9)
    in_a_row = shard(shape, Layout(pipeline=pipeline))
    copied = in_a_row[0].weights.embedding if shape.tied_embeddings and pipeline > 1 else 0.0
    assert sum(stage.weights.total for stage in in_a_row) == pytest.approx(whole + copied)


@given(NAMES, st.sampled_from([1, 2, 4]), st.booleans())
def test_twice_the_tensor_ranks_never_hold_more_each(name, tensor, expert):
    small, large = (
        shard(known(name), Layout(tensor=size, expert=expert))[0] for size in (tensor, 2 * tensor)
    )
    assert large.weights.total <= small.weights.total
    assert kept_bytes(large, 10_000) <= kept_bytes(small, 10_000)
    assert large.flops.total <= small.flops.total


@given(NAMES, st.floats(1, 10**6), st.floats(1, 10**6))
def test_a_longer_context_never_takes_less(name, one, other):
    stage = only(known(name), "TP2")
    low, high = sorted((one, other))
    assert kept_bytes(stage, low) <= kept_bytes(stage, high)
    assert read_bytes(stage, low) <= read_bytes(stage, high)
    assert read_bytes(stage, low) <= kept_bytes(stage, low) * (1 + 1e-9)
    assert kept_bytes(stage, low) <= stage.kv_bytes_per_token * low * (1 + 1e-9)
