"""Memory of an NPU: sums done by hand, start-up logs that others published, vLLM's own counting."""

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.engines.ascend_memory import EngineMemory, engine_bytes, engine_memory, visible_bytes
from ropeway.engines.ascend_releases import RELEASES
from ropeway.models.known import known, published_files
from ropeway.models.quantisation import precision_named
from ropeway.models.shape import ModelShape
from ropeway.plan.memory import (
    MEMORY_ERROR,
    Memory,
    MemoryNeeds,
    activation_bytes,
    cache_tokens,
    gpustack_bytes,
    memory,
)
from ropeway.plan.shards import shard
from ropeway.spec.model import Layout

MIB, GIB = 2**20, 2**30
BLOG = engine_memory("0.11.0rc0", "piecewise", "A2")
NAMES = st.sampled_from(sorted(published_files()))
LAYOUTS = st.builds(
    Layout,
    tensor=st.sampled_from([1, 2, 4, 8, 16]),
    pipeline=st.sampled_from([1, 2, 4]),
    data=st.sampled_from([1, 2, 3]),
    expert=st.booleans(),
)
NEEDS = st.builds(
    MemoryNeeds,
    engine=st.builds(
        engine_memory,
        version=st.sampled_from([row.version for row in RELEASES]),
        graph=st.sampled_from(["eager", "piecewise", "full"]),
        family=st.sampled_from(["A2", "A3", "310P", "950"]),
    ),
    fraction=st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    context=st.sampled_from([512, 4096, 32_768]),
    max_sequences=st.sampled_from([1, 64, 256]),
    max_batched_tokens=st.sampled_from([2048, 8192]),
)


def of(name: str, layout: str, hbm: int, needs: MemoryNeeds) -> Memory:
    return memory(known(name), Layout.parse(layout), hbm, needs)


def test_the_blogs_model_over_eight_910b4():
    """Qwen3-VL-30B-A3B, TP8, bf16, 32 GB each, v0.11.0rc0, a step of 2,048 tokens."""
    needs = MemoryNeeds(BLOG, context=2048, max_batched_tokens=2048)
    shape = replace(known("Qwen3-VL-30B-A3B-Instruct"), encoders=())
    sizes = memory(shape, Layout(tensor=8), 32 * GIB, needs)
    # 29.5 of 32 GiB are visible, and 90% of them taken
    assert sizes.visible == 31_662_800_896
    assert sizes.usable == 28_496_520_806
    # process and what was in use before (160 + 370 MiB), one communicator of twice 200 MiB
    assert sizes.engine == 930 * MIB
    # 61 GB of weights over eight ranks, K and V heads twice
    assert sizes.weights / 1e9 == pytest.approx(7.66, rel=0.01)
    # choosing tokens outweighs the layers: 256 rows of 151,936 logits at 24 bytes, and the stream
    assert sizes.activations == 256 * 151_936 * 24 + 2 * 2048 * 2048
    rest = 28_496_520_806 - sizes.weights - 930 * MIB - sizes.activations
    assert sizes.kv_cache == rest
    # one K and one V head of 128 in 48 layers: 24,576 bytes a token
    assert sizes.blocks == rest // (128 * 24_576)
    assert sizes.kv_tokens == sizes.blocks * 128
    assert sizes.sequences == (sizes.blocks - 1) // 16
    # 28.50 − 7.68 − 0.98 − 0.94 = 18.90 GB
    assert sizes.kv_tokens == pytest.approx(18.90e9 / 24_576, rel=0.001)


def test_deepseek_v3_in_8_bits_over_sixteen_910b3():
    """TP16+EP, w8a8: 671 GB of which 656 are routed experts, a latent of 70,272 bytes a token."""
    shape = replace(known("DeepSeek-V3"), precision=precision_named("w8a8", known("DeepSeek-V3")))
    needs = MemoryNeeds(engine_memory("0.18.0", "full", "A2"), context=4096, max_sequences=64)
    sizes = memory(shape, Layout.parse("TP16+EP"), 64 * GIB, needs)
    experts = 58 * 16 * 3 * 7168 * 2048
    rest = sizes.weights - experts
    assert experts == pytest.approx(40.9e9, rel=0.01)
    assert 1.5e9 < rest < 4e9
    # process, TP and EP communicators, MC2 with 1,024 MiB each way
    assert sizes.engine == (160 + 400 + 400 + 2048) * MIB
    # 65.45 GB visible × 0.9 − 43.0 weights − 3.2 engine − activations
    assert sizes.kv_cache == sizes.usable - sizes.weights - sizes.engine - sizes.activations
    assert sizes.kv_tokens == sizes.kv_cache // (128 * 70_272) * 128


