"""What clients see when replicas fail, which of these are trusted, and whom a failure concerns."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ropeway.router.breaker import State
from router_backends import (
    ANSWER,
    CHAT,
    COMPLETIONS,
    QUICK,
    TEXT,
    Bench,
    Engine,
    Fault,
    Reply,
    bench,
    fault,
    scene,
    until,
)  # fmt: skip

ALL = len(ANSWER)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("kind", "after"), [("cut", -1), ("cut", 0), ("500", 0), ("503", 0)])
@scene(lambda kind, after: fault(kind, after), Engine())
async def test_another_replica_answers(b: Bench, streamed: bool) -> None:
    reply = await b.ask(stream=streamed)
    assert (reply.status, reply.headers["X-Ropeway-Replica"]) == (200, "r1")
    text = reply.text if streamed else json.loads(reply.content)["choices"][0]["text"]
    assert text == TEXT, "an answer that is not streamed is never cut"
    assert [len(engine.bodies) for engine in b.engines] == [1, 1]
    assert b.engines[0].bodies == b.engines[1].bodies
    assert b.router.totals.retried == 1
    assert b.replica(0).failures == 1


@pytest.mark.parametrize("kind", ["error", "end", "half"])
@scene(lambda kind: fault(kind), Engine())
async def test_a_stream_that_fails_before_its_first_token_is_answered_by_another(b: Bench) -> None:
    reply = await b.ask()
    assert (reply.text, reply.error, reply.done) == (TEXT, None, True)
    assert reply.headers["X-Ropeway-Replica"] == "r1"


@scene(fault("hang"), Engine(), limits=replace(QUICK, first_byte_s=0.3))
async def test_a_first_byte_that_never_comes_is_waited_for_so_long_and_no_longer(b: Bench) -> None:
    reply = await b.ask()
    assert (reply.text, reply.headers["X-Ropeway-Replica"]) == (TEXT, "r1")
    assert b.engines[0].given_up == 1
    assert "0.3 s" in b.replica(0).last_failure


@scene(fault("cut", -1))
async def test_with_no_other_replica_the_error_says_what_happened(b: Bench) -> None:
    reply = await b.ask()
    error = json.loads(reply.content)["error"]
    assert (reply.status, error["code"]) == (502, 502)
    assert "r0: the connection broke" in error["message"]
    assert "no other replica is alive" in error["message"]


@scene(fault("500"))
async def test_what_the_last_replica_said_of_its_failure_is_handed_on(b: Bench) -> None:
    reply = await b.ask()
    assert (reply.status, json.loads(reply.content)["error"]["message"]) == (500, "told to")


@scene(*(fault("cut", -1) for _ in range(4)))
async def test_a_request_that_kills_replicas_does_not_kill_them_all(b: Bench) -> None:
    assert (await b.ask()).status == 502
    assert sum(len(engine.bodies) for engine in b.engines) == QUICK.deaths == 2


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("kind", ["cut", "half", "end", "error", "abort", "hang"])
@pytest.mark.parametrize("after", [1, 3, 5, 9, ALL])
@scene(lambda kind, after: fault(kind, after), Engine(), limits=replace(QUICK, stall_s=0.3))
async def test_a_stream_goes_on_elsewhere_and_nobody_notices(
    b: Bench, path: str, after: int
) -> None:
    options = {"include_usage": True}
    reply = await b.ask(path, max_tokens=ALL, stream_options=options)
    assert (reply.text, reply.error, reply.done) == (TEXT, None, True)
    assert len({chunk["id"] for chunk in reply.chunks}) == 1, "one answer has one name"
    roles = [choice for choice in reply.choices if "role" in choice.get("delta", {})]
    assert len(roles) == (path == CHAT)
    assert len(reply.finish) == 1
    if after < ALL:
        assert reply.chunks[-1]["usage"] == {
            "prompt_tokens": 10, "completion_tokens": ALL, "total_tokens": 10 + ALL
        }  # fmt: skip
    assert b.router.totals.continued == 1


@pytest.mark.parametrize("tokenizes", [True, False])
@scene(fault("cut", 4), lambda tokenizes: Engine(tokenizes=tokenizes))
async def test_the_limit_on_tokens_holds_over_both_replicas(b: Bench) -> None:
    reply = await b.ask(max_tokens=7)
    assert (reply.text, reply.finish) == ("".join(ANSWER[:7]), ["length"])
    assert b.engines[1].bodies[0]["max_tokens"] == 3


@scene(fault("cut", 4), Engine())
async def test_all_tokens_but_the_finish_mark_is_a_whole_answer(b: Bench) -> None:
    reply = await b.ask(max_tokens=4)
    assert (reply.text, reply.finish, reply.done) == ("".join(ANSWER[:4]), ["length"], True)
    assert b.engines[1].bodies == []


@scene(fault("undone", ALL + 1), Engine())
async def test_a_finished_answer_without_the_mark_of_the_end_gets_it(b: Bench) -> None:
    reply = await b.ask()
    assert (reply.text, reply.finish, reply.done) == (TEXT, ["stop"], True)
    assert b.engines[1].bodies == []


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    "field", [{"n": 2}, {"logprobs": 1}, {"tools": [{}]}, {"response_format": {"type": "x"}}]
)
@pytest.mark.parametrize("kind", ["cut", "half", "end", "error"])
@scene(lambda kind: fault(kind, 2), Engine())
async def test_what_cannot_go_on_ends_with_an_error(b: Bench, path: str, field: Any) -> None:
    reply = await b.ask(path, **field)
    assert (reply.status, reply.text) == (200, "".join(ANSWER[:2]))
    assert reply.error is not None
    assert reply.error["code"] == 502
    assert next(iter(field)) in reply.error["message"]
    assert "r0" in reply.error["message"]
    assert not reply.done, "no mark of a whole answer behind a broken one"
    assert b.engines[1].bodies == []
    assert b.router.totals.broken == 1


@scene(replace(fault("cut", 1), reasoning=("hm", ", well")), Engine())
async def test_reasoning_that_breaks_off_ends_with_an_error(b: Bench) -> None:
    reply = await b.ask(CHAT)
    assert reply.error is not None
    assert "reasoning" in reply.error["message"]


@scene(fault("cut", 2), Engine())
async def test_apis_with_named_events_get_a_named_error(b: Bench) -> None:
    reply = await b.ask("/v1/responses")
    assert reply.content.split("\n\n")[-2].startswith('event: error\ndata: {"type":"error"')


@scene(fault("cut", 2))
async def test_a_stream_with_nowhere_to_go_ends_with_an_error(b: Bench) -> None:
    reply = await b.ask()
    assert reply.error is not None
    assert "no other replica is alive" in reply.error["message"]


@pytest.mark.parametrize(
    ("kind", "after", "words"), [("cut", 3, ["r0", "r1"]), ("400", 0, ["HTTP 400"])]
)
@scene(fault("cut", 1), lambda kind, after: fault(kind, after), Engine())
async def test_a_stream_that_breaks_twice_ends_with_an_error_after_both_parts(
    b: Bench, after: int, words: list[str]
) -> None:
    reply = await b.ask()
    assert reply.text == "".join(ANSWER[: 1 + after])
    assert reply.error is not None
    assert all(word in reply.error["message"] for word in words)


@scene(fault("cut", 2), fault("cut", 3), Engine(), limits=replace(QUICK, deaths=3))
async def test_with_more_deaths_allowed_a_stream_goes_on_twice(b: Bench) -> None:
    b.replica(1).requests = 50  # then r2
    assert (await b.ask(max_tokens=ALL)).text == TEXT
    assert [len(engine.bodies) for engine in b.engines] == [1, 1, 1]


@pytest.mark.parametrize("kind", ["400", "404", "429"])
@scene(lambda kind: fault(kind), Engine())
async def test_what_clients_do_wrong_trips_nothing_and_is_not_tried_again(
    b: Bench, kind: str
) -> None:
    for _ in range(20):
        b.first(0)
        assert (await b.ask()).status == int(kind)
    assert [len(engine.bodies) for engine in b.engines] == [20, 0]
    assert b.replica(0).breaker.state is State.CLOSED
    assert b.replica(0).failures == 0


@scene(Engine(), Engine())
async def test_a_refused_connection_opens_the_breaker_at_once(b: Bench) -> None:
    b.replica(0).url = "http://127.0.0.1:9"  # the discard port: nobody listens
    assert (await b.ask()).done
    assert not b.replica(0).breaker.alive
    assert b.router.totals.retried == 1


@scene(Engine(), limits=replace(QUICK, backoff_s=0.1, backoff_max_s=60))
async def test_an_engine_that_was_away_for_long_is_found_soon(b: Bench) -> None:
    """The back-off of one that hangs would be a minute here."""

    there, b.replica(0).url = b.replica(0).url, "http://127.0.0.1:9"
    assert (await b.ask()).status == 502
    await until(lambda: b.replica(0).last_failure and not b.replica(0).breaker.openings, 10)
    b.replica(0).url = there
    await b.alive(1, within_s=10)


@pytest.mark.parametrize("kind", ["500", "cut"])
@scene(Engine(), Engine())
async def test_failures_open_the_breaker_and_a_token_closes_it(b: Bench, kind: str) -> None:
    b.engines[0].fault = Fault(kind, -1, probes=True)
    for _ in range(QUICK.failures):
        b.first(0)
        assert (await b.ask()).done
    await b.alive(1)
    before, probes = len(b.engines[0].bodies), b.engines[0].probes
    for _ in range(10):
        assert (await b.ask()).done
    assert len(b.engines[0].bodies) == before, "no client is sent there"
    await until(lambda: b.engines[0].probes >= probes + 2)
    assert not b.replica(0).breaker.alive, "and probes do not close it without a token"
    b.engines[0].fault = Fault()
    await b.alive(2)


@scene(fault("500"), fault("500"))
async def test_a_request_that_fails_everywhere_opens_nothing(b: Bench) -> None:
    for _ in range(10):
        assert (await b.ask()).status == 500
    assert [replica.breaker.state for replica in b.router.pool] == [State.CLOSED] * 2


@pytest.mark.parametrize("kind", ["500", "end", "error"])
@scene(lambda kind: fault(kind, probes=True), alive=0)
async def test_a_server_that_listens_and_generates_nothing_is_not_alive(b: Bench) -> None:
    await until(lambda: b.engines[0].probes >= 3)
    assert b.replica(0).breaker.state is State.UNPROVEN
    async with b.session.get(b.url + "/health") as response:
        assert response.status == 503
    reply = await b.ask()
    assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
    assert b.engines[0].bodies == []
    b.engines[0].fault = Fault()
    await b.alive(1)
    async with b.session.get(b.url + "/health") as response:
        assert response.status == 200


@scene(Engine(), limits=replace(QUICK, probe_period_s=0.2, probe_timeout_s=0.3))
async def test_a_queue_that_is_long_is_not_a_replica_that_hangs(b: Bench) -> None:
    """Probes wait in the queue; the counter of generated tokens shows that it works."""

    busy = b.engines[0]
    busy.fault = Fault("hang", probes=True)
    waiting = asyncio.create_task(b.ask())
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < started + 4:
        busy.tokens += 1
        await asyncio.sleep(0.05)
    assert busy.probes > 1
    assert b.replica(0).breaker.alive
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("streamed", [True, False])
@scene(Engine())
async def test_a_client_that_leaves_ends_its_request_on_the_replica_at_once(
    b: Bench, streamed: bool
) -> None:
    b.engines[0].tpot_s = 5
    task = asyncio.create_task(b.ask(stream=streamed))
    await until(lambda: b.replica(0).attempts)
    await asyncio.sleep(0.1)
    task.cancel()
    await until(lambda: b.engines[0].given_up, 4)
    assert b.replica(0).outstanding == 0
    assert b.replica(0).failures == 0, "the replica did nothing wrong"


@scene(Engine())
async def test_many_clients_that_leave_in_the_middle_of_a_stream_leave_no_connection(
    b: Bench,
) -> None:
    b.engines[0].tpot_s = 1
    tasks = [asyncio.create_task(b.ask(prompt=f"{number}")) for number in range(300)]
    await until(lambda: b.engines[0].tokens > 300)
    for task in tasks:
        task.cancel()
    await until(lambda: b.engines[0].given_up == 300, 4)
    assert (b.replica(0).outstanding, b.replica(0).failures) == (0, 0)
    assert len(b.router.upstreams) <= 1, "that of the probes"


@scene(Engine(), limits=replace(QUICK, drain_s=0.3))
async def test_what_runs_at_the_end_of_the_drain_is_told(b: Bench) -> None:
    b.engines[0].tpot_s, before = 0.5, b.engines[0].tokens
    task = asyncio.create_task(b.ask())
    await until(lambda: b.engines[0].tokens != before)
    await b.router.drain()
    reply = await task
    assert reply.error is not None
    assert "shutting down" in reply.error["message"]
    assert (await b.ask()).status == 503
    assert b.replica(0).failures == 0


@asynccontextmanager
async def process(tpot_s: float) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A replica as a process of its own, and its URL; killed at the end."""
    script = str(Path(__file__).parent / "router_backends.py")
    child = await asyncio.create_subprocess_exec(
        sys.executable, script, "0", str(tpot_s), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child, (await child.stdout.readline()).decode().strip()
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGCONT)
            child.kill()
        await child.communicate()


