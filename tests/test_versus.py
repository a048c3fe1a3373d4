"""Whether one of two is faster: the statistics of rounds, and how often they are wrong."""

import math
import random

import pytest

from ropeway.bench.figures import Steady
from ropeway.bench.rounds import (
    Round,
    Series,
    blocks,
    blocks_need,
    differences,
    fastest_of,
    not_told_from,
    together,
)
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.versus import (
    LEVEL,
    Interval,
    apart,
    in_turns,
    interval_of_mean,
    judge,
    said,
    shared_level,
    t_quantile,
)
from ropeway.endpoint.stream import Failure, Timing
from ropeway.report.chinese import in_language
from timings import timing


@pytest.mark.parametrize(
    ("level", "freedom", "quantile"),
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 5, 2.571),
        (0.99, 5, 4.032),
        (0.999, 5, 6.869),
        (0.8, 9, 1.383),
        (0.95, 30, 2.042),
        (0.999, 10, 4.587),
        (0.95, 1000, 1.962),
    ],
)
def test_the_quantiles_are_those_of_printed_tables(
    level: float, freedom: int, quantile: float
) -> None:
    assert t_quantile(level, freedom) == pytest.approx(quantile, abs=0.0006)


@pytest.mark.parametrize(("level", "freedom"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_there_is_no_other_quantile(level: float, freedom: int) -> None:
    with pytest.raises(ValueError, match="no such quantile"):
        t_quantile(level, freedom)


def test_an_interval_of_pairs_is_students() -> None:
    # The logarithms of the ratios are 0.01, 0.02 and 0.03: mean 0.02, standard error 0.01/√3.
    first = [100.0, 50.0, 200.0]
    second = [a * math.exp(by) for a, by in zip(first, (0.01, 0.02, 0.03), strict=True)]
    interval = in_turns(first, second, 0.95)
    half = 4.302653 * 0.01 / math.sqrt(3)
    assert math.log(interval.ratio) == pytest.approx(0.02)
    assert math.log(interval.low) == pytest.approx(0.02 - half, abs=1e-6)
    assert math.log(interval.high) == pytest.approx(0.02 + half, abs=1e-6)
    often = 1.281552 * math.sqrt(1 + 4.302653**2 / 4) * 0.01 / math.sqrt(3)
    assert math.log1p(interval.found_from) == pytest.approx(math.log(1.01) + half + often, abs=1e-6)


def test_what_changes_both_of_a_pair_cancels_and_not_where_they_are_apart() -> None:
    first = [100.0, 80.0, 120.0, 90.0]
    second = [value * by for value, by in zip(first, (1.05, 1.051, 1.049, 1.05), strict=True)]
    assert judge(in_turns(first, second, LEVEL), 0.01) == "faster"
    assert judge(apart(first, second, LEVEL), 0.01) == "no difference found"


def test_an_interval_apart_is_that_of_welch() -> None:
    # A textbook case: variances 0.0001 and 0.0004 of four values each, so 4.412 degrees of freedom.
    spread = [-1.0, -1.0, 1.0, 1.0]
    unit = math.sqrt(3 / 4)
    first = [math.exp(0.01 * unit * one) for one in spread]
    second = [math.exp(0.1 + 0.02 * unit * one) for one in spread]
    interval = apart(first, second, 0.95)
    error = math.sqrt((0.0001 + 0.0004) / 4)
    assert math.log(interval.ratio) == pytest.approx(0.1)
    assert math.log(interval.high) == pytest.approx(0.1 + 2.776445 * error, abs=1e-6), "of 4"


@pytest.mark.parametrize("ratio", [1.0, 1.5])
def test_rounds_that_are_all_alike_have_an_interval_of_one_point(ratio: float) -> None:
    for interval in (
        in_turns([2.0, 2.0, 2.0], [2.0 * ratio] * 3, LEVEL),
        apart([2.0, 2.0, 2.0], [2.0 * ratio] * 3, LEVEL),
    ):
        assert interval.low == pytest.approx(ratio)
        assert interval.high == pytest.approx(ratio)


def test_wild_rounds_give_finite_bounds() -> None:
    wild = [1e-300, 1.0, 1e300]
    interval = apart(wild, wild, 0.9999)
    assert interval.low == pytest.approx(1e-6)
    assert interval.high == pytest.approx(1e6)


@pytest.mark.parametrize("values", [[1.0], [], [1.0, 0.0], [1.0, -1.0]])
def test_no_interval_without_rounds_or_with_empty_ones(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two rounds or more"):
        apart(values, [1.0, 2.0], 0.95)
    with pytest.raises(ValueError, match="rounds"):
        in_turns(values, [1.0, 2.0], 0.95)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.011, 1.2, "faster"),
        (1.009, 1.2, "no difference found"),
        (0.8, 0.989, "slower"),
        (0.8, 0.991, "no difference found"),
        (0.999, 1.001, "no difference found"),
    ],
)
def test_only_an_interval_that_is_wholly_beyond_one_percent_is_a_difference(
    low: float, high: float, verdict: str
) -> None:
    assert judge(Interval((low + high) / 2, low, high, 0.0), 0.01) == verdict


