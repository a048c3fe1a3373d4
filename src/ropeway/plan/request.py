"""From a spec, its model and its machine to a PlanRequest: the one way, for all who ask."""

from ropeway.engines.vllm import served_shape
from ropeway.engines.vllm_cpu import CONTEXT as LOCAL_CONTEXT
from ropeway.hardware import Chip
from ropeway.models.shape import ModelShape
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.load import Load
from ropeway.plan.machine import EngineTraits, Machine, ascend, traits
from ropeway.spec.model import Serve, Spec

LOCAL_ENGINE = EngineTraits("0.32.0", "eager")  # vLLM-CPU, as the local cluster starts it


def request_for_hosts(
    spec: Spec, shape: ModelShape, chip: Chip, version: str | None
) -> PlanRequest:
    """Return the request for a spec of real hosts and a release of vLLM-Ascend."""
    engine = traits(version, graph_of(spec.serve))
    return request_for(spec, shape, engine, ascend(chip, engine), chip)


def request_for(
    spec: Spec,
    shape: ModelShape,
    engine: EngineTraits,
    machine: Machine,
    chip: Chip | None = None,
) -> PlanRequest:
    """Return the request for a spec, whose layout the planner is to choose.

    Without a chip, it is for this machine, and `machine` has its constants.
    """
    serve, cluster, work = spec.serve, spec.cluster, spec.workload
    shape = served_shape(shape, serve, engine.version)
    return PlanRequest(
        shape=shape,
        model_name=spec.model.served_name or spec.model.name or str(spec.model.path),
        cluster=cluster,
        traits=engine,
        machine=machine,
        load=Load(
            input_tokens=work.input_tokens,
            output_tokens=work.output_tokens,
            clients=None if work.rate else work.clients,
            rate=work.rate,
            requests=None if chip else work.requests,  # as many as `bench` sends
        ),
        chip=chip,
        hbm_bytes=cluster.hbm,
        context=serve.context,
        blank_context=_blank_context(shape, chip),
        price_per_host_hour=cluster.price_per_host_hour,
        currency=cluster.currency or "CNY",
        memory=serve.memory,
        kv_cache=serve.kv_cache,
        replicas=serve.replicas if "replicas" in serve.model_fields_set else None,
        max_sequences=serve.max_sequences,
        max_batched_tokens=_batched_tokens(serve),
        kv_bits=_kv_bits(serve),
    )


def graph_of(serve: Serve) -> str | None:
    """Return the graph mode that the spec asks for: `eager`, or None for the release's own."""
    return "eager" if _engine_flag(serve, "enforce-eager") is True else None


def _blank_context(shape: ModelShape, chip: Chip | None) -> int | None:
    """Return the context that the engine takes where `serve.context` is blank."""
    longest = shape.max_positions
    return longest if chip else min(longest or LOCAL_CONTEXT, LOCAL_CONTEXT)


def _batched_tokens(serve: Serve) -> int | None:
    """Return the tokens of one step, where the spec fixes them."""
    value = _engine_flag(serve, "max-num-batched-tokens")
    return value if isinstance(value, int) and value > 0 else None


def _kv_bits(serve: Serve) -> float:
    """Return the bits of a cached number: `fp8`, `fp8_e4m3`, `int8` take half of `auto`."""
    value = str(_engine_flag(serve, "kv-cache-dtype") or "")
    return 8 if value.startswith(("fp8", "int8")) else 16


def _engine_flag(serve: Serve, name: str) -> object:
    """Return a flag of `serve.engine_args` that the plan depends on, with either spelling."""
    args = serve.engine_args
    return next((value for key, value in args.items() if key.replace("_", "-") == name), None)
