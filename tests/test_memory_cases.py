"""Whole cases that others published: what came up, what did not, and by how much."""

from dataclasses import replace

import pytest

from ropeway.engines.ascend_layouts import Case, limits
from ropeway.engines.ascend_memory import dispatch_mebibytes
from ropeway.errors import LayoutError
from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.choice import room, with_layout
from ropeway.plan.choose import choose
from ropeway.plan.memory import MEMORY_ERROR
from ropeway.plan.request import request_for_hosts
from ropeway.spec.model import Layout, Serve, Spec

GIB = 2**30
MTP = {"num_speculative_tokens": 5, "method": "deepseek_mtp", "enforce_eager": True}
GLM = {"max-num-batched-tokens": 4096, "speculative-config": MTP}
LOAD = {"clients": 8, "input_tokens": 1024, "output_tokens": 512}


def spec(model: str, hosts: int, npus: int, *, chip: str, hbm: str | None = None, **serve) -> Spec:
    addresses = [{"address": f"h{number}", "npus": npus} for number in range(hosts)]
    cluster = {"hosts": addresses, "chip": chip, **({"hbm": hbm} if hbm else {})}
    return Spec.model_validate(
        {"cluster": cluster, "model": {"path": f"/data/{model}"}, "serve": serve, "workload": LOAD}
    )


def spare(asked: Spec) -> float:
    """GiB that are left once one sequence has its cache, negative if missing."""
    shape, chip = known(asked.model.path or ""), chip_named(asked.cluster.chip or "")
    return room(asked, shape, chip, asked.serve.version or "").spare / GIB


def glm52(context: int, **serve: object) -> Spec:
    """GLM-5.2 in 16 bits on four hosts (vllm-ascend#10918)."""
    given = {"engine_args": GLM, **serve}
    return spec(
        "GLM-5.2", 4, 8, chip="910B3", version="0.21.0rc1", layout="DP4×TP8+EP",
        context=context, memory=0.95, max_sequences=32, **given,
    )  # fmt: skip


def test_the_longest_context_is_near_what_the_engine_said():
    """2.01 GiB of cache, 19,328 tokens, where 20.73 GiB were needed for 200,000."""
    assert spare(glm52(19_328)) == pytest.approx(0, abs=0.3)
    assert spare(glm52(200_000)) == pytest.approx(2.01 - 20.73, abs=0.3)
    assert 0 <= spare(glm52(19_328)) < MEMORY_ERROR / GIB


def test_buffers_that_the_user_sets_are_counted():
    """MC2 takes twice HCCL_BUFFSIZE; 300 MiB are what it needs here, by the operator's rule."""
    usual = spare(glm52(19_328))
    for mebibytes in (200, 1024):
        taken = spare(glm52(19_328, env={"HCCL_BUFFSIZE": str(mebibytes)}))
        assert usual - taken == pytest.approx(2 * (mebibytes - 300) / 1024, abs=0.02)


def test_the_tutorials_minimum_fits():
    """Kimi-K2.5-w4a8 on two hosts of 8×64 GB, steps of 16,384 tokens in each of four DP ranks."""
    asked = spec(
        "Kimi-K2.5-w4a8", 2, 8, chip="910B3", version="0.18.0", layout="DP4×TP4+EP",
        context=32_768, memory=0.9, max_sequences=16,
        engine_args={"max-num-batched-tokens": 16_384},
    )  # fmt: skip
    assert spare(asked) > MEMORY_ERROR / GIB


def test_one_host_of_64_gb_holds_what_it_is_known_to_hold():
    """GLM-5.2-w4a8c8 on 8×910B2 (vllm-ascend#12920); Qwen3-235B in 16 bits."""
    draft = {"speculative-config": {"num_speculative_tokens": 3, "method": "deepseek_mtp"}}
    glm = spec(
        "GLM-5.2-w4a8c8", 1, 8, chip="910B2", version="0.23.0rc1", layout="TP8+EP",
        context=16_384, memory=0.96, max_sequences=4,
        engine_args={"max-num-batched-tokens": 2048, **draft},
    )  # fmt: skip
    assert spare(glm) >= 0
    qwen = spec("Qwen3-235B-A22B", 1, 8, chip="910B3", version="0.18.0", layout="TP8", context=8192)
    assert spare(qwen) >= 0


