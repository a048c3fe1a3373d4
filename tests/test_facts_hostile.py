"""Whatever comes, no parser raises, none hangs, and none calls garbage an answer."""

import json
import random
import re
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facts_recordings import RECORDINGS, expected_of, recorded, text_of
from ropeway.facts.base import Output, Reading
from ropeway.facts.catalogue import BY_NAME, OUTPUTS, recognise

# A hang guard and no measurement: what takes longer here than this never ends.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TEXTS = [
    path.read_text(encoding="utf-8", errors="replace") for path in sorted(RECORDINGS.glob("*.txt"))
]
EACH = pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output.name)
QUICK = settings(max_examples=25, deadline=None)

MEGABYTE = 1_000_000
PIECES = (
    "a",
    " ",
    "\t",
    "0",
    ".",
    ":",
    "|",
    "| ",
    "[",
    "(",
    ">",
    "> ",
    "#",
    "-",
    "_",
    "%",
    '"',
    "\\",
    "\x1b[",
    "\x1b]",
    '{"a":',
    "a=",
    "a@b:",
    "dev_id:",
    "recv seq=",
    "LINK UP ",
    "NPU0 ",
    "中",
    "| 0     910B3               | OK            | ",
)
# What Chinese tools and documents print for labels that we know.
CHINESE = """\
设备编号                       : 0
健康状态                       : 正常
错误码                         : 无
网络健康状态：成功
链路状态：已连接
"""


def sound(output: Output[Any], text: str) -> Reading[Any]:
    """Parse, and hold the reading to what every reading promises."""
    reading = output.parse(text)
    assert (reading.value is None) == (reading.state in ("unknown", "absent")) or (
        reading.state == "error"
    )
    assert (reading.error is not None) if reading.state == "error" else True
    assert reading.state != "ok" or not reading.unread
    assert len(reading.unread) <= 20 and all(len(line) <= 200 for line in reading.unread)
    assert len(reading.text) <= 4_000
    assert 0.0 <= output.recognise(text) <= 1.0
    json.dumps(asdict(reading), default=sorted)
    return reading


@EACH
@QUICK
@given(text=st.text(max_size=400))
def test_any_text_is_read_without_raising(output: Output[Any], text: str) -> None:
    sound(output, text)


@EACH
@QUICK
@given(content=st.binary(max_size=400))
def test_any_bytes_are_read_without_raising(output: Output[Any], content: bytes) -> None:
    sound(output, content.decode("utf-8", errors="replace"))


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A recording that was cut, shuffled, thinned, doubled or sprinkled with noise."""
    text = draw(st.sampled_from(TEXTS))
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
    return text


@EACH
@QUICK
@given(text=mangled())
def test_a_mangled_recording_is_read_without_raising(output: Output[Any], text: str) -> None:
    sound(output, text)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(mangled(), st.text(max_size=200)))
def test_recognising_never_raises(text: str) -> None:
    recognise(text)


@EACH
def test_a_megabyte_on_one_line_does_not_hang(output: Output[Any]) -> None:
    for piece in PIECES:
        sound(output, piece * (MEGABYTE // len(piece)))


def test_a_megabyte_is_recognised_as_nothing_in_time() -> None:
    for piece in PIECES:
        recognise(piece * (MEGABYTE // len(piece)))


NOISE = "\n".join(
    "".join(random.Random(line).choices("abcdefghijklmnopqrstuvwxyz ,;!?()[]<>~^", k=60))
    for line in range(50)
)
TALK = """\
Dear team, yesterday our cluster was slow again and nobody knows why.
I have restarted everything, twice, and it did not get better at all.
Could you have a look when you find the time? Thank you very much!
"""
# The engine's log may hold any line, and an empty list of containers is an empty output.
ANYTHING = {"engine-log", "plog"}


@EACH
@pytest.mark.parametrize("text", [NOISE, TALK, CHINESE], ids=["noise", "talk", "chinese"])
def test_garbage_is_never_ok(output: Output[Any], text: str) -> None:
    if output.name not in ANYTHING:
        assert sound(output, text).state in ("unknown", "partial")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:20])
def test_a_recording_without_its_digits_raises_nowhere(text: str) -> None:
    masked = text.translate({ord(digit): "x" for digit in "0123456789"})
    for output in OUTPUTS:
        sound(output, masked)


UNKNOWN = "what nobody has ever seen before"


@pytest.mark.parametrize("name", recorded(""))
def test_a_line_that_means_nothing_is_never_swallowed(name: str) -> None:
    expected = expected_of(name)
    output = BY_NAME[expected["output"]]
    reading = sound(output, f"{text_of(name).rstrip()}\n{UNKNOWN}\n")
    assert reading.state != "ok"
    if expected["state"] == "ok":
        assert reading.unread == (UNKNOWN,)


@pytest.mark.parametrize("name", recorded(""))
def test_a_recording_pasted_many_times_does_not_hang(name: str) -> None:
    text = text_of(name)
    sound(BY_NAME[expected_of(name)["output"]], text * (MEGABYTE // len(text)))


@pytest.mark.parametrize("name", recorded(""))
def test_numbers_of_thousands_of_digits_raise_nowhere(name: str) -> None:
    output = BY_NAME[expected_of(name)["output"]]
    for digits in (25, 5_000):
        sound(output, re.sub(r"\d+", "9" * digits, text_of(name)[:8_000]))


# Digits of which `²` is one to str.isdigit only, and letters that re.IGNORECASE takes for others.
STRANGE = [
    *({ord(digit): sign for digit in "0123456789"} for sign in ("²", "٣", "𝟘", "½")),
    {ord(digit): "0x" + "9" * 4_400 for digit in "0123456789"},
    {ord(letter): other for letter, other in zip("iIsSkK", "ıİſſKK", strict=True)},
    {ord(sign): "\N{INVERTED EXCLAMATION MARK}" for sign in "-:=|/,. "},
]


@pytest.mark.parametrize("name", recorded(""))
def test_what_only_looks_like_a_letter_or_a_digit_raises_nowhere(name: str) -> None:
    output = BY_NAME[expected_of(name)["output"]]
    dice = random.Random(name)
    for letters in STRANGE:
        for share in (1.0, 0.3, 0.1, 0.03):
            text = "".join(
                letters.get(ord(one), one) if dice.random() < share else one
                for one in text_of(name)[:8_000]
            )
            sound(output, text[:MEGABYTE])