def test_noise_is_called_a_gain_no_more_often_than_the_level_says() -> None:
    """Of 4,000 comparisons of a thing with itself; and 5% are found where rounds vary by 1%."""
    chance = random.Random(7)

    def rounds(mean: float, noise: float) -> list[float]:
        return [mean * math.exp(chance.gauss(0, noise)) for _ in range(6)]

    level = shared_level(LEVEL, 3)
    for noise in (0.002, 0.02, 0.2):
        wrong = sum(
            judge(in_turns(rounds(100, noise), rounds(100, noise), level), 0.01)
            != "no difference found"
            for _ in range(4000)
        )
        assert wrong <= 4000 * (1 - LEVEL), noise
    pairs = [(rounds(100, 0.007), rounds(100 / 1.05, 0.007)) for _ in range(1000)]
    found = sum(judge(in_turns(*pair, level), 0.01) == "slower" for pair in pairs)
    assert found > 900


def test_the_difference_that_is_said_to_be_found_is_found_nine_times_of_ten() -> None:
    chance = random.Random(3)
    rounds = 12  # few would not tell how much they vary
    levels = shared_level(LEVEL, 3)
    said = found = 0.0
    for _ in range(300):
        first = [math.exp(chance.gauss(0, 0.01)) for _ in range(rounds)]
        said += in_turns(first, [math.exp(chance.gauss(0, 0.01)) for _ in first], levels).found_from
    size = said / 300
    for _ in range(600):
        first = [math.exp(chance.gauss(0, 0.01)) for _ in range(rounds)]
        second = [(1 + size) * math.exp(chance.gauss(0, 0.01)) for _ in range(rounds)]
        found += judge(in_turns(first, second, levels), 0.01) == "faster"
    assert 0.84 < found / 600 < 0.97


def test_the_mean_of_rounds_lies_within_its_interval() -> None:
    low, high = interval_of_mean([99.0, 100.0, 101.0], 0.95)
    assert low == pytest.approx(97.55, abs=0.02)
    assert high == pytest.approx(102.51, abs=0.02)


def made(
    tokens: float, ttft: float | None = 0.2, tpot: float | None = 0.01, failed: int = 0
) -> Round:
    return Round(
        output_tokens_per_s=tokens, requests_per_s=tokens / 10, ttft_s=ttft, tpot_s=tpot,
        e2e_s=1.0, input_tokens=10, output_tokens=10, failed=failed,
    )  # fmt: skip


def series(name: str, *rounds: Round) -> Series:
    return Series(name, rounds)


FIGURES = ("output_tokens_per_s", "ttft_s", "tpot_s")
USUAL = series("A", made(100), made(101), made(99), made(100))


def test_less_time_is_faster_as_more_tokens_are() -> None:
    quick = [made(one.output_tokens_per_s * 2, 0.1, 0.02) for one in USUAL.rounds]
    tokens, ttft, tpot = differences([USUAL, series("B", *quick)], FIGURES, turns=True)
    assert [one.verdict for one in (tokens, ttft, tpot)] == ["faster", "faster", "slower"]
    assert [one.ratio for one in (tokens, ttft, tpot)] == pytest.approx([2.0, 2.0, 0.5])
    assert tokens.said == "B is 100.0% faster than A (between 100.0% and 100.0%)"
    assert tpot.said == "B is 50.0% slower than A (between 50.0% and 50.0%)"


def test_all_that_is_judged_shares_one_level() -> None:
    noisy = series("B", made(104), made(103.4), made(102.2), made(103.7))
    (one,) = differences([USUAL, noisy], FIGURES[:1], turns=True)
    of_three = differences([USUAL, noisy, series("C", *USUAL.rounds)], FIGURES[:1], turns=True)
    assert one.high is not None
    assert of_three[0].high is not None
    assert of_three[0].high > one.high


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (series("B", made(1), made(1)), "it takes 3 rounds of each, not 2"),
        (series("B"), "it takes 3 rounds of each, not 0"),
        (series("B", *[made(9, failed=1)] * 4), "4 requests to B failed"),
        (series("B", *[made(0.0)] * 4), "some round has no such figure"),
        (series("B", made(9, ttft=None), *[made(9)] * 3), None),
    ],
)
def test_what_cannot_be_judged_says_why(other: Series, why: str | None) -> None:
    first, ttft, _ = differences([USUAL, other], FIGURES, turns=True)
    if why is None:
        assert first.verdict == "slower"
        why, first = "some round has no such figure", ttft
    assert first.verdict == "not judged"
    assert why in first.said
    assert (first.ratio, first.low, first.high, first.found_from) == (None,) * 4


