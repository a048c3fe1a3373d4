"""The page of a load test: figures in, one HTML file out."""

import re
from dataclasses import replace
from io import StringIO

import pytest

from ropeway.bench.course import course_of
from ropeway.bench.figures import Figures, Late, OwnShare
from ropeway.bench.load_test import LoadTest
from ropeway.bench.own_share import doubts
from ropeway.bench.prompts import Recipe
from ropeway.bench.rungs import Found, Rung, Sweep
from ropeway.bench.samples import Sample
from ropeway.bench.stats import columns_of, summary_of
from ropeway.endpoint.stream import Failure, Timing
from ropeway.phrases import phrase
from ropeway.plan.candidate import Expectation
from ropeway.report.bench_charts import curve_of, server_charts, spreads_of, time_line
from ropeway.report.bench_page import LoadReport, render_html, rungs_of
from ropeway.report.console import Screen
from ropeway.report.sweep import sweep_table
from test_bench import CONDITIONS as SMALL
from test_plan_report import forecast
from test_report import Page
from timings import timing

EVIL = '<script>alert("x")</script>'
RECIPE = Recipe(words=100, tokens=128, exact=True, first=("a",), rest=("a",))
LOAD = LoadTest(input_tokens=128, output_tokens=5, clients=2, requests=80, seed=7).with_recipe(
    RECIPE
)
CONDITIONS = replace(SMALL, load=LOAD, model="SmolLM2-135M-Instruct", hardware="2 cores")
QUIET = OwnShare(1, 0.43, 0.01, Late(0.0, 0.0003, 0.001), Late(0.0, 0.0005, 0.002))
COMMAND = "ropeway bench --clients 2 --requests 80"


def answered(sent: float, **more: object) -> Timing:
    """A request of a second: its first token after 0.2 s, four more each 0.2 s."""
    moments = [sent + 0.2 * place for place in range(1, 6)]
    chunks = tuple((at, 1) for at in moments)
    return timing(sent, moments[0], moments[-1], 5, chunks=chunks, **more)


TIMINGS = [answered(second) for second in range(40) for _ in range(2)]
BROKEN = [
    timing(second, None, None, 0, error=Failure("timeout", "nothing arrived for 1 s"))
    for second in range(6)
]


def figures(timings: list[Timing], load: LoadTest = LOAD, own: OwnShare = QUIET) -> Figures:
    columns = columns_of(timings, load)
    summary = summary_of(columns, load)
    course = course_of(columns, from_due=load.rate is not None)
    return Figures(summary, own, doubts(own, summary, load), course)


def rung(asked: float, timings: list[Timing], *, by: str = "clients") -> Rung:
    change = {"rate": asked} if by == "rate" else {"clients": int(asked)}
    load = replace(LOAD, **change)
    return Rung(f"{by}-{asked:g}", load, figures(timings, load), "complete")


def doubted(one: Rung) -> Rung:
    return replace(one, figures=replace(one.figures, doubts=(phrase("throughput"),)))


def sample(at: float, running: float | None, waiting: float | None, kv_use: float | None) -> Sample:
    return Sample(at=at, running=running, waiting=waiting, kv_use=kv_use)


SAMPLES = (
    sample(0.0, 1, 0, 0.25),
    sample(10.0, 4, 1, 0.5),
    sample(20.0, None, None, None),
    sample(30.0, 4, 2, 0.75),
    sample(40.0, 0, 0, 1.0),
)
EXPECTED = Expectation("TP4", True, forecast(20.0, 0.2, ceiling_tokens_per_s=40.0), False)
RUNGS = (
    rung(64, TIMINGS),
    rung(1, TIMINGS[::2]),
    rung(8, [*TIMINGS[::2], *BROKEN]),
)
SWEEP = Sweep("clients", (doubted(RUNGS[0]), *RUNGS[1:]), "complete")
FULL = LoadReport(
    conditions=CONDITIONS,
    command=COMMAND,
    figures=figures([*TIMINGS, *BROKEN]),
    ended="time limit",
    planned=EXPECTED,
    samples=SAMPLES,
    causes=(phrase("throughput"),),
    sweep=SWEEP,
)
PLAIN = LoadReport(conditions=CONDITIONS, command=COMMAND, figures=figures(TIMINGS))


