"""The shards of a job as Ray tasks: Ray carries them, and what is done in one is `one_shard`.

A task that dies is begun anew by Ray, perhaps elsewhere, and goes on from its journal. Tasks tell
an actor how far they are, and hear from it whether to stop. Nothing else goes through Ray: rows are
read from, and results are written to, what all machines see.
"""

import asyncio
import logging
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ropeway
from ropeway.batch.job import ShardedJob
from ropeway.batch.journal.totals import Totals
from ropeway.batch.progress import Progress
from ropeway.batch.rows import Outcome
from ropeway.batch.run import Course, Ended, Settings
from ropeway.batch.shards.board import Board
from ropeway.batch.shards.one_shard import Done, Work, make_work, run_shard, take_back
from ropeway.batch.shards.shard import Shard, read_shards
from ropeway.endpoint import event_loop
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import phrase
from ropeway.spec.types import is_loopback

_LOOK_S, _ASK_S, _PORT_S = 0.5, 30.0, 10.0
# Of a task whose process or machine died; what it asks for is in its journal each time.
_RETRIES = 5
EACH = 2
"""Tasks at once for each machine: one sends some thousand rows a second."""
# After the grace of a task that is told to stop, until it is ended.
_SLACK_S = 30.0


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a Ray, and yield its module.

    `address`: of a cluster; `local` starts one here that ends with the job; None is the one that
    runs here, or `local`. Raises RopewayError.
    """
    try:
        import ray
    except ImportError:
        raise Refused(
            phrase("`--on ray` needs the package ray"),
            hint=phrase('in the version that the cluster has: pip install "ray[default]"'),
        ) from None
    code = {"py_modules": [str(Path(ropeway.__file__).parent)], "excludes": ["__pycache__"]}
    try:
        _ask_port(address or "")
        ray.init(
            address=address,
            runtime_env=code,  # ours, of this very version, wherever a task runs
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise RopewayError(
            phrase("Ray cannot be reached, or started"),
            where=address,
            evidence=str(error).strip().splitlines()[:3],
            hint=phrase(
                "name another with `--ray-address`, or `local` for one of this machine; "
                "`export RAY_AUTH_MODE=token` where the cluster asks for its token"
            ),
        ) from None
    try:
        # Ray prints there what its machines report, such as a worker that died.
        with redirect_stdout(sys.stderr):
            yield ray
    finally:
        ray.shutdown()


def _ask_port(address: str) -> None:
    """Raise OSError or ValueError where nothing listens.

    Ray itself would ask for minutes, in which it hears no Ctrl-C.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.hostname and url.port:  # else it is a word, such as `auto`
        socket.create_connection((url.hostname, url.port), _PORT_S).close()


def machines(ray: Any, endpoints: Sequence[Endpoint]) -> int:
    """Return how many machines the cluster has. Raises Refused where they reach no endpoint."""
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    here = [one.url for one in endpoints if is_loopback(urlsplit(one.url).hostname or "")]
    if here and nodes > 1:
        raise Refused(
            phrase("the endpoint is an address of this machine alone, and tasks run on others"),
            where=here[0],
            hint=phrase("name it with `--url` as the machines of the cluster reach it"),
        )
    return nodes


async def run_on_ray(
    ray: Any,
    job: ShardedJob,
    endpoints: Sequence[Endpoint],
    settings: Settings,
    count: int,
    tell: Callable[[Progress], None],
    *,
    stop: asyncio.Event,
) -> tuple[Ended, Totals]:
    """Do what is left of a job in `count` tasks at once; return how it ended, and what there is.

    `settings` are those of all tasks together. Set `stop` to end early. Raises RopewayError.
    """
    work = make_work(job, endpoints, settings)
    await take_back(work, job.to_do(), job.order.revoked)
    return await _Run(ray, job, work, settings, count, tell).run(stop)


class _ProgressActor:
    """An actor: where tasks tell how far they are, and hear how many they are; 0 is to stop."""

    def __init__(self, tasks: int) -> None:
        self.told: dict[int, Progress] = {}
        self.tasks = tasks

    def tell(self, number: int, progress: Progress) -> int:
        """Note how far a shard is; return how many tasks there are."""
        self.told[number] = progress
        return self.tasks

    def look(self, tasks: int) -> dict[int, Progress]:
        """Say how many tasks there are; return what was told since the last look."""
        self.tasks = tasks
        told, self.told = self.told, {}
        return told


