"""A plan's screen, its JSON and its page: data in, text out. The plans are made by hand."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len

from plan_requests import cluster, request
from ropeway.cli.main import exit_code
from ropeway.phrases import phrase
from ropeway.plan.candidate import Candidate, Plan, Rejected, Value
from ropeway.plan.cost import Cost
from ropeway.plan.estimate import Forecast
from ropeway.plan.load import Load
from ropeway.plan.memory import Memory
from ropeway.report.console import Screen
from ropeway.report.plan import best, layout_reasons, plan_text, price, rejected_groups, shown
from ropeway.report.plan_json import plan_json
from ropeway.report.plan_page import bar, constants, render_html, scatter
from ropeway.spec.model import Layout
from test_report import Page
from test_report import shown as on_screen
from widths import too_wide

GIB = 2**30
EVIL = '<script>alert("x")</script>'
REQUEST = request(
    "Qwen3-30B-A3B", load=Load(512, 256, clients=256), context=4096, job_prompts=1_000_000
)
MEMORY = Memory(
    hbm=32 * GIB, visible=32 * GIB, usable=28 * GIB, weights=8 * GIB, engine=2 * GIB,
    activations=1 * GIB, kv_cache=17 * GIB, stage=0, kv_tokens=150_016, blocks=1172, sequences=36,
)  # fmt: skip


def forecast(tokens_per_s, tpot_s, **changes):
    made = Forecast(
        output_tokens_per_s=tokens_per_s, requests_per_s=tokens_per_s / 256, ttft_s=1.25,
        tpot_s=tpot_s, output_low=tokens_per_s * 0.8, output_high=tokens_per_s * 1.25,
        tpot_low=tpot_s * 0.8, tpot_high=tpot_s * 1.25, running=128.0, step_s=0.102,
        parts={"host": 0.0805, "all-reduce": 0.012, "weights": 0.0095},
        bottleneck="host work, 81 of 102 ms a step", advice="turn the graph on",
        ceiling_tokens_per_s=12_000.0, notes=("12 measurements like this were 8 % slower",),
    )  # fmt: skip
    return replace(made, **changes)


def candidate(name, tokens_per_s, tpot_s, *, on_front=False, **changes):
    layout = Layout.parse(name)
    hosts = -(-layout.npus // 8)
    cost = Cost("CNY", 60.0 * hosts, 60 * hosts / 3600 / tokens_per_s * 1e6, 750.0 * hosts)
    made = Candidate(
        layout, hosts, layout.npus, 0.9, 256, on_front, forecast(tokens_per_s, tpot_s), MEMORY, cost
    )
    return replace(made, **changes)


CANDIDATES = (
    candidate("DP2×TP8", 3100.0, 0.080, on_front=True),
    candidate("TP8", 2500.0, 0.095),
    candidate("TP16", 1900.0, 0.060, on_front=True),
)
REJECTED = (
    Rejected(Layout.parse("TP1"), "memory", "56.9 GiB of weights and 28.0 GiB to put them in"),
    Rejected(Layout.parse("PP2"), "memory", "29.1 GiB of weights and 28.0 GiB to put them in"),
    Rejected(Layout.parse("TP8×PP2+EP"), "engine", "PP with EP fails on 0.11.0rc0"),
    Rejected(Layout.parse("TP3"), "shape", "tensor parallel 3 does not divide 32 heads"),
    Rejected(Layout.parse("TP5"), "shape", "tensor parallel 5 does not divide 32 heads"),
    Rejected(Layout.parse("TP7"), "shape", "tensor parallel 7 does not divide 32 heads"),
)
VALUES = (
    Value("serve.layout", "DP2×TP8", "3,100 tokens/s against 2,500 of TP8", "planner"),
    Value("serve.context", 4096, "as asked", "spec"),
    Value("cache", 150_016, "= 36 sequences at full context", "planner"),
)
PLAN = Plan(
    REQUEST, CANDIDATES[0], CANDIDATES, (CANDIDATES[0], CANDIDATES[2]), REJECTED, VALUES,
    ("the two hosts are joined by RoCE",), searched=9,
)  # fmt: skip
NOTHING = replace(
    PLAN, chosen=None, candidates=(), front=(), values=(),
    missing=("3.1 GiB are missing on each NPU", "4 hosts would do"),
)  # fmt: skip


def lines(renderable, width=80):
    return [line.rstrip() for line in on_screen(renderable, width).splitlines()]


def test_the_answer_comes_first_with_its_interval_the_bottleneck_and_the_price():
    rows = lines(plan_text(PLAN))
    assert rows[:2] == [
        "Qwen3-30B-A3B on 2 hosts × 8 910B4",
        "vLLM-Ascend 0.11.0rc0, graph piecewise · 256 clients, 512 tokens in, 256 out ·",
    ]
    assert rows[4:14] == [
        "run          DP2×TP8 on 2 hosts, 16 NPUs",
        "why          3,100 tokens/s against 2,500 of TP8",
        "output       3,100 tokens/s   80% interval: 2,480 to 3,875",
        "per token    80.0 ms   80% interval: 64.0 ms to 100 ms",
        "first token  1.25 s",
        "cost         10.8 CNY per million output tokens, 120 CNY an hour",
        "job          1,000,000 prompts: 22 h 56 min, 1,500 CNY",
        "bottleneck   host work, 81 of 102 ms a step",
        "advice       turn the graph on",
        "settings     context 4,096 (spec)",
    ]
    whole = lines(plan_text(PLAN, verbose=True))
    assert "one step     102 ms: scheduling 80.5, all-reduce 12.0, reading weights 9.5" in whole


def test_a_job_has_hours_without_a_price():
    """1,000,000 answers of 256 tokens at 3,100 tokens/s."""
    free = replace(CANDIDATES[0], cost=None)
    plan = replace(PLAN, chosen=free, candidates=(free,))
    assert "job          1,000,000 prompts: 22 h 56 min" in lines(plan_text(plan))
    page = Page(render_html(plan, when="2026-08-01"))
    assert "1,000,000 条提示词的任务22 h 56 min" in page.chinese
    assert plan_json(plan)["chosen"]["job_s"] == pytest.approx(256e6 / 3100)


def test_a_load_beyond_all_measurements_claims_no_share_of_them():
    for claims in (True, False):
        plan = replace(PLAN, beyond_measured=not claims)
        texts = [on_screen(plan_text(plan, verbose=True), 200), str(plan_json(plan))]
        texts.append(render_html(plan, when="2026-08-01"))
        assert [bool(re.search(r"80% (interval|of)|80%\s", text)) for text in texts] == [claims] * 3
        assert ["beyond all measurements" in text for text in texts] == [not claims] * 3


def test_doubts_are_on_the_page_below_the_choice_in_both_languages():
    doubt = phrase("the best of those that others have measured: {name}, {speed}",
                   name="TP4", speed=phrase("{n:,.0f} tokens/s", n=3929.0))  # fmt: skip
    html = render_html(replace(PLAN, doubts=(doubt, "run `ropeway bench`")), when="2026-08-01")
    page = Page(html)
    assert f"Doubt:存疑： {doubt}" in page.text
    assert "存疑：他人实测过的并行布局中最优的是 TP4，3,929 tokens/s" in page.chinese
    assert "<code>ropeway bench</code>" in html
    assert page.text.index("Run DP2×TP8") < page.text.index("Doubt:") < page.text.index("3,100")


def test_a_job_says_that_its_figures_are_those_of_the_whole_job():
    """They differ from those of clients alone, of which some always come in a burst."""
    said = "averaged over a job of 1,000,000 prompts"
    assert said in on_screen(plan_text(PLAN), 200)
    alone = replace(PLAN, request=replace(REQUEST, job_prompts=None))
    assert "averaged" not in on_screen(plan_text(alone), 200)


def test_the_first_screen_has_the_choice_and_says_where_the_rest_is():
    """Values, rejections and what was assumed are in `-v`; doubts are told at once."""
    assumed = CANDIDATES[0].forecast.notes[0]
    plan = replace(
        PLAN, notes=("planned as another", assumed), doubts=("nobody has measured this",)
    )
    short, whole = lines(plan_text(plan)), lines(plan_text(plan, verbose=True))
    assert "doubt        nobody has measured this" in short
    assert "note  planned as another" in short
    assert short[-1] == "`-v`: all values with reasons, 6 rejected layouts, 2 notes"
    for line in ("values", "rejected: 6 layouts", f"note  {assumed}"):
        assert (line in short, line in whole) == (False, True)
    assert len(short) < len(whole)


def test_replicas_are_named_with_their_layout_and_have_a_column():
    two = candidate("TP8", 4600.0, 0.054, replicas=2, hosts=2, npus=16, clients=256)
    plan = replace(PLAN, chosen=two, candidates=(two, CANDIDATES[0], CANDIDATES[2]))
    rows = lines(plan_text(plan))
    assert rows[4] == "run          2 replicas of TP8 on 2 hosts, 16 NPUs"
    (row,) = [line for line in rows if line.split()[:2] == ["TP8", "2"]]
    assert " ".join(row.split()) == "TP8 2 16 (2) 8.0 + 17.0 4,600 1.25 54.0 3.62"
    start = "chosen; rank 1 of the 3 that fit: 2 replicas of TP8: 4,600"
    assert layout_reasons(plan, "TP8")[0].startswith(start)
    document = plan_json(plan)["chosen"]
    assert (document["layout"], document["replicas"], document["clients"]) == ("TP8", 2, 256)
    assert "2 replicas of TP8" in render_html(plan, when="")


def test_hosts_may_differ_and_ranks_need_not_fill_them():
    uneven = cluster(4, 8)
    odd = candidate("DP3×TP3", 900.0, 0.1)
    rows = lines(plan_text(replace(PLAN, request=replace(REQUEST, cluster=uneven), chosen=odd)))
    assert rows[0] == "Qwen3-30B-A3B on 2 hosts with 12 910B4 in all"
    assert "run          DP3×TP3 on 2 hosts, 9 NPUs" in rows


def test_values_are_told_with_why_and_source_and_then_the_layouts_and_what_was_rejected():
    rows = lines(plan_text(PLAN, verbose=True))
    at = rows.index("values")
    reason = "layout DP2×TP8 3,100 tokens/s against 2,500 of TP8 · planner"
    assert rows[at + 1].split() == reason.split()
    assert rows[at + 2].split() == ["context", "4,096", "as", "asked", "·", "spec"]
    table = next(n for n, line in enumerate(rows) if line.startswith("layouts that run: 3"))
    row = "● DP2×TP8 16 (2) 8.0 + 17.0 3,100 1.25 80.0 10.8"
    assert rows[table + 4].split() == row.split()
    assert rows[table + 5].split()[0] == "TP8"
    assert at < table < rows.index("rejected: 6 layouts")


def test_rejections_alike_but_for_their_numbers_are_one_line_with_the_nearest():
    groups = rejected_groups(PLAN)
    assert [(group.kind, group.count) for group in groups] == [
        ("memory", 2), ("engine", 1), ("shape", 3),
    ]  # fmt: skip
    # the choice takes 16 NPUs: 2 are nearer to that than 1, and 7 than 5
    assert [str(group.example.layout) for group in groups] == ["PP2", "TP8×PP2+EP", "TP7"]


def test_forecasts_say_how_far_off_such_have_been_and_verbose_names_every_rejection():
    text, whole = (on_screen(plan_text(PLAN, verbose=verbose)) for verbose in (False, True))
    assert all(f"{rejected.layout}  " in whole for rejected in REJECTED)
    assert "TP5" not in text
    assert "predicted; not verified on NPU hardware; 80% of measurements: -20% to +25%" in text


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_wider_than_the_terminal_and_no_figure_is_cut(width):
    long = Value(
        "serve.layout", "DP2×TP8", "因为两台主机的显存带宽更高 " * 12, "https://a.example/b/c"
    )
    wide = replace(PLAN, values=(long, *VALUES), notes=("说明 " * 60,))
    long_names = [candidate("DP2×TP2×PP2+EP", 12_345.0, 0.1, replicas=16)]
    wide = replace(wide, candidates=(*CANDIDATES, *long_names))
    text = on_screen(plan_text(wide, verbose=True), width)
    assert max(map(cell_len, (*text.splitlines(), *lines(plan_text(wide), width)))) <= width
    assert "…" not in text
    assert ("activations" in text) == (width == 200)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [30, 40])
def test_nothing_is_wider_than_a_narrow_terminal(width, language, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    base = ["plan", "--model", "Qwen3-235B-A22B", "--chip", "910B4", "--lang", language]
    for more in (["--npus", "32", "-v"], ["--npus", "8"], ["--npus", "32", "--why", "TP8×PP4"]):
        exit_code([*base, *more])
        shown = "".join(capsys.readouterr())
        assert shown
        assert too_wide(shown, width) == []


def test_links_and_sources_stay_whole_and_no_line_ends_in_blanks():
    source = "CANN platform files, https://gitcode.example/ascend/runtime/blob/master/config/a.ini"
    link = f"https://docs.example/{'long/' * 20}page.html"
    values = (Value("cluster.chip", "910B4", "32 GiB", source), *VALUES)
    rejected = (Rejected(Layout.parse("TP3"), "engine", f"not supported ({link})"),)
    plan = replace(PLAN, values=values, rejected=rejected, notes=(f"see {link}",))
    out = StringIO()
    Screen(stdout=out, width=80, color="never").answer(plan_text(plan, verbose=True))
    words = out.getvalue().split()
    assert words.count(link) == 1
    assert f"({link})" in words
    assert set(source.split()) <= set(words)
    assert [line for line in out.getvalue().splitlines() if line != line.rstrip()] == []


def test_what_there_is_none_of_is_not_announced():
    few = replace(PLAN, rejected=(), notes=())
    assert lines(plan_text(few))[-1] == "`-v`: all values with reasons"


def test_a_long_list_is_cut_and_the_front_is_not():
    slow = [candidate(f"DP{n}", 1000.0 - n, 0.1, on_front=n == 15) for n in range(2, 17)]
    long = replace(PLAN, candidates=(*CANDIDATES, *slow))
    names = [str(item.layout) for item in best(long)]
    assert len(names) == 6
    assert names[-1] == "DP15"
    assert "layouts that run: 6 of 18 (`-v`: all)" in on_screen(plan_text(long))


def test_nothing_that_fits_is_told_with_what_is_missing():
    rows = lines(plan_text(NOTHING))
    assert rows[4:7] == [
        "nothing fits the request",
        "  3.1 GiB are missing on each NPU",
        "  4 hosts would do",
    ]
    assert "rejected: 6 layouts" in rows


def test_why_a_layout_compares_it_with_the_chosen_one():
    assert layout_reasons(PLAN, "TP8")[0] == (
        "runs; rank 2 of the 3 that fit: 2,500 tokens/s, 95.0 ms per token; "
        "DP2×TP8: 3,100 tokens/s, 80.0 ms per token"
    )
    assert layout_reasons(PLAN, "TP8×PP2+EP") == ("PP with EP fails on 0.11.0rc0",)
    start = "chosen; rank 1 of the 3 that fit: 3,100 tokens/s"
    assert layout_reasons(PLAN, "DP2×TP8")[0].startswith(start)
    assert "--layout" in layout_reasons(PLAN, "PP31")[0]


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        *((shown, 4096, "4,096"), (shown, 0.9, "0.9"), (shown, 1e6, "1,000,000")),
        *((shown, True, "yes"), (shown, None, "–"), (shown, "TP8", "TP8")),
        *((price, 0.4213, "0.421"), (price, 1.2345, "1.23")),
        *((price, 12.345, "12.3"), (price, 1234.5, "1,234")),
    ],
)
def test_values_and_prices_are_shown_as_people_write_them(write, value, text):
    assert write(value) == text


def test_escapes_from_outside_do_not_reach_the_terminal():
    evil = replace(
        PLAN, request=replace(REQUEST, model_name="a\x1b[2Jb"), notes=("c\x1b]0;d\x07e",)
    )
    assert "\x1b" not in on_screen(plan_text(evil))


def test_the_document_has_everything_and_only_finite_numbers():
    odd = replace(CANDIDATES[1], forecast=forecast(2500.0, 0.09, ttft_s=float("inf")))
    document = plan_json(replace(PLAN, candidates=(CANDIDATES[0], odd)))
    read = json.loads(json.dumps(document, allow_nan=False))
    assert read["chosen"]["layout"] == "DP2×TP8"
    assert read["chosen"]["forecast"]["parts_s"]["host"] == 0.0805
    assert read["chosen"]["memory"]["kv_cache_bytes"] == 17 * GIB
    assert read["chosen"]["cost"]["currency"] == "CNY"
    assert read["candidates"][1]["forecast"]["ttft_s"] is None
    assert read["front"] == ["DP2×TP8", "TP16"]
    assert len(read["rejected"]) == 6
    assert read["values"][0] == {
        "key": "serve.layout", "value": "DP2×TP8", "why": "3,100 tokens/s against 2,500 of TP8",
        "source": "planner",
    }  # fmt: skip
    asked = read["request"]
    assert (asked["hosts"], asked["npus_per_host"], asked["npus"]) == (2, 8, 16)
    assert (asked["chip"], asked["local"]) == ("910B4", False)
    assert json.loads(json.dumps(plan_json(NOTHING)))["chosen"] is None


def test_the_page_is_one_file_in_two_languages_without_a_script():
    text = render_html(PLAN, when="now")
    page = Page(text)
    assert "script" not in page.tags
    assert page.links == ["data:,"]
    for words in ("Rejected, and why", "被排除的并行布局及原因", "not verified on NPU hardware"):
        assert words in page.text
    assert all(f"{one.layout}" in page.text for one in (*CANDIDATES, *REJECTED))
    assert page.text.count("host work, 81 of 102 ms") == 2  # once in each language


def test_what_comes_from_outside_is_escaped_and_addresses_become_links():
    evil = replace(
        PLAN,
        request=replace(REQUEST, model_name=EVIL),
        rejected=(Rejected(Layout(), "memory", EVIL),),
        notes=(EVIL, "see https://a.example/b"),
    )
    text = render_html(evil, when=EVIL)
    assert "<script>" not in text
    assert 'href="https://a.example/b"' in text


def test_a_page_can_say_that_nothing_fits():
    page = Page(render_html(NOTHING, when="now"))
    assert "nothing fits the request" in page.text
    assert "没有任何并行布局满足要求" in page.text
    assert "4 hosts would do" in page.text


def test_the_chart_has_every_layout_and_the_front_in_order():
    chart = scatter(PLAN)
    assert len(chart.dots) == 3
    numbers = {dot.title.split(":")[0]: dot.number for dot in chart.dots}
    assert numbers == {"TP16": 1, "DP2×TP8": 2, "TP8": 0}  # quickest first
    by_name = {dot.title.split(":")[0]: dot for dot in chart.dots}
    assert by_name["TP16"].x < by_name["DP2×TP8"].x < by_name["TP8"].x
    assert by_name["TP16"].y < by_name["TP8"].y < by_name["DP2×TP8"].y
    for dot in chart.dots:
        assert 0 < dot.left < dot.x < dot.right < 100
        assert 0 < dot.low < dot.y < dot.high < 100
        # 0.8 and 1.25 are as far from 1 on a logarithmic axis
        assert dot.x - dot.left == pytest.approx(dot.right - dot.x)
    assert chart.dots[-1].chosen
    ticks = [label for _, label in chart.x_ticks]
    assert ticks == ["50", "60", "80", "100", "120"]


def test_the_bar_of_an_npu_adds_up_to_its_memory():
    drawn = bar(PLAN, CANDIDATES[0])
    assert {piece.kind: piece.width for piece in drawn.slices} == pytest.approx(
        {"weights": 25, "engine": 6.25, "activations": 3.125, "cache": 53.125, "free": 12.5}
    )
    assert drawn.whole == "32.0 GiB"


def test_the_constants_are_those_of_the_machine():
    values = {row.key: row.value for row in constants(REQUEST)}
    assert set(values) == {"memory", "arithmetic", "host", "collective", "between"}
    machine = REQUEST.machine
    assert values["memory"].endswith(f"GB/s ({machine.memory * 100:.0f}% of 800)")
    assert float(values["memory"].split()[0]) == pytest.approx(machine.memory * 800, rel=0.01)


def test_a_job_of_default_lengths_says_so(capsys):
    job = ["plan", "--model", "Qwen3-30B-A3B", "--chip", "910B4", "--prompts", "1000000"]
    lengths = (["--input-tokens", "1024"], ["--output-tokens", "512"])
    for given, said in (((), True), (lengths[:1], True), (lengths, False)):
        assert exit_code([*job, *(word for flag in given for word in flag), "--json"]) == 0
        doubts = json.loads(capsys.readouterr().out)["doubts"]
        assert any("nobody named the lengths" in doubt for doubt in doubts) == said


def test_why_not_a_layout_that_was_not_examined_has_its_reasons(capsys):
    base = ["plan", "--model", "Qwen3-30B-A3B", "--hosts", "2", "--chip", "910B4", "--why"]
    assert exit_code([*base, "TP3"]) == 0
    assert "  tensor parallel 3 does not divide 32 attention heads\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("serve", "sections"),
    [("{context: 4096}", []), ("{context: 4096,  # ours\n  port: 8000}", ["`serve`"])],
)
def test_reasons_that_have_no_room_in_the_file_are_said_to_be_missing(
    serve, sections, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    spec = "cluster: {chip: 910B4, hosts: [{address: 192.168.0.1, npus: 8}]}\n"
    model = "model: {path: /d/Qwen3-30B-A3B}\n"
    Path("ropeway.yaml").write_text(f"{spec}{model}serve: {serve}\n")
    assert exit_code(["plan", "--write"]) == 0
    told = r"without the reasons: between the braces of (.*) comments"
    assert re.findall(told, capsys.readouterr().err) == sections
    assert ("# plan: " in Path("ropeway.yaml").read_text()) == (not sections)
