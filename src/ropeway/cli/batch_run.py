"""A batch job as `ropeway batch` runs it: asked, looked at, sent, watched and written."""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from ropeway.batch.input.parts import Shape
from ropeway.batch.input.survey import Survey
from ropeway.batch.input.template import APIS, make_form
from ropeway.batch.job import (
    Job,
    OneJob,
    Order,
    ShardedJob,
    answers_of,
    look,
    open_job,
    open_shards,
    tokens_of,
    typical,
    write_files,
)
from ropeway.batch.output.own_files import check_strangers, note_written
from ropeway.batch.output.stored import Output
from ropeway.batch.progress import Price
from ropeway.batch.rows import RETRIED
from ropeway.batch.run import Ended, Settings, run_batch
from ropeway.batch.sending.check import Check, read_check
from ropeway.batch.sending.limits import Limits
from ropeway.batch.sending.servers import Servers, ask_servers, replicas_of
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.batch_options import BatchFlags, BatchRequest
from ropeway.cli.batch_ray import Crew, send_on_ray
from ropeway.cli.call import current_call
from ropeway.cli.endpoint import spec_file, tell_rehearsal
from ropeway.cli.files import writing
from ropeway.durable import write_whole
from ropeway.endpoint import event_loop
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import RequestFailed
from ropeway.errors import Exit, Refused, RopewayError
from ropeway.facts.redaction import redact, secret_values
from ropeway.outside import is_folder
from ropeway.phrases import phrase
from ropeway.plan.candidate import Expectation
from ropeway.plan.choice import expected
from ropeway.plan.load import Load
from ropeway.report.batch import (
    ENDINGS,
    Account,
    account_lines,
    next_steps,
    outcome_table,
    survey_doubts,
    survey_line,
    survey_table,
)
from ropeway.report.batch_json import account_json, forecast_json, survey_json
from ropeway.report.batch_page import Timeline, batch_page
from ropeway.report.batch_view import LINE_S, View
from ropeway.report.console import Screen
from ropeway.report.progress import Step
from ropeway.spec.model import DEFAULT_FILE, Spec
from ropeway.units import counted


def plan_batch(screen: Screen, request: BatchRequest) -> None:
    """Say what a job takes. Nothing is sent, and nothing is written."""
    flags = request.flags
    # Without an output no file is the job's own, whatever it is called.
    order, _ = order_of(request.inputs, flags, flags.out or Path(os.devnull))
    servers = None
    try:
        servers = asyncio.run(ask_servers(request.endpoints, model_named(order, request.model)))
    except RequestFailed as failure:
        url = request.endpoints[0].url
        screen.warn(
            phrase("{url}: {why}; whether the model takes so long prompts is not checked",
                   url=url, why=failure.what)
        )  # fmt: skip
    with screen.step(phrase("look at the input")) as step:
        found = look(order, servers, sys.stdin.buffer, _looking(step))
    forecast = _forecast(found, flags, screen)
    screen.answer(survey_table(found, flags.samples, forecast, screen.language))
    if spec_file() is None:
        screen.hint(
            phrase(
                "how long it takes is known from the first minutes of the run; or with a spec:"
                " `-c {file}`",
                file=DEFAULT_FILE,
            )
        )
    screen.result({**survey_json(found, flags.samples, answers_of(found)), "forecast": forecast})


