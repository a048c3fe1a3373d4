"""One shard of a job, done wherever its folder is seen: the same core, a journal of its own."""

import asyncio
import platform
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.batch.disk import cannot_begin
from ropeway.batch.input.parts import Part
from ropeway.batch.input.requests import Kind
from ropeway.batch.input.reread import Read
from ropeway.batch.input.survey import rows_from
from ropeway.batch.input.template import Form
from ropeway.batch.job import ShardedJob, skip
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.one_writer import Taken
from ropeway.batch.journal.segments import shard_folder
from ropeway.batch.journal.totals import Totals
from ropeway.batch.progress import Price, Progress
from ropeway.batch.rows import Outcome
from ropeway.batch.run import Reason, Settings, run_batch
from ropeway.batch.sending.check import make_check
from ropeway.batch.shards.shard import Shard
from ropeway.durable import PRIVATE, write_whole
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import phrase

_SIGN = "shared"
# Longer than a network file system keeps what it knows of a folder.
_SEEN_WITHIN_S = 60
# Longer than Ray lets a machine live on that it takes for dead.
_GIVEN_UP_S = 60.0


@dataclass(frozen=True)
class Work:
    """What all shards of a job have in common.

    folder    of the job, which whoever does a shard must see; `sign` is in it to tell
    job, rows of the whole input, as the heads of segments have them
    settings  as all tasks share them: what only their sum can tell ends none of them
    """

    folder: Path
    sign: str
    parts: tuple[Part, ...]
    reads: tuple[Read, ...]
    form: Form
    kind: Kind
    job: str
    rows: int
    endpoints: tuple[Endpoint, ...]
    settings: Settings


@dataclass(frozen=True)
class Done:
    """What came of a shard: how it ended, how far it was, and what its journal counts now.

    segment  what was written last, if anything
    """

    reason: Reason
    progress: Progress | None = None
    kept: Totals | None = None
    failure: RopewayError | None = None
    segment: Path | None = None


def make_work(job: ShardedJob, endpoints: Sequence[Endpoint], settings: Settings) -> Work:
    """Return what the shards of a job have in common, wherever they are done.

    `settings` are those of the whole. A sign is left in the job's folder, by which others know that
    they see the same one. Raises RopewayError.
    """
    folder, sign = job.order.folder.absolute(), secrets.token_hex(16)
    try:
        write_whole(folder / _SIGN, sign.encode(), mode=PRIVATE)
    except OSError as error:
        raise cannot_begin(folder / _SIGN, error) from None
    pictures, price = job.form.pictures_from, settings.price
    return Work(
        folder=folder,
        sign=sign,
        parts=tuple(_anywhere(part) for part in job.parts),
        reads=job.found.parts,
        form=replace(job.form, pictures_from=pictures and pictures.absolute()),
        kind=job.found.kind,
        job=job.manifest.job,
        rows=job.found.rows,
        endpoints=tuple(endpoints),
        settings=replace(
            settings,
            max_errors=1.0,
            max_cost=None,
            price=price and Price(0.0, price.prompt, price.answer),
        ),
    )


def _anywhere(part: Part) -> Part:
    """Return a file under paths that do not depend on where a process runs."""
    path = part.path if part.store is not None else str(Path(part.path).absolute())
    return replace(part, path=path, folder=part.folder.absolute())


async def take_back(work: Work, shards: Iterable[Shard], revoked: frozenset[Outcome]) -> None:
    """Take back these outcomes of earlier runs, before any of the shards is done.

    Whoever does a shard does not: a task that Ray begins anew would take back its own. Raises
    RopewayError.
    """
    for shard in shards if revoked else ():
        (await _journal(work, shard, revoked)).close()


async def _look_for_sign(work: Work) -> None:
    """Raise Refused where the job's folder is another here than where the job was begun."""
    for _ in range(_SEEN_WITHIN_S):
        try:
            if (work.folder / _SIGN).read_bytes() == work.sign.encode():
                return
        except OSError:
            if not work.folder.is_dir():
                break
        await asyncio.sleep(1)
    raise Refused(
        phrase("not all machines see the job's folder"),
        where=str(work.folder),
        evidence=[phrase("it is not the same on {node}", node=platform.node())],
        hint=phrase(
            "put the output where all machines of the cluster have it under the same path, or "
            "give the folder with `--journal`"
        ),
    )


async def _journal(work: Work, shard: Shard, revoked: frozenset[Outcome] = frozenset()) -> Journal:
    """Open a shard's journal, when whoever had it before has noticed that its time is over."""
    folder, given_up = shard_folder(work.folder, shard.number), time.monotonic() + _GIVEN_UP_S
    while True:
        try:
            return Journal.open(folder, rows=work.rows, job=work.job, revoked=revoked)
        except Taken:
            if time.monotonic() > given_up:
                raise
        await asyncio.sleep(1)


async def run_shard(
    work: Work, shard: Shard, tell: Callable[[Progress], int], tasks: int = 1
) -> Done:
    """Do what is left of a shard, and return what came of it, errors of ours included.

    `tasks` share the rows in flight at first. `tell` is called twice a second, and says how many do
    from now on; 0 is to stop.
    """
    stop = asyncio.Event()

    def told(progress: Progress) -> None:
        nonlocal tasks
        if now := tell(progress):
            tasks = now
        else:
            stop.set()

    schema = work.form.schema
    check = make_check(dict(schema)) if schema is not None else None
    try:
        await _look_for_sign(work)
        with await _journal(work, shard) as journal:
            skip(journal, work.form, work.folder, shard.indices)
            rows = rows_from(
                [shard.of(work.parts)], [replace(work.reads[shard.file], lines=shard.lines)],
                work.form, work.kind, work.folder, journal.done, first=shard.first,
            )  # fmt: skip
            ended = await run_batch(
                rows, journal, work.endpoints, _share(work, shard), told,
                stop=stop, check=check.fault if check else None, tasks=lambda: tasks,
            )  # fmt: skip
    except RopewayError as error:
        return Done("broken", failure=_on(error))
    failure = ended.failure and _on(ended.failure)
    return Done(ended.reason, ended.progress, journal.totals(), failure, journal.path)


def _share(work: Work, shard: Shard) -> Settings:
    """Return the settings of the whole job for one of its shards."""
    rows = shard.lines * work.form.samples
    return replace(work.settings, rows=rows, tokens=work.settings.tokens * rows // work.rows)


def _on(error: RopewayError) -> RopewayError:
    """Say in an error who met it."""
    error.evidence = (*error.evidence, phrase("met on {node}", node=platform.node()))
    return error
