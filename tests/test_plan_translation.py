"""The sentences of a plan in Chinese: none is left in English."""

import re
from dataclasses import replace

import pytest

from plan_requests import cluster, request
from ropeway.engines.ascend_layouts import LIMITS, NOTES
from ropeway.engines.ascend_releases import MODEL_NEEDS
from ropeway.errors import LayoutError
from ropeway.models.known import known
from ropeway.phrases import translated
from ropeway.plan.candidate import Plan
from ropeway.plan.choose import choose
from ropeway.plan.layout import check
from ropeway.plan.load import Load
from ropeway.plan.reports import unreported
from ropeway.report.chinese import chinese
from ropeway.report.plan import layout_text, plan_text, values_text
from ropeway.report.plan_page import render_html
from ropeway.spec.cluster import Cluster, Local
from ropeway.spec.model import Layout
from test_report import Page, shown

TABLE = chinese()


def reasons() -> set[str]:
    """Why releases cannot run a layout, or may not."""
    return {row.reason for row in (*LIMITS, *NOTES)} | {need.why for need in MODEL_NEEDS}


def test_every_reason_of_a_release_has_a_chinese_one() -> None:
    assert reasons() - set(TABLE) == set()


def test_a_source_with_words_has_a_chinese_one() -> None:
    sources = {row.source for row in (*LIMITS, *NOTES)} | {need.source for need in MODEL_NEEDS}
    words = re.compile(r"(?<![\w./-])(?:and|by|in|of|or|to|was)(?![\w./-])")
    assert {one for one in sources if words.search(one)} - set(TABLE) == set()


def plan(model: str, hosts: int, **more: object) -> Plan:
    load = Load(1024, 256, clients=64)
    return choose(request(model, hosts, version="0.18.0", **{"load": load, **more}))


def test_what_limits_an_engine_that_reads_prompts_is_said_in_chinese() -> None:
    """`arithmetic` is one word, which a table has for a sentence of ours and for no name."""
    pooled = choose(request("Qwen3-Embedding-8B", 1, task="embed", load=Load(4096, 1, clients=64)))
    said = pooled.chosen.forecast.bottleneck
    assert said.startswith("arithmetic, ")
    assert translated(said, TABLE).startswith("矩阵计算，每步")


LOCAL = Cluster(local=Local(hosts=2, npus=2))
PLANS = [
    lambda: plan("Qwen3-30B-A3B", 2),
    lambda: plan("Qwen3-32B", 1, layout=Layout.parse("TP8"), context=8192, memory=0.8),
    lambda: plan(
        "gpt-oss-120b-W8A8", 3, objective="cost", price_per_host_hour=20.0, job_prompts=10**6
    ),
    lambda: plan("QwQ-32B", 1, objective="latency", load=Load(512, 64, rate=0.5)),
    lambda: plan("Qwen3-8B", 1, tpot_s=0.03, kv_cache=2**30, spec_file="my.yaml"),
    lambda: plan("Qwen3-8B", 1, tpot_s=1e-6),
    lambda: plan("DeepSeek-V3-W8A8", 1),
    lambda: plan("Qwen3-30B-A3B", 1, memory=0.55, blank_context=40_960),
    lambda: choose(
        request("Qwen3-30B-A3B", 2, load=Load(1024, 256, clients=64), blank_context=40_960)
    ),
    lambda: plan("Qwen3-VL-30B-A3B-Instruct", 2, cluster=cluster(4, 8)),
    lambda: choose(replace(request("Qwen3-8B", 1), chip=None, cluster=LOCAL)),
]
# What engineers say in Chinese, too.
USUAL = {"token", "tokens", "rank", "piecewise", "full", "msmodeling", "config", "json", "eager"}
USUAL |= {"all-reduce", "all-to-all", "vllm-ascend"}


def english_left(text: str, made: Plan) -> set[str]:
    """Return the English words in a text that is Chinese but for code, names and documents."""
    keys = {word for value in made.values for word in re.split(r"\W", value.key)}
    chip = made.request.chip
    names = [row.source for row in (*LIMITS, *NOTES, *MODEL_NEEDS)]
    names += [made.request.machine.between.source, *([chip.source] if chip else [])]
    text = " ".join(text.split())
    for name in sorted(filter(None, (made.request.model_name, *names)), key=len, reverse=True):
        text = text.replace(name, "").replace(name[:59].rstrip() + "…", "")
    text = re.sub(r"`.*?`|https?:\S+", "", text)
    return set(re.findall(r"(?<![\w/.-])[a-z][a-z-]{3,}(?![\w/.-])", text)) - USUAL - keys


def in_chinese(text: str) -> str:
    return translated(text, TABLE)


def test_sentences_are_put_together_as_people_write_them() -> None:
    """No blank is missing between Chinese and Latin, and none stands where there is no Latin."""
    dp4 = Layout.parse("DP4")
    case = {"experts": True, "family": "A2", "version": "0.23.0"}
    assert in_chinese(str_of(unreported(dp4, 1, **case))).startswith(
        "A2 上尚无 MoE 模型单机 DP 的公开实测数据："
    )
    case["experts"] = False
    assert in_chinese(str_of(unreported(Layout.parse("DP4+EP"), 2, **case))).startswith(
        "A2 上尚无稠密模型跨主机 DP+EP 的公开实测数据："
    )
    hosts = cluster(8)
    for name, words in (("Qwen3-8B", "上运行 Qwen3-8B"), ("", "上运行该模型")):
        with pytest.raises(LayoutError) as caught:
            check(Layout.parse("TP7"), known("Qwen3-8B"), hosts, name)
        assert in_chinese(caught.value.what).endswith(words)


def str_of(text: str | None) -> str:
    assert text is not None
    return text


@pytest.mark.parametrize("made", PLANS)
def test_the_terminal_has_no_english_sentence(made) -> None:
    result = made()
    for width, verbose in ((80, False), (400, True)):
        text = shown(plan_text(result, verbose=verbose, language="zh"), width)
        # A table folds long words, so their pieces are no words.
        left = english_left(text, result) if width == 400 else set()
        assert left == set()
        assert re.search("[\u4e00-\u9fff]", text)
    assert english_left(shown(values_text(result.values, "zh"), 400), result) == set()
    for item in (*result.candidates[:2], *result.rejected[:2]):
        text = shown(layout_text(result, str(item.layout), "zh"), 400)
        assert english_left(text, result) == set()
    assert english_left(shown(layout_text(result, "TP7", "zh"), 400), result) == set()


@pytest.mark.parametrize("made", PLANS)
def test_the_chinese_tab_has_no_english_sentence(made) -> None:
    result = made()
    page = Page(render_html(result, when="2026-11-30"))
    # Of the brand, and of commands, which a page has as code.
    assert english_left(page.chinese, result) <= {"plan", "ropeway", "bench", "ulimit"}
