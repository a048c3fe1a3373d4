"""A batch job as the documents of `--json` have it."""

from typing import Any

from ropeway.batch.input.survey import Survey
from ropeway.batch.progress import Price
from ropeway.batch.rows import Outcome
from ropeway.plan.candidate import Expectation
from ropeway.report.batch import Account


def account_json(account: Account) -> dict[str, object]:
    """Return what came of a job."""
    written, (prompt, answer) = account.written, account.tokens
    return {
        "model": account.model,
        "rows": account.rows,
        "outcomes": {one.name.lower(): account.counts.get(one, 0) for one in Outcome},
        "missing": account.rows - account.done,
        "ended": account.ended,
        "generated_again": account.again,
        "input_tokens": prompt,
        "output_tokens": answer,
        "duration_s": account.progress.elapsed_s,
        "cost": account.progress.cost,
        "output": account.output if written else None,
        "errors": account.errors if written else None,
        "folder": account.folder,
        "failed_tries": dict(account.progress.faults),
    }


def survey_json(found: Survey, samples: int, answers: int) -> dict[str, object]:
    """Return what an input is. `answers`: the most tokens of the answers of one sample."""
    return {
        "rows": found.rows,
        "left_out": found.bad,
        "files": [{"path": part.name, "bytes": part.size, "lines": part.lines}
                  for part in found.parts],
        "input_tokens_estimated": found.prompt.total * samples,
        "output_tokens_at_most": answers * samples,
        "lines_without_limit": found.unlimited,
        "prompts_that_may_be_too_long": found.long,
        "shared_beginnings": found.groups,
    }  # fmt: skip


def forecast_json(
    tokens: tuple[int, int], planned: Expectation | None, price: Price | None, currency: str
) -> dict[str, Any] | None:
    """Return how long a job takes by the planner's figures, and what it costs then.

    `tokens`: of all prompts, and of all answers at most. Where the planner says nothing, what they
    cost, if they do.
    """
    _, answers = tokens
    spans: dict[str, float | None] = dict.fromkeys(("likely_s", "low_s", "high_s"))
    if planned is not None:
        forecast = planned.forecast
        spans = {
            "likely_s": answers / forecast.output_tokens_per_s,
            "low_s": answers / forecast.output_high,
            "high_s": answers / forecast.output_low,
        }
    elif price is None or not (price.prompt or price.answer):
        return None
    return {
        "layout": planned.layout if planned else None,
        **spans,
        "cost": price.of(spans["likely_s"] or 0.0, *tokens) if price else None,
        "currency": currency or None,
        "label": "predicted",
    }
