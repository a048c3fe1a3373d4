"""A plan as one JSON document: what docs/json.md promises, and no inner quantity beside it."""

from ropeway.plan.candidate import Candidate, Plan, PlanRequest
from ropeway.plan.cost import Cost
from ropeway.plan.estimate import Forecast
from ropeway.plan.memory import Memory
from ropeway.report.plain import plain
from ropeway.report.plan_words import honesty, typical_error


def plan_json(plan: Plan) -> dict[str, object]:
    """Return plain data in bytes, seconds and tokens/s; `front` names layouts of `candidates`."""
    return {
        "model": plan.request.model_name,
        "chosen": _candidate(plan.request, plan.chosen) if plan.chosen else None,
        "candidates": [_candidate(plan.request, item) for item in plan.candidates],
        "front": [str(item.layout) for item in plan.front],
        "rejected": [
            {"layout": str(item.layout), "kind": item.kind, "reason": item.reason}
            for item in plan.rejected
        ],
        "values": plain(plan.values),
        "missing": list(plan.missing),
        "doubts": list(plan.doubts),
        "notes": list(plan.notes),
        "searched": plan.searched,
        "request": _request(plan.request),
        "label": honesty(plan),
        "typical_error": typical_error(plan) or None,
        "written": [],
        "why": None,
    }


def _candidate(request: PlanRequest, item: Candidate) -> dict[str, object]:
    return {
        "layout": str(item.layout),
        "replicas": item.replicas,
        "clients": item.clients,
        "hosts": item.hosts,
        "npus": item.npus,
        "memory_fraction": item.fraction,
        "max_sequences": item.max_sequences,
        "on_front": item.on_front,
        "forecast": plain(_forecast(request, item.forecast)),
        "memory": _memory(item.memory),
        "job_s": request.job_s(item.forecast),
        "cost": _cost(item.cost) if item.cost else None,
        "notes": list(item.notes),
        "faults": list(item.faults),
    }


def _forecast(request: PlanRequest, forecast: Forecast) -> dict[str, object]:
    reads = request.reads_only  # then nothing comes out
    return {
        "output_tokens_per_s": 0.0 if reads else forecast.output_tokens_per_s,
        "output_low_tokens_per_s": 0.0 if reads else forecast.output_low,
        "output_high_tokens_per_s": 0.0 if reads else forecast.output_high,
        "ceiling_tokens_per_s": None if reads else forecast.ceiling_tokens_per_s,
        "tpot_s": None if reads else forecast.tpot_s,
        "tpot_low_s": None if reads else forecast.tpot_low,
        "tpot_high_s": None if reads else forecast.tpot_high,
        "requests_per_s": forecast.requests_per_s,
        "prompt_tokens_per_s": forecast.requests_per_s * request.load.input_tokens,
        "ttft_s": forecast.ttft_s,
        "running": forecast.running,
        "step_s": forecast.step_s,
        "parts_s": dict(forecast.parts),
        "bottleneck": forecast.bottleneck,
        "advice": forecast.advice,
        "notes": list(forecast.notes),
    }


def _memory(memory: Memory) -> dict[str, object]:
    return {
        "hbm_bytes": memory.hbm,
        "visible_bytes": memory.visible,
        "usable_bytes": memory.usable,
        "weight_bytes": memory.weights,
        "engine_bytes": memory.engine,
        "activation_bytes": memory.activations,
        "kv_cache_bytes": memory.kv_cache,
        "reserve_bytes": memory.reserve,
        "spare_bytes": memory.spare,
        "stage": memory.stage,
        "kv_tokens": memory.kv_tokens,
        "blocks": memory.blocks,
        "sequences": memory.sequences,
        "fits": memory.fits,
    }


def _cost(cost: Cost) -> dict[str, object]:
    return {
        "currency": cost.currency,
        "price_per_hour": cost.per_hour,
        "price_per_million_tokens": cost.per_million_tokens,
        "job_price": cost.job_price,
    }


def _request(request: PlanRequest) -> dict[str, object]:
    cluster, chip, traits, load = request.cluster, request.chip, request.traits, request.load
    return {
        "architecture": request.shape.architecture,
        "task": request.task,
        "kv_role": request.role or None,
        "layers": request.shape.layers,
        "precision": request.shape.precision.scheme,
        "hosts": cluster.host_count,
        "npus_per_host": cluster.npus_per_host,
        "npus": cluster.total_npus,
        "local": cluster.is_local,
        "chip": chip.name if chip else None,
        "engine": traits.name,
        "release": traits.version,
        "graph": traits.graph,
        "machine": request.machine.name,
        "load": {
            "clients": load.clients,
            "rate": load.rate,
            "requests": load.requests,
            "input_tokens": load.input_tokens,
            "output_tokens": 0 if request.reads_only else load.output_tokens,
        },
        "context": request.context,
        "objective": request.objective,
        "max_ttft_s": request.ttft_s,
        "max_tpot_s": request.tpot_s,
        "price_per_host_hour": request.price_per_host_hour,
        "currency": request.currency,
        "job_prompts": request.job_prompts,
        "fixed": {
            "layout": str(request.layout) if request.layout else None,
            "replicas": request.replicas,
            "clients": None if request.free_clients else load.clients,
            "memory_fraction": request.memory,
            "kv_cache_bytes": request.kv_cache,
            "max_sequences": request.max_sequences,
            "max_batched_tokens": request.max_batched_tokens,
        },
        "sources": dict(request.sources),
        "spec": request.spec_file or None,
    }
