"""A query that was asked of one NPU after the other, and the one that did not answer."""

import pytest

from facts_recordings import expected_of, recorded, text_of
from ropeway.facts.catalogue import BY_NAME
from ropeway.facts.hccn import OUTPUTS

# The values of these are no records of NPUs.
WITHOUT = ("hccn-conf", "hccn-multi")
ASKED = {output.name: output.command.replace(" N ", " 6 ") for output in OUTPUTS}
WHOLE = [
    name
    for name in recorded("hccn")
    if expected_of(name)["state"] == "ok" and expected_of(name)["output"] not in WITHOUT
]


def asked_of_another(name: str, answer: str) -> str:
    output = expected_of(name)["output"]
    return f"{text_of(name).rstrip()}\n[root@npu-1 ~]# {ASKED[output]}\n{answer}\n"


@pytest.mark.parametrize("name", WHOLE)
def test_the_next_npu_complains_and_the_others_keep_their_answers(name: str) -> None:
    output = BY_NAME[expected_of(name)["output"]]
    alone = output.parse(text_of(name))
    text = asked_of_another(name, "hccn_tool is busy, please try again.")
    reading = output.parse(text)
    assert (reading.state, reading.unread) == ("ok", ())
    assert reading.value is not None and alone.value is not None
    *answers, last = reading.value
    assert tuple(answers) == alone.value
    assert (last.device, last.error.kind) == (6, "busy")


@pytest.mark.parametrize("name", WHOLE)
def test_the_next_npu_says_what_nobody_knows(name: str) -> None:
    output = BY_NAME[expected_of(name)["output"]]
    alone = output.parse(text_of(name))
    reading = output.parse(asked_of_another(name, "the moon is full"))
    assert (reading.state, reading.unread) == ("partial", ("the moon is full",))
    assert reading.value == alone.value