class English(Page):
    """Collects what an English reader sees."""

    def handle_data(self, data: str) -> None:
        if not any(tag == "style" or language == "zh-Hans" for tag, language in self.open):
            self.text += f" {data}"


def text_of(report: LoadReport) -> str:
    return " ".join(English(render_html(report)).text.split())


def test_the_page_begins_with_what_was_measured_and_what_was_asked_for() -> None:
    text = text_of(PLAIN)
    for words in (
        "SmolLM2-135M-Instruct", "TP2×PP2+EP · fake · 2 cores · http://127.0.0.1:8000/v1",
        "output 10.0 tokens/s", "2.00 /s as fast as answers came",
        "in flight 2.00 on average, of 2 asked for", "200 ms p50", "80 / 80",
        "The load generator kept up:", "43% of a core", COMMAND,
    ):  # fmt: skip
        assert words in text, words
    open_loop = replace(LOAD, rate=12.5)
    due = [replace(one, due=one.sent) for one in TIMINGS]
    rated = replace(
        PLAIN,
        conditions=replace(CONDITIONS, load=open_loop),
        figures=figures(due, open_loop),
    )
    text = text_of(rated)
    assert "of 12.5 a second asked for" in text
    assert "on average, at most 2" in text
    assert "from when due" in text
    assert "from when due" not in text_of(PLAIN)


def test_doubts_stand_at_the_top_and_nothing_praises_the_run_then() -> None:
    full = replace(QUIET, cpu=0.95)
    text = text_of(replace(PLAIN, figures=figures(TIMINGS, own=full)))
    assert "Not to be trusted as they are:" in text
    assert "the load generator was full: it used 95% of a core" in text
    assert "kept up" not in text
    assert "Not to be trusted" not in text_of(PLAIN)


def test_a_rehearsal_and_an_early_end_are_said_at_the_top() -> None:
    text = text_of(
        replace(PLAIN, conditions=replace(CONDITIONS, label="rehearsal"), ended="interrupted")
    )
    assert "A rehearsal: no model ran" in text
    assert "It ended early: interrupted" in text
    assert "measured here" not in text
    assert "rehearsal" not in text_of(PLAIN)


def test_failures_are_told_by_kind_with_their_durations() -> None:
    text = text_of(FULL)
    assert "What failed" in text
    assert "timeout 6 7.0% 1.00 s 1.00 s 1.00 s What the first" in text
    assert "timeout : nothing arrived for 1 s" in text
    assert "What failed" not in text_of(PLAIN)


def test_what_was_expected_stands_beside_what_was_measured() -> None:
    html = render_html(FULL)
    assert "20.0 tokens/s predicted for TP4, the plan" in text_of(FULL)
    # Of an axis that ends at the ceiling of 40.
    output = FULL.figures.summary.output_tokens_per_s if FULL.figures else 0
    assert f'class="measured" style="width:{output / 40 * 100:.2f}%"' in html
    assert 'class="mark" style="left:50.00%"' in html
    assert 'class="interval" style="left:40.00%;width:22.50%"' in html
    assert "Against the plan" not in text_of(PLAIN)


def test_the_steady_part_is_marked_on_the_time_line() -> None:
    made = figures(TIMINGS)
    assert made.course and made.summary.steady
    drawn = time_line(made.course, made.summary.steady)
    # From the second answer, after 1 s, to the last request, after 39 s, of 40 s.
    assert drawn.steady == pytest.approx((2.5, 95.0))
    assert [chart.key for chart in drawn.charts] == ["tokens", "in_flight", "ended"]
    assert [line.name for line in drawn.charts[2].lines] == ["completed"]
    assert [label for _, label in drawn.ticks] == ["0 s", "10 s", "20 s", "30 s", "40 s"]
    assert time_line(made.course, None).steady is None
    failing = figures([*TIMINGS, *BROKEN])
    assert failing.course
    ended = time_line(failing.course, None).charts[2]
    assert [line.name for line in ended.lines] == ["completed", "failed"]
    _, flying, ended = time_line(made.course, None, clients=4, rate=2.0).charts
    assert [line.name for line in (*flying.lines, *ended.lines)] == [
        "asked", "in_flight", "asked", "completed",
    ]  # fmt: skip
    assert flying.lines[0].segments[0].startswith("0.00,0.00 ")
    assert flying.lines[1].segments[0].startswith("0.00,50.00 "), "two where four were asked for"


