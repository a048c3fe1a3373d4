"""The figures of rounds, from those of their runs, and why they are in doubt."""

import json
from pathlib import Path
from typing import Any

import pytest

from ropeway.bench.figures import Figures
from ropeway.bench.load_test import LoadTest
from ropeway.bench.own_share import own_share
from ropeway.bench.recorded_run import side_of_run
from ropeway.bench.rounds import Round, blocks, round_of
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.sending.worker import row_of
from ropeway.bench.stats import summarise
from ropeway.endpoint.stream import Failure, Timing
from test_recorded_run import written
from timings import timing

LOAD = LoadTest(input_tokens=10, output_tokens=8, clients=2, requests=60)


def round_from(timings: list[Timing]) -> Round:
    return round_of(Figures(summarise(timings, LOAD), own_share([]), ()), "r")


def test_what_the_time_limit_cut_off_is_in_no_length_of_an_answer() -> None:
    whole = [timing(n, n + 0.1, n + 0.8, 8) for n in range(50)]
    cut = [timing(n, n + 0.1, n + 0.5, 4, error=Failure(UNFINISHED, "ended")) for n in (50, 51)]
    one = round_from([*whole, *cut])
    assert (one.input_tokens, one.output_tokens) == (10, 8)
    assert one.output_tokens_per_s == (50 * 8 + 2 * 4) / 51.5, "which it is in"
    steady = summarise([*whole, *cut], LOAD).steady
    assert steady is not None
    assert {part.output_tokens for part in blocks([*whole, *cut], steady, 2, 2)} == {8}
    assert (round_from(cut).input_tokens, round_from(cut).output_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("document", "doubts"),
    [
        ({"ended": "complete", "doubts": []}, ()),
        ({"ended": "time limit", "doubts": ["why"]}, ("why",)),
        ({"ended": "interrupted", "doubts": ["why"]}, ("it ended early: interrupted", "why")),
        ({"ended": "not recorded", "doubts": []}, ("it ended early: not recorded",)),
        ({"doubts": []}, ("its own verdict is missing, as that of a run that was killed",)),
        (None, ("its own verdict is missing, as that of a run that was killed",)),
    ],
)
def test_a_run_that_did_not_come_to_its_end_is_in_doubt(
    tmp_path: Path, document: Any, doubts: tuple[str, ...]
) -> None:
    rows = [row_of(timing(n, n + 0.1, n + 0.8, 4)) for n in range(80)]
    folder = written(tmp_path / "run", b"".join(rows).decode())
    if document is not None:
        (folder / "summary.json").write_text(json.dumps(document))
    side = side_of_run("run", folder, 3, recorded=True)
    assert [one.doubts for one in side.rounds] == [doubts] * 3