def test_activations_of_a_dense_step_by_hand():
    """Qwen3-32B, TP8, 8,192 tokens: three streams of 5,120, and gate, up, product, result."""
    shape, layout = known("Qwen3-32B"), Layout.parse("TP8")
    (stage,) = shard(shape, layout)
    needs = MemoryNeeds(BLOG, max_sequences=1, max_batched_tokens=8192)
    by_hand = 2 * (3 * 8192 * 5120 + 8192 * (3 * 3200 + 5120))
    assert activation_bytes(shape, layout, stage, needs) == by_hand


def test_experts_see_the_tokens_of_all_replicas_where_they_are_gathered():
    """Qwen3-30B-A3B, DP2×TP4+EP: twice 8,192 tokens, each for 8 experts of 768."""
    shape, layout = known("Qwen3-30B-A3B"), Layout.parse("DP2×TP4+EP")
    (stage,) = shard(shape, layout)
    needs = MemoryNeeds(engine_memory("0.18.0", "full", "A2"), max_sequences=1)
    rows = 2 * 8192 * 8
    # Tokens in 16 bits stay until the result is there: in and out of 2,048, the product of 768;
    # beside them what was gathered, and the sums.
    stream, each = 2 * 3 * 8192 * 2048, 2 * (2 * 2048 + 768)
    by_hand = stream + rows * each + 2 * 2 * 2 * 8192 * 2048
    assert activation_bytes(shape, layout, stage, needs) == by_hand
    sent = replace(needs, engine=engine_memory("0.18.0", "full", "A3"))
    assert activation_bytes(shape, layout, stage, sent) == stream + rows // 2 * each
    # Without expert parallel they are gathered on every chip; a slice of 96 columns is narrower.
    sliced = Layout.parse("DP2×TP4")
    assert activation_bytes(shape, sliced, shard(shape, sliced)[0], sent) == (
        stream + rows * 2 * (2 * 2048 + 96) + 2 * 2 * 2 * 8192 * 2048
    )


def test_tokens_for_8_bit_products_take_half_and_are_let_go_of():
    """W8A8: in with gate and up (2,048 + 4 × 768), which is more than product and out."""
    shape, layout = known("Qwen3-30B-A3B-W8A8"), Layout.parse("TP4+EP")
    (stage,) = shard(shape, layout)
    needs = MemoryNeeds(engine_memory("0.18.0", "full", "A2"), max_sequences=1)
    by_hand = 2 * 3 * 8192 * 2048 + 8192 * 8 * (2048 + 4 * 768)
    assert activation_bytes(shape, layout, stage, needs) == by_hand


@pytest.mark.parametrize(
    ("scheme", "is_narrow"),
    [
        ("bf16", False), ("w8a8", True), ("w4a8", True), ("w4a4", True), ("w8a16", False),
        ("w4a16", False), ("gptq", False), ("mxfp8", True), ("mxfp4", False), ("int8", True),
    ],
)  # fmt: skip
def test_which_weights_are_multiplied_with_narrow_tokens(scheme, is_narrow):
    precision = precision_named(scheme, known("Qwen3-30B-A3B"))
    assert precision.narrow("routed") is is_narrow


def test_every_residual_stream_of_a_token_is_there():
    """DeepSeek-V4 has four (`hc_mult`), each with its copy and residual."""
    one, four = (replace(known("DeepSeek-V4-Flash"), streams=number) for number in (1, 4))
    (stage,) = shard(four, Layout())
    needs = MemoryNeeds(engine_memory("0.20.2rc1"), max_sequences=1, max_batched_tokens=8192)
    sizes = [activation_bytes(shape, Layout(), stage, needs) for shape in (one, four)]
    assert known("DeepSeek-V4-Flash").streams == 4
    assert sizes[1] - sizes[0] == 3 * (2 * 3 * 8192 * 4096)


@pytest.mark.parametrize(
    ("layout", "family", "mib"),
    [
        ("TP1", "A2", 160),
        ("TP8", "A2", 160 + 400),
        ("TP8×PP2", "A2", 160 + 800),
        ("DP2×TP8", "A2", 160 + 400 + 100),
        ("TP8+EP", "A2", 160 + 800),  # 8 ranks: tokens are gathered, no MC2
        ("TP16+EP", "A2", 160 + 800 + 2048),
        ("TP2+EP", "A3", 160 + 800 + 2048),
        ("TP8+EP", "310P", 160 + 800),
    ],
)
def test_what_the_engine_takes_by_its_communicators(layout, family, mib):
    assert engine_bytes(engine_memory("0.18.0", "full", family), Layout.parse(layout)) == mib * MIB


