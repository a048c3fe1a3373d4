"""A plan as one JSON document, with everything that the screen and the page show."""

from ropeway.plan.candidate import Candidate, Plan, PlanRequest
from ropeway.report.plain import plain
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
        "values": plain(plan.values),
        "missing": list(plan.missing),
        "notes": list(plan.notes),
        "searched": plan.searched,
        "wanted": _request(plan.request),
        "label": honesty(plan),
        "typical_error": typical_error(plan) or None,
    }


def _candidate(item: Candidate) -> dict[str, object]:
    return {**plain(item), "memory": {**plain(item.memory), "fits": item.memory.fits}}


def _request(request: PlanRequest) -> dict[str, object]:
    cluster = request.cluster
    return {
        "model": request.model_name,
        "architecture": request.shape.architecture,
        "layers": request.shape.layers,
        "precision": request.shape.precision.scheme,
        "cluster": {
            "hosts": cluster.host_count,
            "npus_per_host": cluster.npus_per_host,
            "npus": cluster.total_npus,
            "local": cluster.is_local,
        },
        "chip": plain(request.chip),
        "engine": plain(request.traits),
        "machine": plain(request.machine),
        "load": plain(request.load),
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
