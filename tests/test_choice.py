"""What `up` asks the planner: a layout where the spec names none, and whether one fits."""

import pytest

from plan_requests import SPEC
from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.choice import MEMORY_ERROR, choice, room
from ropeway.spec.model import Spec, parse_spec

CHIP = chip_named("910B4")
BLANK = SPEC.replace("  layout: TP4          # what we had\n", "")


def spec(**serve: object) -> Spec:
    lines = "".join(f"  {key}: {value}\n" for key, value in serve.items())
    return parse_spec(BLANK.replace("serve:\n", f"serve:\n{lines}"), "f")


def test_a_blank_layout_becomes_the_planners_with_one_line_of_why():
    made = choice(spec(), known("Qwen3-30B-A3B"), CHIP, "0.18.0")
    serve = made.spec.serve
    assert (serve.layout, serve.replicas) == (made.candidate.layout, made.candidate.replicas)
    assert made.candidate.npus == 16
    assert made.why.startswith(made.candidate.name)
    assert "tokens/s" in made.why
    assert room(made.spec, known("Qwen3-30B-A3B"), CHIP, "0.18.0").fits
    assert choice(spec(replicas=1), known("Qwen3-30B-A3B"), CHIP, "0.18.0").spec.serve.replicas == 1


def test_a_blank_layout_for_a_model_too_large_is_refused_with_what_is_missing():
    with pytest.raises(Refused) as caught:
        choice(spec(), known("DeepSeek-V3"), CHIP, "0.18.0")
    assert "no layout fits" in caught.value.what
    assert any("GiB are missing on each NPU" in line for line in caught.value.evidence)


def test_room_is_negative_for_what_cannot_fit_and_tight_within_the_models_error():
    shape = known("Qwen3-30B-A3B")
    assert not room(spec(layout="TP1"), shape, CHIP, "0.18.0").fits
    wide = room(spec(layout="TP8"), shape, CHIP, "0.18.0")
    assert wide.fits
    assert not wide.tight
    assert "GiB are left for the cache, and a sequence of 40,960 tokens takes" in wide.words
    scarce = [
        room(spec(layout="TP4", memory=share / 100), shape, CHIP, "0.18.0")
        for share in range(50, 100)
    ]
    assert any(one.tight and one.spare < MEMORY_ERROR for one in scarce)
    assert not any(one.tight and not one.fits for one in scarce)
