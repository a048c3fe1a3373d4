"""What `up`, `init` and `bench` ask the planner: what `plan` would choose, and whether it fits."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plan_requests import SPEC, request
from ropeway.cli.main import exit_code
from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.choice import MEMORY_ERROR, expected, plan_for_new, room, with_layout
from ropeway.plan.choose import choose
from ropeway.plan.load import Load
from ropeway.plan.request import request_for_hosts
from ropeway.plan.resolve import Flags, resolve
from ropeway.plan.writing import edits, written
from ropeway.spec.editing import apply_edits
from ropeway.spec.file import SpecFile
from ropeway.spec.model import Layout, Spec, parse_spec

CHIP = chip_named("910B4")
BLANK = SPEC.replace("  layout: TP8          # what we had\n", "  api_key_env: MY_KEY\n")
LONG = "Qwen3-30B-A3B-Instruct-2507"  # its context is of 262,144 tokens


def spec_text(model: str = "Qwen3-30B-A3B", **serve: object) -> str:
    lines = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in serve.items())
    return BLANK.replace("Qwen3-30B-A3B", model).replace("serve:\n", f"serve:\n{lines}")


def spec(model: str = "Qwen3-30B-A3B", **serve: object) -> Spec:
    return parse_spec(spec_text(model, **serve), "f")


def up(asked: Spec, model: str = "Qwen3-30B-A3B", version: str = "0.18.0") -> Spec:
    """The spec as `up` runs it."""
    return with_layout(asked, known(model), CHIP, version)[0]


def file(text: str) -> SpecFile:
    return SpecFile("ropeway.yaml", text, parse_spec(text, "ropeway.yaml"))


def test_a_blank_layout_becomes_the_planners_with_one_line_of_why():
    shape = known("Qwen3-30B-A3B")
    made, notes = with_layout(spec(), shape, CHIP, "0.18.0")
    assert made.serve.layout.npus * made.serve.replicas == 16
    name = made.serve.layout.times(made.serve.replicas)
    assert notes[0].startswith(f"layout: the plan's choice, {name}: ")
    assert "tokens/s" in notes[0]
    assert room(made, shape, CHIP, "0.18.0").fits
    assert up(spec(replicas=1)).serve.replicas == 1


@pytest.mark.parametrize("chip", [CHIP, None])
def test_a_choice_needs_a_chip_and_for_several_hosts_a_key(chip):
    asked = parse_spec(BLANK.replace("  api_key_env: MY_KEY\n", "  context: 4096\n"), "f")
    with pytest.raises(Refused) as caught:
        with_layout(asked, known("Qwen3-30B-A3B"), chip, "0.18.0")
    assert caught.value.where == ("serve.layout" if chip else "cluster.chip")


def test_a_blank_layout_for_a_model_too_large_is_refused_with_what_is_missing():
    with pytest.raises(Refused) as caught:
        up(spec(), "DeepSeek-V3-W8A8")
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


# One request, one choice.

SERVE = st.fixed_dictionaries(
    {},
    optional={
        "context": st.sampled_from([1024, 8192, 40_960]),
        "replicas": st.sampled_from([1, 2]),
        "memory": st.sampled_from([0.85, 0.95]),
        "max_sequences": st.sampled_from([16, 64]),
        "engine_args": st.sampled_from(
            [{"enforce-eager": True}, {"kv_cache_dtype": "int8", "max-num-batched-tokens": 4096}]
        ),
    },
)


@given(
    serve=SERVE,
    model=st.sampled_from(["Qwen3-30B-A3B", LONG, "Qwen3-32B"]),
    version=st.sampled_from(["0.11.0rc0", "0.18.0"]),
)
def test_up_runs_what_plan_chooses_whatever_the_spec_says(serve, model, version):
    text = spec_text(model, **serve).replace("0.11.0rc0", version).replace("npus: 8", "npus: 4")
    chosen = choose(resolve(file(text), Flags(), Path("nowhere"))[0]).chosen
    asked = parse_spec(text, "f")
    if chosen is None:
        with pytest.raises(Refused):
            up(asked, model, version)
        return
    taken = up(asked, model, version).serve
    assert (taken.layout, taken.replicas, taken.max_sequences, taken.memory) == (
        chosen.layout, chosen.replicas, chosen.max_sequences, chosen.fraction,
    )  # fmt: skip


@pytest.mark.parametrize(
    "serve",
    [{}, {"context": 4096}, {"replicas": 1}, {"context": 4096, "memory": 0.85}],
    ids=str,
)
def test_the_verbs_agree_on_hosts_too(
    serve: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "of-the-endpoint")
    text = spec_text(LONG, **serve).replace("0.11.0rc0", "0.18.0")
    (tmp_path / "ropeway.yaml").write_text(text)
    documents = {}
    for verb in (("plan",), ("up", "--rehearse", "--dry-run")):
        assert exit_code([*verb, "--json"]) == 0
        documents[verb[0]] = json.loads(capsys.readouterr().out)
    chosen, taken = documents["plan"]["chosen"], documents["up"]
    assert (taken["layout"], taken["replicas"]) == (chosen["layout"], chosen["replicas"])
    load = Load(512, 256, clients=256)
    forecast = expected(file(text), load, tmp_path)
    assert forecast.layout == Layout.parse(chosen["layout"]).times(chosen["replicas"])
    assert forecast.is_chosen
    assert forecast.forecast.output_tokens_per_s == chosen["forecast"]["output_tokens_per_s"]


def test_what_bench_expects_is_of_the_spec_as_it_is_and_not_planned_anew():
    """Of the values that a plan wrote too: the engine runs with them."""
    text = spec_text(LONG, context=4096)
    before = parse_spec(text, "f")
    plan = choose(request_for_hosts(before, known(LONG), CHIP, "0.18.0"))
    text = apply_edits(text, edits(before, written(before, plan), plan))
    few = text.replace(f"max_sequences: {plan.chosen.max_sequences}", "max_sequences: 4")
    load = Load(512, 256, clients=256)
    found = [expected(file(one), load, Path("nowhere")) for one in (text, few)]
    assert [(one.layout, one.is_chosen) for one in found] == [(plan.chosen.name, False)] * 2
    assert found[1].forecast.output_tokens_per_s < 0.5 * found[0].forecast.output_tokens_per_s


def test_of_a_blank_layout_that_is_expected_which_up_starts_and_not_that_of_the_load():
    """Even where another one would be faster under it."""
    blank = spec_text()
    for load in (Load(20, 16, clients=1024, requests=6000), Load(16_000, 2, clients=1)):
        found = expected(file(blank), load, Path("nowhere"))
        serve = up(parse_spec(blank, "f"), version="0.11.0rc0").serve
        assert found.layout == serve.layout.times(serve.replicas)
        assert found.is_chosen


def test_a_new_specs_context_is_no_longer_than_its_model_has():
    for asked, takes in ((65_536, 40_960), (8192, 8192)):
        filled = spec(context=asked)
        plan = plan_for_new(filled, known("Qwen3-30B-A3B"), "0.18.0")
        assert written(filled, plan).serve.context == takes


# A blank context.


def test_a_blank_context_is_the_engines_where_there_is_a_spec_and_the_loads_with_flags_alone():
    flags = Flags(model=LONG, chip="910B4", hosts=2)
    alone = choose(resolve(None, flags, Path("nowhere"))[0])
    of_spec = choose(resolve(file(spec_text(LONG)), Flags(), Path("nowhere"))[0])
    found = [
        next(value for value in plan.values if value.key == "serve.context")
        for plan in (alone, of_spec)
    ]
    assert [(one.value, one.source) for one in found] == [(1024, "planner"), (262_144, "default")]
    assert found[1].why.startswith("what the engine takes where none is named; ")


def test_a_plan_says_what_a_blank_context_costs():
    """Until 0.11.0rc0 a step may take a whole context, and has room for it."""
    requests = [
        resolve(file(spec_text(LONG, **serve)), Flags(), Path("nowhere"))[0]
        for serve in ({}, {"context": 262_144}, {"context": 1024})
    ]
    blank, long, short = map(choose, requests)
    said = [line for line in blank.doubts if "`serve.context` is blank" in line]
    assert len(said) == 1
    assert "takes 262,144 tokens; 1,024 would be enough for this load" in said[0]
    assert f"{short.chosen.name} with" in said[0]
    assert blank.chosen.name == long.chosen.name != short.chosen.name
    assert not [line for plan in (long, short) for line in plan.doubts if "is blank" in line]


@pytest.mark.parametrize(("version", "memory"), [("0.11.0rc0", 0.9), ("0.18.0", 0.7)])
def test_where_a_blank_context_leaves_no_room_the_plan_says_which_has(version, memory):
    text = spec_text(LONG, memory=memory).replace("0.11.0rc0", version)
    text = text.replace("    - {address: 10.0.0.2, npus: 8}\n", "").replace("npus: 8", "npus: 4")
    plan = choose(resolve(file(text), Flags(), Path("nowhere"))[0])
    assert plan.chosen is None
    said = " ".join(plan.missing)
    assert "`serve.context` is blank, so the engine takes 262,144 tokens; with a" in said
    with pytest.raises(Refused) as caught:
        up(parse_spec(text, "f"), LONG, version)
    assert set(plan.missing) == set(caught.value.evidence)


@pytest.mark.parametrize(("clients", "beyond"), [(64, False), (4096, True)])
def test_what_bench_expects_says_when_nobody_has_measured_so_many(clients: int, beyond: bool):
    text = (
        "cluster: {chip: 910B3, hosts: [{address: h, npus: 4}]}\nmodel: {path: /m/Qwen3-8B}\n"
        "serve: {layout: TP4, context: 512, max_sequences: 4096}\n"
    )
    found = expected(file(text), Load(128, 128, clients=clients), Path("nowhere"))
    assert found.beyond_measured is beyond


@pytest.mark.parametrize("flag", [None, "TP8", "TP8×PCP2×DCP8"])
def test_a_layout_of_the_command_line_has_the_specs_context_parallelism(flag: str | None):
    flags = {"prefill-context-parallel-size": 2, "decode-context-parallel-size": 8}
    asked = file(spec_text("DeepSeek-V3.1-w8a8", engine_args=flags))
    request, _ = resolve(asked, Flags(layout=flag), Path())
    assert request.contexts == (2, 8)
    assert request.layout == (flag and Layout.parse("TP8×PCP2×DCP8"))


@pytest.mark.parametrize(
    ("model", "chip", "load", "best"),
    [
        ("Qwen2.5-7B-Instruct", "310P3", Load(128, 128, clients=256), "2 replicas of TP4"),
        ("Qwen3-30B-A3B", "910B4", Load(128, 128, rate=50), "2 replicas of TP4"),
        ("Qwen3-8B", "910B4", Load(128, 128, rate=2), "TP1"),
    ],
)
def test_of_equals_the_one_that_was_measured_wins(model, chip, load, best):
    ranked = choose(request(model, 1, chip, "0.30.0", load=load)).candidates
    speed = ranked[0].forecast.output_tokens_per_s
    equal = [item for item in ranked if item.forecast.output_tokens_per_s > speed * 0.9999]
    assert equal[0].name == best
    doubts = [
        (not item.measured, len(item.notes) - item.remarks, item.remarks, item.hosts)
        for item in equal
    ]
    assert doubts == sorted(doubts) and len(equal) > 1


def test_what_is_within_one_percent_of_the_best_counts_as_equal_wherever_it_lies():
    asked = request(
        "Qwen3-Next-80B-A3B-Instruct", 1, "910B3", "0.14.0rc1", load=Load(1024, 512, clients=8),
    )  # fmt: skip
    ranked = [item for item in choose(asked).candidates if not item.faults]
    speeds = [item.forecast.output_tokens_per_s for item in ranked]
    equal = [item for item in ranked if item.forecast.output_tokens_per_s * 1.01 > max(speeds)]
    assert ranked[0].measured or not any(item.measured for item in equal)
    assert all(item in equal for item in ranked[: len(equal)])
