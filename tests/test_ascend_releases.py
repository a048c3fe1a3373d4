"""Releases of vLLM-Ascend: their order and needs, what they read, and what they cannot run."""

import re
from itertools import groupby, product
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ropeway.engines.ascend_layouts import LIMITS, NOTES, Case, limits, notes, runs_from
from ropeway.engines.ascend_names import reads_key, reads_variable
from ropeway.engines.ascend_releases import (
    DRIVER_NEEDS,
    MODEL_NEEDS,
    RELEASES,
    ImageTag,
    Release,
    driver_needs,
    image_tag,
    order,
)
from ropeway.engines.ascend_settings import (
    network_variables,
    resolve_settings,
)
from ropeway.engines.base import Node
from ropeway.errors import Refused
from ropeway.models.known import known
from ropeway.spec.model import Layout
from serve_lines import make_replica, release


@pytest.mark.parametrize(
    "rising",
    [
        ("8.1.RC1", "8.3.RC1", "8.3.RC2", "8.3", "8.5.0", "8.5.1", "9.0.0", "9.2.0"),
        ("22.0.4.1", "23.0.rc1.b070", "24.1.rc1", "24.1.rc3", "24.1.rc3.7", "24.1.0", "24.1.0.3",
         "25.0.rc1.1", "25.0", "25.2.3", "25.5", "25.5.1", "26.0.rc1", "26.0.rc2"),
        ("0.11.0rc0", "0.11.0rc3", "0.11.0", "0.12.0rc1", "0.23.0", "0.23.0.post1"),
        ("4.19.90-2107", "5.10.0-216.0.0.115.oe2203sp4.aarch64", "6.6.0"),
        ("7.0.0", "7.7.99", "8.9.9"),
    ],
)  # fmt: skip
def test_versions_are_put_in_order(rising):
    assert sorted(sorted(rising), key=order) == list(rising)


def test_zeros_at_the_end_say_nothing():
    assert order("25.5") == order("25.5.0")
    assert order("8.3.RC1") == order("8.3.0.rc1")


@given(st.text(max_size=40))
@example("9" * 5000 + "rc" + "9" * 5000)
def test_any_text_has_a_place_in_the_order(text):
    assert order(text) <= order(text)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("quay.io/ascend/vllm-ascend:v0.11.0rc0", ImageTag("0.11.0rc0", "A2")),
        ("quay.io/ascend/vllm-ascend:v0.11.0rc0-a3-openeuler", ImageTag("0.11.0rc0", "A3")),
        ("m.daocloud.io/quay.io/ascend/vllm-ascend:v0.23.0.post1", ImageTag("0.23.0.post1", "A2")),
        ("vllm-ascend:0.18.0-310p", ImageTag("0.18.0", "310P")),
        ("quay.io/ascend/vllm-ascend:main", None),
        ("quay.io/ascend/vllm-ascend:nightly-a3", None),
        ("quay.io/ascend/vllm-ascend@sha256:0123", None),
        ("quay.io/ascend/vllm-ascend:releases-v0.23.0-a3", ImageTag("0.23.0", "A3")),
        ("r.example:5000/llm/vllm_ascend-glm:V0.33.0-A3-fix2@sha256:01", ImageTag("0.33.0", "A3")),
        ("vllm-ascend:0.30.1.dev12-910b", ImageTag("0.30.1.dev12", "A2")),
        ("r.example/vllm-ascend:v0.30.0_310p", ImageTag("0.30.0", "310P")),
        ("r.example/serving:cann9.2.1-vllm0.30.0", None),
        ("ubuntu:22.04", None),
    ],
)
def test_the_name_of_an_image_says_release_and_product(name, tag):
    assert image_tag(name) == tag


def test_the_strictest_driver_that_applies_comes_first():
    assert [need.driver for need in driver_needs(release("0.11.0rc0"))] == ["24.1.rc1"]
    assert [need.driver for need in driver_needs(release("0.30.0rc2"))] == [
        "26.0.rc1", "25.5.1", "25.5", "25.0", "24.1.rc1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("version", "newest"),
    [("0.11.0rc0", "4.56.2"), ("0.11.0", "4.57.1"), ("0.23.0", "5.5.4"), ("0.13.0", None),
     ("0.9.1", None), ("0.11.0rc1", None)],
)  # fmt: skip
def test_only_an_upper_limit_says_what_an_image_has(version, newest):
    assert release(version).newest_transformers == newest


