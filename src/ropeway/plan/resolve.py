"""From a spec file and flags to a PlanRequest: flags win, the model is read, blanks stay blank.

Every value remembers where it came from: a flag, or a line of the spec.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.checkpoints.catalogue import RECIPES
from ropeway.checkpoints.fetch import fetched
from ropeway.engines.ascend_releases import image_tag, taken_release
from ropeway.errors import ModelError, Refused
from ropeway.hardware import Chip, chip_named
from ropeway.models.config import IN_OVERRIDES
from ropeway.models.known import as_named, known, published_name
from ropeway.models.read import read_alone, read_directory_shape
from ropeway.models.shape import ModelShape
from ropeway.outside import is_file, is_folder, is_there, local_path
from ropeway.phrases import phrase
from ropeway.plan.calibration import calibration_path, read_calibration
from ropeway.plan.candidate import Objective, PlanRequest
from ropeway.plan.machine import EngineTraits, Machine, ascend, traits
from ropeway.plan.request import LOCAL_ENGINE, graph_of, request_for
from ropeway.plan.writing import without_planned
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.engine_flags import config_overrides
from ropeway.spec.file import SpecFile
from ropeway.spec.model import Layout, Model, Serve, Spec, Workload
from ropeway.spec.types import release_fault

# The key of the spec that a flag takes the place of.
_KEYS = {
    "chip": "cluster.chip",
    "engine_version": "serve.version",
    "release_like": "serve.release_like",
    "layout": "serve.layout",
    "context": "serve.context",
    "clients": "workload.clients",
    "rate": "workload.rate",
    "input_tokens": "workload.input_tokens",
    "output_tokens": "workload.output_tokens",
}


@dataclass(frozen=True)
class Flags:
    """What the command line says; None is a flag that was not given. Times are in ms."""

    model: str | None = None
    hosts: int | None = None
    npus: int | None = None
    chip: str | None = None
    engine_version: str | None = None
    release_like: str | None = None
    graph: str | None = None
    layout: str | None = None
    context: int | None = None
    clients: int | None = None
    rate: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    objective: Objective = "throughput"
    max_tpot: float | None = None
    max_ttft: float | None = None
    price: float | None = None
    currency: str | None = None
    prompts: int | None = None

    def sources(self) -> dict[str, str]:
        """Return the flag that each key's value came from."""
        return {
            key: f"--{name.replace('_', '-')}"
            for name, key in _KEYS.items()
            if getattr(self, name) is not None
        }

    @property
    def name_hosts(self) -> bool:
        """Whether they say on which hosts to plan, beside or in place of the spec's."""
        return any(value is not None for value in (self.hosts, self.npus, self.chip))


def is_left_out(spec: Spec, flags: Flags) -> bool:
    """Whether a spec is for this machine while the flags name hosts: it has no part in the plan."""
    return spec.cluster.is_local and flags.name_hosts


def resolve(
    file: SpecFile | None, flags: Flags, checkpoints: Path, *, as_written: bool = False
) -> tuple[PlanRequest, tuple[str, ...]]:
    """Return the request, and notes on where model and machine come from.

    What an earlier plan wrote into the spec counts as blank, unless the request is for the spec
    `as_written`. `checkpoints` is the folder of fetched models. Raises Refused for what is missing
    or wrong.
    """
    left_out: tuple[str, ...] = ()
    if file and is_left_out(file.spec, flags):
        said = phrase("`{file}` is for this machine; nothing of it is in this plan", file=file.name)
        left_out = (said,)
        file = None
    spec = file.spec if file else None
    if file and not as_written:
        spec = without_planned(file.spec, file.text)
    sources = {**(file.places() if file else {}), **flags.sources()}
    place = sources.get("model.path", "")
    with _placed(sources):
        name, shape, notes = _model(spec, flags, checkpoints, left_out, place)
    notes = (*left_out, *notes)
    chip = None
    if spec is not None and spec.cluster.is_local:
        engine = LOCAL_ENGINE
        machine, origin = local_machine(checkpoints)
        notes = (*notes, origin)
    else:
        chip = _chip(spec.cluster if spec else None, flags)
        image = spec.runtime.image if spec else None
        with _placed(sources):
            engine = _engine(spec.serve if spec else Serve(), image, flags)
        if flags.engine_version is None and image_tag(image or ""):
            sources["serve.version"] = sources["runtime.image"]
        machine = ascend(chip, engine)
    request = request_for(_with_flags(spec, flags, name, chip), shape, engine, machine, chip)
    if request.reads_only and flags.max_tpot:
        raise Refused(
            phrase("`--max-tpot` is for engines that generate, and this one does not"),
            hint=phrase("`--max-ttft` bounds the time until its answer"),
        )
    request = replace(
        request,
        model_name=name,
        # Flags alone describe a question and no service, whose engine would take the longest.
        blank_context=request.blank_context if file else None,
        load=replace(request.load, requests=flags.prompts or request.load.requests),
        objective=flags.objective,
        tpot_s=flags.max_tpot / 1000 if flags.max_tpot else None,
        ttft_s=flags.max_ttft / 1000 if flags.max_ttft else None,
        job_prompts=flags.prompts,
        free_clients=_free_clients(spec, flags),
        layout=_layout(flags.layout, request.contexts) if flags.layout else None,
        sources=sources,
        spec_file=file.name if file else "",
    )
    return request, notes


