"""A whole job against real servers: each row gets its own outcome, and pays for its own faults."""

import asyncio
import errno
import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from aiohttp import web
from batch_endpoint import BatchEndpoint

import virtual_time
from batch_server import (
    BatchServer,
    Job,
    always,
    check_answered,
    echo,
    job,
    refusal,
    row,
    rows,
    run_job,
)
from ropeway.batch.input.pictures import PictureRow
from ropeway.batch.journal.journal import Journal
from ropeway.batch.progress import Price
from ropeway.batch.rows import Outcome, Row
from ropeway.batch.sending import replica
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import BadRequest, KeyRefused, NotOpenAI
from ropeway.errors import RopewayError
from ropeway.phrases import Phrase, phrase


def test_each_row_has_its_own_answer_and_all_is_committed() -> None:
    done, server = job(count=200)
    check_answered(done, 200)
    lines = done.journal.lines()
    assert {n: line["custom_id"] for n, line in lines.items()} == {n: f"row-{n}" for n in lines}
    assert len({line["id"] for line in lines.values()}) == 200
    assert len(set(server.ids)) == 200
    assert server.most == 8
    assert done.ended.progress.again == 0


def test_a_body_is_sent_byte_for_byte() -> None:
    body = b' {"prompt" : "row-0", "temperature":1.10,"seed":12345678901234567890123,\t"a":1,"a":2}'
    done, server = job(source=iter([Row(0, "row-0", "/v1/completions", body, 0, 10)]))
    check_answered(done, 1)
    assert server.bodies == [body]


def test_a_body_larger_than_a_megabyte_is_sent_too() -> None:
    done, server = job(source=iter([row(0, "x" * 3_000_000)]))
    assert done.ended.reason == "complete"
    assert len(server.prompts[0]) == 3_000_000


def test_a_refused_row_is_not_sent_again_and_keeps_the_servers_words() -> None:
    async def answer(server, prompt):
        if prompt == "row-3":
            return refusal(400, "this model's maximum context length is 128 tokens")
        return await echo(server, prompt)

    done, server = job(answer)
    assert done.journal.outcomes()[3] is Outcome.REFUSED
    assert Counter(done.journal.outcomes().values()) == {Outcome.ANSWERED: 39, Outcome.REFUSED: 1}
    line = done.journal.lines()[3]
    assert line["response"]["status_code"] == 400
    assert "128 tokens" in line["response"]["body"]["error"]["message"]
    assert line["error"]["code"] == "refused"
    assert "128 tokens" in line["error"]["message"]
    assert Counter(server.prompts)["row-3"] == 1


def test_a_row_fails_when_its_tries_are_used_up_and_others_do_not() -> None:
    async def answer(server, prompt):
        if prompt == "row-3" or (prompt == "row-4" and Counter(server.prompts)[prompt] < 3):
            return refusal(500, "CUDA error")
        return await echo(server, prompt)

    done, server = job(answer, tries=3)
    assert done.journal.outcomes() == {
        n: Outcome.FAILED if n == 3 else Outcome.ANSWERED for n in range(40)
    }
    assert Counter(server.prompts)["row-3"] == 3
    assert Counter(server.prompts)["row-4"] == 3
    assert done.journal.lines()[3]["error"] == {"code": "failed", "message": "500: CUDA error"}
    assert done.ended.progress.again == 4
    assert done.ended.progress.faults == {"status 500": 5}
    assert len(set(server.ids)) == len(server.ids)


def test_connections_that_are_forgotten_when_they_idle_fail_no_row() -> None:
    async def main() -> Job:
        endpoint = BatchEndpoint(idle=0.0)
        server = await endpoint.start()
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server:
            source = (Row(n, f"row-{n}", "/v1/chat/completions", b"{}", 0, 1) for n in range(100))
            return await run_job(source, Endpoint(base), start=2, most=2, tries=2)

    done = virtual_time.run(main())
    assert Counter(done.journal.outcomes().values()) == {Outcome.ANSWERED: 100}


@pytest.mark.parametrize("status", [500, 529])
def test_an_outage_behind_a_server_that_is_well_costs_no_row(status: int) -> None:
    async def answer(server, prompt):
        if 10 < asyncio.get_running_loop().time() - began[0] < 130:
            return refusal(status, "overloaded")
        return await echo(server, prompt)

    async def main() -> Job:
        async with BatchServer(answer) as server:
            began.append(asyncio.get_running_loop().time())
            return await run_job(rows(2000), server.endpoint, start=16, most=16)

    began: list[float] = []
    done = virtual_time.run(main())
    check_answered(done, 2000)
    assert sum(done.ended.progress.faults.values()) < 150
    assert any("overloaded" in progress.waiting for progress in done.told)