NZ = "VLLM_ASCEND_ENABLE_NZ"


@pytest.mark.parametrize(
    ("reads", "name", "version", "expected"),
    # Looked up by hand in vllm_ascend/envs.py, the configuration and their readers, at these tags.
    [
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.10.1rc1", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.11.0rc0", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_DENSE_OPTIMIZE", "0.13.0", False),
        (reads_variable, NZ, "0.11.0", True),
        (reads_variable, NZ, "0.26.0rc1", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_CONTEXT_PARALLEL", "0.12.0rc1", True),
        (reads_variable, "VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.11.0rc0", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_FLASHCOMM1", "0.30.0rc2", True),
        (reads_variable, "VLLM_ASCEND_TRACE_RECOMPILES", "0.11.0", True),
        (reads_variable, "VLLM_ASCEND_TRACE_RECOMPILES", "0.12.0rc1", False),
        (reads_variable, "VLLM_ASCEND_ENABLE_BATCH_MEMCPY", "0.30.0rc2", True),
        # Came to the branch of 0.9.1 after 0.9.2rc1 had left without it.
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.9.1", True),
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.9.2rc1", False),
        (reads_variable, "VLLM_ASCEND_MLA_PA", "0.10.0rc1", True),
        (reads_key, "enable_cpu_binding", "0.30.0rc2", True),
        (reads_key, "scheduler_config", "0.30.0rc2", True),
        (reads_key, "enable_mc2_hierarchy_comm", "0.18.0", True),
        # Only on the branch of 0.13.0, after 0.13.0.
        (reads_key, "enable_kv_tnd", "0.13.0", False),
        (reads_key, "enable_kv_tnd", "0.13.0rc3", True),
        (reads_key, "enable_kv_tnd", "0.14.0rc1", False),
    ],
)
def test_variables_and_keys_of_releases(reads, name, version, expected):
    assert reads(name, version) == expected


def test_every_release_was_read():
    """The switch that all of them know is in each; a release without sources would have none."""
    for row in RELEASES:
        assert reads_key("refresh", row.version), row.version


def test_what_a_release_reads_stays_as_it_is():
    given = {NZ: "0", "HCCL_BUFFSIZE": "512"}
    settings = resolve_settings(given, {}, "0.18.0")
    assert (settings.env, settings.config, settings.notes) == (given, {}, ())


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        (NZ, "2", "weight_nz_mode", 2),
        ("VLLM_ASCEND_ENABLE_MLAPO", "1", "enable_mlapo", True),
        ("VLLM_ASCEND_ENABLE_FUSED_MC2", "1", "enable_fused_mc2", 1),
        ("MSMONITOR_USE_DAEMON", "0", "msmonitor_use_daemon", False),
    ],
)
def test_a_variable_that_became_a_key(name, text, key, value):
    settings = resolve_settings({name: text, "OTHER": "x"}, {"block-size": 64}, "0.30.0rc2")
    assert settings.env == {"OTHER": "x"}
    assert settings.config == {key: value}
    assert type(settings.config[key]) is type(value)
    assert name in settings.notes[0] and key in settings.notes[0]


@pytest.mark.parametrize("config", [{"weight_nz_mode": 1}, '{"weight_nz_mode": 1}'])
def test_a_variable_against_its_own_key(config):
    with pytest.raises(Refused, match="contradict"):
        resolve_settings({NZ: "2"}, {"additional-config": config}, "0.30.0rc2")
    settings = resolve_settings({NZ: "1"}, {"additional_config": config}, "0.30.0rc2")
    assert settings.config == {"weight_nz_mode": 1}


