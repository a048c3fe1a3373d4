"""What else is asked of the planner: by `up`, a layout where the spec names none, and whether one
fits; by `init`, the plan for a new spec; by `bench`, what it expected."""

from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.errors import LayoutError, Refused
from ropeway.hardware import Chip, chip_named
from ropeway.models.shape import ModelShape
from ropeway.models.task import overrides_for, task_of
from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.candidate import Candidate, Expectation, Plan, PlanRequest
from ropeway.plan.choose import choose
from ropeway.plan.fit import fit_layout, search_of
from ropeway.plan.layout import check, problems
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine
from ropeway.plan.memory import MEMORY_ERROR
from ropeway.plan.request import (
    LOCAL_ENGINE,
    request_for,
    request_for_hosts,
    set_context,
    set_context_words,
)
from ropeway.plan.resolve import Flags, resolve
from ropeway.plan.values import left_over, memory_words, shortfall, tight_words
from ropeway.plan.writing import needs_key
from ropeway.spec.file import SpecFile
from ropeway.spec.model import Layout, Spec
from ropeway.units import format_bytes

# What the sample of `ropeway init` has for two virtual hosts.
_SAMPLE = Layout(tensor=2, pipeline=2, expert=True)


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


def with_layout(
    spec: Spec, shape: ModelShape, chip: Chip | None, version: str
) -> tuple[Spec, tuple[str, ...]]:
    """Return a spec of real hosts with a layout that fits, and notes on it.

    Where it names none, the planner chooses. Raises Refused where that needs to be told the chip or
    a key, or nothing fits; LayoutError where the spec's own cannot run or does not fit.
    """
    spec, notes = _with_context(spec, shape, chip)
    if spec.serve.has_layout:
        name = spec.model.served_name or spec.model.path or ""
        check(spec.serve.layout, shape, spec.cluster, name)
    else:
        if chip is None:
            raise Refused(
                phrase("`serve.layout` is blank, and which chip the hosts have is not known"),
                where="cluster.chip",
                hint=phrase("write `chip: 910B4` below `cluster`, or name a layout"),
            )
        spec, more = _chosen(spec, request_for_hosts(spec, shape, chip, version))
        notes = (*notes, *more)
    if chip is None:
        unknown = phrase("whether it fits was not checked: `cluster.chip` is not known")
        return spec, (*notes, unknown)
    return spec, (*notes, *_fit_notes(spec, room(spec, shape, chip, version), chip))


def _with_context(spec: Spec, shape: ModelShape, chip: Chip | None) -> tuple[Spec, tuple[str, ...]]:
    """Return the spec with a context where 310P needs one to be named, and a note on it."""
    if chip is None or chip.family != "310P" or spec.serve.context is not None:
        return spec, ()
    context = set_context(shape, spec.workload)
    serve = spec.serve.model_copy(update={"context": context})
    return spec.model_copy(update={"serve": serve}), (set_context_words(context),)


def with_local_layout(
    spec: Spec, shape: ModelShape, machine: Machine | None
) -> tuple[Spec, tuple[str, ...]]:
    """Return a spec of this machine with a layout, and notes on it.

    Where it names none, the planner chooses by the `machine`'s constants; as long as they have not
    been measured, it is the sample's. Raises Refused where nothing fits, or that cannot run.
    """
    if spec.serve.has_layout:
        return spec, ()
    if machine is not None:
        return _chosen(spec, request_for(spec, shape, LOCAL_ENGINE, machine))
    if reasons := problems(_SAMPLE, shape, spec.cluster):
        raise Refused(
            phrase("`serve.layout` is blank, and the sample's {layout} cannot run", layout=_SAMPLE),
            where="serve.layout",
            evidence=reasons,
            hint=phrase("name a layout, or have one chosen after `ropeway calibrate --local`"),
        )
    note = phrase(
        "layout {layout}, as in the sample: the speed of this machine was not measured"
        " (`ropeway calibrate --local`)",
        layout=_SAMPLE,
    )
    serve = spec.serve.model_copy(update={"layout": _SAMPLE})
    return spec.model_copy(update={"serve": serve}), (note,)


def _chosen(spec: Spec, request: PlanRequest) -> tuple[Spec, tuple[str, ...]]:
    """Return the spec with the plan's layout, replicas, memory and sequences, and notes on them.

    Raises Refused where nothing fits, or the choice needs a key and the spec names none.
    """
    plan = choose(request)
    chosen = plan.chosen
    if chosen is None:
        raise Refused(
            phrase("`serve.layout` is blank, and no layout fits"),
            where="serve.layout",
            evidence=plan.missing,
            hint=phrase("`ropeway plan` lists what was tried; name a layout to decide yourself"),
        )
    why = phrase("{name}: {why}", name=chosen.name, why=plan.why)
    if needs_key(spec.serve, chosen):
        raise Refused(
            phrase("the plan's choice for a blank `serve.layout` needs `serve.api_key_env`"),
            where="serve.layout",
            evidence=(why,),
            hint=phrase(
                "`serve.api_key_env` names the environment variable that holds a key: replicas on"
                " several hosts are reached over the network\nor name a layout; `ropeway plan"
                " --all` lists those of one engine"
            ),
        )
    update: dict[str, object] = {
        "layout": chosen.layout,
        "replicas": chosen.replicas,
        "max_sequences": chosen.max_sequences,
    }
    if chosen.fraction and spec.serve.kv_cache is None:
        update["memory"] = chosen.fraction
    serve = spec.serve.model_copy(update=update)
    notes = (phrase("layout: the plan's choice, {why}", why=why), *plan.doubts)
    return spec.model_copy(update={"serve": serve}), notes


