"""What a load test sends, before anything is sent: lengths, beginnings, conversations, pictures."""

import base64
import itertools
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest

from ropeway.bench.load_test import LoadTest, parse_range
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.workloads.conversations import Exchange, elements, exchange_in
from ropeway.bench.workloads.pictures import picture
from ropeway.bench.workloads.spool import drawn
from ropeway.bench.workloads.talks import Conversation
from ropeway.bench.workloads.words import RandomPrompts

RECIPE = Recipe(24, 20, WORDS, WORDS, exact=True)  # 4 tokens of the template, 20 words
LOAD = LoadTest(input_tokens=24, output_tokens=8, clients=2, requests=40)


def bodies(load: LoadTest, *, index: int = 0, count: int = 1, warm_up: bool = False) -> list[Any]:
    """Return the requests of one process; each answer of a conversation is `ok`."""
    found = []
    for talk in RandomPrompts("m", load, RECIPE, warm_up).talks(index, count):
        found.append(json.loads(talk.question("")))
        while talk.more:
            found.append(json.loads(talk.question("ok")))
    return found


def texts(load: LoadTest, **where: Any) -> list[str]:
    return [body["messages"][-1]["content"] for body in bodies(load, **where)]


def test_lengths_are_spread_evenly_and_exactly() -> None:
    load = replace(LOAD, requests=2000, input_range=(10, 14), output_range=(3, 5))
    sent = bodies(load)
    lengths = [len(body["messages"][0]["content"].split()) + 4 for body in sent]
    for length in range(10, 15):
        assert lengths.count(length) == pytest.approx(400, abs=80)
    assert {body["max_tokens"] for body in sent} == {3, 4, 5}
    told = load.with_recipe(RECIPE)
    assert (told.input_tokens, told.input_range) == (12, (10, 14))
    assert str(told.prompts) == "random words, exactly 10 to 14 tokens, no shared beginning"


def test_a_range_below_the_template_is_raised_to_it() -> None:
    load = replace(LOAD, input_range=(1, 8)).with_recipe(RECIPE)
    # 5 is the shortest that there is, and five of the eight lengths become that.
    assert load.input_tokens == round((5 * 5 + 6 + 7 + 8) / 8)
    assert "5 to 8 tokens" in load.prompts
    assert {len(text.split()) for text in texts(load)} == {1, 2, 3, 4}


@pytest.mark.parametrize("text", ["", "0", "a", "8-4", "1-", "-4", "1-2-3", "99999999", "1.5"])
def test_what_is_no_length_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="tokens"):
        parse_range(text)
    assert parse_range("64-512") == (64, 512)


def test_each_prompt_begins_with_one_of_the_shared_beginnings() -> None:
    load = replace(LOAD, requests=60, prefixes=3, prefix_tokens=30)
    sent = texts(load)
    assert {len(text.split()) for text in sent} == {30 + 20}
    beginnings = [" ".join(text.split()[:30]) for text in sent]
    assert len(set(beginnings)) == 3
    assert min(beginnings.count(one) for one in beginnings) > 5
    assert len({text.removeprefix(one) for text, one in zip(sent, beginnings, strict=True)}) == 60
    assert load.with_recipe(RECIPE).prompts == (
        "random words, exactly 24 tokens after one of 3 beginnings of 30 tokens"
    )


@pytest.mark.parametrize("more", [{}, {"prefixes": 2, "prefix_tokens": 9}, {"turns": 3}])
def test_each_measurement_and_the_warm_up_have_other_prompts(more: dict[str, Any]) -> None:
    load = replace(LOAD, requests=9, warmup=9, **more)
    lots = [texts(load), texts(load, warm_up=True), texts(replace(load, fresh=1)),
            texts(replace(load, fresh=2))]  # fmt: skip
    assert texts(load) == lots[0], "the same seed, the same prompts"
    starts = [{" ".join(text.split()[:9]) for text in lot} for lot in lots]
    assert len(set.union(*starts)) == sum(map(len, starts))
    assert [len(set(lot)) for lot in lots] == [9] * 4


@pytest.mark.parametrize("more", [{}, {"turns": 3}, {"prefixes": 2, "prefix_tokens": 9, "rate": 3}])
def test_processes_share_what_one_would_send(more: dict[str, Any]) -> None:
    load = replace(LOAD, requests=11, **more)
    parts = [texts(load, index=index, count=3) for index in range(3)]
    assert sorted(itertools.chain(*parts)) == sorted(texts(load))


def test_a_million_requests_are_made_one_by_one() -> None:
    load = replace(LOAD, requests=10**8, turns=2, prefixes=10**6, prefix_tokens=5)
    talk = next(RandomPrompts("m", load, RECIPE).talks(1, 2))
    assert talk.more