def test_a_figure_that_no_round_has_is_left_out() -> None:
    short = [Series(name, (made(9, tpot=None),) * 3) for name in "AB"]
    assert [one.figure for one in differences(short, FIGURES, turns=True)] == list(FIGURES[:2])


def test_the_fastest_is_faster_than_every_other() -> None:
    def of(*speeds: float) -> tuple[str | None, tuple[str, ...]]:
        every = [
            series(name, *(made(speed * by) for by in (1, 1.004, 0.997, 1.001)))
            for name, speed in zip("ABC", speeds, strict=False)
        ]
        judged = differences(every, FIGURES[:1], turns=True)
        return fastest_of("ABC"[: len(speeds)], judged), not_told_from("B", judged)

    assert of(100, 150, 120) == ("B", ())
    assert of(100, 150, 149.9) == (None, ("C",))
    assert of(100) == (None, ())


def test_runs_laid_end_to_end_keep_their_durations() -> None:
    first = [timing(5.0, 5.5, 6.0, 10), timing(6.0, 6.5, 8.0, 10, due=5.5)]
    second = [timing(100.0, 100.25, 101.0, 10, chunks=((100.25, 4),))]
    laid = list(together([first, second]))
    assert [one.sent for one in laid] == [0.0, 1.0, 3.0]
    assert [one.ttft_s for one in laid] == [0.5, 0.5, 0.25]
    assert [one.due for one in laid] == [None, 0.5, None]
    assert laid[2].chunks == ((3.25, 4),)
    assert max(one.ended for one in laid) == 4.0


def steady(begins: float, ends: float, requests: int) -> Steady:
    return Steady(begins, ends, requests, 0.0, 0.0, 0.0, None, None, None)


def run_of(count: int, speed: float = 1.0) -> list[Timing]:
    """One client: a request each second, of ten tokens that come a tenth of a second apart."""
    return [
        timing(
            at / speed,
            (at + 0.1) / speed,
            (at + 1) / speed,
            10,
            chunks=tuple(((at + 0.1 * n) / speed, 1) for n in range(1, 11)),
        )
        for at in range(count)
    ]


def test_a_run_is_cut_into_rounds_of_equal_length() -> None:
    cut = blocks(run_of(100), steady(10.05, 90.05, 80), 1, 4)
    assert len(cut) == 4
    assert [one.output_tokens_per_s for one in cut] == pytest.approx([10.0] * 4)
    assert [one.requests_per_s for one in cut] == pytest.approx([1.0] * 4)
    assert [one.ttft_s for one in cut] == pytest.approx([0.1] * 4)
    assert cut[0].folder is None


def test_a_short_run_gives_fewer_rounds_and_no_more_than_it_has_waves() -> None:
    assert len(blocks(run_of(100), steady(10, 90, 80), 1, 100)) == 4, "twenty requests each"
    assert len(blocks(run_of(100), steady(10, 90, 80), 20, 100)) == 2, "two of each client"
    assert blocks(run_of(100), steady(10, 20, 10), 1, 6) == []
    assert blocks_need(100) == 3 * 200 + 200


def test_what_was_cut_off_counts_its_tokens_and_is_no_failure() -> None:
    whole = run_of(100)
    broken = [
        timing(50.5, None, None, 0, error=Failure("timeout", "late")),
        timing(50.5, 50.6, None, 5, chunks=((50.6, 5),), error=Failure(UNFINISHED, "cut")),
    ]
    (only,) = blocks([*whole, *broken], steady(10.05, 90.05, 80), 1, 1)
    assert only.failed == 1
    assert only.output_tokens_per_s == pytest.approx((800 + 5) / 80)


@pytest.mark.parametrize(
    ("low", "high", "between"),
    [
        (0.672, 1.011, "between 32.8% slower and 1.1% faster"),
        (1.002, 1.009, "between 0.2% and 0.9% faster"),
        (0.991, 0.998, "between 0.2% and 0.9% slower"),
    ],
)
def test_where_no_difference_was_found_it_is_said_how_large_one_may_be(
    low: float, high: float, between: str
) -> None:
    words = said("no difference found", Interval(1.0, low, high, 0.386), "a", "b")
    assert words == (
        f"no difference found between a and b: b is {between}; these rounds would find one of 38.6%"
        " or more"
    )
    shown = in_language(words, "zh")
    assert "between" not in shown
    assert "38.6%" in shown
