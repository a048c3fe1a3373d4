"""When requests are due: at a rate, in bursts, or as a trace says."""

import itertools
from pathlib import Path

import pytest

from ropeway.bench.arrivals import arrivals, parse_arrivals, trace_length
from ropeway.errors import Refused


def dues(how: str, count: int, rate: float | None = 8.0) -> list[float | None]:
    return list(itertools.islice(arrivals(rate, 0, how), count))


def test_constant_arrivals_have_the_same_distance() -> None:
    assert dues("constant", 4) == [0, 0.125, 0.25, 0.375]


def test_bursts_have_the_same_mean_rate() -> None:
    assert dues("burst:3", 7) == [0, 0, 0, 0.375, 0.375, 0.375, 0.75]


@pytest.mark.parametrize(
    "lines",
    ["1.5\n2\n\n2\n10e0\n", '{"timestamp": 1.5}\n{"timestamp": 2, "x": []}\n2\n{"timestamp":10}'],
)
def test_a_trace_counts_from_its_first_request(lines: str, tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(lines)
    assert dues(f"trace:{tmp_path / 'trace'}", 9, None) == [0, 0.5, 0.5, 8.5]
    assert trace_length(tmp_path / "trace") == 4


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        ("1\nsoon\n", ":2", "says no time"),
        ('{"time": 1}\n', ":1", "says no time"),
        ("1\nNaN\n", ":2", "says no time"),
        ("true\n", ":1", "says no time"),
        ("2\n1\n", ":2", "before the one above"),
        ("\n", "", "is empty"),
        (None, "", "cannot be read: no such file"),
    ],
)
def test_a_trace_that_cannot_be_used_is_refused_with_its_line(
    lines: str | None, line: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    if lines is not None:
        path.write_text(lines)
    with pytest.raises(Refused, match=what) as refused:
        trace_length(path)
    assert refused.value.where == f"{path}{line}"


@pytest.mark.parametrize(
    "text", ["", "random", "burst", "burst:0", "burst:x", "trace:", "poisson:"]
)
def test_what_is_no_way_to_arrive_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no way to arrive"):
        parse_arrivals(text)