def test_what_a_release_counts():
    before, after = engine_memory("0.14.0rc1"), engine_memory("0.15.0rc1")
    assert (before.counts_idle, after.counts_idle) == (True, False)
    assert engine_bytes(before, Layout()) - engine_bytes(after, Layout()) == 370 * MIB
    # Two releases estimate graphs before the cache; it was taken back before 0.23 (#11562).
    graphs = [engine_memory(v).counted_graphs for v in ("0.20.2rc1", "0.22.1rc1", "0.23.0rc1")]
    assert [size > 0 for size in graphs] == [False, True, False]
    assert engine_memory("0.22.1rc1", "eager").counted_graphs == 0
    assert [engine_memory(v).fraction for v in ("0.19.1rc1", "0.20.2rc1")] == [0.9, 0.92]


def test_graphs_that_are_not_counted_need_room_beside_the_budget():
    """0.95 of 29.49 GiB leave 1.47 beside: too little for 2 GiB of graphs and 0.36 in use."""
    engine = engine_memory("0.18.0", "full", "A2")
    tight = of("Qwen3-30B-A3B", "TP8", 32 * GIB, MemoryNeeds(engine, fraction=0.95))
    assert tight.sequences > 0
    assert tight.spare < 0
    assert not tight.fits
    eager = engine_memory("0.18.0", "eager", "A2")
    assert of("Qwen3-30B-A3B", "TP8", 32 * GIB, MemoryNeeds(eager, fraction=0.95)).fits
    assert of("Qwen3-32B", "TP8", 64 * GIB, MemoryNeeds(engine, fraction=0.95)).fits


def test_310p_keeps_half_to_work_in():
    """34.59 GiB may be taken, 21.56 of them are: 6.5 of cache, not 13.0 (#10122)."""
    whole = of("Qwen3-8B", "TP2", 24 * GIB, MemoryNeeds(engine_memory("0.18.0", "eager", "310P")))
    half = of("Qwen3-8B", "TP2", 24 * GIB, MemoryNeeds(engine_memory("0.21.0rc1", "eager", "310P"),
                                                       fraction=0.9))  # fmt: skip
    assert half.kv_cache == pytest.approx(whole.kv_cache / 2, rel=1e-6)


def test_a_cache_of_a_fixed_size_is_taken_as_it_is():
    needs = MemoryNeeds(BLOG, kv_cache=2 * GIB, context=1024)
    sizes = of("Qwen3-8B", "TP1", 32 * GIB, needs)
    assert sizes.kv_cache == 2 * GIB
    assert sizes.kv_tokens == 2 * GIB // (147_456 * 128) * 128
    assert sizes.usable == sizes.weights + sizes.engine + sizes.activations + 2 * GIB
    assert not of("Qwen3-8B", "TP1", 32 * GIB, replace(needs, kv_cache=20 * GIB)).fits


def test_the_pool_keeps_one_block_back():
    """Eight blocks of 128 hold 1,024 tokens, and vLLM's pool can give out seven of them."""
    for blocks, sequences in ((8, 0), (9, 1), (16, 1), (17, 2)):
        needs = MemoryNeeds(BLOG, kv_cache=blocks * 128 * 147_456, context=1024)
        sizes = of("Qwen3-8B", "TP1", 32 * GIB, needs)
        assert (sizes.blocks, sizes.sequences) == (blocks, sequences)


def test_of_unequal_stages_the_fullest_decides():
    """61 layers over 4 stages are 15, 15, 16, 15: the third has the most experts."""
    engine = engine_memory("0.18.0", "full", "A2")
    sizes = of("DeepSeek-V3", "TP8×PP4", 64 * GIB, MemoryNeeds(engine))
    assert sizes.stage == 2


def test_the_rule_of_gpustack():
    """30.53 billion numbers of two bytes, times 1.2, over eight NPUs."""
    rule = gpustack_bytes(known("Qwen3-30B-A3B"), Layout.parse("TP8"))
    assert rule == pytest.approx(30_532_122_624 * 2 * 1.2 / 8, rel=1e-9)


def test_what_the_driver_keeps():
    assert visible_bytes(64 * GIB) == 65_452_113_920
    assert visible_bytes(96 * GIB) == round(96 * GIB * 0.95)