def run_batch_job(screen: Screen, request: BatchRequest) -> None:
    """Run a job to its end, or to what stops it. Ends with the verb's exit code."""
    flags, endpoints = request.flags, request.endpoints
    if flags.out is None:
        raise Refused(phrase("no output is named"), hint=phrase("name a file: `-o answers.jsonl`"))
    order, check = order_of(request.inputs, flags, flags.out)
    current_call().folder = order.folder if is_folder(order.folder) else None
    # A job that has begun writes what it has, when its own command is given too late.
    if flags.until is not None and flags.until <= time.time() and not is_folder(order.folder):
        past = phrase("the time of `--until` is past")
        raise Refused(past, hint=phrase("name a later one: 18:00"))
    servers = asyncio.run(_servers(endpoints, model_named(order, request.model), screen))
    tell_rehearsal(servers.rehearsed, servers.endpoints[0], screen)
    for doubt in servers.doubts:
        screen.warn(doubt)
    with ExitStack() as stack:
        with screen.step(phrase("look at the input")) as step:
            opener = open_shards if flags.on else open_job
            opened = opener(order, servers, sys.stdin.buffer, _looking(step))
            job: Job = stack.enter_context(opened)
            step.ok(counted(job.found.rows, "row"))
        _tell_survey(job, servers, flags.until, screen)
        settings = _settings(job, request, servers)
        view = View(screen, flags.currency, flags.max_cost)
        screen.say(_about(job, servers))
        with _goes_on(screen), screen.step(phrase("send")) as step:
            if isinstance(job, ShardedJob):
                crew = Crew(flags.ray_address or os.environ.get("RAY_ADDRESS"), flags.tasks)
                ended, journal = send_on_ray(
                    job, servers, settings, crew, lambda progress: view.show(progress, step),
                    screen,
                )  # fmt: skip
                job = replace(job, journal=journal)
            elif isinstance(job, OneJob):
                ended = _send(job, servers, settings, check, view, step)
            if ended.reason != "complete":
                step.warn(ENDINGS[ended.reason])
        _end(job, ended, flags, view.timeline.points, screen)


def order_of(
    inputs: tuple[str, ...], flags: BatchFlags, output: Output
) -> tuple[Order, Check | None]:
    """Return what is asked for. Raises Refused for flags that do not go together."""
    check = read_check(flags.check) if flags.check else None
    settings = list(flags.settings)
    form = make_form(
        APIS[flags.api], flags.template, settings, flags.samples,
        pictures=flags.pictures, pictures_from=flags.pictures_from,
    )  # fmt: skip
    if check is not None:
        form = check.in_form(form)
    if flags.dedupe and flags.samples > 1:
        raise Refused(
            phrase("`--dedupe` and `-n` contradict each other"),
            hint=phrase("`-n` asks the same several times: leave one of the two out"),
        )
    if flags.max_cost is not None and flags.price is None and flags.token_price is None:
        raise Refused(
            phrase("`--max-cost` needs a price"),
            hint=phrase("say what it costs: `--price` for an hour, or `--token-price`"),
        )
    if not flags.on and (flags.ray_address or flags.tasks):
        raise Refused(
            phrase("`--ray-address` and `--tasks` are for jobs on Ray"),
            hint=phrase("add `--on ray`"),
        )
    name = output.name.removesuffix(".jsonl")
    order = Order(
        inputs=inputs,
        output=output,
        errors=flags.errors or output.with_name(f"{name}.errors.jsonl"),
        form=form,
        journal=flags.journal,
        html=flags.html,
        schema=flags.check,
        template=flags.template or "",
        shape=Shape(flags.kind) if flags.kind else None,
        skip_bad=flags.skip_bad,
        ordered=flags.ordered,
        revoked=RETRIED if flags.retry_errors else frozenset(),
    )
    return order, check


def model_named(order: Order, named: str | None) -> str | None:
    """Return the model that the user names. Raises Refused where two flags name one."""
    setting = order.form.settings.get("model")
    if named is not None and setting not in (None, named):
        raise Refused(
            phrase("`--model` and `--set model` name two models"), hint=phrase("give one of them")
        )
    return named or (str(setting) if setting is not None else None)


def _settings(job: Job, request: BatchRequest, servers: Servers) -> Settings:
    flags = request.flags
    return Settings(
        rows=job.found.rows,
        tokens=tokens_of(job.found, flags.samples),
        limits=Limits(
            start=min(flags.at_first or _at_first(), flags.in_flight), most=flags.in_flight,
            tries=flags.tries, dedupe=flags.dedupe,
        ),
        max_errors=flags.max_errors,
        silence_s=request.endpoints[0].timeout_s,
        until=flags.until,
        price=_price(flags),
        max_cost=flags.max_cost,
        listed=servers.listed,
        ceiling=_ceiling(job.found, flags),
    )  # fmt: skip


