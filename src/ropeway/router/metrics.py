"""The router's state: JSON for people and `status`, text for Prometheus."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ropeway.router.breaker import State
from ropeway.router.exchange import Totals
from ropeway.router.replicas import Pool, Replica

# name, kind, help: the figures of each replica
_ROWS = (
    ("requests_total", "counter", "Requests sent to a replica."),
    ("failures_total", "counter", "Requests that failed there."),
    ("in_flight", "gauge", "Requests in flight."),
    ("outstanding_tokens", "gauge", "Tokens still to be computed (estimate)."),
)
_TOTALS = {
    "retried": "Requests that were sent to another replica before the first byte.",
    "continued": "Streams that went on at another replica.",
    "broken": "Streams that ended with an error event.",
    "unanswered": "Requests that no replica answered.",
}


def snapshot(pool: Pool, totals: Totals, *, draining: bool) -> dict[str, Any]:
    """Return the state as JSON."""
    return {
        "alive": len(pool.alive),
        "draining": draining,
        "totals": asdict(totals),
        "backends": [
            {
                "name": replica.name,
                "url": replica.url,
                "state": str(replica.breaker.state),
                **_figures(replica),
                "last_failure": replica.last_failure or None,
            }
            for replica in pool
        ],
    }


def exposition(pool: Pool, totals: Totals) -> str:
    """Return the state in Prometheus' text format 0.0.4."""
    lines: list[str] = []
    for name, kind, text in _ROWS:
        values = ((_labels(backend=each.name), _figures(each)[name]) for each in pool)
        lines += _metric(name, kind, text, values)
    states = (
        (_labels(backend=each.name, state=str(state)), int(each.breaker.state is state))
        for each in pool
        for state in State
    )
    lines += _metric("breaker", "gauge", "1 for the state of the breaker.", states)
    for name, count in asdict(totals).items():
        lines += _metric(f"{name}_total", "counter", _TOTALS[name], [("", count)])
    return "\n".join(lines) + "\n"


def _figures(replica: Replica) -> dict[str, int]:
    return {
        "requests_total": replica.requests,
        "failures_total": replica.failures,
        "in_flight": len(replica.attempts),
        "outstanding_tokens": replica.outstanding,
    }


def _metric(name: str, kind: str, text: str, values: Iterable[tuple[str, int]]) -> list[str]:
    full = f"ropeway_router_{name}"
    head = [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
    return head + [f"{full}{labels} {value}" for labels, value in values]


def _labels(**labels: str) -> str:
    escaped = {
        key: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for key, value in labels.items()
    }
    return "{" + ",".join(f'{key}="{value}"' for key, value in escaped.items()) + "}"
