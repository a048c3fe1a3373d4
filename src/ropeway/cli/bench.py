"""`ropeway bench`: measure an endpoint under load."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway import __version__
from ropeway.bench.prompts import RandomPrompts, Recipe
from ropeway.bench.record import SCHEMA, RunWriter, new_run_dir
from ropeway.bench.run import BenchResult, Progress, Workload, prepare, run_bench
from ropeway.bench.stats import UNFINISHED, Conditions, Quantiles, Summary
from ropeway.client import Client, Endpoint, ServedModel, normalise_url
from ropeway.errors import Exit, Refused
from ropeway.stream import Timing
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
@click.option("--url", default="http://127.0.0.1:8000/v1", show_default=True, help="Base URL.")
@click.option("--model", help="Model name.  [default: the first that the server lists]")
@click.option(
    "--key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    metavar="NAME",
    help="Environment variable that holds the API key.",
)
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
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Longest silence of the server in one request, seconds.",
)
@click.option("--layout", default="not stated", help="Parallel layout, for the record.")
@click.option("--engine", default="not stated", help="Engine and version, for the record.")
@click.option("--hardware", default="not stated", help="Hardware, for the record.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for the results.  [default: runs/<time>-bench]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def bench(
    *,
    url: str,
    model: str | None,
    key_env: str,
    timeout: float,
    requests: int | None,
    out: Path | None,
    as_json: bool,
    clients: int,
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
    endpoint = Endpoint(normalise_url(url), os.environ.get(key_env) or None, key_env, timeout)
    served = asyncio.run(_served(endpoint, model))
    _check_fits(served, flags)
    recipe = asyncio.run(prepare(endpoint, served.name, flags.input_tokens))
    conditions = _conditions(endpoint, served.name, flags, recipe, started)
    folder = out or new_run_dir(Path("runs"), "bench", started)
    screen = _Screen(quiet=as_json)
    screen.say(f"{flags.requests} requests, {flags.clients} clients → {served.name} at {url}")
    sample = _Samples()
    with RunWriter(folder, conditions) as writer:

        def keep(timing: Timing) -> None:
            writer.append(timing)
            sample.see(timing)

        workload = _workload(served.name, flags, recipe)
        result = asyncio.run(_run(endpoint, workload, screen, keep))
        summary = writer.finish(result)
    screen.close()
    if as_json:
        click.echo(json.dumps(_document(conditions, summary, result, folder), ensure_ascii=False))
    else:
        click.echo(_report(conditions, summary, result))
        click.echo(f"results   {folder}")
    sample.tell(summary)
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
    length = "exactly" if recipe.exact else "about"
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
        prompts=f"random words, {length} {recipe.tokens} tokens, no shared beginning",
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


async def _run(
    endpoint: Endpoint, workload: Workload, screen: "_Screen", keep: Callable[[Timing], None]
) -> BenchResult:
    stop = asyncio.Event()
    with _interrupt_sets(stop):
        return await run_bench(
            endpoint, workload, on_progress=screen.show, on_timing=keep, stop=stop
        )


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


class _Screen:
    """The progress on standard error: one line that moves, or a new line every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._moving = sys.stderr.isatty()
        self._last = time.monotonic()
        self._open = False

    def say(self, text: str) -> None:
        if not self._quiet:
            click.echo(text, err=True)

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._quiet or not (self._moving or now - self._last >= _LOG_EVERY_S):
            return
        self._last = now
        line = progress_line(progress)
        click.echo(f"\r\x1b[K{line}" if self._moving else line, err=True, nl=not self._moving)
        self._open = self._moving

    def close(self) -> None:
        if self._open:
            click.echo(err=True)


class _Samples:
    """The first message of each kind of failure."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def see(self, timing: Timing) -> None:
        if timing.error and timing.error.kind != UNFINISHED:
            self._first.setdefault(timing.error.kind, timing.error.message)

    def tell(self, summary: Summary) -> None:
        if not summary.failed:
            return
        click.echo(f"error: {summary.failed} of {summary.requests} requests failed", err=True)
        for kind, count in Counter(summary.errors).most_common():
            click.echo(f"  {count} {kind}: {self._first[kind]}", err=True)


def progress_line(progress: Progress) -> str:
    """`12/512 done · 1 failed · 256 running · 1024 tokens/s · 40.0 s left`."""
    parts = [f"{progress.done}/{progress.total} done"]
    if progress.errors:
        parts.append(f"{progress.errors} failed")
    parts += [f"{progress.in_flight} running", f"{progress.tokens_per_s:.0f} tokens/s"]
    if progress.left_s is not None:
        parts.append(f"{format_seconds(progress.left_s)} left")
    return " · ".join(parts)


def _report(conditions: Conditions, summary: Summary, result: BenchResult) -> str:
    pace = f"{conditions.clients} clients"
    if conditions.rate is not None:
        pace = f"{conditions.rate:g} requests/s, at most {pace}"
    outcome = f"{summary.completed} completed, {summary.failed} failed"
    if summary.unfinished:
        outcome += f", {summary.unfinished} unfinished ({result.ended})"
    lines = [
        f"model     {conditions.model} · {conditions.layout} · {conditions.engine}",
        f"load      {pace} · {conditions.prompts} · {conditions.output_tokens} output tokens",
        f"requests  {outcome} in {format_seconds(summary.duration_s)}",
        f"tokens    {summary.input_tokens} in, {summary.output_tokens} out"
        + ("" if summary.counted else " (counted by pieces: the server gave no usage)"),
        f"speed     {summary.output_tokens_per_s:.1f} output tokens/s"
        f" · {summary.requests_per_s:.2f} requests/s",
        "",
        f"{'milliseconds':<22}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}",
        _row("time to first token", summary.ttft_ms),
        _row("time per output token", summary.tpot_ms),
        _row("end to end", summary.e2e_ms),
        "",
    ]
    if result.ended != "complete":
        lines.insert(0, f"ended     early: {result.ended}")
    if result.late:
        late = f"{result.late} of {summary.requests} requests started late"
        lines.insert(-1, f"{late}: all {conditions.clients} clients were busy")
    return "\n".join(lines)


def _row(name: str, found: Quantiles | None) -> str:
    if found is None:
        return f"{name:<22}{'–':>10}{'–':>10}{'–':>10}{'–':>10}"
    figures = (found.mean, found.p50, found.p90, found.p99)
    return f"{name:<22}" + "".join(f"{figure:>10.1f}" for figure in figures)


def _document(
    conditions: Conditions, summary: Summary, result: BenchResult, folder: Path
) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "conditions": dataclasses.asdict(conditions),
        "summary": dataclasses.asdict(summary),
        "ended": result.ended,
        "late": result.late,
        "folder": str(folder),
    }