def test_rows_that_always_fail_end_although_only_they_are_left(monkeypatch) -> None:
    monkeypatch.setattr(replica, "_OUTAGE_S", 60.0)

    async def answer(server, prompt):
        if int(prompt.removeprefix("row-")) >= 100:
            return refusal(500, "CUDA error")
        return await echo(server, prompt)

    done, _ = job(answer, count=140)
    outcomes = done.journal.outcomes()
    assert {n for n, outcome in outcomes.items() if outcome is Outcome.FAILED} == set(
        range(100, 140)
    )
    assert done.ended.reason == "complete"
    assert 60 <= done.ended.progress.elapsed_s < 180


@pytest.mark.parametrize("status", [429, 503])
def test_a_row_is_not_charged_when_the_server_asks_to_wait(status: int) -> None:
    at: list[float] = []

    async def answer(server, prompt):
        at.append(asyncio.get_running_loop().time())
        if len(at) <= 8:
            return refusal(status, "too many requests", **{"Retry-After": "7"})
        return await echo(server, prompt)

    done, _ = job(answer, tries=1)
    check_answered(done, 40)
    assert 7 <= at[8] - at[7] <= 8
    assert done.ended.progress.replicas[0].limit < 8
    assert any(progress.replicas[0].state == "paused" for progress in done.told)
    assert any("too many requests" in progress.waiting for progress in done.told)


def test_a_row_that_is_always_put_off_fails_in_the_end() -> None:
    async def answer(server, prompt):
        if prompt == "row-3":
            return refusal(429, "request too large for the tokens per minute")
        return await echo(server, prompt)

    done, _ = job(answer, tries=1)
    assert done.journal.outcomes()[3] is Outcome.FAILED
    assert Counter(done.journal.outcomes().values())[Outcome.ANSWERED] == 39


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (401, "Unauthorized", KeyRefused),
        (403, "Forbidden", KeyRefused),
        (404, "The model `x` does not exist.", BadRequest),
        (402, "Insufficient balance", BadRequest),
    ],
)
def test_what_is_wrong_with_us_ends_the_job_and_no_row(status, message, kind) -> None:
    answer = always(lambda: refusal(status, message))
    done, server = job(answer, count=1000)
    assert done.ended.reason == "endpoints"
    assert isinstance(done.ended.failure, kind)
    shown = str(done.ended.failure.as_json())
    assert message in shown
    assert done.journal.results == []
    assert len(server.prompts) < 40


def test_a_single_row_that_is_refused_so_ends_the_job_too() -> None:
    answer = always(lambda: refusal(404, "The model `x` does not exist."))
    done, _ = job(answer, count=1)
    assert done.ended.reason == "endpoints"
    assert done.journal.results == []


def test_a_redirect_is_no_refusal_of_a_row() -> None:
    answer = always(
        lambda: web.Response(status=302, headers={"Location": "https://login.example/"})
    )
    done, _ = job(answer)
    assert isinstance(done.ended.failure, NotOpenAI)
    assert done.journal.results == []


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        (403, {0, 30, 39}),
        (404, {0, 30, 39}),
        (403, set(range(0, 200, 9))),  # of a prompt's contents
        (404, set(range(100, 150))),
    ],
)
def test_a_server_that_serves_other_rows_refuses_these(status: int, refused: set[int]) -> None:
    models = {n: "other" for n in refused if status == 404}
    source = [row(n, model=models.get(n, "fake")) for n in range(200)]

    async def answer(server, prompt):
        if int(prompt.removeprefix("row-")) in refused:
            return refusal(status, "not this one")
        return await echo(server, prompt)

    done, server = job(answer, source=iter(source))
    outcomes = done.journal.outcomes()
    assert {n for n, outcome in outcomes.items() if outcome is Outcome.REFUSED} == refused
    assert len(outcomes) == 200
    assert done.ended.reason == "complete"
    assert len(server.prompts) == 200
    assert all(progress.replicas[0].state == "working" for progress in done.told)


@pytest.mark.parametrize("asked", ["1", "0", "10000000000"])
def test_a_server_that_has_no_engine_for_ever_costs_patience_and_no_row(asked: str) -> None:
    async def answer(server, prompt):
        if len(server.prompts) > 1000:
            return await echo(server, prompt)
        return refusal(503, "no replica is up", **{"Retry-After": asked})

    done, _ = job(answer, tries=1, patience_s=60)
    assert done.ended.reason == "endpoints"
    assert done.ended.failure is not None
    assert "no replica is up" in str(done.ended.failure.as_json())
    assert done.journal.results == []


def test_a_key_that_is_withdrawn_costs_patience_and_no_row() -> None:
    async def answer(server, prompt):
        if len(server.prompts) > 100:
            return refusal(401, "Unauthorized")
        return await echo(server, prompt)

    done, server = job(answer, count=1000, patience_s=60)
    assert isinstance(done.ended.failure, KeyRefused)
    assert done.journal.outcomes() == dict.fromkeys(range(100), Outcome.ANSWERED)
    assert len(server.prompts) < 200


