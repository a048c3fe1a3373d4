"""How far a job is: rates, the time left, money, and how much is in flight."""

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from aiohttp import web

import virtual_time
from batch_server import BatchServer, Job, always, completion, job, row, rows, run_job
from ropeway.batch.progress import Cost, Forecast, Left, Meter, Price, Progress, Rates, Tally
from ropeway.batch.rows import Outcome, Row
from ropeway.batch.sending import dispatch
from ropeway.report.batch import progress_block, progress_line


def test_how_much_is_sent_follows_the_engine() -> None:
    async def main() -> tuple[Job, list[int]]:
        room, chance = asyncio.Semaphore(20), random.Random(1)
        running, limits = [0], []

        async def answer(_, prompt):
            async with room:
                running[0] += 1
                await asyncio.sleep(chance.uniform(0.2, 0.8))
                running[0] -= 1
                return completion(prompt)

        server = BatchServer(answer)
        server.figures = lambda: (
            f"vllm:num_requests_running {running[0]}.0\n"
            f"vllm:num_requests_waiting {server.in_flight - running[0]}.0\n"
            "vllm:num_preemptions_total 0.0\n"
        )
        async with server:
            done = await run_job(rows(1500), server.endpoint, start=8, most=500)
            limits += [progress.replicas[0].limit for progress in done.told]
            return done, limits

    done, limits = virtual_time.run(main())
    assert done.ended.progress.done == {Outcome.ANSWERED: 1500}
    assert limits[0] == 8
    assert all(20 <= limit <= 24 for limit in limits[len(limits) // 2 :])


@pytest.mark.parametrize(("size", "most"), [(20_000, 5), (2_000_000, 1)])
def test_what_is_read_and_has_no_answer_is_bounded_by_bytes(size: int, most: int) -> None:
    read: list[int] = []

    def source() -> Iterator[Row]:
        for number in range(24):
            read.append(number)
            yield row(number, f"{number:03}" + "x" * size)

    async def main() -> tuple[Job, BatchServer, int]:
        async with BatchServer(answer) as server:
            ended = await run_job(
                source(), server.endpoint, total=24, start=16, most=16, most_bytes=100_000
            )
            return ended, server, max(ahead)

    async def answer(_, prompt):
        ahead.append(len(read) - sum(done))
        await asyncio.sleep(1)
        done.append(1)
        return completion(prompt)

    ahead: list[int] = []
    done: list[int] = []
    ended_job, server, furthest = virtual_time.run(main())
    assert ended_job.ended.progress.done == {Outcome.ANSWERED: 24}
    assert server.most == most
    assert furthest <= most + 1


def test_of_large_answers_few_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_MOST_COMING", 8 * 2**20)
    at_once: list[int] = []

    async def answer(server, _):
        at_once.append(server.in_flight)
        await asyncio.sleep(1)
        return completion("x" * 2**20)

    done, _ = job(answer, start=24, most=24, count=96)
    assert done.ended.progress.done == {Outcome.ANSWERED: 96}
    assert max(at_once[:24]) == 24
    assert 4 <= max(at_once[48:]) <= 9


def test_the_time_left_counts_what_is_answered_to_several_rows() -> None:
    source = [row(n, f"prompt-{n // 2}") for n in range(2000)]
    done, server = job(source=iter(source), dedupe=True)
    assert len(server.prompts) == 1000
    halfway = next(progress for progress in done.told if progress.finished >= 1000)
    assert halfway.left is not None
    # About as long as it has taken, for half is left.
    assert halfway.left.likely_s < 1.5 * halfway.elapsed_s


def test_progress_is_plain_data() -> None:
    began = time.time()

    async def main() -> Job:
        async with BatchServer() as server:
            price = Price(hour=3600.0)
            return await run_job(rows(400), server.endpoint, price=price, ceiling=320.0)

    done = virtual_time.run(main())
    halfway = done.told[len(done.told) // 2]
    document = json.loads(json.dumps(halfway.as_json()))
    assert document["rows"] == 400
    assert document["done"]["answered"] == document["finished"]
    assert began <= document["committed_at"] <= time.time()
    assert done.told[0].finished == 0 or done.told[0].committed_at
    assert document["rates"]["answer"] == pytest.approx(160, rel=0.2)
    assert document["left"]["low_s"] <= document["left"]["likely_s"] <= document["left"]["high_s"]
    rest = (400 - halfway.finished) / 80
    assert document["left"]["likely_s"] == pytest.approx(rest, rel=0.3)
    assert document["ceiling_share"] == pytest.approx(0.5, rel=0.2)
    for name in ("low", "likely", "high"):  # a second costs one
        whole = document["cost"] + document["left"][f"{name}_s"]
        assert document["cost_in_all"][name] == pytest.approx(whole)
    assert Progress.from_json(document) == halfway


def test_the_line_of_a_job_has_what_matters() -> None:
    progress = Progress(
        1000, {Outcome.ANSWERED: 98, Outcome.FAILED: 2}, 64, 0, {}, (), Rates(1.0, 300.0, 800.0),
        60.0, left=Left(500.0, 540.0, 600.0), cost=1.0, cost_in_all=Cost(9.0, 10.0, 11.5),
        ceiling=1000.0,
    )  # fmt: skip
    assert progress_line(progress, "CNY") == (
        "100/1,000 rows · 9 min 00 s left (8 min 20 s to 10 min 00 s) · "
        "1.00 of 10.00 CNY (9.00 to 11.50) · 300 tokens/s in, 800 out · "
        "80% of the predicted ceiling · 64 in flight · 2 without an answer"
    )
    assert " · 1.00 of 10.00 (9.00 to 11.50) · stops at 5.00 · " in progress_line(
        progress, max_cost=5.0
    )
    bare = replace(progress, ceiling=None, cost_in_all=Cost(2.0, 2.0, 2.0), left=None, in_flight=0)
    assert progress_line(bare) == (
        "100/1,000 rows · 1.00 of 2.00 · 300 tokens/s in, 800 out · 0 in flight · "
        "2 without an answer"
    )
    waits = progress_line(replace(progress, waiting="nobody is there"))
    assert "waiting: nobody is there" in waits
    assert "left" not in waits  # at which pace?


def test_a_job_that_stops_says_how_long_it_may_take() -> None:
    async def slow(_, prompt):
        await asyncio.sleep(60)
        return completion(prompt)

    async def stopped() -> Job:
        stop = asyncio.Event()
        async with BatchServer(slow) as server:
            asyncio.get_running_loop().call_later(5, stop.set)
            return await run_job(rows(30), server.endpoint, stop=stop)

    lines = [progress_line(progress) for progress in virtual_time.run(stopped()).told]
    assert "stopping: up to 10 s for 8 rows; Ctrl-C again ends now" in lines[-2]
    assert "stopping" not in lines[0] + lines[-1]


def test_why_a_row_got_no_answer_is_told() -> None:
    def refused() -> web.Response:
        return web.json_response({"error": {"message": "too long: 9"}}, status=400)

    done, _ = job(always(refused), source=iter(rows(3)))
    told = done.ended.progress.error
    assert told.startswith("row-")
    assert told.endswith("too long: 9")
    assert done.ended.progress.sample == ""
    assert f"  an error: {told}" in progress_block(done.ended.progress, time.time())


def test_a_refusal_may_hold_a_number_that_python_does_not_read() -> None:
    said = b'{"error":{"message":"too long"},"limit":%b}' % (b"9" * 5000)
    done, _ = job(always(lambda: web.Response(status=400, body=said)), count=3)
    assert done.ended.progress.done == {Outcome.REFUSED: 3}
    assert '400: {"error":{"message":"too long"}' in done.ended.progress.error
    assert all(b"9" * 5000 in result.line for result in done.journal.results)


@pytest.mark.parametrize("text", ["word " * 20_000, "a\x1b[2J\nb\u202e" * 100, "short", None])
def test_of_an_answer_only_its_beginning_is_told(text: str | None) -> None:
    def answered() -> web.Response:
        numbers = {"object": "list", "data": [{"embedding": [0.123456789] * 8000}]}
        return web.json_response(numbers) if text is None else completion(text)

    source = [replace(one, path="/v1/embeddings" if text is None else one.path)
              for one in rows(20)]  # fmt: skip
    done, _ = job(always(answered), source=iter(source))
    sample = done.ended.progress.as_json()["sample"]
    assert isinstance(sample, str)
    assert len(sample) <= 160
    assert sample.isprintable()
    assert sample.startswith("row-") == (text is not None and len(text) < 2**16)
    assert Progress.from_json(done.ended.progress.as_json()) == done.ended.progress


def test_what_a_job_costs() -> None:
    price = Price(hour=36.0, prompt=2.0, answer=8.0)
    assert price.of(1800, 0, 0) == 18.0
    assert price.of(0, 1_000_000, 500_000) == 6.0


def test_rates_are_those_of_the_last_seconds() -> None:
    meter, tally = Meter(), Tally()
    assert meter.look(tally, 0.0) == Rates()
    for now in range(1, 100):
        tally.rows += 1 if now < 50 else 10
        tally.prompt += 3
        rates = meter.look(tally, float(now))
    assert rates == Rates(10.0, 3.0, 0.0)


def test_the_time_left_follows_the_tokens() -> None:
    forecast = Forecast(0.0)
    assert forecast.left(1000) is None
    for second in range(1, 1001):
        forecast.look(second * 50.0, float(second))
    left = forecast.left(5000)
    assert left is not None
    assert left.likely_s == pytest.approx(100, rel=0.01)
    assert left.low_s == pytest.approx(100 / 1.05, rel=0.01)
    assert left.high_s == pytest.approx(100 / 0.95, rel=0.01)


def test_a_slow_start_is_soon_forgotten() -> None:
    forecast = Forecast(0.0)
    for second in range(1, 101):
        forecast.look(second * 5.0 if second <= 30 else 150 + (second - 30) * 50.0, float(second))
    left = forecast.left(5000)
    assert left is not None
    assert left.likely_s == pytest.approx(100, rel=0.05)


def test_an_uneven_pace_makes_the_interval_wider() -> None:
    chance = random.Random(1)

    def interval(spread: float) -> Left:
        forecast, work = Forecast(0.0), 0.0
        for second in range(1, 100):
            work += 50 * chance.uniform(1 - spread, 1 + spread)
            forecast.look(work, float(second))
        left = forecast.left(5000)
        assert left is not None
        return left

    even, uneven = interval(0.05), interval(1.0)
    assert uneven.high_s / uneven.low_s > even.high_s / even.low_s
    assert uneven.low_s < 100 < uneven.high_s


def test_a_first_guess_is_a_wide_one() -> None:
    forecast = Forecast(0.0)
    forecast.look(50.0, 1.0)
    left = forecast.left(50)
    assert left is not None
    assert left.high_s >= 2 * left.likely_s


def test_the_share_of_cut_answers() -> None:
    done = {Outcome.ANSWERED: 6, Outcome.CUT: 2, Outcome.REFUSED: 8}
    progress = Progress(20, done, 0, 0, {}, (), Rates(), 1.0)
    assert progress.cut_share == 0.25
    assert progress.finished == 16
    assert Progress(20, {}, 0, 0, {}, (), Rates(), 1.0).cut_share == 0.0