@pytest.mark.parametrize("layout", ["TP8", "TP8+EP", "DP2×TP4+EP"])
def test_deepseek_v4_flash_does_not_fit_on_8_npus_of_32_gb(layout):
    asked = spec("DeepSeek-V4-Flash-w8a8", 1, 8, chip="910B4", version="0.23.0", layout=layout,
                 context=8192)  # fmt: skip
    assert spare(asked) < -MEMORY_ERROR / GIB


def test_671b_on_one_npu_is_refused_before_anything_is_asked_of_hosts():
    asked = spec("DeepSeek-V3.1-w8a8", 1, 1, chip="910B4", version="0.13.0", layout="TP1",
                 context=131_072)  # fmt: skip
    with pytest.raises(LayoutError, match="does not fit"):
        with_layout(asked, known("DeepSeek-V3.1-w8a8"), chip_named("910B4"), "0.13.0")


def test_a_layout_of_five_ranks_is_refused_with_its_reasons():
    asked = spec("Qwen3-32B", 1, 8, chip="910B3", version="0.18.0", layout="TP5")
    with pytest.raises(LayoutError) as error:
        with_layout(asked, known("Qwen3-32B"), chip_named("910B3"), "0.18.0")
    assert any("does not divide 64 attention heads" in reason for reason in error.value.evidence)


def on_310p(model: str, layout: str, **serve: object) -> Spec:
    npus = Layout.parse(layout).npus
    return spec(
        model, 1, npus, chip="310P3", hbm="48GiB", version="0.21.0rc1", layout=layout, **serve
    )


def test_310p_is_refused_a_context_whose_mask_does_not_fit():
    """262,144 tokens: 128 GiB, whichever layout (vllm-ascend tutorials, hardwares/310p.md)."""
    asked = on_310p("Qwen3.6-35B-A3B", "TP4", context=262_144, memory=0.85, max_sequences=4)
    shape, chip = known("Qwen3.6-35B-A3B"), chip_named("310P3")
    with pytest.raises(LayoutError) as error:
        with_layout(asked, shape, chip, "0.21.0rc1")
    assert "mask of a context of 262,144 tokens takes 128.0 GiB" in str(error.value.evidence[0])
    plan = choose(request_for_hosts(asked, shape, chip, "0.21.0rc1"))
    assert plan.chosen is None
    assert any("with a context of" in line for line in plan.missing)


@pytest.mark.parametrize(
    ("model", "requests", "context"),
    [
        ("Qwen3-8B-W8A8", {}, 16_384),
        ("Qwen3.6-35B-A3B", {}, 16_384),
        ("Qwen3.6-35B-A3B", {"input_tokens": 20_000, "output_tokens": 100}, 20_480),
        ("Llama-2-7b-hf", {}, 4096),
    ],
)
def test_on_310p_a_blank_context_is_set_and_plan_and_up_say_so(model, requests, context):
    asked = on_310p(model, "TP4", max_sequences=4)
    asked = asked.model_copy(update={"workload": asked.workload.model_copy(update=requests)})
    shape, chip = known(model), chip_named("310P3")
    made, notes = with_layout(asked, shape, chip, "0.21.0rc1")
    assert made.serve.context == context
    plan = choose(request_for_hosts(asked, shape, chip, "0.21.0rc1"))
    for said in (notes, plan.doubts):
        assert any(f"`--max-model-len {context}` is set" in line for line in said)


