"""Every parser against every recording of its output: as recorded, spoilt, and hostile."""

import json
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from recorded import ANSWERS, QUESTIONS, RECORDINGS, excerpts, question_of, shown
from ropeway.facts.__main__ import as_json
from ropeway.facts.question import Parsed, Question

NAMES = ANSWERS.names()
EACH = pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda question: question.key)


def sound(question: Question[object], text: str) -> Parsed[object]:
    """Parse, and hold the reading to what every reading promises."""
    parsed = question.parse(text)
    if parsed.state == "error":
        assert parsed.error is not None
    else:
        assert (parsed.value is None) == (parsed.state in ("unknown", "absent"))
    assert parsed.state != "ok" or not parsed.unparsed
    assert len(parsed.unparsed) <= 20 and all(len(line) <= 200 for line in parsed.unparsed)
    assert len(parsed.text) <= 4_000
    json.dumps(json.loads(as_json(parsed)), allow_nan=False, ensure_ascii=False).encode()
    return parsed


def test_the_index_names_every_recording_once():
    assert sorted(NAMES) == NAMES == [path.stem for path in sorted(RECORDINGS.glob("*.txt"))]
    assert sorted(NAMES) == [path.stem for path in sorted(RECORDINGS.glob("*.json"))]


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_says_what_a_reader_sees(name):
    question = question_of(name)
    assert shown(question, sound(question, ANSWERS.text_of(name))) == ANSWERS.expected_of(name)


@pytest.mark.parametrize("excerpt", excerpts(), ids=lambda excerpt: excerpt["why"])
def test_an_excerpt_says_what_it_shows(excerpt):
    question = QUESTIONS[excerpt["question"]]
    text = "\n".join(excerpt["text"])
    reading = shown(question, sound(question, text))
    assert reading.pop("text", text) == text
    assert reading == {key: excerpt[key] for key in excerpt.keys() - {"why", "text"}}


@pytest.mark.parametrize("name", NAMES)
def test_line_ends_colours_and_a_byte_order_mark_do_no_harm(name):
    question, text = question_of(name), ANSWERS.text_of(name)
    plain = question.parse(text)
    others = [text.replace("\n", "\r\n")]
    if not text.lstrip().startswith(("{", "[", "== ")):  # JSON, and our own script's sections
        others += [f"\x1b[0m{text}\x1b[K\n", f"\ufeff{text}"]
    for other in others:
        parsed = question.parse(other)
        assert (parsed.state, parsed.value) == (plain.state, plain.value)


UNKNOWN = "what nobody has ever seen before"


@pytest.mark.parametrize("name", NAMES)
def test_a_line_that_means_nothing_is_never_swallowed(name):
    question = question_of(name)
    if question.key in ("hccn-ping", "ping", "lscpu"):  # one figure of a long text
        return
    parsed = sound(question, f"{ANSWERS.text_of(name).rstrip()}\n{UNKNOWN}\n")
    assert parsed.state != "ok"
    if ANSWERS.expected_of(name)["state"] == "ok":
        assert UNKNOWN in " ".join(parsed.unparsed)


NOISE = "\n".join(
    "".join(random.Random(line).choices("abcdefghijklmnopqrstuvwxyz ,;!?()[]<>~^", k=60))
    for line in range(50)
)
TALK = """\
Dear team, yesterday our cluster was slow again and nobody knows why.
I have restarted everything, twice, and it did not get better at all.
"""
# What Chinese tools and documents print for labels that we know.
CHINESE = (
    "设备编号                       : 0\n健康状态                       : 正常\n链路状态：已连接\n"
)


@EACH
@pytest.mark.parametrize("text", [NOISE, TALK, CHINESE], ids=["noise", "talk", "chinese"])
def test_garbage_is_never_ok(question, text):
    assert sound(question, text).state in ("unknown", "partial")


@EACH
@given(text=st.one_of(st.text(max_size=400), st.binary(max_size=400).map(lambda raw: raw.decode(errors="replace"))))  # fmt: skip  # noqa: E501
def test_any_text_is_parsed_without_raising(question, text):
    sound(question, text)


