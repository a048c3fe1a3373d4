"""`ropeway bench`: measure an endpoint under load."""

import asyncio
import contextlib
import dataclasses
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway import __version__
from ropeway.bench.prompts import RandomPrompts, Recipe
from ropeway.bench.record import RunWriter, new_run_dir
from ropeway.bench.run import BenchResult, Progress, Workload, prepare, run_bench
from ropeway.bench.stats import UNFINISHED, Conditions, Summary
from ropeway.cli.call import current_call
from ropeway.cli.endpoint import endpoint_options
from ropeway.cli.options import screen_options
from ropeway.endpoint.client import Client, Endpoint, ServedModel
from ropeway.endpoint.stream import Timing
from ropeway.errors import EndpointError, Exit, Refused
from ropeway.report.console import Screen
from ropeway.report.progress import Step
from ropeway.report.text import bench_table
from ropeway.units import format_seconds

# Elsewhere than on a terminal every line stays, so there are fewer of them.
_LOG_EVERY_S = 5.0


@dataclass(frozen=True)
class _Asked:
    """The flags of one load test."""

    clients: int
    requests: int
    rate: float | None
    input_tokens: int
    output_tokens: int
    seed: int
    temperature: float
    warmup: int
    ignore_eos: bool
    time_limit: float | None
    layout: str
    engine: str
    hardware: str


@click.command()
@screen_options
@endpoint_options(timeout=600.0, load=True)
@click.option(
    "--clients",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Requests in flight: each client sends its next when its last is done.",
)
@click.option(
    "--requests", type=click.IntRange(min=1), help="Requests in all.  [default: 2 per client]"
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Send so many requests per second (Poisson), with at most --clients in flight.",
)
@click.option("--input-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--output-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of prompts and arrivals.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="Requests sent first and not counted.",
)
@click.option(
    "--ignore-eos/--no-ignore-eos",
    default=True,
    show_default=True,
    help="Make each answer --output-tokens long (vLLM and its relatives).",
)
@click.option("--time-limit", type=click.FloatRange(min=0, min_open=True), help="Seconds.")
@click.option("--layout", default="not stated", help="Parallel layout, for the record.")
@click.option("--engine", default="not stated", help="Engine and version, for the record.")
@click.option("--hardware", default="not stated", help="Hardware, for the record.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the results.  [default: runs/<time>-bench]",
)
def bench(
    *,
    screen: Screen,
    endpoint: Endpoint,
    model: str | None,
    clients: int,
    requests: int | None,
    out: Path | None,
    **asked: object,
) -> None:
    """Measure an endpoint under load: throughput, TTFT, time per output token.

    Prompts are random rows of common words, the same for one --seed. No two share a beginning:
    otherwise the engine's prefix cache would flatter the figures. The raw timings are written as
    requests end; Ctrl-C stops and keeps what was measured.

    Exit code 0: every request succeeded. 1: some failed.

    \b
    Example:
      ropeway bench --clients 64 --requests 256 --input-tokens 512 --output-tokens 128
    """
    started = datetime.now(UTC)
    flags = _Asked(clients=clients, requests=requests or 2 * clients, **asked)  # type: ignore[arg-type]
    served = asyncio.run(_served(endpoint, model))
    _check_fits(served, flags)
    recipe = asyncio.run(prepare(endpoint, served.name, flags.input_tokens))
    conditions = _conditions(endpoint, served.name, flags, recipe, started)
    folder = out or new_run_dir(Path("runs"), "bench", started)
    current_call().folder = folder
    failures = _Failures()
    with RunWriter(folder, conditions) as writer:

        def keep(timing: Timing) -> None:
            writer.append(timing)
            failures.see(timing)

        workload = _workload(served.name, flags, recipe)
        result = _measure(endpoint, workload, screen, keep)
        summary = writer.finish(result)
    if result.ended != "complete":
        screen.answer(f"ended     early: {result.ended}")
    screen.answer(bench_table(summary, conditions))
    screen.answer(_below(conditions, summary, result, folder))
    screen.result(_document(conditions, summary, result, folder))
    if summary.failed:
        screen.error(failures.as_error(summary))
    if result.ended == "interrupted":
        click.get_current_context().exit(Exit.INTERRUPTED)
    click.get_current_context().exit(Exit.NO if summary.failed else Exit.OK)


async def _served(endpoint: Endpoint, model: str | None) -> ServedModel:
    """The model to measure. A wrong name is left for the server to refuse: it knows its aliases."""
    async with Client(endpoint) as client:
        listed = await client.models()
    if model is not None:
        return next((row for row in listed if row.name == model), ServedModel(model, None))
    if not listed:
        raise Refused("the server lists no model", where=endpoint.url, hint="name it: `--model`")
    return listed[0]