def with_a_process(
    tpot_s: float, play: Callable[[Bench, asyncio.subprocess.Process], Awaitable[None]], **more: Any
) -> None:
    """Two replicas here, r0 and r1, and r2 in a process."""

    async def whole() -> None:
        async with (
            process(tpot_s) as (child, url),
            bench(Engine(), Engine(), urls=(url,), **more) as b,
        ):
            await b.alive(3)
            await play(b, child)

    asyncio.run(whole())


async def _ask_r2(b: Bench, count: int, **body: Any) -> list["asyncio.Task[Reply]"]:
    """So many requests that are on their way to r2, all at once."""
    tasks = []
    for number in range(count):
        for replica in b.router.pool:
            replica.outstanding = 0 if replica.name == "r2" else 10**9
        tasks.append(asyncio.create_task(b.ask(prompt=f"{number}: ", **body)))
        await until(lambda number=number: len(b.replica(2).attempts) > number)
    for replica in b.router.pool:
        replica.outstanding = 0
    return tasks


async def _answering(b: Bench) -> None:
    """Wait until r2 streams an answer."""
    began = asyncio.get_running_loop().time()
    await until(lambda: b.replica(2).last_token > began)


@pytest.mark.real_time
def test_a_killed_replica_costs_no_client_its_answer() -> None:
    async def play(b: Bench, child: asyncio.subprocess.Process) -> None:
        tasks = await _ask_r2(b, 20, max_tokens=ALL)
        await _answering(b)
        child.kill()
        answers = await asyncio.gather(*tasks)
        assert [(each.text, each.error, each.done) for each in answers] == [(TEXT, None, True)] * 20
        await b.alive(2)
        assert b.replica(2).breaker.state in (State.OPEN, State.HALF_OPEN)

    with_a_process(0.1, play)


