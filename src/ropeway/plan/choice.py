"""What other verbs ask the planner: `up`, a layout where the spec names none, and whether one fits;
`bench`, what it expected."""

from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.errors import Refused
from ropeway.hardware import Chip
from ropeway.models.shape import ModelShape
from ropeway.phrases import Phrase, phrase
from ropeway.plan.candidate import Candidate, PlanRequest
from ropeway.plan.choose import choose
from ropeway.plan.estimate import Forecast
from ropeway.plan.fit import fit_layout, search_of
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine, ascend, traits
from ropeway.plan.resolve import (
    LOCAL_ENGINE,
    Flags,
    SpecFile,
    batched_tokens,
    kv_bits,
    resolve,
    wants_eager,
)
from ropeway.plan.values import memory_words, shortfall
from ropeway.spec.model import Spec

# How far engine and activations were from nine published start-up logs, at most (docs/planning.md).
MEMORY_ERROR = int(0.94 * 2**30)


@dataclass(frozen=True)
class Choice:
    """The planner's layout for a spec that names none.

    spec   with `serve.layout`, `replicas`, `memory` and `max_sequences` filled in
    why    one line, with the figures
    doubts  whether it works, such as that nobody has published running this layout
    """

    spec: Spec
    candidate: Candidate
    why: Phrase
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Room:
    """Whether a layout fits. Bytes are of one NPU, the fullest.

    spare  left over once one sequence of the whole context has its cache; negative if missing
    error  by how much such figures may be off
    words  where the memory goes, with the figures
    """

    spare: int
    words: Phrase
    error: int = MEMORY_ERROR

    @property
    def fits(self) -> bool:
        """Whether it fits by these figures."""
        return self.spare >= 0

    @property
    def tight(self) -> bool:
        """Whether it fits by less than the figures may be off."""
        return 0 <= self.spare < self.error


def choice(spec: Spec, shape: ModelShape, chip: Chip, version: str) -> Choice:
    """Return the planner's choice for a spec, its workload and its hosts' NPUs.

    Raises Refused where nothing fits, with what is missing.
    """
    return _chosen(spec, request_for(spec, shape, chip, version))


def local_choice(spec: Spec, shape: ModelShape, machine: Machine) -> Choice:
    """Return the planner's choice for a spec of this machine, whose constants are these.

    Raises Refused where nothing fits.
    """
    serve = spec.serve
    request = PlanRequest(
        shape=shape,
        model_name=spec.model.name or str(spec.model.path),
        cluster=spec.cluster,
        traits=LOCAL_ENGINE,
        machine=machine,
        load=replace(_load(spec), requests=spec.workload.requests),
        context=serve.context,
        replicas=1,
        kv_cache=serve.kv_cache,
        max_sequences=serve.max_sequences,
    )
    return _chosen(spec, request)


def _chosen(spec: Spec, request: PlanRequest) -> Choice:
    plan = choose(request)
    chosen = plan.chosen
    if chosen is None:
        raise Refused(
            phrase("`serve.layout` is blank, and no layout fits"),
            where="serve.layout",
            evidence=plan.missing,
            hint=phrase("`ropeway plan` lists what was tried; name a layout to decide yourself"),
        )
    update: dict[str, object] = {
        "layout": chosen.layout,
        "replicas": chosen.replicas,
        "max_sequences": chosen.max_sequences,
    }
    if chosen.fraction and spec.serve.kv_cache is None:
        update["memory"] = chosen.fraction
    serve = spec.serve.model_copy(update=update)
    (why,) = [value.why for value in plan.values if value.key == "serve.layout"]
    words = phrase("{name}: {why}", name=chosen.name, why=why)
    return Choice(spec.model_copy(update={"serve": serve}), chosen, words, plan.doubts)


def room(spec: Spec, shape: ModelShape, chip: Chip, version: str) -> Room:
    """Return whether the layout of a spec fits, and by how much.

    Raises Refused for a context that the model cannot have.
    """
    request = replace(request_for(spec, shape, chip, version), replicas=spec.serve.replicas)
    search = search_of(request)
    search = search.of(request.load.share(spec.serve.replicas))
    memory = fit_layout(search, spec.serve.layout).memory
    one = memory.kv_cache * search.context // memory.kv_tokens if memory.kv_tokens else 0
    if not memory.fits:
        missing = max(1, int(shortfall(memory, search.context)))
        return Room(-missing, memory_words(memory, search.context))
    words = phrase(
        "{cache:.1f} GiB are left for the cache, and a sequence of {context:,} tokens takes "
        "{one:.1f} GiB",
        cache=memory.kv_cache / 2**30,
        context=search.context,
        one=one / 2**30,
    )
    return Room(memory.kv_cache - one, words)


def expected(file: SpecFile, load: Load, checkpoints: Path) -> Forecast:
    """Return the planner's forecast for a spec's service under a load.

    `checkpoints` is the folder of fetched models. Raises Refused where there is none.
    """
    request, _ = resolve(file, Flags(), checkpoints)
    serve = file.spec.serve
    request = replace(request, load=load, free_clients=False)
    if "layout" in serve.model_fields_set:
        request = replace(
            request,
            layout=serve.layout,
            replicas=serve.replicas,
            memory=serve.memory,
            max_sequences=serve.max_sequences,
        )
    plan = choose(request)
    if plan.chosen is None:
        raise Refused(phrase("by the planner's figures it does not fit"), evidence=plan.missing)
    return plan.chosen.forecast


def request_for(spec: Spec, shape: ModelShape, chip: Chip, version: str) -> PlanRequest:
    """Return what `up` would run: without `serve.context`, the engine takes the model's longest."""
    serve = spec.serve
    engine = traits(version, "eager" if wants_eager(serve) else None)
    return PlanRequest(
        shape=shape,
        model_name=spec.model.served_name or str(spec.model.path),
        cluster=spec.cluster,
        traits=engine,
        machine=ascend(chip, engine),
        load=_load(spec),
        chip=chip,
        hbm_bytes=spec.cluster.hbm,
        context=serve.context or shape.max_positions,
        price_per_host_hour=spec.cluster.price_per_host_hour,
        memory=serve.memory,
        kv_cache=serve.kv_cache,
        replicas=serve.replicas if "replicas" in serve.model_fields_set else None,
        max_sequences=serve.max_sequences,
        max_batched_tokens=batched_tokens(serve),
        kv_bits=kv_bits(serve),
    )


def _load(spec: Spec) -> Load:
    work = spec.workload
    return Load(
        input_tokens=work.input_tokens,
        output_tokens=work.output_tokens,
        clients=None if work.rate else work.clients,
        rate=work.rate,
    )
