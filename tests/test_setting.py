"""Settings of `tune`: put into a spec and its file, and what the search tries around one."""

from dataclasses import replace

import pytest

from plan_requests import SPEC, request
from ropeway.bench.tuning import Trial
from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.request import request_for_hosts
from ropeway.plan.tuning import (
    VARIED,
    Reach,
    planned_starts,
    reach_of,
    starts_with,
    steps,
)
from ropeway.spec.editing import apply_edits, reasoned_keys
from ropeway.spec.model import Layout, local_spec, parse_spec
from ropeway.spec.setting import Setting

WHOLE = Setting(
    layout=Layout.parse("TP4+EP"), replicas=2, max_sequences=64, batched_tokens=4096,
    memory=0.92, graph="full_decode_only",
)  # fmt: skip
SETTINGS = [
    WHOLE,
    replace(WHOLE, graph="eager"),
    Setting(layout=Layout.parse("TP8")),
    Setting(layout=Layout.parse("PP2"), max_sequences=8),
]
REACH = Reach(64, 512, lambda _: 2048, frozenset(VARIED))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_setting_is_read_from_a_spec_as_it_was_put_into_it(setting):
    spec = parse_spec(SPEC, "spec")
    after = setting.over(spec)
    found = Setting.of(after)
    assert replace(found, graph=setting.graph) == setting
    assert Trial.from_json(Trial(setting=setting).as_json()).setting == setting
    assert after.model_copy(update={"serve": spec.serve}) == spec, "nothing else has changed"
    if setting.graph == "full_decode_only":
        mode = {"cudagraph_mode": "FULL_DECODE_ONLY"}
        assert after.serve.engine_args["compilation-config"] == mode


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("more", ["", "  engine_args: {max_num_batched_tokens: 8192, seed: 1}\n"])
def test_the_edits_make_the_file_say_what_the_setting_is(setting, more):
    text = SPEC.replace("serve:\n", f"serve:\n{more}")
    spec = parse_spec(text, "spec")
    after = apply_edits(text, setting.edits(spec, "412 tokens/s, the best of 9 trials"))
    assert parse_spec(after, "spec").as_json() == setting.over(spec).as_json()
    assert reasoned_keys(after, "tune") == {("serve", "layout")}
    assert reasoned_keys(after, "plan") == set(), "so that a plan leaves it as it is"
    assert "# tune: 412 tokens/s, the best of 9 trials\n  layout: " in after
    assert "# the front door" in after


def test_a_flag_in_the_other_spelling_is_replaced_and_not_given_twice():
    text = SPEC.replace("serve:\n", "serve:\n  engine_args: {max_num_batched_tokens: 8k}\n")
    spec = parse_spec(text, "spec")
    assert Setting.of(spec).batched_tokens == 8000
    after = replace(Setting.of(spec), batched_tokens=4096).over(spec)
    assert after.serve.engine_args == {"max-num-batched-tokens": 4096}


def test_no_limit_is_raised_that_the_load_does_not_reach():
    full = replace(WHOLE, max_sequences=32, batched_tokens=16384)  # 64 clients, two replicas
    assert [one for one in steps(full, REACH) if one.graph == full.graph] == [
        replace(full, max_sequences=16),
        replace(full, batched_tokens=8192),
    ]
    tight = replace(WHOLE, max_sequences=16, batched_tokens=2048)
    assert list(steps(tight, REACH)) == [
        replace(tight, max_sequences=32),
        replace(tight, max_sequences=8),
        replace(tight, batched_tokens=4096),
        replace(tight, batched_tokens=1024),
        replace(tight, memory=0.94),
    ]


