"""What the router decides, which is pure: alive or not, which replica, how an answer goes on."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ropeway.router import balance, breaker, events
from ropeway.router.balance import BLOCK_BYTES, Load, PrefixIndex
from ropeway.router.breaker import NEVER, Breaker, State
from ropeway.router.config import Limits
from ropeway.router.request import ParsedRequest, parse_request
from ropeway.router.resume import CannotResume, Splice, prefix_of, resumption
from ropeway.router.transcript import (
    FOLD_BYTES,
    MOST_EVENTS,
    PartialAnswer,
    Transcript,
    with_chunks,
)
from router_backends import CHAT, COMPLETIONS, MODEL

LIMITS = Limits()
CLOSED = breaker.close(0, LIMITS)


def test_a_refused_connection_opens_at_once_and_other_failures_after_some() -> None:
    assert breaker.note_failure(CLOSED, 1, LIMITS, refused=True).state is State.OPEN
    state = CLOSED
    for _ in range(LIMITS.failures - 1):
        state = breaker.note_failure(state, 1, LIMITS)
        assert state.state is State.CLOSED
        assert state.probe_at == 1, "a failure is looked into at once"
    assert breaker.note_failure(state, 1, LIMITS).state is State.OPEN


def test_a_token_forgives_failures() -> None:
    state = breaker.note_token(breaker.note_failure(CLOSED, 1, LIMITS), 2, LIMITS)
    assert (state.failures, state.probe_at) == (0, 2 + LIMITS.probe_period_s)


def test_the_back_off_doubles_up_to_its_limit() -> None:
    state, now, waits = breaker.note_failure(CLOSED, 0, LIMITS, refused=True), 0.0, []
    for _ in range(7):
        waits.append(state.probe_at - now)
        now = state.probe_at
        half = breaker.begin_probe(state)
        assert (half.state, half.probe_at) == (State.HALF_OPEN, NEVER)
        state = breaker.note_failed_probe(half, now, LIMITS)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("before", "refused", "after"),
    [(CLOSED, True, State.OPEN), (Breaker(), False, State.UNPROVEN)],
    ids=["nobody listens", "it loads"],
)
def test_an_engine_that_starts_is_asked_again_soon_for_as_long_as_it_takes(
    before: Breaker, refused: bool, after: State
) -> None:
    """It gets requests within a second of its first token."""
    state = breaker.note_failure(before, 0, LIMITS, refused=refused)
    for now in range(100):
        state = breaker.note_failed_probe(breaker.begin_probe(state), now, LIMITS, refused=refused)
        assert (state.state, state.probe_at) == (after, now + LIMITS.backoff_s)


STEPS = st.sampled_from(
    ["probe", "token", "fail", "nobody", "unsent", "refused", "suspect", "served"]
)


@given(st.lists(STEPS, max_size=60))
def test_only_a_probe_closes_a_breaker_and_there_is_always_a_next_probe(steps: list[str]) -> None:
    state, on_its_way = Breaker(), False
    assert not state.alive
    for now, step in enumerate(steps):
        before = state.alive
        if step == "probe" and state.probe_at <= now:
            state, on_its_way = breaker.begin_probe(state), True
        elif step == "token" and on_its_way:
            state, on_its_way = breaker.close(now, LIMITS), False
        elif step in ("fail", "nobody") and on_its_way:
            state = breaker.note_failed_probe(state, now, LIMITS, refused=step == "nobody")
            on_its_way = False
        elif step == "unsent" and on_its_way:
            state, on_its_way = breaker.probe_later(state, now, LIMITS), False
            assert state.probe_at > now
        elif step == "refused":
            state = breaker.note_failure(state, now, LIMITS, refused=True)
        elif step == "suspect":
            state = breaker.probe_now(state, now)
        elif step == "served":
            state = breaker.note_token(state, now, LIMITS)
        assert (state.probe_at == NEVER) == on_its_way
        assert before or not state.alive or step == "token"


def test_the_least_loaded_in_tokens_is_chosen_and_not_in_requests() -> None:
    loads = [Load("a", 9000, 1), Load("b", 300, 50)]
    assert balance.choose(loads, (), LIMITS) == "b"
    assert balance.choose([], (), LIMITS) is None
    # Idle ones take turns.
    assert balance.choose([Load("a", 0, 3), Load("b", 0, 2)], (), LIMITS) == "b"


@pytest.mark.parametrize(
    ("idle", "warm", "chosen"),
    [
        (0, 0, "warm"),
        (0, 4096, "warm"),  # within the slack
        (0, 4097, "idle"),
        (100_000, 150_000, "warm"),  # within the ratio
        (100_000, 150_001, "idle"),
    ],
)
def test_affinity_ends_where_its_replica_is_much_busier(idle: int, warm: int, chosen: str) -> None:
    loads = [Load("idle", idle, 0), Load("warm", warm, 9)]
    assert balance.choose(loads, {"warm"}, LIMITS) == chosen


PARTS = st.sampled_from([b"a" * BLOCK_BYTES, b"b" * BLOCK_BYTES, b"c"])


@given(*[st.lists(PARTS, max_size=5).map(b"".join)] * 2)
def test_chains_agree_exactly_as_far_as_the_blocks_do(one: bytes, other: bytes) -> None:
    a, b = balance.chain(one), balance.chain(other)
    ends = range(BLOCK_BYTES, (min(len(a), len(b)) + 1) * BLOCK_BYTES, BLOCK_BYTES)
    same = sum(one[:end] == other[:end] for end in ends)
    assert a[:same] == b[:same]
    assert set(a[same:]).isdisjoint(b[same:])
    assert balance.chain(one + b"x" * BLOCK_BYTES)[: len(a)] == a
    assert set(a).isdisjoint(balance.chain(one, b"an adapter")), "which has a cache of its own"


def test_the_index_knows_who_read_most_and_forgets_the_oldest_and_the_dead() -> None:
    index = PrefixIndex(capacity=6)
    short = balance.chain(b"s" * BLOCK_BYTES * 2)
    long = balance.chain(b"s" * BLOCK_BYTES * 4)
    index.record(short, "a")
    index.record(long, "b")
    assert index.warm(long, {"a", "b"}) == {"b"}
    assert index.warm(short, {"a", "b"}) == {"a", "b"}
    assert index.warm(long, {"a", "c"}) == {"a"}, "the best that is alive"
    assert index.warm((), {"a"}) == set()
    index.forget("b")
    assert index.warm(long, {"a", "b"}) == {"a"}
    index.record(balance.chain(b"t" * BLOCK_BYTES * 6), "c")
    assert len(index) == 6
    assert index.warm(long, {"a"}) == set()


def test_a_conversation_begins_as_its_earlier_turn() -> None:
    first = [{"role": "system", "content": "s" * 2000}, {"role": "user", "content": "u" * 500}]
    second = [*first, {"role": "assistant", "content": "a" * 900}, {"role": "user", "content": "?"}]
    one, two = (_parsed(CHAT, messages=messages).prefix for messages in (first, second))
    assert len(one) == 4
    assert two[:4] == one


def test_tools_stand_before_the_messages() -> None:
    def beginning(name: str) -> balance.Chain:
        tools = [{"type": "function", "function": {"name": name * 600}}]
        return _parsed(CHAT, tools=tools, messages=[{"role": "user", "content": "u" * 600}]).prefix

    assert beginning("a")[0] == beginning("a")[0] != beginning("b")[0]


@pytest.mark.parametrize(
    ("body", "tokens", "most"),
    [
        ({"prompt": "x" * 400, "max_tokens": 7}, 100, 7),
        ({"prompt": list(range(400))}, 400, None),
        ({"prompt": "中" * 400}, 300, None),
        ({"messages": [{"role": "user", "content": "x" * 395}]}, 100, None),
        ({"prompt": None, "max_completion_tokens": 9, "max_tokens": True}, 0, 9),
        # a picture weighs what its name weighs
        ({"messages": [{"content": [{"type": "image_url", "image_url": {"url": "A" * 10**6}}]}]},
         9, None),
    ],
)  # fmt: skip
def test_tokens_are_estimated(body: dict[str, Any], tokens: int, most: int | None) -> None:
    result = _parsed(COMPLETIONS, **body)
    assert (result.prompt_tokens, result.max_tokens) == (tokens, most)


ANY_TEXT = st.characters(exclude_categories=())  # lone surrogates, too


@example(b'{"prompt":[1,"\\ud800"]}')
@example(b'{"messages":' + b"[" * 900 + b"]" * 900 + b"}")
@given(st.one_of(st.binary(max_size=200), st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(ANY_TEXT, max_size=5),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(
        st.sampled_from(["messages", "prompt", "content", "role", "tools", "model", "x"]), some,
        max_size=4,
    ), max_leaves=12,
).map(lambda value: json.dumps(value).encode())))  # fmt: skip
def test_no_body_is_too_strange_to_be_read(content: bytes) -> None:
    parse_request(CHAT, content)


def _parsed(path: str, **body: Any) -> ParsedRequest:
    return parse_request(path, json.dumps({"model": MODEL, **body}).encode())


ENDS = st.sampled_from(["\n", "\r\n", "\r"])
EXTRA = st.sampled_from(["", ": a comment\n", "\n", "\n\n", "event: x\n", "id\n"])


@given(st.lists(st.text(max_size=5).filter(str.isprintable), max_size=6), ENDS, EXTRA, st.data())
def test_events_are_passed_whole_however_they_come(
    texts: list[str], end: str, extra: str, data: st.DataObject
) -> None:
    """Every byte is passed on, each piece ends with an event, and no event is lost."""
    encoded = [f'{extra}data: {{\ndata: "t": {json.dumps(text)}}}\n\n' for text in texts]
    stream = "".join(["\ufeff", *encoded]).replace("\n", end).encode()
    splitter, rest, passed = events.Splitter(1000), stream, []
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        passed.append(splitter.feed(rest[:size]))
        rest = rest[size:]
    assert b"".join(passed) == stream[: sum(map(len, passed))]
    assert not splitter.within or not texts
    found = [events.payload(event) for whole in passed for event in events.each(whole)]
    assert found == [{"t": text} for text in texts]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("extra", ["", ": bye\n\n", "\n\n\n"])
def test_the_mark_of_the_end_is_seen_whatever_ends_its_lines(end: str, extra: str) -> None:
    text = f'data: {{"a": "data: [DONE]"}}\n\ndata: [DONE]\n\n{extra}'
    assert events.done(text.replace("\n", end).encode())
    assert not events.done(text.partition("data: [DONE]\n")[0].replace("\n", end).encode())


@pytest.mark.parametrize("piece", [b"x", b"data: " + b"x" * 900, b"\r", b"\n:"])
def test_an_event_without_an_end_is_not_kept_for_ever(piece: bytes) -> None:
    splitter = events.Splitter(10_000)
    with pytest.raises(ValueError, match="10,000 bytes"):
        for _ in range(20_000):
            splitter.feed(piece)
            piece = piece.replace(b"\n", b"").replace(b"\r", b"y")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"error": {"message": "EngineCore died", "code": 500}}, "EngineCore died"),
        ({"object": "error", "message": "flat", "code": 500}, "flat"),
        (
            {"choices": [{"text": "", "finish_reason": "abort"}]},
            "the engine ended the answer with `abort`",
        ),
        ({"error": {"message": "too long", "code": 400}}, None),
        ({"choices": [{"text": 'say "abort" or {"error"', "finish_reason": None}]}, None),
    ],
)
def test_failures_of_the_engine_are_seen_in_a_stream(event: Any, message: str | None) -> None:
    before = events.encode({"choices": [{"text": "a"}]})
    for encoded in (events.encode(event), f"data: {json.dumps(event)}\n\n".encode()):
        result = events.broken(before + encoded + events.DONE)
        assert (result and result.message) == message
        assert result is None or result.before == before


@pytest.mark.parametrize(
    ("event", "generated"),
    [
        (b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}', True),
        (b'{"choices": [{"index": 0, "text": "a"}]}', True),
        (b'{"choices" : [ {"text": ""} ]}', True),  # a token that is no text yet
        (b'{"choices":[{"delta":{"reasoning":"hm"}}]}', True),
        (b'{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}', True),
        (b'{"type": "response.output_text.delta", "delta": "a"}', True),
        (b'{"error": {"message": "too long", "code": 400}}', True),  # all there is to say
        (b'{"choices":[],"usage":{"completion_tokens":1}}', False),
        (b'{"choices": null}', False),
        (b'{"type": "ping"}', False),
        (b"{}", False),
        (b"null", False),
        (b"[DONE]", False),
        (b"", False),
    ],
)
def test_what_the_engine_generated_is_told_from_signs_of_its_server(
    event: bytes, generated: bool
) -> None:
    noise = b": ping\n\nevent: x\n\n\n"
    assert events.generated(noise + b"data: " + event + b"\n\n" + noise) is generated
    assert not events.generated(noise)


def _partial(*texts: str, **more: Any) -> PartialAnswer:
    chunks = ({"id": "x", "created": 5, "choices": [{"index": 0, "text": it}]} for it in texts)
    return replace(with_chunks(PartialAnswer(), chunks), **more)


GO = {"role": "user", "content": "Go"}
OPEN = {"add_generation_prompt": False, "continue_final_message": True}


@pytest.mark.parametrize(
    ("path", "body", "texts", "tokens", "changed"),
    [
        (
            COMPLETIONS,
            {"prompt": "Count: ", "max_tokens": 10, "min_tokens": 2, "temperature": 0.5},
            ("One", " two "), 4, {"prompt": "Count: One two", "max_tokens": 6, "min_tokens": 0},
        ),
        # vLLM's own limit of a text without one
        (COMPLETIONS, {"prompt": "p"}, ("One",), 1, {"prompt": "pOne", "max_tokens": 15}),
        (
            CHAT, {"messages": [GO], "max_completion_tokens": 10}, ("One",), 3,
            {"messages": [GO, {"role": "assistant", "content": "One"}],
             "max_completion_tokens": 7, **OPEN},
        ),
        (  # a message that was continued already gets longer
            CHAT, {"messages": [GO, {"role": "assistant", "content": "So: "}], **OPEN}, ("One",), 1,
            {"messages": [GO, {"role": "assistant", "content": "So: One"}]},
        ),
    ],
    ids=["a text with limits", "a text without a limit", "a chat", "a continued message"],
)  # fmt: skip
def test_an_answer_is_continued_with_what_is_left_of_its_limits(
    path: str, body: dict[str, Any], texts: tuple[str, ...], tokens: int, changed: dict[str, Any]
) -> None:
    rest = resumption(_parsed(path, **body), _partial(*texts), tokens)
    assert rest.body == {"model": MODEL, **body, **changed}
    assert rest.prefix == "".join(texts).rstrip()


@pytest.mark.parametrize(
    "field",
    [
        {"n": 2}, {"logprobs": 0}, {"logprobs": True}, {"echo": True}, {"tools": [{}]},
        {"response_format": {"type": "json_object"}}, {"structured_outputs": {"regex": "a"}},
        {"guided_json": {}, "guided_regex": "a"}, {"presence_penalty": 0.1}, {"suffix": "x"},
        {"return_token_ids": True}, {"include_reasoning": False}, {"some_future_field": 1},
        {"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"prompt": None},
    ],
)  # fmt: skip
def test_what_depends_on_the_tokens_before_is_not_continued(field: dict[str, Any]) -> None:
    parsed = _parsed(COMPLETIONS, **{"prompt": "p", **field})
    with pytest.raises(CannotResume):
        resumption(parsed, _partial("One"), 1)
    # Nothing was generated yet: then it is simply asked again.
    assert resumption(parsed, _partial(), 0).body == parsed.body


@pytest.mark.parametrize(
    "field",
    [
        {"n": 1}, {"logprobs": None}, {"logprobs": False}, {"echo": False}, {"tools": None},
        {"response_format": {"type": "text"}}, {"presence_penalty": 0.0}, {"seed": 3},
        {"stop": ["x"]}, {"top_logprobs": 0}, {"stream_options": {"include_usage": True}},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_hinders_nothing(field: dict[str, Any]) -> None:
    assert resumption(_parsed(COMPLETIONS, prompt="p", **field), _partial("One"), 1).body


@pytest.mark.parametrize(
    ("field", "choice", "reason"),
    [
        ({"logprobs": 1}, {}, "an answer with `logprobs` cannot"),
        ({}, {"delta": {"tool_calls": [{}]}}, "an answer with `tool_calls` cannot"),
        ({}, {"index": 1, "text": "x"}, "an answer with several choices cannot"),
    ],
)
def test_the_client_is_told_why_its_answer_is_not_continued(
    field: dict[str, Any], choice: dict[str, Any], reason: str
) -> None:
    answer = with_chunks(_partial("One"), [{"choices": [choice]}])
    with pytest.raises(CannotResume, match=reason):
        resumption(_parsed(COMPLETIONS, prompt="p", **field), answer, 1)


def test_an_answer_that_is_too_long_to_be_continued_is_said_to_be() -> None:
    transcript = Transcript()
    transcript.add(b"data: {}\n\n" * (MOST_EVENTS + 1))
    with pytest.raises(
        CannotResume, match="with more than 64 MiB or 200,000 events, or one too large, cannot"
    ):
        resumption(_parsed(COMPLETIONS, prompt="p"), transcript.answer(), 1)


def test_reasoning_is_not_continued() -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning": "hm"}}]}
    with pytest.raises(CannotResume, match="continued with `reasoning`"):
        Splice(_partial("One"), "One", 1, "b").rewrite(events.encode(thought))


def test_an_answer_with_all_its_tokens_is_only_ended() -> None:
    rest = resumption(_parsed(COMPLETIONS, prompt="p", max_tokens=2), _partial("One", " two"), 2)
    assert rest.body is None
    chunk = events.payload(next(events.each(rest.ending)))
    assert (chunk["id"], chunk["choices"][0]["finish_reason"]) == ("x", "length")
    assert rest.ending.endswith(events.DONE)
    finished = resumption(_parsed(COMPLETIONS, prompt="p"), _partial("One", finish="stop"), 0)
    assert finished.ending == events.DONE


BLANKS = st.text("a \n", max_size=4)


@example(["a \n", "b"], 1, 1)  # the blanks come back one by one
@given(st.lists(BLANKS, min_size=1, max_size=8), st.integers(0, 8), st.integers(1, 4))
def test_a_spliced_answer_is_the_whole_answer(tokens: list[str], cut: int, size: int) -> None:
    """A greedy model goes on with the very same text, blanks at the seam included."""
    partial = _partial(*tokens[:cut])
    rest = "".join(tokens)[len(prefix_of(partial)) :]
    splice, text = Splice(partial, prefix_of(partial), cut, "b"), partial.text
    for at in range(0, len(rest), size):
        piece = {"choices": [{"index": 0, "text": rest[at : at + size]}]}
        for event in events.each(splice.rewrite(events.encode(piece))):
            text += (events.payload(event) or {})["choices"][0]["text"]
    assert text == "".join(tokens)


def test_a_spliced_answer_keeps_its_name_and_counts_the_prefix_as_answer() -> None:
    splice = Splice(_partial("One"), "One", 1, "b")
    chunk = {"id": "y", "created": 9, "choices": [{"index": 0, "text": " two"}]}
    usage = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
    stream = events.encode(chunk) + events.encode({"choices": [], "usage": usage}) + events.DONE
    first, last, done = events.each(splice.rewrite(stream))
    assert events.payload(first) == {
        "id": "x", "created": 5, "choices": [{"index": 0, "text": " two"}],
        "ropeway": {"continued_on": "b"},
    }  # fmt: skip
    assert (events.payload(last) or {})["usage"] == {
        "prompt_tokens": 10, "completion_tokens": 6, "total_tokens": 16
    }  # fmt: skip
    assert done == events.DONE


def test_a_long_transcript_keeps_its_text_and_not_its_bytes() -> None:
    transcript = Transcript()
    event = events.encode({"choices": [{"index": 0, "text": "x"}], "padding": "p" * 1000})
    for _ in range(200):
        transcript.add(event)
    assert len(transcript._raw) <= FOLD_BYTES
    assert (transcript.answer().text, transcript.answer().pieces) == ("x" * 200, 200)
