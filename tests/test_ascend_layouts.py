"""What a release of vLLM-Ascend cannot run: cases as they were reported, release by release."""

from itertools import product

import pytest

from ropeway.engines.ascend_layouts import LIMITS, NOTES, Case, limits, notes, runs_from
from ropeway.engines.ascend_releases import RELEASES, order
from ropeway.models.known import known
from ropeway.spec.model import Layout

VL = "Qwen3-VL-30B-A3B-Instruct"


def case(model: str, layout: str, family: str = "A2", hosts: int = 2, graph: str = "full") -> Case:
    return Case(Layout.parse(layout), known(model), family, hosts, graph)


def why(model: str, layout: str, version: str, **keys) -> str:
    return "\n".join(limits(case(model, layout, **keys), version))


def doubt(model: str, layout: str, version: str, **keys) -> str:
    return "\n".join(notes(case(model, layout, **keys), version))


@pytest.mark.parametrize(
    ("layout", "version", "words"),
    # Two hosts of eight 910B: the report of five layouts, and what later releases changed.
    [
        ("TP8", "0.11.0rc0", ""),
        ("TP8+EP", "0.11.0rc0", ""),
        ("TP16", "0.11.0rc0", ""),
        ("TP16+EP", "0.11.0rc0", ""),
        ("TP8×PP2", "0.11.0rc0", ""),
        ("TP8×PP2+EP", "0.11.0rc0", "507014"),
        ("TP8×PP2+EP", "0.11.0rc1", "#3529"),
        ("TP8×PP2+EP", "0.11.0", "#4054"),
        ("TP8×PP2+EP", "0.12.0rc1", ""),
        ("TP8×PP2+EP", "0.13.0", ""),
        ("TP16+EP", "0.11.0rc1", "#4123"),
        ("TP16+EP", "0.11.0rc2", "#4123"),
        ("TP16+EP", "0.11.0rc3", ""),
        ("TP16+EP", "0.18.0", ""),
        ("DP2×TP8", "0.11.0rc0", ""),
        ("DP2×TP8+EP", "0.13.0", ""),
        ("DP2×TP4×PP2", "0.13.0", "MoeDistributeDispatch"),
        ("DP2×TP4×PP2+EP", "0.30.0rc2", "MoeDistributeDispatch"),
    ],
)
def test_the_layouts_of_two_hosts(layout, version, words):
    reasons = why(VL, layout, version)
    assert words in reasons
    assert bool(reasons) == bool(words)


def test_pipeline_with_experts_runs_where_mc2_is_not_chosen():
    """Eight ranks in all are below 16; 32 have stages of 16."""
    assert not why(VL, "TP4×PP2+EP", "0.11.0rc0", hosts=1)
    assert not why(VL, "TP16×PP2+EP", "0.11.0rc0", hosts=4)
    assert not why(VL, "TP8×PP2+EP", "0.11.0rc0", family="A3", hosts=1)
    assert not why("Qwen3-32B", "TP8×PP2", "0.11.0rc0")


@pytest.mark.parametrize(
    ("version", "words"),
    [("0.9.0rc1", "V1"), ("0.9.1", "V1"), ("0.9.2rc1", "graph mode"), ("0.10.0rc1", "")],
)
def test_the_first_release_with_pipeline_parallelism(version, words):
    reasons = why("Qwen3-32B", "TP8×PP2", version)
    assert words in reasons
    assert bool(reasons) == bool(words)
    assert not why("Qwen3-32B", "PP2", "0.9.2rc1", graph="eager")


