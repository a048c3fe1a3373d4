"""Replicas that die, come back, or refuse us: no row is lost or pays for it; poison is found."""

import asyncio
import contextlib
import resource
import socket
from collections import Counter

import pytest

import virtual_time
from batch_server import (
    BatchServer,
    Job,
    always,
    check_answered,
    echo,
    job,
    refusal,
    rows,
    run_job,
)
from ports import free_port
from ropeway.batch.rows import Outcome
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import ServerAway


def test_an_endpoint_that_refuses_us_leaves_its_rows_to_the_other() -> None:
    refuse = always(lambda: refusal(401, "Unauthorized"))

    async def main() -> Job:
        async with BatchServer(refuse) as closed, BatchServer() as open_:
            done = await run_job(rows(100), closed.endpoint, open_.endpoint)
            assert len(closed.prompts) < 20
            return done

    done = virtual_time.run(main())
    check_answered(done, 100)
    assert [replica.state for replica in done.ended.progress.replicas] == ["barred", "working"]


def test_rows_of_a_replica_that_dies_come_back_uncharged_and_it_joins_again() -> None:
    seen: list[int] = []

    async def main() -> Job:
        async with BatchServer(seconds=1.0) as one, BatchServer(seconds=1.0) as two:

            async def kill() -> None:
                await asyncio.sleep(1.5)
                assert one.in_flight == 8
                await one.die()
                seen.append(len(one.prompts))
                await asyncio.sleep(20)
                await one.up()
                await asyncio.sleep(10)
                seen.append(one.in_flight)

            killing = asyncio.create_task(kill())
            done = await run_job(rows(500), one.endpoint, two.endpoint, tries=1)
            await killing
            assert len(one.prompts) > seen[0]
            return done

    done = virtual_time.run(main())
    check_answered(done, 500)
    assert seen[1] == 8  # full again within ten seconds
    assert done.ended.progress.again == 8
    assert any(progress.replicas[0].state == "away" for progress in done.told)


def test_a_replica_that_is_restarted_at_once_has_died_too() -> None:
    async def main() -> Job:
        async with BatchServer() as server:

            async def restart() -> None:
                await asyncio.sleep(1.05)
                await server.die()
                await server.up()

            restarting = asyncio.create_task(restart())
            done = await run_job(rows(400), server.endpoint, tries=1)
            await restarting
            return done

    check_answered(virtual_time.run(main()), 400)


def test_an_engine_that_died_behind_its_server_has_died() -> None:
    async def answer(server, prompt):
        if prompt == "row-30" and server.prompts.count(prompt) == 1:
            server.unwell = 503
            asyncio.get_running_loop().call_later(10, setattr, server, "unwell", 200)
        if server.unwell == 503:
            return refusal(500, "EngineCore encountered an issue")
        return await echo(server, prompt)

    done, _ = job(answer, count=200, tries=1)
    check_answered(done, 200)


def test_a_row_with_which_engines_die_twice_is_poison_and_its_neighbours_are_not() -> None:
    deaths: list[str] = []

    async def main() -> Job:
        server = BatchServer()

        async def answer(server_, prompt):
            await asyncio.sleep(0.05)
            if prompt == "row-50":
                deaths.append(prompt)
                restarting.append(asyncio.create_task(restart()))
                await asyncio.sleep(60)
            return await echo(server_, prompt)

        async def restart() -> None:
            await server.die()
            await asyncio.sleep(5)
            await server.up()

        restarting: list[asyncio.Task[None]] = []
        server.answer = answer
        async with server:
            done = await run_job(rows(200), server.endpoint, tries=1)
            await asyncio.gather(*restarting)
            return done

    done = virtual_time.run(main())
    outcomes = done.journal.outcomes()
    assert outcomes[50] is Outcome.POISON
    assert Counter(outcomes.values()) == {Outcome.ANSWERED: 199, Outcome.POISON: 1}
    assert len(deaths) == 2
    assert done.journal.lines()[50]["error"]["code"] == "poison"


def test_a_network_that_flaps_makes_no_row_poison() -> None:
    async def main() -> Job:
        async with BatchServer(seconds=5.0) as server:
            loop = asyncio.get_running_loop()
            for at in (2, 4, 6):
                loop.call_later(at, server.cut)
            return await run_job(rows(24), server.endpoint, tries=1)

    done = virtual_time.run(main())
    check_answered(done, 24)
    assert done.ended.progress.faults == {"connection broke": 24}


def test_a_network_that_is_away_makes_no_row_poison() -> None:
    async def main() -> Job:
        async with BatchServer(seconds=100.0) as server:
            loop = asyncio.get_running_loop()
            for at, away in ((5, True), (65, False), (80, True), (140, False)):
                loop.call_later(at, setattr, server, "hung", away)
            return await run_job(rows(8), server.endpoint, tries=1)

    done = virtual_time.run(main())
    check_answered(done, 8)
    assert done.ended.progress.again == 16


def test_what_an_engine_has_forgotten_is_sent_again() -> None:
    forgotten: list[str] = []

    async def answer(server, prompt):
        if int(prompt.removeprefix("row-")) % 10 == 0 and server.prompts.count(prompt) == 1:
            forgotten.append(prompt)
            await asyncio.sleep(100_000)
        await asyncio.sleep(1.5)
        return await echo(server, prompt)

    async def main() -> Job:
        async with BatchServer(answer) as server:
            server.figures = lambda: (
                f"vllm:num_requests_running {server.in_flight - len(forgotten)}\n"
                "vllm:num_requests_waiting 0\n"
            )
            return await run_job(rows(40), server.endpoint, tries=1)

    done = virtual_time.run(main())
    check_answered(done, 40)
    assert done.ended.progress.faults == {"forgotten": 4}
    assert 60 < done.ended.progress.elapsed_s < 120