def _price(flags: BatchFlags) -> Price | None:
    if flags.price is None and flags.token_price is None:
        return None
    return Price((flags.price or 0.0) * _hosts(), *(flags.token_price or (0.0, 0.0)))


def _at_first() -> int:
    """Return how many rows a replica is sent at first."""
    file = spec_file()
    return (at_once(file.spec) if file else None) or Limits.start


def at_once(spec: Spec) -> int | None:
    """Return how many rows a spec lets a replica run at once; None where it does not say."""
    serve = spec.serve
    if serve.max_sequences is None:
        return None
    return serve.max_sequences * (serve.layout.data if serve.has_layout else 1)


def _hosts() -> int:
    """Return how many hosts are paid for by the hour: those of the spec, else one."""
    file = spec_file()
    return max(1, len(file.spec.cluster.hosts or ())) if file else 1


async def _servers(endpoints: tuple[Endpoint, ...], model: str | None, screen: Screen) -> Servers:
    """Return what the endpoints are; those of a spec's replicas where they can be reached."""
    file = spec_file()
    if file is not None and len(endpoints) == 1:
        hosts = {host.address for host in file.spec.cluster.hosts or ()}
        if file.spec.cluster.is_local:
            hosts |= {"127.0.0.1", "::1", "localhost"}
        direct = await replicas_of(endpoints[0], hosts)
        if direct:
            screen.say(
                phrase("rows go straight to {replicas}", replicas=counted(len(direct), "replica"))
            )
            endpoints = direct
        elif file.spec.serve.replicas > 1:
            screen.say(
                phrase("rows go through the router: its replicas cannot be reached from here")
            )
    return await ask_servers(endpoints, model)


def _looking(step: Step) -> Any:
    def tell(read: int, size: int) -> None:
        step.tick(survey_line(read, size), log_every_s=LINE_S)

    return tell


def _tell_survey(job: Job, servers: Servers, until: float | None, screen: Screen) -> None:
    found, done = job.found, job.journal.counts.total()
    if done:
        screen.say(phrase("{done:,} of {rows:,} rows are done already", done=done, rows=found.rows))
    own = (phrase("{file} is the job's own, and no input", file=name) for name in job.left)
    if until is not None:
        when = datetime.fromtimestamp(until).strftime("%Y-%m-%d %H:%M")
        screen.say(phrase("it stops at {when}", when=when))
    for doubt in (*own, *job.journal.damage, *survey_doubts(found, servers.context)):
        screen.warn(doubt)


def _send(
    job: OneJob, servers: Servers, settings: Settings, check: Check | None, view: View, step: Step
) -> Ended:
    """Send what is not done, show how it goes, and close the journal."""

    async def run() -> Ended:
        with event_loop.stopped_by_interrupt(signal.SIGTERM) as stop:
            return await run_batch(
                job.rows(), job.journal, servers.endpoints, settings,
                lambda progress: view.show(progress, step),
                stop=stop, check=check.fault if check else None,
            )  # fmt: skip

    with job.journal:
        return event_loop.run(run())