def _do(work: Work, shard: Shard, actor: Any, tasks: int) -> Done:
    """Do a shard: what a task is, one of so many at first."""
    import ray

    asked: Any = None

    def tell(progress: Progress) -> int:
        nonlocal asked, tasks
        if asked is not None:
            if not ray.wait([asked], timeout=0)[0]:
                return tasks
            with suppress(ray.exceptions.RayError):  # its machine died: it is begun anew
                tasks = ray.get(asked)
        asked = actor.tell.remote(shard.number, progress)
        return tasks

    return event_loop.run(run_shard(work, shard, tell, tasks))


class _Run:
    def __init__(
        self,
        ray: Any,
        job: ShardedJob,
        work: Work,
        settings: Settings,
        count: int,
        tell: Callable[[Progress], None],
    ) -> None:
        self.ray, self.job, self.settings, self.count, self.tell = ray, job, settings, count, tell
        self.waiting, self.running = deque(job.to_do()), dict[Any, Shard]()
        self.board = Board(job.found.rows, job.before)
        self.before, self.course = Counter(job.journal.counts), Course(settings, time.monotonic)
        actor = ray.remote(_ProgressActor).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        self.actor = actor.remote(count)
        # The cores of a cluster are counted for engines; a task is light and limited by us.
        self.task = ray.remote(_do).options(
            name="ropeway batch", num_cpus=0, max_retries=_RETRIES, scheduling_strategy="SPREAD"
        )
        self.work = ray.put(work)

    async def run(self, stop: asyncio.Event) -> tuple[Ended, Totals]:
        """Begin tasks, look at them, and tell, until none is left."""
        course = self.course
        while self.running or (self.waiting and course.reason is None):
            while self.waiting and len(self.running) < self.count and course.reason is None:
                tasks, shard = self._tasks(), self.waiting.popleft()
                self.running[self.task.remote(self.work, shard, self.actor, tasks)] = shard
            await asyncio.to_thread(self._look)
            progress = self._progress()
            self._judge(stop, progress)
            self.tell(progress)
        progress = self._progress()
        self.tell(progress)
        return Ended(course.reason or "complete", progress, course.failure), self.board.kept()

    def _tasks(self) -> int:
        """Return how many tasks share the rows in flight, of which there are ever fewer."""
        return min(self.count, len(self.running) + len(self.waiting))

    def _look(self) -> None:
        """Take what tasks tell, and what has ended of them."""
        ray = self.ray
        ended, _ = ray.wait(list(self.running), num_returns=1, timeout=_LOOK_S)
        with suppress(ray.exceptions.RayError):  # it is on its way, or its machine died
            tasks = 0 if self.course.reason is not None else self._tasks()
            told = ray.get(self.actor.look.remote(tasks), timeout=_ASK_S)
            self.board.take(told)
        for task in ended:
            shard = self.running.pop(task)
            done = self._result(task, shard)
            if done.progress is not None:
                self.board.take({shard.number: done.progress})
            if done.kept is None:
                (kept,) = read_shards(self.job.order.folder, [shard], frozenset())
                done = replace(done, kept=kept)
            if done.segment is not None:
                # A network file system asks its server for a name, and then for its folder too.
                done.segment.exists()
            self.board.ended[shard.number] = done
            if done.reason != "complete":
                self.course.end(done.reason, done.failure)

    def _result(self, task: Any, shard: Shard) -> Done:
        try:
            done: Done = self.ray.get(task)
        except self.ray.exceptions.RayError as error:
            failure = RopewayError(
                phrase("the task of shard {number} failed", number=shard.number),
                where=self.job.parts[shard.file].name,
                evidence=str(error).strip().splitlines()[-3:],
                hint=phrase("what was committed is kept; the same command goes on from there"),
            )
            return Done("broken", failure=failure)
        return done

    def _judge(self, stop: asyncio.Event, progress: Progress) -> None:
        """End what is to end."""
        course = self.course
        if stop.is_set():
            course.end("stopped")
        settled = Counter(progress.done) - self.before
        del settled[Outcome.SKIPPED]  # these are never sent
        course.judge(settled, Counter(progress.faults), progress.cost)
        grace_s = self.settings.grace_s + _SLACK_S
        if course.reason and time.monotonic() > course.ended_at + grace_s:
            for task in self.running:
                self.ray.cancel(task, force=True)

    def _progress(self) -> Progress:
        progress = self.board.progress(time.monotonic() - self.course.began)
        fresh, rest = progress.finished - self.before.total(), progress.rows - progress.finished
        return self.course.foreseen(progress, fresh, rest)
