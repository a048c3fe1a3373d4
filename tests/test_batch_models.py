"""A 404 of a model that is there: the server has lost it, and no row pays for that."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web

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

GONE = "The model `fake` does not exist."


@pytest.mark.parametrize("words", [GONE, ""])
@pytest.mark.parametrize(("count", "since", "until"), [(2000, 10, 130), (8, 0.05, 300)])
def test_a_model_that_is_loaded_again_costs_no_row(count, since, until, words) -> None:
    async def answer(server, prompt):
        if since < asyncio.get_running_loop().time() - began[0] < until:
            return refusal(404, words) if words else web.Response(status=404, text="no backend")
        return await echo(server, prompt)

    async def main() -> Job:
        async with BatchServer(answer) as server:
            began.append(asyncio.get_running_loop().time())
            most = 16 if count > 16 else 1
            return await run_job(rows(count), server.endpoint, start=most, most=most, tries=1)

    began: list[float] = []
    done = virtual_time.run(main())
    check_answered(done, count)
    assert done.ended.progress.elapsed_s > until
    assert sum(done.ended.progress.faults.values()) < 400
    assert any("404" in progress.waiting for progress in done.told)


def test_a_server_without_the_model_behind_a_balancer_costs_no_row() -> None:
    async def answer(server, prompt):
        # Half of all, but no row so often that it would be its own fault.
        if len(server.prompts) <= 20 or Counter(server.prompts)[prompt] <= 1:
            return refusal(404, GONE)
        return await echo(server, prompt)

    done, _ = job(answer, count=200, tries=1, listed=frozenset({"fake"}))
    check_answered(done, 200)


def test_a_replica_that_has_lost_its_model_gives_its_rows_to_the_other() -> None:
    gone = always(lambda: refusal(404, GONE))

    async def main() -> Job:
        async with BatchServer(gone) as without, BatchServer() as with_it:
            done = await run_job(rows(200), without.endpoint, with_it.endpoint, tries=1)
            assert len(without.prompts) < 60
            return done

    check_answered(virtual_time.run(main()), 200)


@pytest.mark.parametrize("count", [40, 200])
def test_rows_that_always_get_404_end_although_their_model_is_there(count: int) -> None:
    async def answer(server, prompt):
        if prompt in ("row-3", "row-39"):
            return refusal(404, "there is no such picture")
        return await echo(server, prompt)

    done, server = job(answer, count=count)
    outcomes = done.journal.outcomes()
    assert {n for n, outcome in outcomes.items() if not outcome.good} == {3, 39}
    assert done.ended.reason == "complete"
    assert len(server.prompts) < count + 300
    assert "no such picture" in done.journal.lines()[3]["error"]["message"]