@contextmanager
def _goes_on(screen: Screen) -> Iterator[None]:
    """Say, where a job is ended at once, how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        screen.hint(
            phrase(
                "what was committed is kept; the same command goes on:\n{command}",
                command=_same_command(),
            )
        )
        raise


def _about(job: Job, servers: Servers) -> str:
    return phrase(
        "{rows} → {model} at {n}",
        rows=counted(job.found.rows - job.journal.counts.total(), "row"),
        model=_model_of(job) or "?",
        n=counted(len(servers.endpoints), "endpoint"),
    )


def _model_of(job: Job) -> str:
    return str(job.order.form.settings.get("model", job.form.model))


def _end(job: Job, ended: Ended, flags: BatchFlags, timeline: Timeline, screen: Screen) -> None:
    """Write the files, and say what became of all rows."""
    account = _account(job, ended, flags, written=_written(job, ended, screen))
    screen.answer(outcome_table(account.counts, account.rows, screen.language))
    screen.answer(account_lines(account))
    if flags.html is not None:
        page = batch_page(account, timeline, datetime.now(UTC), screen.language)
        _write_page(job.order.folder, flags.html, page, screen)
    for hint in next_steps(account):
        screen.hint(hint)
    whole = account.done == account.rows
    screen.result(account_json(account))
    if ended.failure is not None:
        raise ended.failure
    context = click.get_current_context()
    if ended.reason == "stopped" and not whole:
        context.exit(Exit.INTERRUPTED)
    context.exit(Exit.OK if whole and not account.bad else Exit.NO)


def _write_page(folder: Path, path: Path, page: str, screen: Screen) -> None:
    """Write the page, or say why not: the job is done all the same."""
    content = page.encode()
    try:
        check_strangers(folder, [path])
        note_written(folder, {path: len(content)})
        with writing(path):
            write_whole(path, content)
    except RopewayError as error:
        screen.warn(phrase("{where}: {what}", where=path, what=error.what))
    else:
        screen.say(phrase("page: {file}", file=path))


def _account(job: Job, ended: Ended, flags: BatchFlags, *, written: bool) -> Account:
    order, journal = job.order, job.journal
    return Account(
        title=", ".join(part.name for part in job.found.parts[:3]),
        model=_model_of(job),
        output=str(order.output),
        errors=str(order.errors),
        folder=str(order.folder),
        rows=job.found.rows,
        counts=journal.counts,
        tokens=(journal.prompt, journal.answer),
        again=ended.progress.again + journal.again,
        progress=ended.progress,
        ended=ended.reason,
        written=written,
        currency=flags.currency,
        # In a container the job has a command of its own, which nobody gives again.
        command="" if flags.at_first else _same_command(),
        template=order.template,
        settings=job.manifest.settings,
    )


def _written(job: Job, ended: Ended, screen: Screen) -> bool:
    """Write the files with what there is by now; return whether that was done.

    What broke the job, as a full disk or another run, may also keep it from that, and is the news.
    """
    try:
        with screen.step(phrase("write the files")):
            write_files(job.order, job.journal.counts)
    except RopewayError:
        if ended.reason != "broken":
            raise
        return False
    return True


def _same_command() -> str:
    """Return the command as it was typed, but for the keys of a store's URL."""
    args = sys.argv[1:]
    return redact(shlex.join(["ropeway", *args]), secret_values(args, os.environ))


def _expected(found: Survey, flags: BatchFlags) -> Expectation | None:
    """Return what the planner expects of the spec's service; None without one. Raises Refused."""
    file = spec_file()
    if file is None:
        return None
    prompt, answer = typical(found)
    load = Load(prompt, answer, clients=flags.in_flight, requests=found.rows)
    return expected(file, load, default_root(os.environ))


def _ceiling(found: Survey, flags: BatchFlags) -> float | None:
    """Return the tokens of answers per second that are possible; None where nobody knows."""
    try:
        planned = _expected(found, flags)
    except RopewayError:  # `--plan` says why
        return None
    return planned.forecast.ceiling_tokens_per_s if planned else None


def _forecast(found: Survey, flags: BatchFlags, screen: Screen) -> dict[str, Any] | None:
    """Return how long a job is expected to take on the spec's service, and what it costs.

    Without a spec there is no time, and what tokens cost; None without that either.
    """
    planned, price = None, _price(flags)
    tokens = (found.prompt.total * flags.samples, answers_of(found) * flags.samples)
    try:
        planned = _expected(found, flags)
    except RopewayError as error:
        screen.warn(phrase("no forecast: {why}", why=error.what))
    return forecast_json(tokens, planned, price, flags.currency)