def test_a_limit_that_the_engines_own_reaches_too_is_left_to_the_engine():
    reach = replace(REACH, input_tokens=64)  # 32 sequences of 64 tokens: 2,048, as the engine takes
    less = replace(WHOLE, max_sequences=32, batched_tokens=1024)
    assert replace(less, batched_tokens=None) in steps(less, reach)
    longer = replace(REACH, input_tokens=65)
    assert replace(less, batched_tokens=None) in steps(less, longer)
    assert replace(less, batched_tokens=4096) in steps(replace(less, batched_tokens=2048), longer)


def test_a_step_back_to_what_was_tried_has_its_name():
    own = Setting(layout=Layout.parse("TP8"))
    reach = replace(REACH, clients=512, own=own)
    assert replace(own, batched_tokens=None) in steps(replace(own, batched_tokens=1024), reach)
    assert own in steps(replace(own, max_sequences=128), reach)
    other = replace(own, layout=Layout.parse("TP4"), max_sequences=128)
    assert replace(other, max_sequences=256) in steps(other, reach), "that of the plan has a number"


def test_what_is_left_to_the_engine_counts_as_the_engines_own():
    bare = Setting(layout=Layout.parse("TP8"))
    tried = list(steps(bare, REACH))
    assert tried == [
        replace(bare, max_sequences=32),
        replace(bare, batched_tokens=4096),
        replace(bare, batched_tokens=1024),
        replace(bare, graph="full_decode_only"),
        replace(bare, graph="eager"),
    ]
    assert list(steps(bare, replace(REACH, varied=frozenset({"graph"})))) == tried[-2:]


@pytest.mark.parametrize("clients", [1, 2, 3, 100, 4096])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_step_is_one_that_an_engine_takes(setting, clients):
    for one in steps(setting, replace(REACH, clients=clients)):
        assert one != setting
        assert one.layout == setting.layout and one.replicas == setting.replicas
        assert one.max_sequences is None or one.max_sequences >= 1
        assert one.memory is None or one.memory <= 0.96
        if one.batched_tokens and one.batched_tokens != setting.batched_tokens:
            assert one.batched_tokens >= max(64, one.max_sequences or 1)


def test_what_cannot_be_varied_is_not():
    local = local_spec()
    fixed = reach_of(local, request(), VARIED).varied
    assert fixed == {"layout", "max-sequences", "batched-tokens"}
    text = SPEC.replace(
        "serve:\n", "serve:\n  kv_cache: 8 GiB\n  engine_args: {enforce_eager: true}\n"
    )
    assert reach_of(parse_spec(text, "spec"), request(), VARIED).varied == fixed


def planned(more=""):
    text = SPEC.replace("serve:\n", f"serve:\n  context: 4096\n{more}")
    spec = parse_spec(text, "spec")
    shape = known("Qwen3-VL-30B-A3B-Instruct")
    return spec, request_for_hosts(spec, shape, chip_named("910B4"), "0.11.0rc0")


def test_the_search_begins_with_the_specs_own_and_then_the_plans_best():
    spec, wanted = planned()
    ranked, notes = planned_starts(spec, wanted, ())
    assert len(ranked) > 4
    own = Setting.of(spec)
    starts = starts_with(own, ranked, 4)
    assert len(starts) == 4 and starts[0] == own
    assert [(one.layout, one.replicas) for one in starts].count((own.layout, 1)) == 1
    assert all(one.max_sequences and one.memory for one in ranked)
    assert all(one.replicas == 1 for one in ranked)
    assert ["api_key_env" in note for note in notes] == [True]
    keyed, wanted = planned("  api_key_env: KEY\n")
    ranked, notes = planned_starts(keyed, wanted, ())
    assert any(one.replicas > 1 for one in ranked) and notes == ()


def test_named_layouts_are_the_only_ones():
    spec, wanted = planned()
    named = [Layout.parse("TP4+EP"), Layout.parse("TP8")]
    ranked, _ = planned_starts(spec, wanted, named)
    assert [one.layout for one in ranked] == named
    with pytest.raises(Refused):
        planned_starts(spec, wanted, [Layout.parse("TP16×PP16")])
