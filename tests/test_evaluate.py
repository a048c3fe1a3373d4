"""A CSV of measurements against predictions: what can be known, what cannot, and the statistics."""

import json

import pytest

from ropeway.errors import Refused
from ropeway.plan.correction import stored
from ropeway.plan.evaluate import METHODS, Evaluation, Row, evaluate_csv
from ropeway.plan.measured import question, read_measurements

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


def only(*lines: str) -> Row:
    (row,) = evaluate(*lines).rows
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


def test_what_was_assumed_is_said() -> None:
    row = only(changed(hardware="Atlas A2 (910B; model not stated)"))
    assert any("910B3" in note for note in row.notes)
    row = only(changed(output_len="", output_tok_s=""))
    assert any("1024 assumed" in note for note in row.notes)
    assert row.kind == "not all stated"


def test_a_cell_that_is_no_number_spoils_its_row_alone() -> None:
    found = evaluate(PLAIN, changed(tp="four"), PLAIN)
    assert [bool(row.unknown) for row in found.rows] == [False, True, False]
    assert found.rows[1].line == 3
    assert "`tp` is `four`" in found.rows[1].unknown


def test_columns_may_be_missing() -> None:
    header = "model,hardware,tp,input_len,output_len,concurrency,output_tok_s\n"
    found = evaluate("Qwen3-32B,910B3,4,1024,512,32,700", header=header)
    assert found.known == 1
    assert found.rows[0].kind == "core"


@pytest.mark.parametrize(
    "text", ["", "a,b,c\n1,2,3\n", "model,hardware\n", "\x00", "model\nQwen3-32B\n"]
)
def test_no_table_is_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        evaluate_csv(text, "table.csv")
    assert caught.value.where == "table.csv"


def test_scores_are_medians_and_means_of_absolute_errors() -> None:
    found = evaluate(PLAIN, changed(output_tok_s="1400", tpot_ms=""))
    errors = sorted(abs(row.figures[0].error) for row in found.rows)
    score = next(
        one
        for one in found.scores
        if (one.group, one.figure, one.method) == ("core", "output", "planner")
    )
    assert score.rows == 2
    assert score.mean == pytest.approx(sum(errors) / 2)
    assert score.median == pytest.approx(sum(errors) / 2)
    groups = {one.group for one in found.scores}
    assert {"core", "hardware: 910B3 64GB", "family: qwen3"} <= groups


def test_rows_that_are_not_of_the_core_are_counted_apart() -> None:
    header = HEADER.replace("notes", "notes,spec_decode")
    found = evaluate(PLAIN + ",", PLAIN + ",mtp:1", header=header)
    assert [row.kind for row in found.rows] == ["core", "speculative decoding"]
    counts = {one.group: one.rows for one in found.scores if one.figure == "output"}
    assert counts["core"] == 1 and counts["speculative decoding"] == 1


def test_plain_data_goes_through_json() -> None:
    document = json.loads(json.dumps(evaluate(PLAIN).as_json()))
    assert document["schema"] == 1
    assert document["rows_predicted"] == 1
    assert document["rows"][0]["figures"][0]["name"] == "output"


def fitted_row() -> tuple[str, str]:
    """Header and line of a stored measurement of the core."""
    row = next(
        item["row"]
        for item in stored()
        if "qwen3-14b.mdx" in item["row"]["source_url"] and item["row"]["engine"] == "vLLM-Ascend"
    )
    names = ",".join(row)
    return f"{names}\n", ",".join(f'"{value}"' for value in row.values())


def test_a_fitted_row_is_predicted_without_its_document() -> None:
    header, line = fitted_row()
    unseen = evaluate(line, header=header)
    seen = evaluate_csv(header + line + "\n", "table.csv", in_sample=True)
    assert any("its own document left out" in note for note in unseen.notes)
    assert not any("left out" in note for note in seen.notes)
    tpot = next(figure for figure in unseen.rows[0].figures if figure.name == "tpot")
    known = next(figure for figure in seen.rows[0].figures if figure.name == "tpot")
    assert abs(known.error) < abs(tpot.error)
    assert tpot.others["nearest neighbour"] != pytest.approx(tpot.measured)
    assert known.others["nearest neighbour"] == pytest.approx(known.measured)


def test_another_configuration_of_a_known_document_says_so() -> None:
    header, line = fitted_row()
    cells = line.split(",")
    cells[header.strip().split(",").index("input_len")] = '"777"'
    row = evaluate(",".join(cells), header=header).rows[0]
    assert any("other measurements of its document" in note for note in row.notes)


def test_the_two_host_report_is_answered_with_assumed_lengths() -> None:
    line = (
        "Qwen3-VL-30B-A3B-Instruct,bf16,910B4 32GB,8,1,8,1,1,1,,,256,,2500,,,,vLLM-Ascend,"
        "v0.11.0rc0,https://www.zouht.com/4119.html,A,"
    )
    row = only(line)
    assert not row.unknown and row.kind == "not all stated"
    assert any("400 and 600 assumed" in note for note in row.notes)


def test_disaggregated_prefill_takes_both_sides_layouts() -> None:
    header = HEADER.replace("notes", "notes,pd_disagg")
    text = header + changed(tp="4", dp="8", ep="1", npus="64") + ",P:2node tp8dp4 D:2node tp4dp8\n"
    (row,), _ = read_measurements(text, "t")
    asked, _ = question(row)
    assert str(asked.layout) == "DP8×TP4"
    assert str(asked.setting.readers) == "DP4×TP8"
