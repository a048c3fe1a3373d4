"""benchmarks/planner: a CSV of measurements against predictions, and the statistics."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from ropeway.errors import Refused
from ropeway.models.known import known
from ropeway.plan.correction import recorded
from ropeway.plan.machine import stored_constants
from ropeway.plan.question import Question
from test_report import shown as on_screen

sys.path.append(str(Path(__file__).parent.parent / "benchmarks" / "planner"))

from evaluate import evaluation_text, main
from evaluation import ERRORS, METHODS, Evaluation, Figure, Row, Score, evaluate_csv
from measured import fitted_measurements, kv_bits_named, question_of, read_measurements

HEADER = (
    "model,dtype_quant,hardware,npus,nodes,tp,pp,ep,dp,input_len,output_len,concurrency,"
    "request_rate,output_tok_s,total_tok_s,ttft_ms,tpot_ms,engine,version,source_url,quality,notes\n"
)
PLAIN = (
    "Qwen3-32B,bf16,910B3 64GB,4,1,4,1,1,1,1024,512,32,,700,,,40,vLLM-Ascend,v0.18.0,"
    "https://example.org/a,A,"
)


def evaluate(*lines: str, header: str = HEADER) -> Evaluation:
    return evaluate_csv(header + "\n".join(lines) + "\n", "table.csv")


def only(line: str) -> Row:
    (row,) = evaluate(line).rows
    return row


def changed(**cells: str) -> str:
    names = HEADER.strip().split(",")
    values = dict(zip(names, PLAIN.split(","), strict=True)) | cells
    return ",".join(values[name] for name in names)


def test_a_plain_row_is_predicted_with_error_and_interval() -> None:
    row = only(PLAIN)
    assert row.kind == "core" and not row.unknown
    output, tpot = row.figures
    assert (output.name, output.measured) == ("output", 700)
    assert (tpot.name, tpot.measured) == ("tpot", 0.040)
    for figure in row.figures:
        assert figure.error == pytest.approx(figure.predicted / figure.measured - 1)
        assert figure.low is not None and figure.high is not None
        assert figure.low < figure.predicted < figure.high
        assert figure.in_interval == (figure.low <= figure.measured <= figure.high)
        assert set(figure.others) == set(METHODS[1:])


@pytest.mark.parametrize(
    ("cells", "missing"),
    [
        ({"input_len": "", "output_len": ""}, "length"),
        ({"input_len": ""}, "input length"),
        ({"concurrency": ""}, "concurrency"),
        ({"model": "Frobnicator-7B"}, "Frobnicator-7B"),
        ({"tp": ""}, "layout"),
        ({"tp": "", "npus": ""}, "number of NPUs"),
        ({"hardware": "H100"}, "H100"),
        ({"dtype_quant": "w3a5"}, "w3a5"),
        ({"output_tok_s": "", "tpot_ms": ""}, "nothing to compare"),
        ({"notes": "queueing (small max_num_seqs)"}, "limit of sequences"),
    ],
)
def test_what_cannot_be_known_says_what_is_missing(cells: dict[str, str], missing: str) -> None:
    row = only(changed(**cells))
    assert missing in row.unknown
    assert not row.figures or missing == "nothing to compare"


BLOG = (
    "Qwen3-VL-30B-A3B-Instruct,bf16,910B4 32GB,8,1,8,1,1,1,,,256,,2500,,,,vLLM-Ascend,"
    "v0.11.0rc0,https://www.zouht.com/4119.html,A,"
)


@pytest.mark.parametrize(
    ("line", "note", "kind"),
    [
        (changed(hardware="Atlas A2 (910B; model not stated)"), "910B3", "core"),
        (changed(output_len="", output_tok_s=""), "1024 assumed", "not all stated"),
        (BLOG, "400 and 600 assumed", "not all stated"),
    ],
)
def test_what_was_assumed_is_said(line: str, note: str, kind: str) -> None:
    row = only(line)
    assert note in " ".join(row.notes)
    assert (row.unknown, row.kind) == ("", kind)


def test_a_cell_that_is_no_number_spoils_its_row_alone() -> None:
    evaluation = evaluate(PLAIN, changed(tp="four"), PLAIN)
    assert [bool(row.unknown) for row in evaluation.rows] == [False, True, False]
    assert evaluation.rows[1].line == 3
    assert "`tp` is `four`" in evaluation.rows[1].unknown


def test_columns_may_be_missing() -> None:
    header = "model,hardware,tp,input_len,output_len,concurrency,output_tok_s\n"
    evaluation = evaluate("Qwen3-32B,910B3,4,1024,512,32,700", header=header)
    assert evaluation.known == 1
    assert evaluation.rows[0].kind == "core"


@pytest.mark.parametrize(
    "text", ["", "a,b,c\n1,2,3\n", "model,hardware\n", "\x00", "model\nQwen3-32B\n"]
)
def test_no_table_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        evaluate_csv(text, "table.csv")
    assert caught.value.where == "table.csv"


def test_scores_are_medians_and_means_of_absolute_errors() -> None:
    evaluation = evaluate(PLAIN, changed(output_tok_s="1400", tpot_ms=""))
    errors = sorted(abs(row.figures[0].error) for row in evaluation.rows)
    scores = {(score.group, score.figure, score.method): score for score in evaluation.scores}
    score = scores["core", "output", "planner"]
    assert score.rows == 2
    assert (score.mean, score.median) == pytest.approx((sum(errors) / 2, sum(errors) / 2))
    assert {"core", "hardware: 910B3 64GB", "family: qwen3"} <= {group for group, _, _ in scores}


def test_rows_that_are_not_of_the_core_are_counted_apart() -> None:
    header = HEADER.replace("notes", "notes,spec_decode")
    evaluation = evaluate(PLAIN + ",", PLAIN + ",mtp:1", header=header)
    assert [row.kind for row in evaluation.rows] == ["core", "speculative decoding"]
    counts = {one.group: one.rows for one in evaluation.scores if one.figure == "output"}
    assert counts["core"] == 1 and counts["speculative decoding"] == 1


def test_the_stored_rows_are_those_of_the_planner_in_the_same_order() -> None:
    rows = fitted_measurements()
    assert len(rows) == len(recorded())
    for row, record in zip(rows, recorded(), strict=True):
        assert (row.text("source_url"), row.source) == (record.url, record.case.source)
        assert known(row.text("model")).layers


def fitted_row() -> tuple[str, str]:
    """Header and line of a stored measurement of the core."""
    row = next(
        item.as_row()
        for item in fitted_measurements()
        if "qwen3-14b.mdx" in item.source and item.text("engine") == "vLLM-Ascend"
    )
    names = ",".join(row)
    return f"{names}\n", ",".join(f'"{value}"' for value in row.values())


def test_a_fitted_row_is_predicted_without_its_document() -> None:
    header, line = fitted_row()
    unseen = evaluate(line, header=header)
    fitted = evaluate_csv(header + line + "\n", "table.csv", in_sample=True)
    assert any("its own document left out" in note for note in unseen.notes)
    assert not any("left out" in note for note in fitted.notes)
    tpot = next(figure for figure in unseen.rows[0].figures if figure.name == "tpot")
    known_tpot = next(figure for figure in fitted.rows[0].figures if figure.name == "tpot")
    assert known_tpot.predicted != pytest.approx(tpot.predicted, rel=0.01)
    assert tpot.others["nearest neighbour"] != pytest.approx(tpot.measured)
    assert known_tpot.others["nearest neighbour"] == pytest.approx(known_tpot.measured)


def test_another_configuration_of_a_known_document_says_so() -> None:
    header, line = fitted_row()
    cells = line.split(",")
    cells[header.strip().split(",").index("input_len")] = '"777"'
    row = evaluate(",".join(cells), header=header).rows[0]
    assert any("other measurements of its document" in note for note in row.notes)


def test_disaggregated_prefill_takes_both_sides_layouts() -> None:
    header = HEADER.replace("notes", "notes,pd_disagg")
    text = header + changed(tp="4", dp="8", ep="1", npus="64") + ",P:2node tp8dp4 D:2node tp4dp8\n"
    (row,), _ = read_measurements(text, "t")
    question, _ = question_of(row)
    assert str(question.layout) == "DP8×TP4"
    assert str(question.setup.readers) == "DP4×TP8"


def question(**cells: str) -> Question:
    (row,), _ = read_measurements(HEADER + changed(**cells), "t")
    return question_of(row)[0]


@pytest.mark.parametrize(
    ("version", "notes", "model", "graph"),
    [
        ("v0.9.1", "", "Qwen3-32B", "eager"),
        ("v0.18.0", "", "Qwen3-32B", "piecewise"),
        ("v0.21.0rc1", "", "Qwen3-32B", "full"),
        ("main@2026-01-26", "", "Qwen3-32B", "piecewise"),
        ("main@2026-06-18", "", "Qwen3-32B", "full"),
        ("v0.18.0", "eager mode", "Qwen3-32B", "eager"),
        ("v0.18.0", "AISBench baseline in CI", "Qwen3-32B", "full"),
        ("v0.9.1", "", "DeepSeek-R1", "full"),
        ("v0.20.2rc1", "", "DeepSeek-R1", "piecewise"),
    ],
)
def test_a_row_that_states_no_graph_has_that_of_its_release(version, notes, model, graph):
    assert question(version=version, notes=notes, model=model).machine.graph == graph


@pytest.mark.parametrize(
    ("notes", "clients", "requests"),
    [
        ("AISBench baseline in CI", "32", 128),
        ("AISBench baseline in CI", "1", 1),
        ("AISBench baseline in CI; 60 prompts", "32", 60),
        ("", "32", None),
    ],
)
def test_the_nightly_tests_send_four_requests_for_each_client(notes, clients, requests):
    assert question(notes=notes, concurrency=clients).load.requests == requests


def claims(left_out: str, least: int) -> dict[str, float]:
    """What groups of at least so many measurements by vLLM-Ascend hold, with others left out."""
    groups = json.loads(ERRORS.read_text("utf-8"))["groups"]
    return {
        f"{group['group']}, {group['figure']}": group["inside"]
        for group in groups
        if group["left_out"] == left_out
        and group["rows"] >= least
        and group["figure"] != "ttft"
        and not group["group"].startswith("engine")
    }


@pytest.mark.parametrize(
    ("left_out", "least", "low", "high"),
    [
        ("document", 60, 0.75, 0.85),
        ("author", 60, 0.75, 0.85),
        # In smaller groups the share inside is more and more a matter of chance.
        ("document", 30, 0.72, 0.9),
        ("author", 30, 0.7, 0.9),
    ],
)
def test_intervals_hold_what_they_claim_in_every_group(left_out, least, low, high):
    claimed = claims(left_out, least)
    assert len(claimed) > 15
    assert {name: held for name, held in claimed.items() if not low <= held <= high} == {}


# Aimed for are 10 and 20 % of output, 15 and 25 % of the time of a token; docs/planning.md says
# what is missed.
@pytest.mark.parametrize(
    ("figure", "median", "mean"), [("output", 0.1, 0.201), ("tpot", 0.166, 0.253)]
)
def test_errors_with_documents_left_out_grow_no_larger(figure, median, mean):
    (core,) = (
        group
        for group in json.loads(ERRORS.read_text("utf-8"))["groups"]
        if (group["left_out"], group["group"], group["figure"]) == ("document", "core", figure)
    )
    assert core["median"] <= median
    assert core["mean"] <= mean


def test_stored_errors_are_those_of_the_stored_intervals() -> None:
    stored = json.loads(ERRORS.read_text("utf-8"))
    assert stored["interval"] == stored_constants()["interval"]


@pytest.mark.parametrize(
    ("url", "document", "author"),
    [
        (
            "https://github.com/vllm-project/vllm-ascend/blob/67b1ac5e7a2/tests/e2e/nightly/a/x.yaml",
            "https://github.com/vllm-project/vllm-ascend/tests/e2e/x.yaml",
            "github.com/vllm-project/vllm-ascend/tests",
        ),
        (
            "https://github.com/vllm-project/vllm-ascend/pull/7",
            "https://github.com/vllm-project/vllm-ascend/pull/7",
            "github.com/vllm-project/vllm-ascend/pull/7",
        ),
        (
            "https://github.com/a/b/tree/67b1ac5e7a2/docs/x.md",
            "https://github.com/a/b/docs/x.md",
            "github.com/a/b",
        ),
        ("https://x.org/4.html", "https://x.org/4.html", "x.org"),
    ],
)
def test_a_document_and_its_author(url: str, document: str, author: str) -> None:
    (row,), _ = read_measurements(HEADER + changed(source_url=url), "t")
    assert (row.source, row.author) == (document, author)


TABLE = f"{HEADER}{PLAIN}\n{changed(input_len='', output_len='')}\n"


def test_an_evaluation_is_printed_row_by_row(capsys, tmp_path) -> None:
    path = tmp_path / "measured.csv"
    path.write_text(TABLE)
    assert main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("predicted: 1 row\n")
    assert "cannot be predicted: 1 row" in out
    assert main([str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["rows_predicted"]) == (1, 1)
    row, unknown = document["rows"]
    assert unknown["unknown"]
    assert [figure["name"] for figure in row["figures"]] == ["output", "tpot"]
    assert row["figures"][0]["measured"] == 700


def test_measurements_can_come_from_stdin(capsys, monkeypatch) -> None:
    raw = b"\xef\xbb\xbf" + TABLE.encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert main(["-"]) == 0
    assert "Qwen3-32B" in capsys.readouterr().out


def test_what_cannot_be_read_is_refused(capsys, tmp_path) -> None:
    path = tmp_path / "measured.csv"
    path.write_bytes(b"model\nQwen3\nQwen\xff\n")
    assert main([str(path)]) == 2
    assert "measured.csv:3" in capsys.readouterr().err
    assert main([str(tmp_path / "no-such.csv")]) == 2
    assert "no-such.csv" in capsys.readouterr().err


ROW = Row(
    line=2, model="Qwen3-VL-30B-A3B-Instruct", family="qwen3_vl_moe", hardware="910B4 32GB",
    layout="TP8", load="512/256 tokens, 256 clients", engine="vLLM-Ascend 0.11.0rc0",
    source="https://a.example", kind="core", unknown="",
    figures=(
        Figure("output", 2400.0, 2500.0, 2000.0, 2900.0, -0.04, True, {"roofline": 9000.0}),
        Figure("tpot", 0.160, 0.100, 0.090, 0.120, 0.6, False, {}),
        Figure("ttft", 2.0, 1.0, None, None, 1.0, None, {}),
    ),
)  # fmt: skip
BLANK = replace(ROW, line=3, figures=(), unknown="no lengths of prompt and answer")
EVALUATION = Evaluation(
    "x.csv",
    (ROW, BLANK, *(replace(BLANK, line=line) for line in (9, 10, 11, 20))),
    (
        Score("core", "output", "planner", 77, 0.104, 0.187, 0.81),
        Score("core", "output", "roofline", 77, 0.55, 1.2, None),
        Score("core", "ttft", "planner", 70, 0.4, 25.0, None),
    ),
    ("one row was fitted to: predicted without its source",),
)


def test_rows_statistics_and_the_unknown_are_told():
    lines = [" ".join(line.split()) for line in on_screen(evaluation_text(EVALUATION)).splitlines()]
    assert lines[0] == "predicted: 1 row"
    assert lines[2:5] == [
        "2 Qwen3-VL-30B-A3B-Instru… TP8 tokens/s 2,400 2,500 -4% ●",
        "per token 160 ms 100 ms +60%",
        "TTFT 2.00 s 1.00 s +100%",
    ]
    assert "cannot be predicted: 5 rows" in lines
    assert any(line.endswith("lines 3, 9–11, 20") for line in lines)
    at = lines.index("core")
    assert lines[at - 1] == "rows planner roofline in 80%"
    assert lines[at + 1] == "tokens/s 77 10.4 / 18.7 55.0 / 120 81%"
    assert lines[at + 2] == "TTFT 70 40.0 / >999 – –"
    assert lines[-1] == "note one row was fitted to: predicted without its source"


def test_verbose_gives_each_row_its_source_and_notes():
    noted = replace(EVALUATION, rows=(replace(ROW, notes=("lengths assumed",)),))
    text = on_screen(evaluation_text(noted, verbose=True))
    assert "lengths assumed" in text
    assert "https://a.example" in text


@pytest.mark.parametrize("width", [80, 200])
def test_an_evaluation_fits_the_terminal(width):
    odd = replace(ROW, model="模型" * 30, layout="DP16×TP8×PP4+EP", hardware="Atlas " * 20)
    text = on_screen(evaluation_text(replace(EVALUATION, rows=(ROW, odd, BLANK))), width)
    assert max(map(cell_len, text.splitlines())) <= width


def test_the_cache_in_a_schemes_name():
    assert [kv_bits_named(name) for name in ("w8a8c8", "w4a8", "bf16", "w4a4c4")] == [8, 16, 16, 4]
