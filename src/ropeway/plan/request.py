"""From a spec, its model and its machine to a PlanRequest: the one way, for all who ask."""

from dataclasses import replace

from ropeway.engines.ascend_flags import features
from ropeway.engines.ascend_releases import multiplies_yarn
from ropeway.engines.disaggregated import kv_role, role_notes
from ropeway.engines.vllm import drafts_with_mtp, served_shape, unknown_context
from ropeway.engines.vllm_cpu import CONTEXT as LOCAL_CONTEXT
from ropeway.hardware import Chip
from ropeway.models.shape import ModelShape, Precision
from ropeway.models.task import Task, as_pooled, override_notes, task_of
from ropeway.phrases import Phrase, phrase
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.load import Load, whole_context
from ropeway.plan.machine import EngineTraits, Machine, ascend, traits
from ropeway.spec.engine_flags import batched_tokens, flag_value
from ropeway.spec.model import Serve, Spec, Workload

# Of vllm-ascend docs/source/tutorials/hardwares/310p.md: "explicit and conservative".
_CONTEXT_310P = 16_384
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
    shape = served_shape(shape, serve, multiplies_yarn=multiplies_yarn(engine.version))
    task, role = task_of(shape, serve.engine_args), kv_role(serve.engine_args)
    name = str(spec.model.path or spec.model.name)
    told = override_notes(name, shape, serve.engine_args)
    shape = _as_computed(shape, serve, chip)
    request = PlanRequest(
        shape=shape if task == "generate" else as_pooled(shape),
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
        blank_context=_blank_context(shape, chip, work),
        price_per_host_hour=cluster.price_per_host_hour,
        currency=cluster.currency or "CNY",
        memory=serve.memory,
        kv_cache=serve.kv_cache,
        replicas=serve.replicas if "replicas" in serve.model_fields_set else None,
        max_sequences=serve.max_sequences,
        max_batched_tokens=batched_tokens(serve.engine_args),
        kv_bits=_kv_bits(serve),
        contexts=serve.layout.contexts,
        drafts=drafts_with_mtp(serve.engine_args),
        serve=serve,
        features=features(serve.engine_args),
        task=task,
        role=role,
        flag_notes=(
            *role_notes(serve.engine_args),
            *told,
            *_figure_notes(task, role),
            *(unknown_context(shape, serve.context) if chip else ()),
        ),
    )
    if request.reads_only:
        request = replace(request, load=replace(request.load, output_tokens=1))
    return request


def _as_computed(shape: ModelShape, serve: Serve, chip: Chip | None) -> ModelShape:
    """Return the model with its weights as vLLM loads them: `dtype` is what it computes in."""
    if chip and shape.precision.scheme == "fp32" and serve.dtype != "float32":
        return replace(shape, precision=Precision("fp16"))
    if serve.dtype == "float32" and shape.precision.scheme in ("bf16", "fp16"):
        return replace(shape, precision=Precision("fp32", *[32.0] * 8))
    return shape


def _figure_notes(task: Task, role: str) -> tuple[Phrase, ...]:
    """Say what the figures are of, where an engine does not both read and generate."""
    if task != "generate" or role == "kv_producer":
        return (
            phrase(
                "the figures are the arithmetic of reading prompts: we know of no public"
                " measurement of that alone"
            ),
        )
    if role == "kv_consumer":
        return (phrase("the figures are those of an engine that reads its prompts itself"),)
    return ()


def graph_of(serve: Serve) -> str | None:
    """Return the graph mode that the spec asks for: `eager`, or None for the release's own."""
    return "eager" if flag_value(serve.engine_args, "enforce-eager") is True else None


def _blank_context(shape: ModelShape, chip: Chip | None, work: Workload) -> int | None:
    """Return the context that the engine takes where `serve.context` is blank, or `up` sets."""
    longest = shape.max_positions
    if chip is None:
        return min(longest or LOCAL_CONTEXT, LOCAL_CONTEXT)
    return set_context(shape, work) if chip.family == "310P" else longest or None


def set_context(shape: ModelShape, work: Workload) -> int:
    """Return the context that `up` sets on 310P: as the plug-in's documents advise, or as long as
    the workload's requests."""
    ours = max(_CONTEXT_310P, whole_context(work.input_tokens + work.output_tokens))
    return min(shape.max_positions or ours, ours)


def set_context_words(context: int) -> Phrase:
    """Say why a blank context is set on 310P, where the engine must not choose one."""
    return phrase(
        "`serve.context` is blank, and 310P keeps an attention mask of the square of the context: "
        "`--max-model-len {context}` is set, as the plug-in's documents advise; `serve.context` "
        "names another (vllm-ascend tutorials, hardwares/310p.md)",
        context=context,
    )


def _kv_bits(serve: Serve) -> float:
    """Return the bits of a cached number: `fp8`, `fp8_e4m3`, `int8` take half of `auto`, which is
    as wide as what the model is computed in."""
    value = str(flag_value(serve.engine_args, "kv-cache-dtype") or "auto")
    if value == "auto" and serve.dtype == "float32":
        return 32
    return 8 if value.startswith(("fp8", "int8")) else 16