@pytest.mark.real_time
def test_a_stopped_replica_hangs_nobody_and_comes_back() -> None:
    async def play(b: Bench, child: asyncio.subprocess.Process) -> None:
        tasks = await _ask_r2(b, 6, max_tokens=ALL)
        tasks += await _ask_r2(b, 6, stream=False)
        await _answering(b)
        os.kill(child.pid, signal.SIGSTOP)
        for number in range(20):  # the others are not concerned
            b.first(number % 2)
            b.replica(2).outstanding = 10**9
            assert (await asyncio.wait_for(b.ask(), 60)).done
        b.replica(2).outstanding = 0
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert [each.text for each in answers[:6]] == [TEXT] * 6
        assert all(TEXT in json.loads(each.content)["choices"][0]["text"] for each in answers[6:])
        await b.alive(2)
        os.kill(child.pid, signal.SIGCONT)
        await b.alive(3)

    # Only the probe that brings no token ends these: the other limits are minutes.
    limits = replace(QUICK, probe_period_s=0.3, probe_timeout_s=0.5, first_byte_s=300, stall_s=300)
    with_a_process(0.2, play, limits=limits)


# 8 MiB: more than the kernel keeps for a socket's other side (4 MiB by default).
@scene(Engine(padding=128), limits=replace(QUICK, stall_s=1))
async def test_a_client_that_reads_slowly_is_not_its_replicas_fault(b: Bench) -> None:
    """While the answer waits for its client, the router is not waiting for the replica."""

    loop = asyncio.get_running_loop()
    body = json.dumps({"model": "fake", "prompt": "p", "stream": True}).encode()
    host, port = b.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, (host, int(port)))
        sent = f"{head}Content-Type: application/json\r\n\r\n".encode() + body
        await loop.sock_sendall(client, sent)
        await asyncio.sleep(4)  # four times what the replica may be silent
        assert len(b.replica(0).attempts) == 1, "the answer did not fit into the buffers"
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += await loop.sock_recv(client, 2**20)
    assert b"[DONE]" in received
    assert b"error" not in received
    assert b.replica(0).failures == 0


@scene(fault("hang", -1), Engine())
async def test_a_replica_that_hangs_takes_no_connections_from_the_others(b: Bench) -> None:
    hung = []
    for number in range(150):  # more than aiohttp's default limit of 100 connections
        b.replica(1).outstanding = 10**9
        b.first(0)
        hung.append(asyncio.create_task(b.ask(prompt=f"{number}: ", stream=False)))
        await until(lambda number=number: len(b.replica(0).attempts) > number)
    b.replica(1).outstanding = 0
    b.replica(0).outstanding = 10**9
    answers = await asyncio.wait_for(asyncio.gather(*(b.ask() for _ in range(20))), 5)
    assert all(each.done for each in answers)
    for task in hung:
        task.cancel()