def test_a_question_is_sent_with_all_that_was_said_before() -> None:
    load = replace(LOAD, turns=3, requests=4, rate=6.0, arrivals="constant", images=1)
    first, second = RandomPrompts("m", load, RECIPE).talks(0, 1)
    assert isinstance(first, Conversation)
    assert (first.due, second.due) == (0, 0.5), "6 questions a second are 2 conversations"
    asked = [json.loads(first.question(answer))["messages"] for answer in ("", "one", "")]
    assert not first.more
    assert [message["role"] for message in asked[2]] == ["user", "assistant"] * 2 + ["user"]
    assert [message["content"] for message in asked[2][1::2]] == ["one", ""]
    assert asked[2][:3] == asked[1]
    assert [part["type"] for part in asked[0][0]["content"]] == ["image_url", "text"]
    assert isinstance(asked[1][2]["content"], str), "pictures are in the first question"
    second.question("")
    assert not second.more, "four requests are asked for"


def test_a_conversation_must_fit_the_context_with_all_its_questions() -> None:
    load = replace(LOAD, turns=3, prefixes=1, prefix_tokens=100, output_range=(2, 10))
    load.check_fits("m", 100 + 3 * 24 + 3 * 10)
    with pytest.raises(Exception, match=r"192 input and 10 output tokens make 202"):
        load.check_fits("m", 201)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (640, 480), (333, 77), (2000, 1500)])
def test_a_picture_is_a_png_of_its_size(width: int, height: int) -> None:
    data = picture("0 1", width, height)
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, place = {}, 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", data, place + 8 + length)[0] == zlib.crc32(kind + content)
        chunks[kind], place = content, place + 12 + length
    assert struct.unpack(">II", chunks[b"IHDR"][:8]) == (width, height)
    rows = zlib.decompress(chunks[b"IDAT"])
    assert len(rows) == height * (1 + 3 * width)
    assert set(rows[:: 1 + 3 * width]) <= {0, 2}
    assert len(data) < 400_000, "bounded, however large the picture"
    assert len(data) > min(3 * width * height, 15_000), "random pixels do not compress"


def test_pictures_differ_and_are_the_same_for_a_seed() -> None:
    load = replace(LOAD, requests=3, images=2, image_size=(20, 10))

    def urls(load: LoadTest) -> list[str]:
        contents = [body["messages"][0]["content"] for body in bodies(load)]
        return [part["image_url"]["url"] for content in contents for part in content[:-1]]

    found = urls(load)
    assert len(set(found)) == 6
    assert urls(load) == found != urls(replace(load, seed=1))
    assert base64.b64decode(found[0].removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert load.with_recipe(RECIPE).prompts.endswith("; 2 pictures of 20×10 on top")


def test_rows_come_again_only_when_all_have_come() -> None:
    order = drawn(5, 0, 0)
    rounds = [[next(order) for _ in range(5)] for _ in range(3)]
    assert [sorted(one) for one in rounds] == [list(range(5))] * 3
    assert rounds[0] != rounds[1] or rounds[1] != rounds[2]
    later = drawn(5, 0, 7)
    assert [next(later) for _ in range(8)] == [*itertools.chain(*rounds)][7:]
    seeds = [list(itertools.islice(drawn(50, seed, 0), 50)) for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


TALK = {"conversations": [{"from": "human", "value": "Wie?"}, {"from": "gpt", "value": "So."}]}


@pytest.mark.parametrize(
    ("turns", "found"),
    [
        (TALK["conversations"], Exchange("Wie?", "So.")),
        ([{"from": "gpt", "value": "Hi"}, *TALK["conversations"]], Exchange("Wie?", "So.")),
        (TALK["conversations"][:1], Exchange("", "")),
        ([{"from": "human", "value": "a"}] * 2, Exchange("", "")),
        ([{"from": "human", "value": ""}, {"from": "gpt", "value": "So."}], Exchange("", "")),
        ([], Exchange("", "")),
        ("none", None),
        ([1], None),
    ],
)
def test_the_first_question_and_its_answer_are_taken(turns: object, found: object) -> None:
    line = json.dumps({"id": "x", "conversations": turns}).encode()
    assert exchange_in(line) == found
    assert exchange_in(b'{"prompt": "x"}') is None


ELEMENTS = [TALK, {"a": ["]", {"b": '"}],\\'}]}, {"缆车": "上 🚡 [,"}]


@pytest.mark.parametrize("size", [1, 2, 7, 100_000])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_one_element_at_a_time(size: int, indent: int | None) -> None:
    text = json.dumps(ELEMENTS, ensure_ascii=False, indent=indent)
    data = b"\xef\xbb\xbf \n" + text.encode() + b"\n"
    blocks = (data[at : at + size] for at in range(0, len(data), size))
    assert [json.loads(element) for element in elements(blocks)] == ELEMENTS


@pytest.mark.parametrize(
    ("data", "what"),
    [(b'[{"a": 1}', "not whole"), (b"[{]", "not whole"), (b"", "not whole"), (b"[\xff]", "UTF-8")],
)
def test_a_damaged_array_is_said(data: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        list(elements([data]))