def test_a_value_holds_for_its_whole_step() -> None:
    made = figures(TIMINGS)
    assert made.course
    (line,) = time_line(made.course, None).charts[1].lines
    assert line.segments[0].split()[:2] == ["0.00,0.00", f"{0.5 / 40 * 100:.2f},0.00"]


def test_where_the_server_was_not_asked_its_lines_have_a_gap() -> None:
    requests, cache = server_charts(SAMPLES, 40.0)
    running, waiting = requests.lines
    assert running.segments == ("0.00,75.00 25.00,0.00", "75.00,0.00 100.00,100.00")
    assert waiting.segments == ("0.00,100.00 25.00,75.00", "75.00,50.00 100.00,100.00")
    assert cache.lines[0].segments == ("0.00,75.00 25.00,50.00", "75.00,25.00 100.00,0.00")


def test_what_no_server_told_is_not_drawn() -> None:
    silent = [sample(at, None, None, None) for at in range(5)]
    assert server_charts(silent, 5.0) == ()
    (only,) = server_charts([sample(1.0, 3, None, None)], 5.0)
    assert [line.name for line in only.lines] == ["running"]
    outside = sample(9.0, 3, 3, 0.5)
    assert server_charts([outside], 5.0) == ()


def test_one_outlier_does_not_press_a_distribution_together() -> None:
    slow = timing(0, 50.0, 60.0, 5)
    made = figures([*(answered(n) for n in range(300)), slow])
    assert made.course
    ttft = spreads_of(made.course, made.summary)[0]
    assert (ttft.key, ttft.longest_s, ttft.beyond) == ("ttft", 50.0, "0.4%")
    assert ttft.ticks[-1][1] == "400 ms"
    assert made.summary.ttft_s == ttft.quantiles


def test_a_curve_goes_from_the_smallest_load_to_the_largest() -> None:
    curve = curve_of(RUNGS, "clients")
    assert curve
    assert [label for _, label in curve.ticks] == ["1", "8", "64"]
    assert [at for at, _ in curve.ticks] == pytest.approx([0.0, 50.0, 100.0])
    assert [chart.key for chart in curve.charts] == ["output", "ttft", "tpot"]
    (output,) = curve.charts[0].lines
    assert [at for at, _ in output.dots] == pytest.approx([0.0, 50.0, 100.0])
    assert output.dots[0][1] == pytest.approx(50.0)
    assert curve_of(RUNGS[:1], "clients") is None
    assert [chart.unit for chart in curve.charts] == ["", "ms", "ms"]


def test_the_best_of_a_sweep_is_the_fastest_and_a_doubt_is_said_of_it() -> None:
    fastest = "The most output is 10.0 tokens/s, with 64 clients."
    of_another = (RUNGS[0], doubted(RUNGS[1]), RUNGS[2])
    for rungs, said in (
        (RUNGS, False),
        (of_another, False),
        ((doubted(RUNGS[0]), *RUNGS[1:]), True),
    ):
        text = text_of(replace(FULL, sweep=replace(SWEEP, rungs=rungs)))
        assert fastest in text
        assert (f"{fastest} This figure is not to be trusted." in text) is said
    assert "The most output" not in text_of(replace(PLAIN, sweep=Sweep("rate", (), "complete")))


def test_a_curve_over_rates_has_what_was_achieved_beside_what_was_asked() -> None:
    curve = curve_of((rung(1, TIMINGS[::2], by="rate"), rung(4, TIMINGS, by="rate")), "rate")
    assert curve
    asked, achieved = curve.charts[1].lines
    assert [at for at, _ in asked.dots] == pytest.approx([0.0, 100.0]), "not logarithmic: near"
    assert [y for _, y in asked.dots] == pytest.approx([25.0, 100.0])
    assert [y for _, y in achieved.dots] == pytest.approx([25.0, 50.0], rel=0.02)


def test_a_rung_without_an_answer_is_a_gap_in_the_latencies() -> None:
    rungs = (rung(1, TIMINGS[::2]), rung(8, BROKEN), rung(64, TIMINGS))
    curve = curve_of(rungs, "clients")
    assert curve
    assert [len(line.segments) for line in curve.charts[1].lines] == [2, 2]
    assert render_html(replace(FULL, sweep=replace(SWEEP, rungs=rungs)))