def printed_tokens(shape: ModelShape, layout: str, kv_bytes: int, context: int, **more) -> int:
    """What vLLM 0.32 prints at its start for `kv_bytes` per NPU: the tokens of as many sequences of
    `context` as fit. Without windows the cache is blocks, of which partly filled ones are taken
    off; with windows we count whole blocks of tokens."""
    needs = MemoryNeeds(EngineMemory(context=0), context=context, max_batched_tokens=2048, **more)
    tokens = cache_tokens(shape, Layout.parse(layout), kv_bytes, needs)
    if is_windowed(shape):
        return tokens
    blocks = tokens // needs.engine.block_size
    return int(blocks / ceil(context / needs.engine.block_size) * context)


def is_windowed(shape: ModelShape) -> bool:
    return any(block.attention and block.attention.window for block in shape.blocks)


@pytest.mark.parametrize(
    ("model", "layout", "kv_bytes", "context", "tokens"),
    # What get_kv_cache_configs and get_kv_cache_capacity of vLLM 0.32.0 answer for specs of these
    # layers, blocks of 128, 2,048 batched tokens.
    [
        ("SmolLM2-135M", "TP1", 2**30, 1024, 46_592),
        ("SmolLM2-135M", "PP2", 2**30, 1000, 91_000),
        ("Qwen3-30B-A3B", "TP2×PP2+EP", 2**30, 2048, 43_648),
        ("Qwen3-30B-A3B", "TP8", 2**31, 5000, 85_250),
        ("Qwen3-32B", "TP4×PP3", 2**32, 32_768, 190_592),
        ("gpt-oss-120b", "TP8", 2**33, 32_768, 1_741_607),
        ("gpt-oss-120b", "TP1", 2**34, 131_072, 457_871),
        ("gemma-2-9b", "TP2", 2**33, 8192, 56_546),
        ("gpt-oss-20b", "TP2×PP2", 2**33, 16_384, 1_225_657),
    ],
)
def test_tokens_are_counted_as_vllm_counts_them(model, layout, kv_bytes, context, tokens):
    expected = tokens // 128 * 128 if is_windowed(known(model)) else tokens
    printed = printed_tokens(known(model), layout, kv_bytes, context)
    assert printed == pytest.approx(expected, rel=0.001)


def test_blocks_of_another_size():
    # SmolLM2-135M: 30 layers of 3 KV heads of 64, 23,040 bytes a token
    needs = MemoryNeeds(EngineMemory(context=0, block_size=16), context=16)
    assert cache_tokens(known("SmolLM2-135M"), Layout(), GIB, needs) == GIB // (23_040 * 16) * 16


# Logs that others published: what is neither weights nor cache of one rank, GiB

LOGS = [
    # `Available memory` under 0.9 of 65,452,113,920 with 7.6857 of weights (#4594)
    ("Qwen3-32B", "TP8", "0.12.0rc1", "A2", (2048, 200), 1.47),
    # 10.02e9 under 0.8 with 37.3242 of weights (#6250)
    ("Qwen3-Next-80B-A3B-Instruct", "TP4", "0.13.0rc2", "A2", (4096, 256), 2.11),
    # 25.08e9 under 0.9; the log does not print the weights, we count 27.6 (#5876)
    ("Qwen3-235B-A22B", "TP16+EP", "0.13.0rc1", "A2", (4096, 256), 3.91),
    # 1.52 peak activation and 3.15 non-torch (kvcache-ai/Mooncake #2827, HCCL_BUFFSIZE 1024)
    ("DeepSeek-V4-Flash", "DP2×TP8+EP", "0.20.2rc1", "A2", (4096, 16), 4.67),
    # 7.27 and 3.08 (a public log of v0.23.0rc1 on 910C)
    ("DeepSeek-V4-Flash", "DP8×TP2+EP", "0.23.0rc1", "A3", (45_056, 64), 10.35),
    # 0.26 and 0.18 (a public log, 64 GB, 0.6 of the memory)
    ("Qwen3-14B", "TP1", "0.20.2rc1", "A2", (2048, 16), 0.44),
    # 0.22 and 0.13 (#8289)
    ("Qwen3-0.6B", "TP1", "0.19.1rc1", "A3", (2048, 256), 0.35),
    # 10.70e9 under 0.9 of 31,662,800,896 with 15.2684 of weights (#5044, context 10,000)
    ("Qwen3-8B", "TP1", "0.11.0", "A2", (10_000, 256), 1.31),
    # 39.44e9 under 0.9 with 16.5326 of weights, a model on Qwen3-8B (#3090)
    ("Qwen3-8B", "TP1", "0.10.2rc1", "A2", (8192, 256), 1.59),
]