def _check_fits(served: ServedModel, flags: _Asked) -> None:
    wanted = flags.input_tokens + flags.output_tokens
    if served.context is None or wanted <= served.context:
        return
    raise Refused(
        f"{flags.input_tokens} input and {flags.output_tokens} output tokens are {wanted}; "
        f"`{served.name}` is served with a context of {served.context}",
        hint="lower `--input-tokens` or `--output-tokens`, or serve with a longer context",
    )


def _conditions(
    endpoint: Endpoint, model: str, flags: _Asked, recipe: Recipe, started: datetime
) -> Conditions:
    return Conditions(
        url=endpoint.url,
        model=model,
        layout=flags.layout,
        engine=flags.engine,
        hardware=flags.hardware,
        input_tokens=recipe.tokens,
        output_tokens=flags.output_tokens,
        clients=flags.clients,
        requests=flags.requests,
        seed=flags.seed,
        temperature=flags.temperature,
        started_at=started.isoformat(timespec="seconds"),
        ropeway=__version__,
        rate=flags.rate,
        ignore_eos=flags.ignore_eos,
        warmup=flags.warmup,
        prompts=str(recipe),
    )


def _workload(model: str, flags: _Asked, recipe: Recipe) -> Workload:
    return Workload(
        model=model,
        prompts=RandomPrompts(recipe, flags.requests, flags.seed),
        output_tokens=flags.output_tokens,
        clients=flags.clients,
        rate=flags.rate,
        seed=flags.seed,
        temperature=flags.temperature,
        ignore_eos=flags.ignore_eos,
        # Of another seed: the engine must not have seen the prompts that count.
        warmup=RandomPrompts(recipe, flags.warmup, flags.seed - 1),
        time_limit_s=flags.time_limit,
    )


def _measure(
    endpoint: Endpoint, workload: Workload, screen: Screen, keep: Callable[[Timing], None]
) -> BenchResult:
    requests = f"{len(workload.prompts)} requests, {workload.clients} clients"
    with screen.step(f"{requests} → {workload.model} at {endpoint.url}") as step:
        result = asyncio.run(_run(endpoint, workload, _Shown(step), keep))
        if result.ended != "complete":
            step.warn(result.ended)
        elif any(timing.error for timing in result.timings):
            step.warn("some failed")
    return result


async def _run(
    endpoint: Endpoint,
    workload: Workload,
    show: Callable[[Progress], None],
    keep: Callable[[Timing], None],
) -> BenchResult:
    stop = asyncio.Event()
    with _interrupt_sets(stop):
        return await run_bench(endpoint, workload, on_progress=show, on_timing=keep, stop=stop)


@contextlib.contextmanager
def _interrupt_sets(stop: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C ends the run and keeps its results; a second one is as usual."""
    loop = asyncio.get_running_loop()

    def halt() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, halt)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or no Unix
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Shown:
    """The progress in its step: always on a terminal, every few seconds in a log."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._next = _LOG_EVERY_S

    def __call__(self, progress: Progress) -> None:
        line = progress_line(progress)
        if self._step.seconds < self._next:
            self._step.tick(line)
            return
        self._next = self._step.seconds + _LOG_EVERY_S
        self._step.update(line)


class _Failures:
    """The first message of each kind of failure."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def see(self, timing: Timing) -> None:
        if timing.error and timing.error.kind != UNFINISHED:
            self._first.setdefault(timing.error.kind, timing.error.message)

    def as_error(self, summary: Summary) -> EndpointError:
        return EndpointError(
            f"{summary.failed} of {summary.requests} requests failed",
            evidence=[
                f"{count} {kind}: {self._first[kind]}"
                for kind, count in Counter(summary.errors).most_common()
            ],
        )


def progress_line(progress: Progress) -> str:
    """`12/512 done · 1 failed · 256 running · 1024 tokens/s · 40.0 s left`."""
    parts = [f"{progress.done}/{progress.total} done"]
    if progress.errors:
        parts.append(f"{progress.errors} failed")
    parts += [f"{progress.in_flight} running", f"{progress.tokens_per_s:.0f} tokens/s"]
    if progress.left_s is not None:
        parts.append(f"{format_seconds(progress.left_s)} left")
    return " · ".join(parts)


def _below(conditions: Conditions, summary: Summary, result: BenchResult, folder: Path) -> str:
    """What the table leaves out."""
    lines = [
        "",
        f"prompts   {conditions.prompts}",
        f"tokens    {summary.input_tokens} in, {summary.output_tokens} out",
        f"results   {folder}",
    ]
    if result.late:
        late = f"{result.late} of {summary.requests} requests started late"
        lines.insert(1, f"{late}: all {conditions.clients} clients were busy")
    return "\n".join(lines)


def _document(
    conditions: Conditions, summary: Summary, result: BenchResult, folder: Path
) -> dict[str, object]:
    return {
        "conditions": dataclasses.asdict(conditions),
        "summary": dataclasses.asdict(summary),
        "ended": result.ended,
        "late": result.late,
        "folder": str(folder),
    }
