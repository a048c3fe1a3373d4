"""A plan as one JSON document, with everything that the screen and the page show."""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ropeway.plan.candidate import Candidate, Plan, PlanRequest, Value
from ropeway.plan.estimate import Forecast
from ropeway.report.plan import honesty, typical_error


def plan_json(plan: Plan) -> dict[str, object]:
    """Return plain data in bytes, seconds and tokens/s; `front` names layouts of `candidates`."""
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
        "wanted": _request(plan.request),
        "label": honesty(plan),
        "typical_error": typical_error(plan) or None,
    }


def value_json(value: Value) -> dict[str, object]:
    """Return one value with its reason."""
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
    fields_: dict[str, object] = _plain(forecast)
    return {**fields_, "parts": {part.name: part.seconds for part in forecast.parts}}


def _request(request: PlanRequest) -> dict[str, object]:
    cluster = request.cluster
    return {
        "model": request.model_name,
        "architecture": request.shape.architecture,
        "layers": request.shape.layers,
        "precision": request.stored_as.scheme,
        "cluster": {
            "hosts": cluster.host_count,
            "npus_per_host": cluster.npus_per_host,
            "npus": cluster.total_npus,
            "local": cluster.is_local,
        },
        "chip": _plain(request.chip),
        "engine": _plain(request.traits),
        "machine": _plain(request.machine),
        "load": _plain(request.load),
        "context": request.context,
        "objective": request.objective,
        "bounds": {"tpot_s": request.tpot_s, "ttft_s": request.ttft_s},
        "price_per_host_hour": request.price_per_host_hour,
        "currency": request.currency,
        "job_prompts": request.job_prompts,
        "fixed": {
            "layout": str(request.layout) if request.layout else None,
            "memory": request.memory,
            "kv_cache": request.kv_cache,
            "max_sequences": request.max_sequences,
            "max_batched_tokens": request.max_batched_tokens,
        },
        "sources": dict(request.sources),
    }


def _plain(value: Any) -> Any:
    """Return dataclasses and tuples as plain data, and infinite numbers as None."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
