"""How measured figures are printed, the same on the terminal and on the page.

Three significant digits: load tests vary too much from run to run for a fourth.
"""

from ropeway.units import format_seconds

NONE = "–"


def digits(number: float) -> str:
    """Return three significant digits, all of those before the point, at most two after it."""
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"


def rate(per_second: float | None) -> str:
    """Return a throughput without its unit: 0.834 → "0.83", 53.17 → "53.2", 2070.4 → "2,070"."""
    return NONE if per_second is None else digits(per_second)


def asked(value: float, by: str) -> str:
    """Return the number of clients, or the rate, that was asked for, as tables name it."""
    return f"{value:,.0f}" if by == "clients" else f"{value:.4g}"


def milliseconds(ms: float | None) -> str:
    """Return a latency given in ms: 0.42 → "0.42 ms", 312.4 → "312 ms", 3120 → "3.12 s"."""
    if ms is None:
        return NONE
    if ms >= 59_950:
        return format_seconds(round(ms / 1000))
    return f"{digits(ms / 1000)} s" if ms >= 999.5 else f"{digits(ms)} ms"


def percent(share: float | None) -> str:
    """Return a share of one: 0.824 → "82%"; below a tenth with one decimal."""
    if share is None:
        return NONE
    return f"{share * 100:.0f}%" if share >= 0.0995 else f"{share * 100:.1f}%"


def seconds(count: float | None) -> str:
    """Return a duration given in seconds: 0.25 → "0.2 s", 31.24 → "31 s", 91 → "1 min 31 s"."""
    if count is None:
        return NONE
    if count >= 59.5:
        return format_seconds(round(count))
    return f"{count:.0f} s" if count >= 9.95 else f"{count:.1f} s"
