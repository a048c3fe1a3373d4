"""What a layout costs: hosts are rented by the hour, tokens and prompts come out of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Prices in `currency`.

    per_million_tokens  of output, or of prompts where nothing comes out
    job_price           of a whole job; None where none was named
    """

    currency: str
    per_hour: float
    per_million_tokens: float
    job_price: float | None = None


def cost(
    hosts: int,
    price_per_host_hour: float,
    tokens_per_s: float,
    *,
    currency: str = "CNY",
    job_tokens: float | None = None,
) -> Cost:
    """Return the cost of whole hosts, which are paid for whatever part of them is used.

    `job_tokens` are those of a whole job, of the same kind as `tokens_per_s`.
    """
    per_hour = hosts * price_per_host_hour
    per_token = per_hour / 3600 / tokens_per_s
    return Cost(
        currency=currency,
        per_hour=per_hour,
        per_million_tokens=per_token * 1e6,
        job_price=None if job_tokens is None else per_token * job_tokens,
    )
