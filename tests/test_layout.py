"""Layouts: the models and clusters we know by hand, and what must hold for every other."""

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_files import MOE as MOE_CONFIG
from model_files import PADDED as PADDED_CONFIG
from model_files import SMOLLM2 as SMOLLM2_CONFIG
from model_files import config_of
from plan_requests import cluster as cluster_of
from ropeway.errors import Exit, LayoutError
from ropeway.models.build import read_shape
from ropeway.models.shape import ModelShape
from ropeway.plan.layout import check, hosts_of, nearest, problems, working
from ropeway.spec.cluster import Cluster, Local
from ropeway.spec.model import Layout


def local(hosts: int, npus: int) -> Cluster:
    return Cluster(local=Local(hosts=hosts, npus=npus))


def published(name: str) -> ModelShape:
    return read_shape(config_of(name))


def names(layouts: tuple[Layout, ...]) -> list[str]:
    return [str(layout) for layout in layouts]


def moe(**changed: object) -> ModelShape:
    return read_shape({**MOE_CONFIG, **changed})


SMOLLM2, PADDED, MOE = map(read_shape, (SMOLLM2_CONFIG, PADDED_CONFIG, MOE_CONFIG))
QWEN_VL = published("Qwen__Qwen3-VL-30B-A3B-Instruct")
# a latent cache is one KV head for all ranks, whatever config.json writes for KV heads
LATENT = read_shape({**config_of("deepseek-ai__DeepSeek-V2-Lite"), "num_key_value_heads": 3})
QWEN_7B = published("Qwen__Qwen2.5-7B-Instruct")
TINY_QWEN = moe(model_type="qwen3_moe", num_local_experts=2)

LAPTOP = local(2, 2)
BLOG = cluster_of(8, 8)


@pytest.mark.parametrize(
    ("shape", "cluster", "name"),
    [
        *((SMOLLM2, LAPTOP, name) for name in ("TP1", "TP3", "PP4", "DP2×PP2", "PP3")),
        *((PADDED, LAPTOP, name) for name in ("TP2", "TP4", "TP2×PP2", "DP2×TP2", "DP4")),
        *((MOE, LAPTOP, name) for name in ("TP4", "TP2+EP", "TP4+EP", "TP2×PP2+EP", "DP2×TP2")),
        # 4 experts over 3 ranks: 2, 1, 1; and EP over one rank, which changes nothing
        *((MOE, LAPTOP, name) for name in ("DP3+EP", "PP2+EP", "DP2×TP2+EP")),
        *((QWEN_VL, BLOG, name) for name in ("TP8", "TP8+EP", "TP16", "TP16+EP")),
        *((QWEN_VL, BLOG, name) for name in ("TP8×PP2", "TP8×PP2+EP", "DP2×TP8+EP")),
        (QWEN_VL, local(4, 2), "DP2×TP4"),  # a data rank larger than a host takes whole hosts
        (PADDED, local(1, 12), "TP12"),  # which hold 4 KV heads three times
        (LATENT, BLOG, "TP2×PP2+EP"),
        (QWEN_7B, local(1, 8), "TP4"),  # the width 18944 over 4
    ],
)
def test_a_layout_that_vllm_takes_has_no_problem(shape, cluster, name):
    layout = Layout.parse(name)
    assert problems(layout, shape, cluster) == ()
    check(layout, shape, cluster)
    assert layout in working(shape, cluster)