def test_a_tight_fit_is_said_by_plan_and_by_up_in_the_same_words():
    asked = glm52(19_328)
    shape, chip = known("GLM-5.2"), chip_named("910B3")
    _, notes = with_layout(asked, shape, chip, "0.21.0rc1")
    request = request_for_hosts(asked, shape, chip, "0.21.0rc1")
    plan = choose(replace(request, layout=asked.serve.layout))
    said = [line for line in plan.doubts if "may be off by" in line]
    assert said == [line for line in notes if "may be off by" in line] != []


@pytest.mark.parametrize(
    ("layout", "family", "version", "serve", "mebibytes"),
    [
        # 512 tokens of a step at most, 64 on each of 8 ranks: 2 × (64 × 16 × 8 × 7168 × 2 + 2 MiB)
        ("DP2×TP8+EP", "A2", "0.18.0", {}, 300),
        ("DP4×TP4+EP", "A2", "0.18.0", {}, 500),
        ("DP4×TP4+EP", "A2", "0.18.0", {"max_sequences": 16}, 200),
        ("DP4×TP4+EP", "A2", "0.10.2rc1", {"max_sequences": 16}, 1024),
        ("DP16+EP", "A2", "0.18.0", {}, 1800),
        ("DP16+EP", "A2", "0.18.0",
         {"engine_args": {"compilation-config": '{"cudagraph_capture_sizes": [4, 64]}'}}, 300),
        ("DP4×TP4+EP", "A3", "0.18.0", {}, 1000),
        ("DP4×TP4+EP", "A3", "0.18.0",
         {"max_sequences": 1, "engine_args": {"additional-config": {"enable_fused_mc2": 1}}}, 1024),
        # 2,048 tokens: 256 on each of 8 ranks
        ("DP2×TP8+EP", "A2", "0.18.0", {"engine_args": {"max_cudagraph_capture_size": 2048}}, 900),
        ("DP2×TP8+EP", "A2", "0.18.0",
         {"engine_args": {"compilation-config.max_cudagraph_capture_size": 2048}}, 900),
        ("DP2×TP8+EP", "A2", "0.10.2", {"engine_args": {"cuda-graph-sizes": [8, 2048]}}, 1024),
        ("DP2×TP8+EP", "A2", "0.12.0rc1", {"engine_args": {"cuda-graph-sizes": [8, 2048]}}, 900),
        # since 0.23.0rc1 at most 512 on each rank
        ("DP16+EP", "A2", "0.18.0", {"engine_args": {"max_cudagraph_capture_size": 1024}}, 3600),
        ("DP16+EP", "A2", "0.23.0", {"engine_args": {"max_cudagraph_capture_size": 1024}}, 1800),
        # prompts of 8,192 and 1,024 tokens on 4 ranks; without the flag, the limit
        *(("DP4×TP4+EP", "A2", "0.23.0",
           {"engine_args": {"additional-config": {"enable_prefill_mc2": True}, **batched}}, buffer)
          for batched, buffer in (({"max-num-batched-tokens": 8192}, 1800),
                                  ({"max-num-batched-tokens": "1024"}, 900), ({}, 1800))),
        # 272 experts in place of 256: 17 on each of 16 ranks; A2 sends no more than the 8 visited
        *(("DP4×TP4+EP", family, "0.18.0",
           {"engine_args": {"additional-config": {"eplb_config": {"num_redundant_experts": 16}}}},
           buffer) for family, buffer in (("A2", 500), ("A3", 1100))),
        ("DP4×TP4+EP", "A2", "0.18.0",
         {"engine_args": {"additional-config.eplb_config.expert_map_path": "/data/m.json"}}, 1024),
        *(("DP4×TP4+EP", "A2", "0.18.0", {"env": {"HCCL_BUFFSIZE": size}}, 777)
          for size in ("777", " 777 ")),
        # numbers as text; what is not read is not small
        *(("DP2×TP8+EP", "A2", "0.18.0", {"engine_args": {"cudagraph-capture-sizes": sizes}}, 900)
          for sizes in ("1 2 4 2048", "[1, 2, 2048]", ["1", " 2048 "])),
        *(("DP2×TP8+EP", "A2", "0.18.0", {"engine_args": {flag: sizes}}, 1024)
          for flag, sizes in (("cudagraph-capture-sizes", [1, 2048.5]),
                              ("cuda-graph-sizes", "1,2,2048"),
                              ("max_cudagraph_capture_size", "all"),
                              ("compilation-config", {"cudagraph_capture_sizes": {"a": 1}}))),
        ("TP8+EP", "A2", "0.18.0", {}, 0),
        ("TP16", "A2", "0.18.0", {}, 0),
        ("TP8+EP", "310P", "0.21.0rc1", {}, 0),
    ],
)  # fmt: skip
def test_buffers_for_dispatch_are_what_the_operator_asks_for(
    layout, family, version, serve, mebibytes
):
    """DeepSeek-V3: 256 experts, 8 for each token (aclnnMoeDistributeDispatchV3.md)."""
    given = Serve.model_validate(serve)
    asked = Layout.parse(layout)
    found = dispatch_mebibytes(known("DeepSeek-V3"), asked, version, family, given, eager=False)
    assert found == mebibytes


