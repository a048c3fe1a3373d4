"""benchmarks/batch_said.py, the comparison of a job's rows with what its endpoints said."""

import json
from pathlib import Path

import pytest
from batch_said import Losses, disagreements, read_rows, read_said

# process, name of the sending, when, what
SAID = """
1 a-0 10.0 taken
1 a-0 10.1 answered
2 a-1 10.0 taken
2 - 11.0 died
3 a-1-1 12.0 taken
3 - 13.0 died
4 a-2 10.0 taken
4 a-2 10.1 cut
4 a-3 10.0 taken
4 a-3 10.1 errors
4 b-3 20.0 taken
4 b-3 20.1 refused
"""
ROWS = {0: ("answered", "a-0"), 1: ("poison", ""), 2: ("cut", "a-2"), 3: ("refused", "b-3")}


def line(ordinal: int, outcome: str, sending: str) -> dict[str, object]:
    good = outcome in ("answered", "cut")
    body = {"choices": [{"finish_reason": "length" if outcome == "cut" else "stop"}]}
    response = {"request_id": sending, "body": body} if sending else None
    error = None if good else {"code": outcome, "message": "x"}
    return {"custom_id": f"r{ordinal}", "response": response, "error": error}


def found(
    folder: Path, said: str = "", losses: Losses | None = None, **rows: tuple[str, str]
) -> list[str]:
    """What is wrong when this too was said, and these rows have another outcome."""
    changed = {**ROWS, **{int(name.removeprefix("r")): row for name, row in rows.items()}}
    lines = [json.dumps(line(n, *row)) + "\n" for n, row in changed.items()]
    (folder / "out").write_text("".join(lines))
    (folder / "errors").write_text("")
    (folder / "said").write_text(SAID.strip() + "\n" + said)
    kept = read_rows(folder / "out", folder / "errors")
    return disagreements(read_said(folder / "said"), kept, losses or Losses())


def test_rows_that_have_what_was_said(tmp_path: Path) -> None:
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("said", "rows", "fault"),
    [
        ("", {"r0": ("answered", "a-2")}, "r0 is answered by a-2, which is no sending of it"),
        ("", {"r2": ("answered", "a-2")}, "r2 is answered, and a-2 was told: cut"),
        ("", {"r0": ("failed", "")}, "a-0 was told: answered, and r0 has failed"),
        ("", {"r3": ("poison", "")}, "r3 is poison, and engines died with it: {}"),
        ("4 a-0-1 12 taken\n", {}, "r0 has the answer to a-0, and was sent again: a-0-1"),
        ("4 b-0 21 taken\n", {}, "r0 has the answer to a-0, and was sent again: b-0"),
        ("4 c-3 9 taken\n", {}, "b and c sent rows at the same time"),
        (
            "".join(f"5 a-9-{n} 10 taken\n5 a-9-{n} 10 outage\n" for n in range(501)),
            {},
            "501 rows were sent into the outage of process 5",
        ),
    ],
)
def test_each_fault_is_found(said: str, rows, fault: str, tmp_path: Path) -> None:
    assert fault in found(tmp_path, said, **rows)


def test_an_answer_may_be_lost_where_something_ended(tmp_path: Path) -> None:
    again = "4 b-0 21 taken\n4 b-0 21.1 answered\n"
    lost = "a-0 was told: answered, and r0 has b-0"
    assert found(tmp_path, again, r0=("answered", "b-0")) == [lost]
    for losses in (Losses(ends=[(10.9, 10.9)]), Losses(before=10.2)):
        assert found(tmp_path, again, losses, r0=("answered", "b-0")) == []
    assert found(tmp_path, again, Losses(ends=[(12.0, 12.0)]), r0=("answered", "b-0")) == [lost]
    assert found(tmp_path, again + "1 - 10.5 died\n", r0=("answered", "b-0")) == []
