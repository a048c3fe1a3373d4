"""The router's state: JSON for people and `status`, text for Prometheus."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from ropeway.router.breaker import State
from ropeway.router.exchange import Totals
from ropeway.router.replicas import Pool, Replica

# the figures of each replica: name, kind, help, value
_FIGURES: tuple[tuple[str, str, str, Callable[[Replica], int]], ...] = (
    ("requests_total", "counter", "Requests sent to a replica.", lambda it: it.requests),
    ("failures_total", "counter", "Requests that failed there.", lambda it: it.failures),
    ("in_flight", "gauge", "Requests in flight.", lambda it: len(it.attempts)),
    ("outstanding_tokens", "gauge", "Tokens still to be computed (estimate).",
     lambda it: it.outstanding),
)  # fmt: skip
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
                **{name: figure(replica) for name, _, _, figure in _FIGURES},
                "last_failure": replica.last_failure or None,
            }
            for replica in pool
        ],
    }


def exposition(pool: Pool, totals: Totals) -> str:
    """Return the state in Prometheus' text format 0.0.4."""
    lines: list[str] = []
    for name, kind, text, figure in _FIGURES:
        values = ((_labels(backend=replica.name), figure(replica)) for replica in pool)
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