@contextmanager
def _placed(sources: Mapping[str, str]) -> Iterator[None]:
    """Let an error that names a key name the spec's line, or the flag, that set it."""
    try:
        yield
    except Refused as error:
        if error.where == IN_OVERRIDES:
            error.where = f"{sources['serve.engine_args']}, {IN_OVERRIDES}"
        error.where = sources.get(error.where or "", error.where)
        raise


def local_machine(checkpoints: Path) -> tuple[Machine, str]:
    """Return the constants of this machine, and how they were measured. Raises Refused for none."""
    calibration = read_calibration(calibration_path(checkpoints))
    if calibration is None:
        raise Refused(
            phrase("the speed of this machine has not been measured yet: nothing can be predicted"),
            where="cluster.local",
            hint=phrase(
                "measure it: `ropeway calibrate --local`\n"
                "or plan for real NPUs: `ropeway plan --model Qwen3-30B-A3B --chip 910B4`"
            ),
        )
    origin = phrase(
        "constants of {model} on {conditions}, measured on this machine {when}",
        model=calibration.model,
        conditions=calibration.conditions,
        when=calibration.measured_at,
    )
    return calibration.machine, origin


def _model(
    spec: Spec | None, flags: Flags, checkpoints: Path, left_out: tuple[str, ...], place: str
) -> tuple[str, ModelShape, tuple[str, ...]]:
    """Return name, shape and notes. A path may exist only on hosts: then the name must be known.

    `place` is where the spec has it.
    """
    overrides = config_overrides(spec.serve.engine_args) if spec else {}
    if flags.model:
        return _named(flags.model, checkpoints, overrides)
    if spec is None:
        raise Refused(
            phrase("which model?"),
            evidence=left_out,
            hint=phrase(
                "name it: {example}",
                example="`ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4`",
            ),
        )
    if spec.model.name:
        folder = fetched(spec.model.name, checkpoints)
        return spec.model.name, read_directory_shape(folder, overrides), ()
    path = str(spec.model.path)
    if spec.model.config:
        shape = read_alone(local_path(spec.model.config), path, overrides)
        return Path(path).name, shape, ()
    if is_there(local_path(path)):
        return _named(path, checkpoints, overrides)
    try:
        name = published_name(path)
    except ModelError:
        raise ModelError(
            phrase("the model is not on this machine, and no published model has this name"),
            where=place or path,
            evidence=(path,) if place else (),
            hint=phrase(
                "say which published model it is with `--model NAME`, or give the path of its"
                " `config.json`; `config` below `model` keeps it in the spec"
            ),
        ) from None
    shape = known(path, overrides)
    words = "`{path}` is not on this machine; planned as the published {name}"
    if (scheme := shape.precision.scheme) != known(name).precision.scheme:
        words = (
            "`{path}` is not on this machine; planned as the published {name}, with {scheme} "
            "weights, by its own name"
        )
    return Path(path).name, shape, (phrase(words, path=path, name=name, scheme=scheme),)


