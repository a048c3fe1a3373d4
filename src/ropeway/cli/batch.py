"""`ropeway batch`: a file of prompts in, a file of answers out, each row committed once."""

import signal
from contextlib import suppress

import click

from ropeway.batch.rows import Outcome
from ropeway.cli import batch_detached
from ropeway.cli.batch_options import (
    BatchFlags,
    BatchRequest,
    DetachFlags,
    batch_options,
    detach_options,
)
from ropeway.cli.batch_run import plan_batch, run_batch_job
from ropeway.cli.endpoint import endpoint_options
from ropeway.cli.options import lang_option, screen_options
from ropeway.endpoint.address import Endpoint
from ropeway.report.console import Screen


@click.command()
@lang_option
@screen_options
@endpoint_options(timeout=3600.0, several=True)
@batch_options
@detach_options
@click.argument("inputs", nargs=-1, metavar="INPUT...")
def batch(
    *,
    screen: Screen,
    endpoints: tuple[Endpoint, ...],
    model: str | None,
    flags: BatchFlags,
    detached: DetachFlags,
    inputs: tuple[str, ...],
) -> None:
    """Answer a file of prompts: every row once, however often the job is interrupted.

    INPUT is JSON lines (requests of OpenAI's Batch API, or columns such as `prompt`), CSV or
    Parquet, packed with gzip or zstd or not; several files, a glob, `-` for standard input, or
    s3://… . All of it is looked at before anything is sent. OUT may be s3://… too. With --on ray
    the machines of a Ray cluster send, each a file at a time; all must see the job's folder.

    \b
    The contract:
      A row may be generated twice; it is committed once. At the end every row
      has exactly one outcome, and they add up to the input:
        OUTCOMES

    The same command again goes on where the last one ended: what was committed is in OUT.journal
    (of s3://… here), and an input, model or setting that differs is refused. Ctrl-C or
    SIGTERM commits, writes what there is, and stops.

    Exit code 0: every row has an answer. 1: some have none, or something else ended the job.
    2: the input or a flag is wrong, or another run has taken over. 130: Ctrl-C or SIGTERM.

    With --detach the job runs in a container on the head of the spec's service, and this machine
    may leave: `ropeway status`, `logs --job`, and here --attach, --stop and --remove are for it.

    \b
    Example:
      ropeway batch prompts.jsonl -o answers.jsonl --set max_tokens=256
      ropeway batch prompts.jsonl -o answers.jsonl --set max_tokens=256 --detach
      ropeway batch --attach -o answers.jsonl
    """
    with suppress(ValueError):  # not the main thread
        # Until rows are sent it ends as Ctrl-C does, which takes back what was begun.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    detached.check(inputs, flags)
    request = BatchRequest(inputs, flags, endpoints, model)
    if detached.attach:
        batch_detached.attach(screen, flags, detached)
    elif detached.stop:
        batch_detached.stop(screen, detached)
    elif detached.remove:
        batch_detached.remove(screen, detached)
    elif detached.detach:
        batch_detached.detach(screen, request, detached)
    elif flags.plan:
        plan_batch(screen, request)
    else:
        run_batch_job(screen, request)


# What they mean is said in one place.
batch.help = (batch.help or "").replace(
    "OUTCOMES", "\n        ".join(f"{outcome.word:<9} {outcome.meaning}" for outcome in Outcome)
)
