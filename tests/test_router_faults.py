"""What clients see when replicas fail, against real HTTP servers that fail in every way."""

import json
from dataclasses import replace
from typing import Any

import pytest

from router_backends import ANSWER, CHAT, COMPLETIONS, QUICK, TEXT, Bench, Engine, fault, scene

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
