"""A plan as one JSON document: everything that the screen and the page are drawn from."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ropeway.plan.candidate import Candidate, Plan, Value, Wanted
from ropeway.plan.estimate import Forecast
from ropeway.report.plan import honesty, typical_error


def plan_json(plan: Plan) -> dict[str, object]:
    """Bytes, seconds, tokens/s. `front` and `chosen` name layouts of `candidates`."""
    return {
        "chosen": _candidate(plan.chosen) if plan.chosen else None,
        "candidates": [_candidate(item) for item in plan.candidates],
        "front": [str(item.layout) for item in plan.front],
        "rejected": [
            {"layout": str(item.layout), "kind": item.kind, "reason": item.reason}
            for item in plan.rejected
        ],
        "values": [value_json(value) for value in plan.values],
        "missing": list(plan.missing),
        "notes": list(plan.notes),
        "searched": plan.searched,
        "wanted": _wanted(plan.wanted),
        "label": honesty(plan),
        "typical_error": typical_error(plan) or None,
    }


def value_json(value: Value) -> dict[str, object]:
    """One value with its reason."""
    return {
        "key": value.key,
        "value": _plain(value.value),
        "why": value.why,
        "source": value.source,
    }


def _candidate(item: Candidate) -> dict[str, object]:
    return {
        "layout": str(item.layout),
        "hosts": item.hosts,
        "npus": item.npus,
        "fraction": item.fraction,
        "max_sequences": item.max_sequences,
        "on_front": item.on_front,
        "forecast": _forecast(item.forecast),
        "memory": {**_plain(item.memory), "fits": item.memory.fits},
        "cost": _plain(item.cost),
        "notes": list(item.notes),
    }


def _forecast(forecast: Forecast) -> dict[str, object]:
    found: dict[str, object] = _plain(forecast)
    return {**found, "parts": {part.name: part.seconds for part in forecast.parts}}


def _wanted(wanted: Wanted) -> dict[str, object]:
    cluster = wanted.cluster
    return {
        "model": wanted.model_name,
        "architecture": wanted.shape.architecture,
        "layers": wanted.shape.layers,
        "precision": (wanted.precision or wanted.shape.precision).scheme,
        "cluster": {
            "hosts": cluster.host_count,
            "npus_per_host": cluster.npus_per_host,
            "npus": cluster.total_npus,
            "local": cluster.is_local,
        },
        "chip": _plain(wanted.chip),
        "engine": _plain(wanted.traits),
        "machine": _plain(wanted.machine),
        "load": _plain(wanted.load),
        "context": wanted.context,
        "objective": wanted.objective,
        "bounds": {"tpot_s": wanted.tpot_s, "ttft_s": wanted.ttft_s},
        "price_per_host_hour": wanted.price_per_host_hour,
        "currency": wanted.currency,
        "job_prompts": wanted.job_prompts,
        "fixed": {
            "layout": str(wanted.layout) if wanted.layout else None,
            "memory": wanted.memory,
            "kv_cache": wanted.kv_cache,
            "max_sequences": wanted.max_sequences,
            "max_batched_tokens": wanted.max_batched_tokens,
        },
        "sources": dict(wanted.sources),
    }


def _plain(value: Any) -> Any:
    """Dataclasses and tuples as plain data; what is not a finite number as null."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