# What each reason must name, in order: what cannot be divided or placed, with its numbers.
CANNOT_RUN = [
    ("TP2", SMOLLM2, LAPTOP, ["tensor parallel 2, 9 attention heads", "2 and 3 KV heads"]),
    # 49152 = 2^14 × 3: nine ranks cannot share it although they can share the heads
    ("TP9", SMOLLM2, local(1, 9), ["9, feed-forward width 1536", "9, vocabulary of 49,152"]),
    ("TP28", QWEN_7B, local(1, 28), ["28, feed-forward width 18944", "28, vocabulary of 152,064"]),
    ("TP3", PADDED, LAPTOP, ["3 and 4 KV heads"]),
    ("TP6", PADDED, local(1, 8), ["6 and 4 KV heads"]),
    ("TP4×PP2", PADDED, LAPTOP, ["data 1 × tensor 4 × pipeline 2, 8 ranks, 4 NPUs"]),
    ("PP31", PADDED, local(4, 8), ["pipeline parallel 31, 30 layers"]),
    ("TP2+EP", PADDED, LAPTOP, ["expert parallel, dense"]),
    ("DP5+EP", MOE, local(1, 5), ["expert parallel over 5 ranks, tensor 1 × data 5, model has 4"]),
    ("DP5", MOE, local(1, 5), ["5 slices, tensor 1 × data 5, width 1536"]),
    ("TP4", TINY_QWEN, LAPTOP, ["tensor parallel 4, 2 experts, qwen3_moe"]),
    ("DP3×TP2", PADDED, local(2, 3), ["3 DP ranks, 2 NPUs, 2 hosts of 3 NPUs, room for 2"]),
    ("DP2×TP4", PADDED, local(3, 3), ["2 DP ranks, 4 NPUs, 3 hosts of 3 NPUs, room for 1"]),
    ("TP5×PP31+EP", PADDED, LAPTOP, [
        "5, 12 attention heads", "5 and 4 KV heads", "5, feed-forward width", "5, vocabulary",
        "pipeline parallel 31", "dense", "tensor 5 × pipeline 31",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shape", "cluster", "expected"), CANNOT_RUN)
def test_a_layout_that_cannot_run_is_told_every_reason_with_its_numbers(
    name, shape, cluster, expected
):
    reasons = problems(Layout.parse(name), shape, cluster)
    assert len(reasons) == len(expected)
    for reason, words in zip(reasons, expected, strict=True):
        assert all(word in reason for word in words.split(", ")), (reason, words)
    assert Layout.parse(name) not in working(shape, cluster)


def test_the_refusal_carries_the_reasons_and_the_nearest_layouts():
    with pytest.raises(LayoutError) as caught:
        check(Layout.parse("TP8"), PADDED, LAPTOP, "smollm2-padded")
    error = caught.value
    assert error.exit_code == Exit.REFUSED
    assert error.what == "layout `TP8` cannot run smollm2-padded on 2 hosts of 2 NPUs"
    assert error.evidence == problems(Layout.parse("TP8"), PADDED, LAPTOP)
    assert error.hint == "nearest that work: `TP4`, `TP2×PP2`, `DP2×TP2`"


@pytest.mark.parametrize(
    ("name", "shape", "cluster", "expected"),
    [
        ("TP8", PADDED, LAPTOP, ["TP4", "TP2×PP2", "DP2×TP2"]),
        # as many NPUs come first, then as many kinds
        ("TP2", SMOLLM2, LAPTOP, ["PP2", "DP2", "TP3"]),
        ("TP3+EP", MOE, LAPTOP, ["DP3+EP", "PP3", "DP3"]),
        ("TP8×PP2+EP", QWEN_VL, BLOG, ["TP8×PP2+EP", "TP4×PP4+EP"]),
        ("TP4+EP", PADDED, LAPTOP, ["TP4", "TP2×PP2", "DP2×TP2"]),
        ("TP2", PADDED, local(1, 1), ["TP1"]),
    ],
)
def test_nearest_keeps_the_npus_then_the_kinds_then_the_sizes(name, shape, cluster, expected):
    layouts = names(nearest(Layout.parse(name), shape, cluster))
    assert layouts[: len(expected)] == expected


def test_tensor_sizes_that_suit_nine_heads_are_the_nearest_of_their_kind():
    layouts = names(nearest(Layout.parse("TP2"), SMOLLM2, LAPTOP, number=99))
    assert [name for name in layouts if name in ("TP1", "TP2", "TP3", "TP4")] == ["TP3", "TP1"]


def test_working_lists_small_layouts_first_and_expert_parallel_last():
    assert names(working(PADDED, LAPTOP)) == [
        "TP1", "TP2", "PP2", "DP2", "PP3", "DP3",
        "TP4", "TP2×PP2", "PP4", "DP2×TP2", "DP2×PP2", "DP4",
    ]  # fmt: skip
    assert names(working(MOE, local(1, 2))) == [
        "TP1", "TP1+EP", "TP2", "PP2", "DP2", "TP2+EP", "PP2+EP", "DP2+EP",
    ]  # fmt: skip


def test_a_thousand_hosts_are_answered_fast_and_can_be_filled():
    cluster = cluster_of(*[8] * 1000)
    start = time.process_time()
    layouts = working(published("Qwen__Qwen3-235B-A22B"), cluster)
    assert time.process_time() - start < 2  # 0.1 s on the machine this was written on
    assert len(layouts) < 10_000
    assert "DP1000×TP8" not in names(layouts)  # 1536 is no multiple of 8000
    assert "DP1000×TP8" in names(working(published("Qwen__Qwen3-32B"), cluster))


@pytest.mark.parametrize(
    ("name", "cluster", "hosts"),
    [
        ("TP1", LAPTOP, 1),
        ("TP2", LAPTOP, 1),
        ("TP2×PP2+EP", LAPTOP, 2),
        ("DP2×TP2", LAPTOP, 2),
        ("DP2", LAPTOP, 1),
        ("TP8", BLOG, 1),
        ("TP8×PP2", BLOG, 2),
        ("DP2×TP4", local(4, 2), 4),
        ("DP2×TP2", local(3, 3), 2),  # 4 NPUs, and a rank of 2 is not torn apart
        ("TP4", local(3, 3), 2),
        ("TP9", cluster_of(2, 8, 1), 2),
        ("DP2×TP4", cluster_of(2, 8, 2), 1),
        ("DP3×TP4", cluster_of(4, 8, 2), 2),
    ],
)
def test_hosts_are_counted_as_vllm_packs_them(name, cluster, hosts):
    assert hosts_of(Layout.parse(name), cluster) == hosts


def test_unequal_hosts_serve_as_well_as_their_best_equal_part():
    layout = Layout.parse("DP2×TP4")
    assert problems(layout, PADDED, cluster_of(3, 2, 2, 2)) == ()  # two of each
    assert problems(layout, PADDED, cluster_of(4, 2, 2, 2, 2)) == ()  # leave the new one out
    assert "5 hosts of 1 to 4 NPUs (8 in all) have room for 1" in "".join(
        problems(layout, PADDED, cluster_of(4, 1, 1, 1, 1))
    )


SHAPES = st.sampled_from([SMOLLM2, PADDED, MOE, QWEN_VL, QWEN_7B, TINY_QWEN]) | st.builds(
    lambda kv_heads, group, layers, experts, vocab: moe(
        model_type="llama", num_attention_heads=kv_heads * group, num_key_value_heads=kv_heads,
        num_hidden_layers=layers, vocab_size=vocab, num_local_experts=experts,
        num_experts_per_tok=1, moe_intermediate_size=96,
    ),
    st.integers(1, 8), st.integers(1, 8), st.integers(1, 12), st.integers(0, 8),
    st.integers(1, 4000),
)  # fmt: skip
HOSTS = st.lists(st.integers(1, 6), min_size=1, max_size=4)
LAYOUTS = st.builds(
    Layout,
    tensor=st.integers(1, 12),
    pipeline=st.integers(1, 6),
    data=st.integers(1, 6),
    expert=st.booleans(),
)


@given(SHAPES, HOSTS)
def test_working_is_exactly_what_has_no_problem(shape, hosts):
    cluster = cluster_of(*hosts)
    layouts = working(shape, cluster)
    # nothing is left out while the cluster has at most 16 NPUs
    npus = min(cluster.total_npus, 16)
    every = (
        Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)
        for tensor, pipeline, data, expert in product(*[range(1, npus + 1)] * 3, (False, True))
        if tensor * pipeline * data <= npus
    )
    assert {item for item in layouts if item.npus <= npus} == {
        item for item in every if not problems(item, shape, cluster)
    }
    assert not any(problems(item, shape, cluster) for item in layouts)
    assert len(set(layouts)) == len(layouts)
    assert layouts[0] == Layout()


@given(LAYOUTS, SHAPES, HOSTS)
def test_nearest_is_of_the_working_and_starts_with_itself_when_that_works(layout, shape, hosts):
    cluster = cluster_of(*hosts)
    able = working(shape, cluster)
    layouts = nearest(layout, shape, cluster)
    assert set(layouts) <= set(able)
    assert len(layouts) == min(3, len(able))
    assert (layouts[0] == layout) == (not problems(layout, shape, cluster))
    assert nearest(layout, shape, cluster, number=len(able))[:3] == layouts


@pytest.mark.parametrize(
    ("shape", "name", "reason"),
    [
        (LATENT, "TP8×DCP8", ""),
        (LATENT, "TP8×DCP3", "does not divide tensor parallel 8"),
        (LATENT, "TP8×DCP16", "does not divide tensor parallel 8"),
        # four KV heads over eight ranks: two copies of each
        (QWEN_VL, "TP8×DCP2", ""),
        (QWEN_VL, "TP8×DCP4", "copies of a KV head, which is 2 (tensor parallel 8, KV heads: 4)"),
        (QWEN_VL, "TP4×DCP2", "copies of a KV head, which is 1 (tensor parallel 4, KV heads: 4)"),
        (QWEN_VL, "TP8×PCP2", ""),
        (QWEN_VL, "TP8×PCP3", "tensor 8 × pipeline 1 × prefill context 3 is 24 ranks"),
        (QWEN_VL, "DP2×TP8×PCP2", "32 ranks"),
        (MOE, "TP2×PCP3+EP", "over 6 ranks (tensor 2 × data 1 × prefill context 3)"),
    ],
)
def test_context_parallelism_takes_npus_and_deals_out_copies(shape, name, reason):
    """ParallelConfig and ModelConfig.verify_with_parallel_config of vLLM; PCP multiplies NPUs."""
    found = problems(Layout.parse(name), shape, BLOG)
    assert len(found) == bool(reason)
    assert reason in "".join(found)


def test_a_search_keeps_the_sizes_of_context_parallelism():
    found = working(QWEN_VL, BLOG, (2, 2))
    assert {layout.contexts for layout in found} == {(2, 2)}
    assert max(layout.npus for layout in found) == 16
    assert all(hosts_of(layout, BLOG) * 8 >= layout.npus for layout in found)
    near = nearest(Layout.parse("TP5×PCP2"), QWEN_VL, BLOG)
    assert {layout.contexts for layout in near} == {(2, 1)}


def test_experts_are_spread_over_the_ranks_of_prefill_context_too():
    near = nearest(Layout.parse("TP3×PCP2+EP"), MOE, local(1, 2))
    assert names(near) == ["PCP2+EP", "PCP2"]


@given(LAYOUTS, SHAPES, HOSTS, HOSTS, st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_more_npus_never_take_a_layout_away(layout, shape, hosts, added, grown):
    more = [size + extra for size, extra in zip(hosts, grown, strict=False)] + added
    before = problems(layout, shape, cluster_of(*hosts))
    after = problems(layout, shape, cluster_of(*more))
    assert len(after) <= len(before)
    if not before:
        assert after == ()
        assert hosts_of(layout, cluster_of(*more)) <= len(more)


@given(LAYOUTS, st.integers(1, 6), st.integers(1, 8))
def test_hosts_hold_all_ranks_and_one_less_would_not(layout, hosts, npus):
    cluster = local(hosts, npus)
    if layout.npus > cluster.total_npus or problems(layout, _any_size(), cluster):
        return
    count = hosts_of(layout, cluster)
    assert layout.npus <= count * npus
    if count > 1:
        assert problems(layout, _any_size(), local(count - 1, npus))


def _any_size() -> ModelShape:
    """A shape that every size up to 12 divides, experts included."""
    size = 27_720 * 64
    return moe(
        num_attention_heads=27_720, num_key_value_heads=27_720, vocab_size=size,
        num_local_experts=27_720, moe_intermediate_size=size, num_hidden_layers=100,
    )  # fmt: skip


def test_where_nothing_works_with_the_sizes_of_context_parallelism_that_is_said():
    with pytest.raises(LayoutError) as error:
        check(Layout.parse("TP16×DCP3"), published("deepseek-ai__DeepSeek-V3"), cluster_of(16))
    assert "none works with these sizes" in (error.value.hint or "")
