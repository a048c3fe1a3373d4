"""The router before engines that generate nothing."""

from dataclasses import replace

import pytest

import virtual_time
from pooling_engine import ANSWERS, Pooling
from router_backends import QUICK, bench

LIMITS = replace(QUICK, probe_period_s=0.2)


@pytest.mark.parametrize(("path", "status"), [*zip(ANSWERS, (400, 404, 405, 501), strict=True)])
def test_replicas_that_answer_what_their_model_is_for_are_alive_and_asked(path, status):
    async def play() -> None:
        engines = [Pooling(path, ANSWERS[path], status) for _ in range(2)]
        async with bench(*engines, limits=LIMITS) as b:
            await b.alive(2)
            assert (await b.ask(path, stream=False)).status == 200
            engines[0].fails = True
            await b.alive(1)

    virtual_time.run(play())


def test_a_replica_that_serves_nothing_is_not_alive():
    async def play() -> None:
        engines = [Pooling("/elsewhere", {}, 404), Pooling("/pooling", ANSWERS["/pooling"], 404)]
        async with bench(*engines) as b:
            await b.alive(1)
            assert b.replica(1).breaker.state == "closed"

    virtual_time.run(play())
