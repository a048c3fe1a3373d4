"""The sentences of a plan in Chinese: none is left in English."""

import re

import pytest

from plan_requests import request
from ropeway.engines.ascend_layouts import LIMITS, NOTES
from ropeway.engines.ascend_releases import MODEL_NEEDS
from ropeway.phrases import translated
from ropeway.plan.candidate import Plan
from ropeway.plan.choose import choose
from ropeway.plan.load import Load
from ropeway.report.chinese import chinese
from ropeway.report.plan import request_words, typical_error
from ropeway.spec.model import Layout

TABLE = chinese()


def reasons() -> set[str]:
    """Why releases cannot run a layout, or may not."""
    return {row.reason for row in (*LIMITS, *NOTES)} | {need.why for need in MODEL_NEEDS}


def test_every_reason_of_a_release_has_a_chinese_one() -> None:
    assert reasons() - set(TABLE) == set()


def plan(model: str, hosts: int, **more: object) -> Plan:
    load = Load(1024, 256, clients=64)
    return choose(request(model, hosts, version="0.18.0", **{"load": load, **more}))


@pytest.mark.parametrize(
    "made",
    [
        lambda: plan("Qwen3-30B-A3B", 2),
        lambda: plan("Qwen3-32B", 1, layout=Layout.parse("TP8"), context=8192, memory=0.8),
        lambda: plan("gpt-oss-120b", 3, objective="cost", price_per_host_hour=20.0),
        lambda: plan("QwQ-32B", 1, objective="latency", load=Load(512, 64, rate=0.5)),
        lambda: plan("Qwen3-8B", 1, tpot_s=0.03),
        lambda: plan("Qwen3-8B", 1, tpot_s=1e-6),
        lambda: plan("DeepSeek-V3", 1),
    ],
)
def test_the_chinese_tab_has_no_english_sentence(made) -> None:
    result = made()
    what, conditions = request_words(result.request)
    texts = [what, *conditions, *(value.why for value in result.values), *result.missing]
    texts += [item.reason for item in result.rejected]
    if result.chosen:
        texts += [result.chosen.forecast.bottleneck, result.chosen.forecast.advice]
        texts += [typical_error(result), *result.chosen.forecast.notes]
    texts += result.request.shape.assumed
    for text in filter(None, (*texts, *result.notes)):
        shown = re.sub(r"`.*?`|https?:\S+", "", str(translated(text, TABLE)))
        for row in (*LIMITS, *NOTES, *MODEL_NEEDS):
            shown = shown.replace(row.source, "")  # what a document is called
        words = re.findall(r"(?<![\w/.-])[a-z]{4,}(?![\w/.-])", shown)
        assert set(words) <= {"token", "tokens", "rank", "piecewise", "full", "msmodeling"}, shown
