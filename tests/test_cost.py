"""Money and hours, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.plan.cost import Cost, cost


def test_two_hosts_at_eighteen_yuan_and_a_job_of_a_million_prompts():
    """2,500 tokens/s are 9 million an hour; 36 yuan an hour are 4 a million. A million answers of
    450 tokens: 180,000 s, 50 hours, 1,800 yuan."""
    assert cost(2, 18.0, 2500.0) == Cost("CNY", 36.0, pytest.approx(4.0), None, None)
    job = cost(2, 18.0, 2500.0, currency="EUR", job_tokens=450e6)
    assert job.currency == "EUR"
    assert (job.job_hours, job.job_price) == pytest.approx((50.0, 1800.0))


@given(st.integers(1, 512), st.floats(0.01, 1e4), st.floats(1, 1e7), st.floats(1, 1e12))
def test_a_job_costs_its_tokens(hosts, price, rate, tokens):
    job = cost(hosts, price, rate, job_tokens=tokens)
    assert job.job_price == pytest.approx(tokens / 1e6 * job.per_million_tokens)
    assert cost(2 * hosts, price, 2 * rate).per_million_tokens == pytest.approx(
        job.per_million_tokens
    )
