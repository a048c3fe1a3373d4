"""What a layout costs: hosts are rented by the hour, tokens and prompts come out of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """In `currency`; `per_million_tokens` of output; of a job its hours and its whole price."""

    currency: str
    per_hour: float
    per_million_tokens: float
    job_hours: float | None = None
    job_price: float | None = None


def cost(
    hosts: int,
    price_per_host_hour: float,
    output_tokens_per_s: float,
    *,
    currency: str = "CNY",
    job_tokens: float | None = None,
) -> Cost:
    """Whole hosts are paid for, whatever part of them is used. `job_tokens` are output tokens."""
    per_hour = hosts * price_per_host_hour
    hours = job_tokens / output_tokens_per_s / 3600 if job_tokens is not None else None
    return Cost(
        currency=currency,
        per_hour=per_hour,
        per_million_tokens=per_hour / 3600 / output_tokens_per_s * 1e6,
        job_hours=hours,
        job_price=None if hours is None else hours * per_hour,
    )
