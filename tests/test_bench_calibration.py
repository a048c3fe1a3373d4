"""The second in which the load generator is held against an endpoint that knows the truth."""

import multiprocessing
import urllib.request

import pytest

from ropeway.bench.calibration import calibrate, calibration_of
from ropeway.bench.sending.mirror import PIECES, mirror
from ropeway.endpoint.stream import Failure, Timing

SECOND = 1_000_000_000


def timing(*, ttft: float, tpot: float, text: str, error: Failure | None = None) -> Timing:
    last = ttft + tpot * (PIECES - 1)
    return Timing(
        sent=0.0, first_token=ttft, chunks=(), last=last, ended=last, input_tokens=None,
        output_tokens=PIECES, counted=False, finish_reason="length", text=text, reasoning="",
        error=error,
    )  # fmt: skip


def told(*, arrived: int, first: int, last: int) -> str:
    """What the endpoint says in its pieces, of which only these are read."""
    return f"{arrived} {first} 7 7 {last} "


def test_what_is_ours_is_what_the_endpoint_does_not_know() -> None:
    truth = told(arrived=5 * SECOND, first=6 * SECOND, last=21 * SECOND)
    found = calibration_of(2, [timing(ttft=1.25, tpot=1.5, text=truth)])
    assert found is not None
    assert (found.clients, found.requests) == (2, 1)
    assert found.ttft_s.p50 == pytest.approx(0.25)
    assert found.tpot_s.longest == pytest.approx(0.5)


def test_a_request_that_failed_or_was_cut_off_says_nothing() -> None:
    truth = told(arrived=0, first=SECOND, last=2 * SECOND)
    failed = timing(ttft=1.0, tpot=1.0, text=truth, error=Failure("unfinished", "the run ended"))
    assert calibration_of(1, [failed]) is None


def test_every_client_is_answered_and_held_against_the_truth() -> None:
    found = calibrate(8, processes=2)
    assert found is not None
    assert found.clients == 8
    assert found.requests >= 8
    # A wrong sign, clock or unit would be far off: the pieces come within half a second.
    assert 0 <= found.ttft_s.p50 < 0.2
    assert 0 <= found.tpot_s.p50 < 0.02


def test_who_is_stopped_measures_nothing() -> None:
    assert calibrate(2, stopped=lambda: True) is None


def test_the_endpoint_ends_when_nobody_holds_its_pipe() -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=mirror, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    url = f"http://127.0.0.1:{ours.recv()}/v1/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, data=b"{}")) as answer:
        assert answer.read().count(b'"delta"') == PIECES
    ours.close()
    process.join(10)
    assert process.exitcode == 0