@pytest.mark.parametrize("count", [100, 66])
@pytest.mark.parametrize("status", [401, 402])
def test_a_key_that_expires_while_answers_are_on_their_way_costs_no_row(status, count) -> None:
    async def answer(server, prompt):
        number = len(server.prompts)
        if number > 64:
            await asyncio.sleep(1)
            return refusal(status, "Unauthorized")
        await asyncio.sleep(0.1 + number % 16)
        return await echo(server, prompt)

    done, _ = job(answer, count=count, start=16, most=16, patience_s=60)
    assert set(done.journal.outcomes().values()) == {Outcome.ANSWERED}
    assert len(done.journal.results) == 64
    assert done.ended.reason == "endpoints"


def test_a_gateway_that_knows_our_key_only_sometimes_refuses_no_row() -> None:
    async def answer(server, prompt):
        if len(server.prompts) % 10 == 5:
            return refusal(401, "Unauthorized")
        return await echo(server, prompt)

    done, _ = job(answer, count=200)
    check_answered(done, 200)


def test_a_job_that_is_stopped_keeps_what_is_in_flight_and_begins_nothing() -> None:
    async def main() -> tuple[Job, BatchServer]:
        stop = asyncio.Event()
        async with BatchServer(seconds=1.0) as server:
            asyncio.get_running_loop().call_later(2.5, stop.set)
            return await run_job(rows(1000), server.endpoint, stop=stop), server

    done, server = virtual_time.run(main())
    assert done.ended.reason == "stopped"
    assert done.ended.failure is None
    assert set(done.journal.texts().values()) == set(server.prompts)
    assert 16 <= len(server.prompts) <= 32
    assert len(done.journal.results) == len(server.prompts)


def test_what_takes_longer_than_a_moment_is_left_undone() -> None:
    async def main() -> Job:
        stop = asyncio.Event()
        async with BatchServer(seconds=100.0) as server:
            asyncio.get_running_loop().call_later(2.5, stop.set)
            return await run_job(rows(1000), server.endpoint, stop=stop, grace_s=3)

    done = virtual_time.run(main())
    assert done.ended.reason == "stopped"
    assert done.ended.progress.elapsed_s < 7
    assert done.journal.results == []


def test_a_job_ends_at_its_time() -> None:
    done, _ = job(count=100, until=time.time() - 1)
    assert done.ended.reason == "until"
    assert done.journal.results == []


def test_a_job_ends_at_its_cost() -> None:
    # 5 tokens a row, of which 2 are the answer's
    done, _ = job(count=1000, price=Price(answer=10_000.0), max_cost=1.0)
    assert done.ended.reason == "cost"
    assert done.ended.progress.cost is not None
    assert 1.0 <= done.ended.progress.cost < 2.0
    assert 50 <= len(done.journal.results) < 100
    in_all = done.told[-2].cost_in_all
    assert in_all is not None
    assert in_all.low == in_all.likely == in_all.high == pytest.approx(20.0, rel=0.2)


def test_a_job_of_which_too_much_fails_ends() -> None:
    async def answer(server, prompt):
        if int(prompt.removeprefix("row-")) % 5 < 2:
            return refusal(400, "no")
        return await echo(server, prompt)

    done, _ = job(answer, count=1000, max_errors=0.3, errors_from=50)
    assert done.ended.reason == "errors"
    assert done.ended.failure is not None
    assert "more than 30%" in done.ended.failure.what
    assert 50 <= len(done.journal.results) < 80
    done, _ = job(answer, count=200, max_errors=0.5, errors_from=50)
    assert done.ended.reason == "complete"


def test_a_job_of_which_too_much_fails_of_late_ends() -> None:
    async def answer(server, prompt):
        await asyncio.sleep(server.seconds)
        if int(prompt.removeprefix("row-")) >= 1000:
            return refusal(400, "no credit")
        return await echo(server, prompt)

    done, _ = job(answer, count=2500, errors_from=20)
    assert done.ended.failure is not None
    assert "of the last 1" in done.ended.failure.what
    assert 1050 < len(done.journal.results) < 1300


def test_a_journal_that_is_full_ends_the_job_with_its_error() -> None:
    done, server = job(count=1000, disk=40_000)
    assert done.ended.reason == "broken"
    assert done.ended.failure is not None
    assert "cannot be written" in done.ended.failure.what
    assert 0 < len(done.journal.results) == done.ended.progress.finished < 100
    assert len(server.prompts) < 200