@st.composite
def mangled(draw: st.DrawFn) -> tuple[str, str]:
    """A recording that was cut, shuffled, thinned, doubled or sprinkled with noise."""
    name = draw(st.sampled_from(NAMES))
    text = ANSWERS.text_of(name)
    dice = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 3))):
        lines = text.splitlines(keepends=True) or [""]
        match dice.randrange(6):
            case 0:
                text = text[: dice.randrange(len(text) + 1)]
            case 1:
                text = text[dice.randrange(len(text) + 1) :]
            case 2:
                dice.shuffle(lines)
                text = "".join(lines)
            case 3:
                text = "".join(line for line in lines if dice.random() < 0.7)
            case 4:
                text = "".join(line * dice.randrange(1, 3) for line in lines)
            case _:
                noise = draw(st.text(min_size=1, max_size=5))
                text = "".join(noise if dice.random() < 0.03 else letter for letter in text)
    return name, text


@given(spoilt=mangled())
def test_a_mangled_recording_is_parsed_without_raising(spoilt):
    name, text = spoilt
    sound(question_of(name), text)


# Digits of which `²` is one to str.isdigit only, and letters that re.IGNORECASE takes for others.
STRANGE = [
    *({ord(digit): sign for digit in "0123456789"} for sign in ("²", "٣", "𝟘", "½")),
    {ord(digit): "x" for digit in "0123456789"},
    {ord(letter): other for letter, other in zip("iIsSkK", "ıİſſKK", strict=True)},
    {ord(sign): "\N{INVERTED EXCLAMATION MARK}" for sign in "-:=|/,. "},
]


@pytest.mark.parametrize("name", NAMES)
def test_what_only_looks_like_a_letter_or_a_digit_raises_nowhere(name):
    question, text = question_of(name), ANSWERS.text_of(name)[:8_000]
    dice = random.Random(name)
    for letters in STRANGE:
        for share in (1.0, 0.3, 0.03):
            sound(question, "".join(
                letters.get(ord(one), one) if dice.random() < share else one for one in text
            ))  # fmt: skip
    for digits in (25, 5_000):
        sound(question, re.sub(r"\d+", "9" * digits, text))


KINDS = sorted({ANSWERS.expected_of(name)["question"]: name for name in NAMES}.values())
PIECES = ("a ", "0", '"', "[1,", '{"a":', "\x1b]", "| ", "a: ", "中", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_work_grows_with_the_text_and_not_faster(name):
    """100 kB of each piece, and of the recording, in the middle of the recording."""
    question, text = question_of(name), ANSWERS.text_of(name)
    middle = text.rfind("\n", 0, len(text) // 2) + 1
    for piece in (*PIECES, text):
        sound(question, text[:middle] + piece * (100_000 // len(piece)) + text[middle:])
    assert_linear(question.parse, text)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: the list or object, and the index or key."""
    if not isinstance(value, dict | list):
        return []
    members = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for key, member in members for place in ((value, key), *places(member))]


JSON_NAMES = [name for name in NAMES if ANSWERS.text_of(name).startswith(("{", "[\n"))]
OTHER = [None, True, 0, -1, 10**400, 1.5, "", "x", [], [[]], {}, {"a": {}}, ["a"], [None], "\ud800"]


@pytest.mark.parametrize("name", JSON_NAMES)
@given(place=st.floats(0, 0.999), other=st.sampled_from(OTHER))
def test_a_member_of_another_type_does_no_harm(name, place, other):
    text = ANSWERS.text_of(name)
    one_line = text.startswith("{")
    values = (
        [json.loads(line) for line in text.splitlines() if line] if one_line else json.loads(text)
    )
    spots = [(values, 0), *places(values)]
    inside, key = spots[int(place * len(spots))]
    inside[key] = other
    sound(question_of(name), "\n".join(json.dumps(value) for value in values))