@pytest.mark.parametrize(
    ("env", "config", "version", "evidence", "hint"),
    [
        ({"VLLM_ASCEND_ENABLE_DBO": "1"}, {}, "0.13.0", "0.9.0rc1 to 0.11.0", "remove it"),
        ({"VLLM_ASCEND_ENABLE_NX": "1"}, {}, "0.18.0", "no release", f"did you mean `{NZ}`?"),
        ({"VLLM_ASCEND_ENABLE_CONTEXT_PARALLEL": "1"}, {}, "0.23.0", "to 0.20.2rc1", "flags"),
        ({}, {"weight_nz_mod": 1}, "0.23.0", "no release", "did you mean `weight_nz_mode`?"),
        ({}, {"weight_nz_mod": 1, "dynamic_epbl": True}, "0.23.0", "`weight_nz_mod`: no release",
         "\n`dynamic_epbl`: did you mean"),
    ],
)  # fmt: skip
def test_names_that_would_be_ignored(env, config, version, evidence, hint):
    with pytest.raises(Refused, match="would be ignored") as error:
        resolve_settings(env, {"additional-config": config} if config else {}, version)
    assert evidence in error.value.evidence[0]
    assert error.value.hint is not None and hint in error.value.hint


@pytest.mark.parametrize(
    ("config", "version", "hint"),
    [
        ({"torchair_graph_config": {"enabled": True}}, "0.13.0", "ACL graphs"),
        ({"ascend_scheduler_config": {}}, "0.12.0rc1", "scheduler"),
        ({"init_redundancy_expert": 1}, "0.18.0", "num_redundant_experts"),
        ({"weight_nz_mode": 1}, "0.18.0", f"`{NZ}` in"),
        ({"enable_weight_nz_layout": True, "chunked_prefill_for_mla": True}, "0.13.0", "remove it"),
    ],
)
def test_keys_that_a_release_ignores_are_all_noted(config, version, hint):
    """They end a start only since 0.30."""
    settings = resolve_settings({}, {"additional-config": config}, version)
    assert settings.config == config
    (note,) = settings.notes
    assert f"vLLM-Ascend {version} ignores" in note and hint in note
    assert all(f"`{key}`: " in note for key in config)
    with pytest.raises(Refused, match=r"would end the start of vLLM-Ascend 0\.30") as error:
        resolve_settings({}, {"additional-config": {"no_such": 1, **config}}, "0.30.0")
    assert all(f"`{key}`" in error.value.what for key in ("no_such", *config) if key[0] != "w")


@pytest.mark.parametrize("config", ["{", "[1]", 7, ["a"], "[" * 100_000])
def test_a_config_that_is_not_a_mapping(config):
    with pytest.raises(Refused, match="additional-config"):
        resolve_settings({}, {"additional-config": config}, "0.18.0")


def test_keys_with_dots_are_read_as_the_mapping_is() -> None:
    dotted = {"additional_config.eplb_config.dynamic_eplb": True}
    whole = {"additional-config": {"eplb_config": {"num_redundant_experts": 4}}}
    both = {"eplb_config": {"num_redundant_experts": 4, "dynamic_eplb": True}}
    for args in ({**dotted, **whole}, {**whole, **dotted}):
        assert resolve_settings({}, args, "0.18.0").config == both
    assert whole["additional-config"] == {"eplb_config": {"num_redundant_experts": 4}}
    with pytest.raises(Refused, match="would be ignored"):
        resolve_settings({}, {"additional-config.weight_nz_mod": 1}, "0.23.0")


def test_a_switch_must_be_a_number_to_become_a_key():
    with pytest.raises(Refused, match="must be a number"):
        resolve_settings({NZ: "yes"}, {}, "0.30.0rc2")


@pytest.mark.parametrize(("patience", "seconds"), [(10, "120"), (900, "900"), (86_400, "7200")])
def test_hccl_waits_within_its_limits(patience, seconds):
    variables = network_variables(Node("a", "10.0.0.1", 8, "eth0"), patience)
    assert variables["HCCL_CONNECT_TIMEOUT"] == seconds


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


def test_every_row_has_a_source_and_releases_are_listed_once_and_in_order():
    assert all(need.source and need.why for need in (*DRIVER_NEEDS, *MODEL_NEEDS))
    known_versions = {row.version for row in RELEASES}
    assert len(known_versions) == len(RELEASES)
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


