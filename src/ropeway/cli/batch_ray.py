"""A batch job on Ray: what its tasks are told, and how they are watched."""

import asyncio
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.batch.job import ShardedJob
from ropeway.batch.on_ray import EACH, connected, machines, run_on_ray
from ropeway.batch.one_shard import Work, put_sign
from ropeway.batch.parts import Part
from ropeway.batch.progress import Price, Progress, Rates
from ropeway.batch.replay import Replay
from ropeway.batch.run import Ended, Settings
from ropeway.batch.servers import Servers
from ropeway.bench.run import stopped_by_interrupt
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.units import counted


@dataclass(frozen=True)
class Crew:
    """Which Ray does a job, and in how many tasks at once; None: as it comes."""

    address: str | None
    tasks: int | None


def send_on_ray(
    job: ShardedJob,
    servers: Servers,
    settings: Settings,
    crew: Crew,
    tell: Callable[[Progress], None],
    screen: Screen,
) -> tuple[Ended, Replay]:
    """Send what is not done, in tasks; return how it ended, and what there is now.

    Without anything left, no Ray is asked for.
    """
    if not job.to_do():
        done = Progress(job.found.rows, job.journal.counts, 0, 0, {}, (), Rates(), 0.0)
        tell(done)
        return Ended("complete", done), job.journal
    screen.say(phrase("connecting to a Ray, or starting one"))
    with connected(crew.address) as ray:
        nodes, left = machines(ray, servers.endpoints), len(job.to_do())
        count = min(left, crew.tasks or EACH * nodes)
        screen.say(
            phrase(
                "{shards} on Ray, {count} at once, {machines}",
                shards=counted(left, "shard"),
                count=count,
                machines=counted(nodes, "machine"),
            )
        )
        work = _work(job, servers, _of_a_task(settings, count))

        async def run() -> tuple[Ended, Replay]:
            with stopped_by_interrupt(signal.SIGTERM) as stop:
                return await run_on_ray(ray, job, work, settings, count, tell, stop=stop)

        return asyncio.run(run())


def _work(job: ShardedJob, servers: Servers, settings: Settings) -> Work:
    folder, sign = job.order.folder.absolute(), secrets.token_hex(16)
    put_sign(folder, sign)
    pictures = job.form.pictures_from
    return Work(
        folder=folder,
        sign=sign,
        parts=tuple(_anywhere(part) for part in job.parts),
        reads=job.found.parts,
        form=replace(job.form, pictures_from=pictures and pictures.absolute()),
        kind=job.found.kind,
        job=job.manifest.job,
        rows=job.found.rows,
        again=job.order.again,
        endpoints=servers.endpoints,
        settings=settings,
    )


def _anywhere(part: Part) -> Part:
    """Return a file under paths that do not depend on where a process runs."""
    path = part.path if part.store is not None else str(Path(part.path).absolute())
    return replace(part, path=path, folder=part.folder.absolute())


def _of_a_task(settings: Settings, count: int) -> Settings:
    """Return the settings of one of so many tasks: its share of the rows in flight, and of what is
    judged over all of them only what can be."""
    limits, price = settings.limits, settings.price
    return replace(
        settings,
        limits=replace(
            limits, start=max(1, limits.start // count), most=max(1, limits.most // count)
        ),
        max_errors=1.0,
        max_cost=None,
        price=price and Price(0.0, price.prompt, price.answer),
    )