def test_what_is_in_flight_outlives_our_own_want_of_files() -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main() -> Job:
        async with BatchServer(seconds=20.0) as server:
            loop = asyncio.get_running_loop()
            none = (0, usual[1])
            loop.call_later(1, resource.setrlimit, resource.RLIMIT_NOFILE, none)
            loop.call_later(15, resource.setrlimit, resource.RLIMIT_NOFILE, usual)
            return await run_job(rows(8), server.endpoint, tries=1)

    try:
        done = virtual_time.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    check_answered(done, 8)
    assert done.ended.progress.again == 0


def test_an_endpoint_that_is_away_at_first_joins_later() -> None:
    async def main() -> Job:
        server = BatchServer(port=free_port())

        async def late() -> None:
            await asyncio.sleep(30)
            await server.up()

        starting = asyncio.create_task(late())
        done = await run_job(rows(40), server.endpoint, tries=1)
        await starting
        await server.die()
        return done

    done = virtual_time.run(main())
    check_answered(done, 40)
    assert any("no server answers" in progress.waiting for progress in done.told)
    assert done.ended.progress.waiting == ""


def test_a_row_that_still_waits_for_a_connection_was_in_no_engine() -> None:
    async def answer(server, prompt):
        response = await echo(server, prompt)
        response.force_close()
        return response

    async def main() -> Job:
        async with BatchServer(answer) as server:

            async def stall_and_die() -> None:
                await asyncio.sleep(1.05)
                await server.close_port()
                with contextlib.ExitStack() as stack:  # its port takes no more connections
                    at = ("127.0.0.1", server.port)
                    stack.enter_context(socket.create_server(at, backlog=0))
                    for _ in range(4):
                        one = stack.enter_context(socket.socket())
                        one.setblocking(False)
                        one.connect_ex(at)
                    await asyncio.sleep(2)
                await server.die()
                await asyncio.sleep(5)
                await server.up()

            dying = asyncio.create_task(stall_and_die())
            done = await run_job(rows(200), server.endpoint, tries=1)
            await dying
            return done

    done = virtual_time.run(main())
    check_answered(done, 200)
    assert done.ended.progress.again == 0


def test_patience_with_endpoints_that_are_away_has_an_end() -> None:
    away = Endpoint(f"http://127.0.0.1:{free_port()}/v1")
    done = virtual_time.run(run_job(rows(40), away, patience_s=30))
    assert done.ended.reason == "endpoints"
    assert isinstance(done.ended.failure, ServerAway)
    assert away.url in done.ended.failure.evidence[0]
    assert 30 <= done.ended.progress.elapsed_s < 31
    assert done.journal.results == []


def test_a_host_that_vanishes_does_not_hold_its_rows_for_ever() -> None:
    async def main() -> Job:
        async with BatchServer() as one, BatchServer() as two:

            async def vanish() -> None:
                await asyncio.sleep(1.05)
                one.seconds, one.hung = 100_000, True

            vanishing = asyncio.create_task(vanish())
            done = await run_job(rows(400), one.endpoint, two.endpoint, tries=1)
            await vanishing
            return done

    check_answered(virtual_time.run(main()), 400)


def test_what_a_replica_took_before_its_port_was_closed_is_given_up_with_it() -> None:
    async def answer(server, prompt):
        if prompt in ("row-20", "row-21"):  # these get no reset either
            await asyncio.sleep(100_000)
        response = await echo(server, prompt)
        response.force_close()
        return response

    async def main() -> Job:
        async with BatchServer(answer) as one, BatchServer() as two:

            async def vanish() -> None:
                await asyncio.sleep(1.05)
                await one.close_port()

            vanishing = asyncio.create_task(vanish())
            done = await run_job(rows(400), one.endpoint, two.endpoint, tries=1)
            await vanishing
            return done

    done = virtual_time.run(main())
    check_answered(done, 400)
    assert done.ended.progress.elapsed_s < 60


def test_a_row_that_is_turned_away_was_in_no_engine() -> None:
    async def answer(server, prompt):
        if prompt == "row-30" and server.prompts.count(prompt) <= 3:
            server.unwell = 503
            asyncio.get_running_loop().call_later(5, setattr, server, "unwell", 200)
        if server.unwell == 503:
            return refusal(503, "no healthy upstream")
        return await echo(server, prompt)

    done, _ = job(answer, count=100, tries=1, most=1, start=1)
    check_answered(done, 100)


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
def test_who_answers_by_single_bytes_is_not_waited_for_without_end(
    begin: bytes, piece: bytes
) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = contextlib.suppress(ConnectionError, asyncio.IncompleteReadError)
        with contextlib.closing(writer), gone:
            while not (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST"):
                writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            writer.write(begin)
            for _ in range(3600):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(1)

    async def main() -> tuple[Job, float]:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        began = loop.time()
        async with server:
            done = await run_job(rows(1), Endpoint(url), tries=1, silence_s=20)
        return done, loop.time() - began

    done, seconds = virtual_time.run(main())
    assert done.journal.outcomes() == {0: Outcome.FAILED}
    assert "no whole answer within 1 min 10 s" in done.journal.lines()[0]["error"]["message"]
    assert 70 <= seconds <= 80
    assert done.ended.progress.faults == {"answer too slow": 1}