def off(log: tuple[str, str, str, str, tuple[int, int], float]) -> float:
    """GiB by which we say more than the log."""
    model, layout, version, family, (tokens, sequences), measured = log
    needs = MemoryNeeds(
        engine_memory(version, "eager", family), max_batched_tokens=tokens, max_sequences=sequences
    )
    sizes = of(model, layout, 64 * GIB, needs)
    return (sizes.engine + sizes.activations) / GIB - measured


def test_the_error_that_is_told_is_the_largest_of_these():
    assert max(abs(off(log)) for log in LOGS) == pytest.approx(MEMORY_ERROR / GIB, abs=0.05)


@pytest.mark.parametrize("log", LOGS, ids=lambda log: f"{log[0]} {log[1]}")
def test_engine_and_activations_are_near_what_logs_say(log):
    assert abs(off(log)) < 0.7


def test_on_the_whole_they_are_nearer():
    errors = [off(log) for log in LOGS]
    assert sum(map(abs, errors)) / len(errors) < 0.3
    assert abs(sum(errors) / len(errors)) < 0.1


def test_sequences_of_a_model_with_recurrent_state():
    """`Maximum concurrency for 32,768 tokens per request: 23.29x` of 9.79e9 bytes (#6250)."""
    needs = MemoryNeeds(engine_memory("0.13.0rc2"), kv_cache=9_786_143_744, context=32_768)
    sizes = of("Qwen3-Next-80B-A3B-Instruct", "TP4", 64 * GIB, needs)
    assert sizes.sequences == 23


@pytest.mark.parametrize(
    "log",
    # Share of so many GiB, tokens and sequences of a step; `Loading model weights took`, GiB, and
    # `Available memory`, bytes.
    [
        ("Qwen3-32B", "TP8", "0.12.0rc1", 0.9, 64, (2048, 200), 7.6857, 49_076_500_000),
        ("Qwen3-Next-80B-A3B-Instruct", "TP4", "0.13.0rc2", 0.8, 64, (4096, 256), 37.3242,
         10_022_600_000),
        ("Qwen3-235B-A22B", "TP16+EP", "0.13.0rc1", 0.9, 64, (4096, 256), None, 25_083_870_720),
        ("Qwen3-8B", "TP1", "0.11.0", 0.9, 32, (10_000, 256), 15.2684, 10_701_063_270),
    ],
)  # fmt: skip
def test_weights_and_cache_that_logs_print(log):
    model, layout, version, share, gib, (tokens, sequences), weights, cache = log
    engine = engine_memory(version, "eager", "A2")
    needs = MemoryNeeds(engine, share, max_batched_tokens=tokens, max_sequences=sequences)
    sizes = of(model, layout, gib * GIB, needs)
    assert sizes.kv_cache == pytest.approx(cache, rel=0.06)
    assert weights is None or sizes.weights / GIB == pytest.approx(weights, rel=0.01)


@pytest.mark.parametrize(("context", "gib"), [(65_536, 8), (131_072, 32), (262_144, 128)])
def test_the_mask_of_310p_is_the_square_of_the_context(context, gib):
    """In float16, beside the cache (vllm-ascend tutorials, hardwares/310p.md)."""
    needs = MemoryNeeds(engine_memory("0.21.0rc1", "eager", "310P"), context=context)
    sizes = of("Qwen3-8B", "TP1", 48 * GIB, needs)
    assert sizes.mask == gib * GIB
    assert sizes.reserve == sizes.mask + 370 * MIB
    assert sizes.fits is (gib == 8)
    other = replace(needs, engine=engine_memory("0.21.0rc1", "eager", "A2"))
    assert of("Qwen3-8B", "TP1", 48 * GIB, other).mask == 0


def test_mtp_layers_take_weights_and_cache_where_they_draft():
    """GLM-5.2 has one beside its 78: 1,408 bytes of every token, and a layer of experts."""
    shape, layout = known("GLM-5.2"), Layout.parse("DP4×TP8+EP")
    needs = MemoryNeeds(engine_memory("0.21.0rc1"), kv_cache=2 * GIB, context=4096)
    without, drafting = (
        memory(shape, layout, 64 * GIB, replace(needs, drafts=drafts)) for drafts in (False, True)
    )
    experts = 256 // 32 * 3 * 6144 * 2048 * 2
    assert experts < drafting.weights - without.weights < 1.5 * experts
    assert without.blocks == 2 * GIB // (78 * 1408 * 128)
    assert drafting.blocks == 2 * GIB // (79 * 1408 * 128)
    # In a pipeline they are on the last stage.
    stages = [shard(shape, Layout.parse("TP8×PP4+EP"), drafts=drafts) for drafts in (False, True)]
    assert stages[0][:-1] == stages[1][:-1]
    assert stages[0][-1].weights.total < stages[1][-1].weights.total