def test_a_release_whose_source_was_not_read_says_so_where_that_matters():
    def notes_of(env):
        replica = make_replica(release("0.30.0"), "TP1", 1, serve={"env": env})
        return " ".join(replica.notes(known("Qwen3-8B")))

    assert "not read by us" in notes_of({"VLLM_ASCEND_ENABLE_NZ": "1"})
    assert "not read by us" not in notes_of({"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize(
    ("config", "version", "placed"),
    [
        ({"fuse_muls_add": True}, "0.18.0", {"ascend_compilation_config": {"fuse_muls_add": True}}),
        (
            {"dynamic_eplb": True, "eplb_config": {"num_redundant_experts": 4}},
            "0.18.0",
            {"eplb_config": {"num_redundant_experts": 4, "dynamic_eplb": True}},
        ),
        (
            {"eplb_config": {"weight_nz_mode": 2}},
            "0.30.0",
            {"eplb_config": {}, "weight_nz_mode": 2},
        ),
        (
            {"eplb_config": {"enable_npugraph_ex": False}},
            "0.18.0",
            {"eplb_config": {}, "ascend_compilation_config": {"enable_npugraph_ex": False}},
        ),
    ],
)
def test_a_key_in_the_wrong_place_is_moved_to_where_the_release_reads_it(config, version, placed):
    settings = resolve_settings({}, {"additional-config": config}, version)
    assert settings.config == placed
    assert "was moved" in settings.notes[0]


def test_a_key_that_may_belong_to_several_places_or_contradicts_itself_is_refused():
    for config, words in (
        ({"enabled": True}, "several"),
        ({"fuse_muls_add": True, "ascend_compilation_config": {"fuse_muls_add": False}}, "twice"),
        ({"fuse_muls_add": True, "ascend_compilation_config": 1}, "no mapping"),
    ):
        with pytest.raises(Refused, match=words) as error:
            resolve_settings({}, {"additional-config": config}, "0.18.0")
        assert "remove it" not in str(error.value.hint)


@pytest.mark.parametrize(
    ("model", "layout", "version", "asked", "source"),
    [
        ("Qwen3-Next-80B-A3B-Instruct", "TP8", "0.14.0rc1", (), "#6572"),
        ("Qwen3.5-27B", "TP4", "0.23.0", ("lora",), "#16586"),
        ("GLM-5", "TP16+EP", "0.21.0rc1", (), "#9503"),
        ("MiniMax-M2", "TP16", "0.22.1rc1", (), "#10591"),
        ("Kimi-K2.5", "TP16+EP", "0.22.1rc1", (), "#10963"),
        ("Qwen3.5-35B-A3B", "TP2", "0.21.0rc1", ("speculative",), "#9956"),
    ],
)
def test_a_known_fault_of_a_release_is_noted(model, layout, version, asked, source):
    def texts(version, asked):
        hosts = 2 if model == "MiniMax-M2" else 1
        parsed = Layout.parse(layout)
        at = Case(parsed, known(model), "A3", hosts, features=frozenset(asked))
        return " ".join(notes(at, version))

    assert source in texts(version, asked)
    assert source not in texts("0.18.0" if version != "0.14.0rc1" else "0.30.0", asked)
    if asked:
        assert source not in texts(version, ())


def test_pipeline_with_prefill_context_parallel_is_refused_in_0_23():
    at = case("Qwen3-32B", "TP4×PP2×PCP2", "A3")
    refused = "pipeline with prefill context parallelism"
    assert refused in " ".join(limits(at, "0.23.0"))
    assert refused not in " ".join(limits(at, "0.26.0rc1"))


def drivers_by_release() -> list[str]:
    """Return the rows of the table of docs/versions.md: runs of releases with equal needs."""

    def needs(row: Release) -> tuple[str, str, str]:
        least = next((need.driver for need in driver_needs(row) if need.hard), "")
        best = next((need.driver for need in driver_needs(row)), "")
        return row.cann, least, best if best != least else ""

    rows = []
    for facts, run in groupby(RELEASES, needs):
        first, *others = [row.version for row in run]
        releases = f"{first} to {others[-1]}" if others else first
        rows.append("| " + " | ".join((releases, *facts)) + " |")
    return rows


def test_the_table_of_drivers_is_what_doctor_checks():
    text = (Path(__file__).parent.parent / "docs/versions.md").read_text(encoding="utf-8")
    table = text.partition("| release | CANN in the image |")[2].partition("\n\n")[0]
    shown = [re.sub(r" +", " ", line) for line in table.splitlines()[2:]]
    assert shown == [re.sub(r" +", " ", row) for row in drivers_by_release()]
