"""A server for tests of batch jobs, whose every answer a test decides, and jobs against it.

It runs in the test's own loop, so that virtual time serves both. It can die, with all that is in
flight, and come back at the same port.
"""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from aiohttp import web

import virtual_time
from batch_rows import files_of_at_most
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.segments import Record, read_segments, records
from ropeway.batch.progress import Progress
from ropeway.batch.rows import Outcome, Result, Row
from ropeway.batch.run import Ended, Settings, run_batch
from ropeway.batch.sending.limits import Limits
from ropeway.batch.sending.send import Check
from ropeway.endpoint.address import Endpoint
from ropeway.errors import RopewayError

Answerer = Callable[["BatchServer", str], Awaitable[web.StreamResponse]]


def completion(text: str, reason: str | None = "stop") -> web.Response:
    """An answer as vLLM gives it, with 3 tokens of prompt and 2 of text."""
    choice = {"index": 0, "text": text, "finish_reason": reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return web.json_response({"object": "text_completion", "choices": [choice], "usage": usage})


def refusal(status: int, message: str, **headers: str) -> web.Response:
    """A refusal in vLLM's words."""
    error = {"error": {"message": message, "code": status}}
    return web.json_response(error, status=status, headers=headers)


def always(response: Callable[[], web.Response]) -> Answerer:
    """Answer whatever comes so."""

    async def answer(_: "BatchServer", __: str) -> web.StreamResponse:
        return response()

    return answer


async def echo(server: "BatchServer", prompt: str) -> web.StreamResponse:
    """Answer with the prompt itself, after a while."""
    await asyncio.sleep(server.seconds)
    return completion(prompt)


@dataclass
class BatchServer:
    """Answers as `answer` does; `figures` is what `/metrics` says, None: it has none.

    unwell  the status of `/health`; `hung`: it never answers that
    prompts, bodies, ids, asked  of the requests in the order in which they came: `asked` is the
                                 path and the key
    """

    answer: Answerer = echo
    seconds: float = 0.1
    figures: Callable[[], str] | None = None
    prompts: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    port: int = 0
    unwell: int = 200
    hung: bool = False
    _runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(f"http://127.0.0.1:{self.port}/v1")

    async def __aenter__(self) -> "BatchServer":
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()

    async def up(self) -> None:
        """Listen, at the same port as before."""
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/{path:.*}", self._post)
        app.router.add_get("/{path:.*}", self._get)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def close_port(self) -> None:
        """Take no more connections, and keep those that are there."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()

    async def die(self) -> None:
        """Close the port and reset every connection."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        _reset(runner)
        await runner.cleanup()

    def cut(self) -> None:
        """Reset every connection, as a network between does, and stay well."""
        assert self._runner is not None
        _reset(self._runner)

    async def _get(self, request: web.Request) -> web.Response:
        if self.hung:
            await asyncio.sleep(100_000)
        if request.path == "/metrics":
            if self.figures is None:
                return web.Response(status=404)
            return web.Response(text=self.figures())
        return web.Response(status=self.unwell)

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        prompt = json.loads(body)["prompt"]
        self.prompts.append(prompt)
        self.bodies.append(body)
        self.asked.append((request.path, request.headers.get("Authorization")))
        self.ids.append(request.headers["X-Request-Id"])
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            return await self.answer(self, prompt)
        finally:
            self.in_flight -= 1


def _reset(runner: web.AppRunner) -> None:
    assert runner.server is not None
    for handler in runner.server.connections:
        if handler.transport is not None:
            handler.transport.abort()


@dataclass
class Kept:
    """What is in a journal, on the disk."""

    results: list[Result]

    @classmethod
    def of(cls, folder: Path) -> "Kept":
        """Read it."""
        found = (one for segment in read_segments(folder, []) for one in records(segment))
        return cls(
            [
                Result(one.ordinal, Outcome(one.outcome), bytes(one.line), one.prompt, one.answer)
                for one in found
                if isinstance(one, Record)
            ]
        )

    def outcomes(self) -> dict[int, Outcome]:
        """What became of each row, of which each has one only."""
        assert len({result.ordinal for result in self.results}) == len(self.results)
        return {result.ordinal: result.outcome for result in self.results}

    def lines(self) -> dict[int, dict]:
        """The lines, by ordinal, each of which is one line of JSON."""
        for result in self.results:
            assert result.line.endswith(b"\n")
            assert result.line.count(b"\n") == 1
        return {result.ordinal: json.loads(result.line) for result in self.results}

    def texts(self) -> dict[int, str]:
        """What was answered, by ordinal."""
        good = {result.ordinal for result in self.results if result.outcome.good}
        lines = self.lines()
        return {n: lines[n]["response"]["body"]["choices"][0]["text"] for n in good}


def row(
    ordinal: int,
    prompt: str = "",
    *,
    prefix: int | None = None,
    tokens: int = 10,
    model: str = "fake",
) -> Row:
    """A completion whose prompt is its name, if none is given."""
    name = f"row-{ordinal}"
    body = json.dumps({"model": model, "prompt": prompt or name}).encode()
    prefix = ordinal if prefix is None else prefix
    return Row(ordinal, name, "/v1/completions", body, prefix, tokens, model)


def rows(count: int) -> Iterator[Row]:
    return (row(ordinal) for ordinal in range(count))


@dataclass
class Job:
    """A job that was run, with what came of it."""

    ended: Ended
    journal: Kept
    told: list[Progress]


async def run_job(
    source: Iterator[Row],
    *endpoints: Endpoint,
    keep: type[Journal] = Journal,
    disk: int | None = None,
    stop: asyncio.Event | None = None,
    start: int = 8,
    most: int = 8,
    tries: int = 5,
    dedupe: bool = False,
    most_bytes: int = Limits.most_bytes,
    total: int = 0,
    check: Check | None = None,
    **settings: object,
) -> Job:
    """Run a job to its end.

    disk   the bytes that its journal may have
    total  how many rows the source has, where these are to be read only then
    """
    everything = source if total else list(source)
    told: list[Progress] = []
    limits = Limits(start=start, most=most, tries=tries, dedupe=dedupe, most_bytes=most_bytes)
    count = total or len(everything)
    with (
        TemporaryDirectory() as folder,
        contextlib.suppress(RopewayError),  # a full disk's, once more
        keep.open(Path(folder), rows=count, job="a job") as journal,
        files_of_at_most(disk) if disk else contextlib.nullcontext(),
    ):

        def tell(progress: Progress) -> None:
            told.append(progress)
            with contextlib.suppress(RopewayError):  # it ends the job
                journal.flush()  # its own thread knows nothing of virtual time

        ended = await run_batch(
            iter(everything),
            journal,
            endpoints,
            Settings(rows=count, tokens=10 * count, limits=limits, **settings),
            tell,
            stop=stop,
            check=check,
        )
        assert journal.again == 0
        done = Job(ended, Kept.of(Path(folder)), told)
    return done


def job(answer=echo, count: int = 40, **options) -> tuple[Job, BatchServer]:
    """Run a job of so many rows against one server, in virtual time."""
    server = BatchServer(answer)

    async def main() -> Job:
        async with server:
            return await run_job(options.pop("source", rows(count)), server.endpoint, **options)

    return virtual_time.run(main()), server


def check_answered(done: Job, count: int) -> None:
    """Every row has its own answer, once, and all of it is committed."""
    assert done.ended.failure is None
    assert done.ended.reason == "complete"
    assert done.journal.texts() == {n: f"row-{n}" for n in range(count)}
    assert done.ended.progress.done == {Outcome.ANSWERED: count}