def _fit_notes(spec: Spec, found: Room, chip: Chip) -> tuple[str, ...]:
    """Say that a layout fits by less than the figures may be off.

    Raises LayoutError where it does not fit.
    """
    if not found.fits:
        raise LayoutError(
            phrase(
                "{layout} does not fit: {missing} are missing on an NPU of {chip}",
                layout=spec.serve.layout, missing=format_bytes(-found.spare), chip=chip.name,
            ),
            where="serve.layout",
            evidence=(found.words,),
            hint=phrase(
                "`ropeway plan` shows what fits; a shorter `serve.context` needs less, and a higher"
                " `serve.memory` gives more"
            ),
        )  # fmt: skip
    return (tight_words(spec.serve.layout, found.spare),) if found.tight else ()


def room(spec: Spec, shape: ModelShape, chip: Chip, version: str) -> Room:
    """Return whether the layout of a spec fits, and by how much.

    Raises Refused for a context that the model cannot have.
    """
    request = request_for_hosts(spec, shape, chip, version)
    search = search_of(request).of(request.load.share(spec.serve.replicas))
    memory = fit_layout(search, spec.serve.layout).memory
    if not memory.fits:
        missing = max(1, int(shortfall(memory, search.context)))
        return Room(-missing, memory_words(memory, search.context))
    one = memory.sequence_bytes(search.context)
    words = phrase(
        "{cache:.1f} GiB are left for the cache, and a sequence of {context:,} tokens takes "
        "{one:.1f} GiB",
        cache=memory.kv_cache / 2**30,
        context=search.context,
        one=one / 2**30,
    )
    return Room(left_over(request, memory, search.context), words)


def with_task(spec: Spec, shape: ModelShape) -> Spec:
    """Return a new spec with the flags by which the engine does what the model is made for."""
    args = dict(spec.serve.engine_args)
    if told := overrides_for(spec.model.path or "", shape.architecture):
        args["hf-overrides"] = told
    if task_of(shape, args) == "generate":
        return spec
    serve = spec.serve.model_copy(update={"engine_args": {"runner": "pooling", **args}})
    return spec.model_copy(update={"serve": serve})


def plan_for_new(spec: Spec, shape: ModelShape, version: str) -> Plan:
    """Return the plan for a spec as `init` fills it in, which names the chip.

    The context of its sample is cut to the model's longest. Raises Refused.
    """
    context, longest = spec.serve.context, shape.max_positions
    if context and longest:
        serve = spec.serve.model_copy(update={"context": min(context, longest)})
        spec = spec.model_copy(update={"serve": serve})
    chip = chip_named(spec.cluster.chip or "")
    return choose(request_for_hosts(spec, shape, chip, version))


def standing(file: SpecFile, flags: Flags, checkpoints: Path, plan: Plan) -> Phrase | None:
    """Say what the spec's own layout does, which `up` starts, where the plan's choice is another.

    None also where the flags ask of other hosts, another model or layout. Raises Refused.
    """
    serve, chosen = file.spec.serve, plan.chosen
    if flags.name_hosts or flags.model or flags.layout or not serve.has_layout or chosen is None:
        return None
    if (serve.layout, serve.replicas) == (chosen.layout, chosen.replicas):
        return None
    request, _ = resolve(file, flags, checkpoints, as_written=True)
    own = {
        "name": serve.layout.times(serve.replicas),
        "place": request.sources.get("serve.layout", file.name),
    }
    try:
        made = choose(replace(request, layout=serve.layout, replicas=serve.replicas))
        reasons = [item.reason for item in made.rejected]
    except LayoutError as error:
        made, reasons = None, [*error.evidence] or [error.what]
    if made is None or made.chosen is None:
        return phrase(
            "the spec has {name} ({place}), which the plan rejects: {reason}; `--write` changes it",
            reason=joined(reasons),
            **own,
        )
    if made.chosen.faults:
        return phrase(
            "the spec has {name} ({place}), which `up` starts: {fault}; `--write` changes it",
            fault=joined(made.chosen.faults),
            **own,
        )
    return phrase(
        "the spec has {name} ({place}), which `up` starts: {speed}; `--write` changes it",
        speed=made.request.speed(made.chosen.forecast),
        **own,
    )


def no_output(request: PlanRequest) -> Refused:
    """Return the error for what needs a model that generates."""
    return Refused(phrase("the model {does}, and generates nothing", does=request.task_words))


def expected(file: SpecFile, load: Load, checkpoints: Path) -> Expectation:
    """Return what the planner expects of a spec's service under a load.

    `checkpoints` is the folder of fetched models. Raises Refused where there is none.
    """
    request, _ = resolve(file, Flags(), checkpoints, as_written=True)
    if request.reads_only:
        raise no_output(request)
    serve = file.spec.serve
    if serve.has_layout:
        request = replace(request, layout=serve.layout, replicas=serve.replicas)
    else:  # `up` chooses by the spec's own load, and starts that
        up = _fitting(choose(request))
        request = replace(request, layout=up.layout, replicas=up.replicas)
    plan = choose(replace(request, load=load))
    chosen = _fitting(plan)
    return Expectation(chosen.name, not serve.has_layout, chosen.forecast, plan.beyond_measured)


def _fitting(plan: Plan) -> Candidate:
    if plan.chosen is None:
        raise Refused(phrase("by the planner's figures it does not fit"), evidence=plan.missing)
    return plan.chosen