def test_layers_without_an_index_of_their_own_kept_room_for_one_until_0_23():
    """200,000 tokens of GLM-5.2 need 20.73 GiB in 79 layers with 0.21 (#10918)."""
    shape, layout = known("GLM-5.2"), Layout.parse("DP4×TP8+EP")
    needs = MemoryNeeds(engine_memory("0.21.0rc1"), kv_cache=21 * GIB, context=200_000, drafts=True)
    old, new = (
        memory(shape, layout, 64 * GIB, replace(needs, engine=engine_memory(version)))
        for version in ("0.21.0rc1", "0.23.0rc1")
    )
    assert old.sequence_bytes(ceil(200_000 / 128) * 128) / GIB == pytest.approx(20.73, abs=0.01)
    assert new.kv_tokens > 1.1 * old.kv_tokens


def test_context_parallelism_deals_out_the_cache():
    """A latent is on all eight tensor ranks, KV heads of eight ranks on two of them each."""
    needs = MemoryNeeds(EngineMemory(context=0), context=4096)
    for name, whole, dealt, times in (
        ("DeepSeek-V3", "TP8", "TP8×DCP8", 8),
        ("DeepSeek-V3", "TP8", "TP8×PCP2", 2),
        ("DeepSeek-V3", "TP8", "TP8×PCP2×DCP8", 16),
        ("Qwen3-235B-A22B", "TP8", "TP8×DCP2", 2),
    ):
        tokens = [
            cache_tokens(known(name), Layout.parse(layout), GIB, needs) for layout in (whole, dealt)
        ]
        assert tokens[1] == pytest.approx(times * tokens[0], rel=0.005)


@given(NAMES, LAYOUTS, NEEDS, st.sampled_from([24, 32, 64, 112]))
def test_never_more_than_there_is(name, layout, needs, gib):
    shape = known(name)
    sizes = memory(shape, layout, gib * GIB, needs)
    taken = sizes.weights + sizes.engine + sizes.activations + max(0, sizes.kv_cache)
    if sizes.kv_cache >= 0:
        assert taken <= sizes.usable
    if needs.engine.cache_share == 1 and sizes.kv_cache >= 0 and shape.caches:
        assert taken == sizes.usable
    if sizes.fits:
        assert taken + sizes.reserve <= sizes.visible < sizes.hbm
        assert (sizes.kv_cache > 0) == shape.caches
    assert sizes.kv_tokens >= 0
    assert sizes.kv_tokens % needs.engine.block_size == 0
    assert sizes.sequences * needs.context <= sizes.kv_tokens + needs.engine.block_size


@given(NAMES, LAYOUTS, NEEDS, st.integers(8, 128), st.integers(0, 64))
def test_more_memory_never_holds_fewer_tokens(name, layout, needs, gib, more):
    shape = known(name)
    less = memory(shape, layout, gib * GIB, needs)
    # 32 and 64 GiB are known to the byte and other sizes by a share, hence the half
    much = memory(shape, layout, (gib + more) * GIB + GIB // 2, needs)
    if more:
        assert much.kv_tokens >= less.kv_tokens
        assert much.sequences >= less.sequences
    wider = memory(shape, layout, gib * GIB, replace(needs, fraction=0.99))
    assert wider.kv_tokens >= less.kv_tokens


@given(NAMES, LAYOUTS, NEEDS)
def test_a_longer_context_never_lets_more_sequences_run(name, layout, needs):
    shape = known(name)
    short = memory(shape, layout, 64 * GIB, needs)
    long = memory(shape, layout, 64 * GIB, replace(needs, context=2 * needs.context))
    assert long.sequences <= short.sequences


def test_an_engine_that_keeps_nothing_leaves_the_rest():
    engine = EngineMemory(context=0)
    sizes = of("Qwen3-8B", "TP1", 64 * GIB, MemoryNeeds(engine, fraction=1.0))
    assert sizes.usable == sizes.visible == sizes.weights + sizes.activations + sizes.kv_cache