@pytest.mark.parametrize(
    ("family", "version", "mebibytes"),
    [("A2", "0.18.0", 900), ("A2", "0.23.0", 900), ("950", "0.23.0", 3900)],
)
def test_without_graphs_steps_that_only_generate_go_through_mc2(family, version, mebibytes):
    """256 sequences at once where nothing says how many; 1,024 on 950, of which MC2 takes 512."""
    found = dispatch_mebibytes(
        known("DeepSeek-V3"), Layout.parse("DP16+EP"), version, family, Serve(), eager=True
    )
    assert found == mebibytes


def test_context_parallelism_in_flags_counts_npus_and_cache():
    """TP8 with PCP2 takes both hosts; DCP8 deals out the latent, which all ranks would hold."""
    flags = {"prefill-context-parallel-size": 2, "decode-context-parallel-size": 8}
    args = {"version": "0.18.0", "layout": "TP8", "context": 131_072}
    asked = spec("DeepSeek-V3.1-w8a8", 2, 8, chip="910B3", engine_args=flags, **args)
    shape, chip = known("DeepSeek-V3.1-w8a8"), chip_named("910B3")
    request = request_for_hosts(asked, shape, chip, "0.18.0")
    plan = choose(request)
    assert plan.chosen is not None
    assert {item.layout.contexts for item in plan.candidates} == {(2, 8)}
    assert plan.chosen.npus == 16
    assert any("context parallelism" in line for line in plan.doubts)
    one = spec("DeepSeek-V3.1-w8a8", 1, 8, chip="910B3", engine_args=flags, **args)
    with pytest.raises(LayoutError, match="cannot run"):
        with_layout(one, shape, chip, "0.18.0")


@pytest.mark.parametrize(
    ("version", "layout", "reason"),
    [
        ("0.11.0", "TP16×DCP2", "no context parallelism"),
        ("0.18.0", "DP2×TP4×PCP2", ""),
        ("0.23.0", "DP2×TP4×PCP2", "cannot be combined with data parallel"),
        ("0.23.0", "TP8×PCP2", ""),
        ("0.25.1rc1", "TP8×PCP2", "refused by this release"),
        ("0.23.0", "TP16×DCP2", "must be as large as tensor parallel"),
        ("0.23.0", "TP16×DCP16", ""),
        ("0.18.0", "TP16×DCP2", ""),
    ],
)
def test_releases_that_refuse_context_parallelism(version, layout, reason):
    case = Case(Layout.parse(layout), known("DeepSeek-V3.2"), "A2", 2)
    found = [text for text in limits(case, version) if "context" in text]
    assert len(found) == bool(reason)
    assert reason in "".join(found)