@pytest.mark.parametrize(
    ("layout", "version", "refused"),
    # 512 experts over 16 ranks are 32 each, over 32 ranks 16
    [
        ("TP16+EP", "0.17.0rc1", True),
        ("DP2×TP8+EP", "0.17.0rc1", True),
        ("DP4×TP8+EP", "0.17.0rc1", False),
        ("TP8+EP", "0.17.0rc1", False),
        ("TP16", "0.17.0rc1", False),
        ("TP16+EP", "0.18.0rc1", False),
    ],
)
def test_more_experts_on_a_rank_than_mc2_takes(layout, version, refused):
    reasons = why("Qwen3.5-397B-A17B", layout, version, hosts=4)
    assert bool(reasons) == refused
    assert ("#7635" in reasons) == refused


def test_qwen3_next():
    assert "#7729" in why("Qwen3-Next-80B-A3B-Instruct", "TP16", "0.18.0")
    assert not why("Qwen3-Next-80B-A3B-Instruct", "TP8", "0.18.0", hosts=1)
    assert "Qwen3-Next" in why("Qwen3-Next-80B-A3B-Instruct", "TP4+EP", "0.10.2rc1", hosts=1)
    assert not why("Qwen3-30B-A3B", "TP16", "0.18.0")


def test_pipeline_and_data_of_experts_over_roce():
    assert why("DeepSeek-V3", "DP2×TP8×PP2", "0.30.0rc2", hosts=4)
    assert not why("DeepSeek-V3", "DP2×TP8×PP2", "0.30.0rc2", family="A3", hosts=2)
    assert not why("DeepSeek-V3", "DP2×TP2×PP2", "0.30.0rc2", hosts=1)
    assert not why("Qwen3-32B", "DP2×TP8×PP2", "0.30.0rc2", hosts=4)


def test_a_model_newer_than_the_release():
    reason = why(VL, "TP8", "0.10.2rc1", hosts=1)
    assert "0.11.0rc0" in reason and "#3103" in reason
    assert not why(VL, "TP8", "0.11.0rc0", hosts=1)


def test_doubts_are_milder_than_limits():
    assert "support matrix" in doubt("Qwen3-32B", "TP8×PP2", "0.18.0")
    assert not doubt("DeepSeek-V3", "TP8×PP2", "0.18.0")
    assert "#4250" in doubt(VL, "DP2×TP8+EP", "0.11.0rc0")
    assert not doubt(VL, "DP2×TP8", "0.11.0rc0")
    assert "#10910" in doubt("DeepSeek-V3", "TP8×PP2", "0.19.1rc1")
    assert "16 columns" in doubt("Qwen3-30B-A3B", "DP8×TP8", "0.18.0", hosts=8)
    assert not doubt("Qwen3-30B-A3B", "TP8", "0.18.0", hosts=1)
    assert "more than two hosts" in doubt("DeepSeek-V3", "TP32", "0.18.0", hosts=4)
    assert not doubt("DeepSeek-V3", "TP16", "0.18.0", hosts=2)


def test_one_npu_is_never_refused_by_its_layout():
    for row, family in product(RELEASES, ("A2", "A3", "310P", "950")):
        assert not why("Qwen3-8B", "TP1", row.version, family=family, hosts=1)


def test_every_row_has_a_source_and_releases_in_order():
    known_versions = {row.version for row in RELEASES}
    for row in (*LIMITS, *NOTES):
        assert row.source
        assert {row.since, row.until} - {""} <= known_versions
        assert not (row.since and row.until) or order(row.since) < order(row.until)


def test_the_first_release_that_runs_it():
    def first(layout: str, version: str, hosts: int = 2) -> str:
        return runs_from(case(VL, layout, hosts=hosts), version)

    assert first("TP8×PP2+EP", "0.11.0rc0") == "0.12.0rc1"
    assert first("TP16+EP", "0.11.0rc1") == "0.11.0rc3"
    assert first("TP8", "0.10.0rc1") == "0.11.0rc0"
    assert first("DP2×TP4×PP2", "0.11.0rc0") == ""


def test_a_release_that_is_not_in_the_table_is_judged_by_its_order():
    assert why(VL, "TP8×PP2+EP", "0.11.1")
    assert not why(VL, "TP8×PP2+EP", "0.99.0")