def test_a_journal_that_falls_behind_holds_the_senders_up_and_tells_its_error() -> None:
    class Stuck(Journal):
        """One whose disk is busy, and then fails: no real one does so when it is asked to."""

        behind = 2**30  # type: ignore[assignment]

        async def commit(self) -> None:
            await asyncio.sleep(5)
            raise RopewayError("no space left on the disk")

    done, server = job(count=1000, keep=Stuck)
    assert server.prompts == []
    assert done.ended.reason == "broken"


def test_an_input_that_breaks_off_ends_the_job_with_its_error() -> None:
    def source():
        yield from rows(2000)
        raise RopewayError("the input has changed")

    done, _ = job(source=source(), total=4000)
    assert done.ended.reason == "broken"
    assert done.ended.failure is not None
    assert done.ended.failure.what == "the input has changed"


def test_an_error_of_ours_is_raised() -> None:
    def check(_: bytes) -> Phrase | None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        job(check=check)


def test_the_same_request_is_sent_once_and_answered_to_each() -> None:
    source = [row(n, f"prompt-{n % 10}") for n in range(40)]
    done, server = job(source=iter(source), dedupe=True)
    assert len(server.prompts) == 10
    assert done.journal.texts() == {n: f"prompt-{n % 10}" for n in range(40)}
    assert {n: line["custom_id"] for n, line in done.journal.lines().items()} == {
        n: f"row-{n}" for n in range(40)
    }
    assert sum(result.answer for result in done.journal.results) == 20
    done, server = job(source=iter(source))
    assert len(server.prompts) == 40


def test_what_becomes_of_a_request_becomes_of_each_row_that_asks_it() -> None:
    source = [row(n, f"prompt-{n % 10}") for n in range(40)]
    answer = always(lambda: refusal(500, "CUDA error"))
    done, server = job(answer, source=iter(source), dedupe=True, tries=2)
    assert set(done.journal.outcomes().values()) == {Outcome.FAILED}
    assert len(done.journal.results) == 40
    assert len(server.prompts) == 20


def test_the_longest_row_is_not_begun_last() -> None:
    async def answer(server, prompt):
        await asyncio.sleep(10 if prompt == "row-399" else 0.1)
        return await echo(server, prompt)

    long = [*rows(399), row(399, tokens=1000)]
    done, _ = job(answer, source=iter(long), start=8, most=8)
    check_answered(done, 400)
    assert done.ended.progress.elapsed_s < 13


def test_a_silent_server_costs_a_try() -> None:
    async def answer(server, prompt):
        if prompt == "row-3":
            await asyncio.sleep(10_000)
        return await echo(server, prompt)

    done, server = job(answer, tries=2, silence_s=20)
    assert done.journal.outcomes()[3] is Outcome.FAILED
    assert "nothing arrived for 20.0 s" in done.journal.lines()[3]["error"]["message"]
    assert Counter(server.prompts)["row-3"] == 2


@pytest.mark.parametrize("unfit", [{3}, set(range(40))])
def test_an_answer_that_does_not_fit_is_paid_and_asked_for_again(unfit: set[int]) -> None:
    def check(body: bytes) -> Phrase | None:
        number = int(json.loads(body)["choices"][0]["text"].removeprefix("row-"))
        return phrase("it does not fit") if number in unfit else None

    done, server = job(check=check, tries=3, price=Price(prompt=1e6), max_errors=1.0)
    outcomes = done.journal.outcomes()
    assert {n for n, outcome in outcomes.items() if outcome is Outcome.FAILED} == unfit
    assert Counter(server.prompts)["row-3"] == 3
    assert done.ended.progress.cost == 3 * len(server.prompts) == 3 * (40 + 2 * len(unfit))
    assert done.ended.progress.faults == {"does not fit the schema": 3 * len(unfit)}
    assert done.ended.progress.elapsed_s < 20


@pytest.mark.parametrize(
    ("why", "outcome"),
    [
        (OSError(errno.ESTALE, "stale"), Outcome.ANSWERED),
        (OSError(errno.EMFILE, "too many"), Outcome.ANSWERED),
        (RopewayError("the picture cannot be read", where="a.png"), Outcome.FAILED),
    ],
)
def test_a_picture_that_is_away_for_a_moment_costs_a_try(why: Exception, outcome: Outcome) -> None:
    class Pictured(PictureRow):
        __slots__ = ()

        def payload(self) -> tuple[int, Iterator[bytes]]:
            if errors:
                raise errors.pop()
            return len(self.body), iter([self.body])

    errors = [why] * 2
    plain = row(3)
    pictured = Pictured(3, plain.name, plain.path, plain.body, 0, 10)
    done, _ = job(source=iter([*rows(3), pictured]), tries=3)
    assert Counter(done.journal.outcomes().values())[Outcome.ANSWERED] >= 3
    assert done.journal.outcomes()[3] is outcome
