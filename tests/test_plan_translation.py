"""The sentences of a plan in Chinese: every template has one, with the same values in it."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import pytest

from plan_requests import request
from ropeway.engines.ascend_layouts import LIMITS, NOTES
from ropeway.engines.ascend_releases import MODEL_NEEDS
from ropeway.models.phrases import Phrase, count, joined, phrase, translated
from ropeway.plan.candidate import Plan
from ropeway.plan.choose import choose
from ropeway.plan.load import Load
from ropeway.report.plan import request_words, typical_error
from ropeway.report.plan_page import chinese
from ropeway.spec.model import Layout

SOURCE = Path(__file__).parent.parent / "src" / "ropeway"
TABLE = chinese()


def templates() -> Iterator[str]:
    """Every template that the source gives to `phrase` or `count`."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            arguments = {"phrase": node.args[:1], "count": node.args[1:]}.get(node.func.id, ())
            for part in (part for argument in arguments for part in ast.walk(argument)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
                if isinstance(part, ast.Name) and isinstance(constants.get(part.id), str):
                    yield str(constants[part.id])


def fields(template: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(template) if name)


def test_every_template_has_a_chinese_one_with_the_same_values() -> None:
    sentences = set(templates())
    assert len(sentences) > 80
    assert sentences - set(TABLE) - {"{n:,} tokens/s"} == set()
    for english in sentences:
        assert fields(TABLE[english]) == fields(english), english


def test_no_entry_is_left_over() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py"))
    models = [json.loads(path.read_text()) for path in (SOURCE / "models/known").glob("*.json")]
    notes = [model["note"] for model in models if "note" in model]
    names = {name for name in TABLE if f'"{name}"' in text} | {*notes, *reasons()}
    assert set(TABLE) - set(templates()) - names == set()


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


def test_a_phrase_is_text_that_can_be_made_again() -> None:
    hosts = count(2, "{n:,} host", "{n:,} hosts")
    text = phrase("{hosts} of {npus} NPUs", hosts=hosts, npus=8)
    table = {
        "{n:,} hosts": "{n:,} Hosts",
        "{hosts} of {npus} NPUs": "{npus} je {hosts}",
        "; ": " + ",
    }
    assert text == "2 hosts of 8 NPUs"
    assert translated(text, table) == "8 je 2 Hosts"
    assert count(1, "{n:,} host", "{n:,} hosts") == "1 host"
    both = joined((text, "as it is"))
    assert both == "2 hosts of 8 NPUs; as it is"
    assert translated(both, table) == "8 je 2 Hosts + as it is"
    assert translated(Phrase("plain"), {"plain": "schlicht"}) == "schlicht"
    assert translated(3, table) == 3