def test_a_sweep_has_the_same_figures_on_its_page_as_on_the_terminal() -> None:
    # Each is sent half a second after it was due; the first of them is answered after 20 s.
    slow = timing(0, 19.8, 20.0, 5, due=0.0)
    due = [slow, *(replace(one, due=one.sent - 0.5) for one in TIMINGS[2:])]
    alone = rung(2, TIMINGS[:5])
    alone = replace(alone, name="alone", load=replace(alone.load, rate=None))
    sweep = Sweep("rate", (alone, rung(9, due[:8], by="rate"), rung(3, due, by="rate")), "complete")
    console = Screen(stdout=(out := StringIO()), stderr=StringIO(), width=200)
    console.answer(sweep_table(sweep, CONDITIONS))
    table = [re.split(r"  +", line.strip()) for line in out.getvalue().splitlines()]
    assert [row[0] for row in table[-3:]] == ["– ~", "9 ~!", "3"]
    assert "700 ms" in table[-1], "from when due"
    text = text_of(replace(PLAIN, figures=None, sweep=sweep))
    shown = text[text.index("to be trusted") :]
    assert shown.startswith("to be trusted " + " ".join(("3", *table[-1][1:], "yes 9 ~")))
    assert " ".join(table[-2][1:]) in shown
    assert [one.asked("rate") for one in rungs_of(sweep)] == [3, 9], "not those without a rate"
    assert "TTFT counts from when requests were due." in text
    assert "from when a request was due to its first token, of the whole measurement" in text
    assert "TTFT counts" not in text_of(replace(PLAIN, figures=None, sweep=SWEEP))


def searched() -> Sweep:
    """A rate that held twice, with twice as many tokens a second, and a higher one that failed."""
    probes = [
        replace(rung(asked, timings, by="rate"), name=name)
        for name, asked, timings in (
            ("probe-1", 24.7138, TIMINGS[::2]),
            ("probe-2", 30.8923, TIMINGS),
            ("confirm-3", 24.7138, TIMINGS),
        )
    ]
    verdicts = {one.name: phrase("holds") for one in probes} | {"probe-2": phrase("missed")}
    found = Found(
        24.7138,
        True,
        30.8923,
        0.99,
        phrase("the highest rate that is sustained: {rate:.4g} requests/s", rate=24.7138),
        verdicts,
        (phrase("add `--find-max`"),),
    )
    return Sweep("rate", tuple(probes), "complete", found=found)


def test_the_page_of_a_search_has_its_verdicts_and_what_it_found() -> None:
    report = replace(PLAIN, figures=None, sweep=searched())
    text = text_of(report)
    assert text.count("the highest rate that is sustained: 24.71 requests/s") == 1
    assert "Not to be trusted as it is: add --find-max" in text
    assert "The most output" not in text
    assert "24.7138" not in text
    assert [row.split()[0] for row in re.findall(r"(?:holds|missed) (?:yes|no)", text)] == [
        "holds", "holds", "missed",
    ]  # fmt: skip
    assert "达标" in render_html(report, "zh")
    assert "verdict" not in text_of(replace(report, sweep=replace(searched(), found=None)))


def test_probes_of_one_rate_are_dots_at_one_place_of_a_line() -> None:
    sweep = searched()
    curve = curve_of(sweep.rungs, "rate")
    assert curve
    assert [label for _, label in curve.ticks] == ["24.71", "30.89"]
    (output,) = curve.charts[0].lines
    assert [at for at, _ in output.dots] == pytest.approx([0.0, 0.0, 100.0])
    ((first, last),) = [segment.split() for segment in output.segments]
    low, high, _ = (y for _, y in output.dots)
    assert float(first.split(",")[1]) == pytest.approx(100 - (low + high) / 2, abs=0.01)
    assert low != pytest.approx(high)
    assert last.startswith("100.00,")