def _named(
    text: str, checkpoints: Path, overrides: Mapping[str, object]
) -> tuple[str, ModelShape, tuple[str, ...]]:
    path = model_path(text, checkpoints)
    if path is None:
        return text.rsplit("/", 1)[-1], known(text, overrides), ()
    if is_file(path):
        name = path.absolute().parent.name
        return name, read_alone(path, name, overrides), ()
    name = path.absolute().name
    return name, as_named(read_directory_shape(path, overrides), name), ()


def model_path(text: str, checkpoints: Path) -> Path | None:
    """Return the path that `text` means, fetched or as given; None for a published model's name."""
    if text in RECIPES and is_folder(checkpoints / text):
        return checkpoints / text
    path = local_path(text)
    means_path = text.startswith((".", "/", "~")) or text.count("/") > 1
    return path if means_path or is_there(path) else None


def _chip(cluster: Cluster | None, flags: Flags) -> Chip:
    name = flags.chip or (cluster.chip if cluster else None)
    if name is None:
        raise Refused(
            phrase("which chip do the hosts have?"),
            where=None if cluster is None else "cluster.chip",
            hint=phrase(
                "`--chip 910B4`, or `chip: 910B4` below `cluster`; `npu-smi info` shows it"
            ),
        )
    return chip_named(name)


def _with_flags(spec: Spec | None, flags: Flags, model: str, chip: Chip | None) -> Spec:
    """Return the spec with the flags' values in place of its own; without a spec, one of flags."""
    if flags.clients and flags.rate:
        raise Refused(
            phrase("`--clients` and `--rate` exclude each other"), hint=phrase("keep one of them")
        )
    if spec is None:
        # Not checked: the model was found under this name, whatever it looks like.
        made = Model.model_construct(path=model)
        spec = Spec(cluster=Cluster(hosts=_hosts(flags, None, chip)), model=made)
    elif flags.hosts or flags.npus:
        spec = _updated(spec, "cluster", hosts=_hosts(flags, spec.cluster, chip))
    spec = _updated(spec, "cluster", price_per_host_hour=flags.price, currency=flags.currency)
    spec = _updated(spec, "serve", context=flags.context)
    if flags.clients:
        spec = spec.model_copy(update={"workload": spec.workload.model_copy(update={"rate": None})})
    return _updated(
        spec,
        "workload",
        clients=flags.clients,
        rate=flags.rate,
        input_tokens=flags.input_tokens,
        output_tokens=flags.output_tokens,
    )


def _updated(spec: Spec, section: str, **values: object) -> Spec:
    """Return the spec with those values of a section that are given."""
    given = {key: value for key, value in values.items() if value is not None}
    old: Cluster | Serve | Workload = getattr(spec, section)
    return spec.model_copy(update={section: old.model_copy(update=given)})


def _hosts(flags: Flags, base: Cluster | None, chip: Chip | None) -> tuple[RemoteHost, ...]:
    """Return as many equal hosts as the flags say, else as the spec or the chip has."""
    usual = base.npus_per_host if base else chip.npus_per_host if chip else 1
    hosts, npus = flags.hosts or (base.host_count if base else 1), flags.npus or usual
    return tuple(RemoteHost(address=f"host{number}", npus=npus) for number in range(hosts))


def _engine(serve: Serve, image: str | None, flags: Flags) -> EngineTraits:
    if flags.engine_version and (fault := release_fault(flags.engine_version)):
        what, hint = fault
        raise Refused(what, where="--engine-version", hint=hint)
    image = None if flags.engine_version else image
    like = flags.release_like or serve.release_like
    release = taken_release(image, flags.engine_version or serve.version, like)
    engine = traits(release.version, flags.graph or graph_of(serve))
    return replace(engine, asked=release.asked, doubts=release.notes)


def _layout(name: str, contexts: tuple[int, int]) -> Layout:
    """Return a named layout, with the sizes of context parallelism that the spec's flags give."""
    layout, (prefill, decode) = Layout.parse(name), contexts
    if layout.contexts != (1, 1):
        return layout
    return layout.model_copy(update={"prefill_context": prefill, "decode_context": decode})


def _free_clients(spec: Spec | None, flags: Flags) -> bool:
    """Return whether a job's concurrency is the planner's to choose: neither flags nor spec say."""
    fixed = spec.workload.model_fields_set & {"clients", "rate"} if spec else set()
    return flags.prompts is not None and not (fixed or flags.clients or flags.rate)
