"""One shard of a job, done wherever its folder is seen: the same core, a journal of its own."""

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.batch.check import make_check
from ropeway.batch.disk import cannot_begin
from ropeway.batch.forms import Kind
from ropeway.batch.job import skip
from ropeway.batch.journal import Journal
from ropeway.batch.parts import Part
from ropeway.batch.progress import Progress
from ropeway.batch.reread import Read
from ropeway.batch.rows import Outcome
from ropeway.batch.run import Reason, Settings, run_batch
from ropeway.batch.segments import shard_folder
from ropeway.batch.settings import Form
from ropeway.batch.shards import Shard
from ropeway.batch.survey import rows_from
from ropeway.batch.totals import Totals
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

    folder    of the job, which whoever does a shard must see; `sign` is in it to tell (`put_sign`)
    job, rows of the whole input, as the heads of segments have them
    again     outcomes of earlier runs that are taken back
    """

    folder: Path
    sign: str
    parts: tuple[Part, ...]
    reads: tuple[Read, ...]
    form: Form
    kind: Kind
    job: str
    rows: int
    again: frozenset[Outcome]
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


def put_sign(folder: Path, sign: str) -> None:
    """Leave something in the job's folder by which others know that they see the same one."""
    try:
        write_whole(folder / _SIGN, sign.encode(), mode=PRIVATE)
    except OSError as error:
        raise cannot_begin(folder / _SIGN, error) from None


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


async def _journal(work: Work, folder: Path) -> Journal:
    """Open a shard's journal, when whoever had it before has noticed that its time is over."""
    given_up = time.monotonic() + _GIVEN_UP_S
    while True:
        try:
            return Journal.open(folder, rows=work.rows, job=work.job, again=work.again)
        except Refused:
            if time.monotonic() > given_up:
                raise
        await asyncio.sleep(1)


async def run_shard(work: Work, shard: Shard, tell: Callable[[Progress], bool]) -> Done:
    """Do what is left of a shard, and return what came of it, errors of ours included.

    `tell` is called twice a second, and says whether to stop.
    """
    stop = asyncio.Event()

    def told(progress: Progress) -> None:
        if tell(progress):
            stop.set()

    schema = work.form.schema
    check = make_check(dict(schema)) if schema is not None else None
    try:
        await _look_for_sign(work)
        folder = shard_folder(work.folder, shard.number)
        with await _journal(work, folder) as journal:
            skip(journal, work.form, work.folder, shard.indices)
            rows = rows_from(
                [shard.of(work.parts)], [replace(work.reads[shard.file], lines=shard.lines)],
                work.form, work.kind, work.folder, journal.done, first=shard.first,
            )  # fmt: skip
            ended = await run_batch(
                rows, journal, work.endpoints, _share(work, shard), told,
                stop=stop, check=check.fault if check else None,
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
