"""A batch job on Ray: what its tasks are told, and how they are watched."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from ropeway.batch.job import ShardedJob
from ropeway.batch.journal.totals import Totals
from ropeway.batch.progress import Progress, Rates
from ropeway.batch.run import Ended, Settings
from ropeway.batch.sending.servers import Servers
from ropeway.batch.shards.on_ray import EACH, connected, machines, run_on_ray
from ropeway.endpoint import event_loop
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
) -> tuple[Ended, Totals]:
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
        # Each has a row in flight, at least.
        count = min(left, crew.tasks or EACH * nodes, settings.limits.most)
        screen.say(
            phrase(
                "{shards} on Ray, {count} at once, {machines}",
                shards=counted(left, "shard"),
                count=count,
                machines=counted(nodes, "machine"),
            )
        )

        async def run() -> tuple[Ended, Totals]:
            with event_loop.stopped_by_interrupt(signal.SIGTERM) as stop:
                return await run_on_ray(
                    ray, job, servers.endpoints, settings, count, tell, stop=stop
                )

        return event_loop.run(run())