def test_a_sweep_by_itself_has_a_page() -> None:
    text = text_of(replace(FULL, figures=None, planned=None, samples=(), sweep=SWEEP))
    assert "The most output is" in text
    assert "with 64 clients." in text
    assert "0 no" in text
    assert "together that arrived per second in the steady part" in text
    assert "not yet answered, on average over the steady part" in text
    assert "to the last one ended" not in text
    assert "on average over the run" not in text
    assert "to the last one ended" in text_of(PLAIN)
    assert "Over time" not in text


def test_the_page_is_complete_in_both_languages() -> None:
    html = render_html(FULL)
    body = html[html.index("<body>") :]
    assert body.count('lang="en"') == body.count('lang="zh-Hans"') > 60
    assert 'id="en" checked' in html
    assert 'id="zh" checked' in render_html(FULL, "zh")


@pytest.mark.parametrize("report", [FULL, PLAIN, replace(PLAIN, sweep=SWEEP, figures=None)])
def test_its_chinese_has_no_english_sentence(report: LoadReport) -> None:
    own = replace(QUIET, cpu=0.95, waited=0.5)
    if report.figures:
        load = replace(LOAD, rate=2.0)
        due = [replace(one, due=one.sent - 1) for one in [*TIMINGS, *BROKEN]]
        conditions = replace(CONDITIONS, load=load, hardware="")
        report = replace(report, conditions=conditions, figures=figures(due, load, own))
    text = Page(render_html(report)).chinese
    apart = re.findall(r"[。：；，] +[\u4e00-\u9fff“]", text.replace("本次实测", ""))
    assert apart == [], "but for the badge"
    for name in (CONDITIONS.model, "nothing arrived for 1 s", COMMAND, CONDITIONS.url, "fake",
                 "timings.jsonl", "2 cores"):  # fmt: skip
        text = text.replace(name, "")
    words = re.findall(r"(?<![\w/.-])[a-z][a-z-]{3,}(?![\w/.-])", text)
    assert set(words) <= {"token", "tokens", "bench", "serve", "layout"}


def test_the_page_needs_nothing_from_outside() -> None:
    html = render_html(FULL)
    page = Page(html)
    assert {link for link in page.links if not link.startswith("#")} == {"data:,"}
    assert not {"script", "img", "iframe", "object"} & set(page.tags)
    assert "url(" not in html and "@import" not in html


def test_text_from_outside_cannot_become_part_of_the_page() -> None:
    conditions = replace(
        CONDITIONS, model=EVIL, engine=EVIL, hardware=EVIL, layout=EVIL, url=EVIL,
        load=replace(LOAD, prompts=EVIL), started_at=EVIL,
    )  # fmt: skip
    broken = [replace(one, error=Failure(EVIL, EVIL)) for one in BROKEN]
    planned = replace(EXPECTED, layout=EVIL)
    html = render_html(
        replace(FULL, conditions=conditions, figures=figures([*TIMINGS, *broken]),
                command=EVIL, planned=planned, causes=(EVIL,))
    )  # fmt: skip
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12
    assert "script" not in Page(html).tags


@pytest.mark.parametrize(
    "report",
    [
        replace(PLAIN, figures=figures([])),
        replace(PLAIN, figures=figures(BROKEN)),
        replace(PLAIN, figures=figures(TIMINGS[:1])),
        replace(PLAIN, figures=replace(figures(TIMINGS), course=None)),
        replace(PLAIN, figures=None),
        replace(PLAIN, figures=None, sweep=Sweep("rate", (), "complete")),
        replace(PLAIN, figures=None, sweep=Sweep("rate", RUNGS[:1], "complete")),
        replace(PLAIN, figures=None, sweep=Sweep("clients", RUNGS[:1], "complete")),
        replace(FULL, planned=replace(EXPECTED, beyond_measured=True, is_chosen=False)),
    ],
)
def test_whatever_is_missing_the_page_comes_out(report: LoadReport) -> None:
    Page(render_html(report))


def test_all_that_is_drawn_is_inside_of_its_chart() -> None:
    for report in (FULL, PLAIN):
        html = render_html(report)
        body = html[html.index("<body>") :]
        places = re.findall(r"(?:left|width|bottom):(-?[\d.]+)%", body)
        points = re.findall(r'points="([^"]+)"', body)
        numbers = [float(text) for text in places]
        numbers += [float(n) for text in points for n in re.split("[ ,]", text)]
        assert len(numbers) > 100
        assert all(0 <= number <= 100 for number in numbers)
