"""The 80% interval: a step's spread sent through the queue, and a figure's own."""

from dataclasses import replace
from math import exp, hypot, log

import pytest

from ropeway.models.known import known
from ropeway.plan.correction import Correction
from ropeway.plan.estimate import Forecast, flow, forecast
from ropeway.plan.interval import HOLD_80, Scatter, ends
from ropeway.plan.question import MeasurementSetup, Question
from test_estimate import ask

NONE = Scatter(
    similar=0.0, few=0.0, experts=0.0, drafts=0.0, hosts=0.0, split=0.0, long=0.0, engine=0.0,
    output_clients=0.0, output_rate=0.0, tpot_clients=0.0, tpot_rate=0.0,
)  # fmt: skip
SIMILAR = replace(NONE, similar=1.0)
KNOWN = Correction(0.0, 0.04)


def predict(question: Question, widths: Scatter, corrected: Correction = KNOWN) -> Forecast:
    return forecast(question, flow(question), corrected, widths)


def down(forecast: Forecast) -> float:
    """How far below the forecast output the interval ends, as a logarithm."""
    return log(forecast.output_tokens_per_s / forecast.output_low)


def test_with_clients_the_spread_of_steps_is_that_of_both_figures() -> None:
    found = predict(ask("TP8", (400, 600), clients=64), SIMILAR)
    assert down(found) == pytest.approx(0.2 * HOLD_80)
    assert log(found.tpot_high / found.tpot_s) == pytest.approx(0.2 * HOLD_80)


def test_a_rate_that_is_kept_up_with_is_sure_and_one_near_saturation_is_not() -> None:
    slow, full = (predict(ask("TP8", (400, 600), rate=rate), SIMILAR) for rate in (0.2, 1000.0))
    assert down(slow) < 0.01
    assert down(full) > 0.2
    assert slow.tpot_high > 1.2 * slow.tpot_s


def test_few_requests_at_a_rate_come_in_more_or_less_time() -> None:
    few, many = (
        predict(ask("TP8", (400, 600), rate=0.2, requests=number), NONE) for number in (25, 2500)
    )
    assert down(few) == pytest.approx(HOLD_80 / 5, rel=0.01)
    assert down(many) == pytest.approx(HOLD_80 / 50, rel=0.01)


def test_the_fewer_run_at_once_the_wider_is_the_interval() -> None:
    widths = replace(NONE, few=0.4)
    one, many = (predict(ask("TP8", (400, 600), clients=number), widths) for number in (1, 64))
    assert down(one) == pytest.approx(0.4 * HOLD_80)
    assert down(many) == pytest.approx(0.05 * HOLD_80)


@pytest.mark.parametrize("kind", ["drafts", "split", "engine"])
def test_what_was_measured_less_has_a_wider_interval(kind: str) -> None:
    question = ask("TP8", (400, 600), clients=64)
    unusual = {
        "drafts": replace(question, setup=MeasurementSetup(method="mtp")),
        "split": replace(question, setup=MeasurementSetup(split=True)),
        "engine": replace(question, machine=replace(question.machine, name="x", engine="MindIE")),
    }[kind]
    widths = replace(SIMILAR, **{kind: 0.3})
    assert down(predict(question, widths)) == pytest.approx(0.2 * HOLD_80)
    assert down(predict(unusual, widths)) == pytest.approx(HOLD_80 * hypot(0.2, 0.3))


@pytest.mark.parametrize(
    ("kind", "layout", "prompt"), [("hosts", "TP16", 400), ("long", "TP8", 16_000)]
)
def test_drafts_are_less_certain_over_several_hosts_and_after_long_prompts(
    kind: str, layout: str, prompt: int
) -> None:
    widths = replace(SIMILAR, **{kind: 0.3})
    usual, unusual = ask("TP8", (400, 600), clients=64), ask(layout, (prompt, 600), clients=64)
    drafts = MeasurementSetup(method="mtp")
    assert down(predict(unusual, widths)) == pytest.approx(0.2 * HOLD_80)
    assert down(predict(replace(usual, setup=drafts), widths)) == pytest.approx(0.2 * HOLD_80)
    found = predict(replace(unusual, setup=drafts), widths)
    assert down(found) == pytest.approx(HOLD_80 * hypot(0.2, 0.3))


def test_a_model_with_experts_is_less_certain_than_a_dense_one() -> None:
    experts, widths = ask("TP8", (400, 600), clients=64), replace(SIMILAR, experts=0.3)
    dense = replace(experts, shape=known("Qwen3-8B"))
    assert down(predict(experts, widths)) == pytest.approx(HOLD_80 * hypot(0.2, 0.3))
    assert down(predict(dense, widths)) == pytest.approx(0.2 * HOLD_80)


def test_a_figure_of_its_own_spread_is_joined_with_that_of_steps() -> None:
    low, high = ends(100.0, (110.0, 90.0), 0.1)
    own = 0.1 * HOLD_80
    assert low == pytest.approx(100 * exp(-hypot(log(100 / 90), own)))
    assert high == pytest.approx(100 * exp(hypot(log(1.1), own)))


def test_an_answer_of_one_token_has_no_time_per_token_and_no_interval() -> None:
    assert ends(0.0, (0.0, 0.0), 0.3) == (0.0, 0.0)
