"""The longest context of a model: by config.json, by `--hf-overrides`, by its name."""

import json
from math import inf

import pytest

from model_files import LLAMA
from ropeway.engines.ascend_releases import multiplies_yarn
from ropeway.engines.vllm import context_doubt, served_shape
from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.known import known
from ropeway.spec.engine_flags import config_overrides
from ropeway.spec.model import Serve

SHORT = LLAMA | {"max_position_embeddings": 40960}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def longest(config: dict[str, object], version: str, **engine_args: object) -> int:
    """Return the longest context of a config with engine flags in a release."""
    shape = read_shape(config, overrides=config_overrides(engine_args))
    return served_shape(
        shape, Serve(engine_args=engine_args), multiplies_yarn=multiplies_yarn(version)
    ).max_positions


@pytest.mark.parametrize(
    ("keys", "before", "now"),
    [
        ({}, 40960, 40960),
        ({"rope_scaling": None}, 40960, 40960),
        ({"rope_scaling": YARN}, 131072, 40960),
        ({"rope_parameters": YARN | {"rope_theta": 1e6}}, 131072, 40960),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, 81920, 81920),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 163840, 163840),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 40960, 40960),
        ({"rope_scaling": {"type": "longrope", "factor": 8.0}}, 40960, 40960),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [1, 2]}}, 40960, 40960),
        ({"rope_scaling": {"type": "linear", "factor": None}}, 40960, 40960),
        *(({"rope_scaling": YARN | {"factor": bad}}, 40960, 40960) for bad in ("4.0", -4, inf)),
        ({"rope_scaling": {"type": "linear", "factor": 8}, "model_type": "gemma3"}, 40960, 40960),
        (
            {"rope_parameters": {"full_attention": YARN, "sliding_attention": {"type": "default"}}},
            131072, 40960,
        ),
        ({"seq_length": 8192}, 8192, 8192),
        ({"model_max_length": 65536}, 65536, 65536),
        (
            {"max_position_embeddings": 163840, "rope_scaling": YARN | {"factor": 5}},
            163840, 163840,
        ),
    ],
)  # fmt: skip
def test_rope_scaling_lengthens_the_context_as_the_release_counts_it(
    keys: dict[str, object], before: int, now: int
) -> None:
    assert longest(SHORT | keys, "0.18.0") == before
    assert longest(SHORT | keys, "0.30.0rc1") == now


@pytest.mark.parametrize(
    "engine_args",
    [
        {"hf-overrides": {"rope_parameters": YARN}},
        {"hf_overrides": json.dumps({"rope_scaling": YARN})},
        {"hf-overrides.rope_scaling.type": "linear", "hf-overrides.rope_scaling.factor": 3.2},
        {"rope-scaling": YARN},
        {"hf-overrides": {"max_position_embeddings": 131072}},
    ],
)  # fmt: skip
def test_overrides_of_the_config_count_in_every_spelling(engine_args: dict[str, object]) -> None:
    assert longest(SHORT, "0.18.0", **engine_args) == 131072
    nested = {"text_config": SHORT, "model_type": "some_vl"}
    assert longest(nested, "0.18.0", **engine_args) == 40960, "vLLM leaves the nested part alone"


def test_overrides_of_a_nested_part_are_merged_into_it() -> None:
    nested = {"text_config": SHORT, "model_type": "some_vl"}
    overrides = {"text_config": {"rope_parameters": YARN}}
    assert longest(nested, "0.18.0", **{"hf-overrides": overrides}) == 131072
    assert read_shape(nested, overrides={"text_config": {"num_hidden_layers": 2}}).layers == 2


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", '{"rope_parameters": 3}'])
def test_overrides_that_are_no_config_change_nothing(text: str) -> None:
    assert longest(SHORT, "0.18.0", **{"hf-overrides": text}) == 40960


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("Qwen3-235B-A22B-Thinking-2507", 262144),
        ("Qwen3-4B-Thinking-2507-FP8", 262144),
        ("GLM-4.7-W8A8", 202752),
        ("GLM-4.6", 202752),
        ("Kimi-K2-Instruct-0905-w8a8", 262144),
        ("Qwen3-32B-w8a8-QuaRot", 40960),
    ],
)
def test_a_published_context_is_known(name: str, context: int) -> None:
    shape = known(name)
    assert (shape.max_positions, shape.positions_doubt) == (context, "")


@pytest.mark.parametrize("name", ["Kimi-K2-Instruct-1127", "QwQ-32B", "Qwen3-VL-8B-Thinking"])
def test_the_context_of_a_stand_in_is_a_doubt(name: str) -> None:
    shape = known(name)
    doubt = (shape.positions_doubt,)
    assert f"the longest context of `{name}` is not known here" in shape.positions_doubt
    assert context_doubt(shape, shape.max_positions) == ()
    assert context_doubt(shape, shape.max_positions + 1) == doubt
    assert context_doubt(shape, None) == doubt


@pytest.mark.parametrize(("value", "allowed"), [("1", True), (" True ", True), ("0", False)])
def test_a_variable_allows_a_longer_context(value: str, allowed: bool) -> None:
    serve = Serve(env={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": value})
    shape = served_shape(known("Qwen3-32B"), serve, multiplies_yarn=True)
    assert bool(context_doubt(shape, 100_000)) == allowed


def test_overrides_of_a_part_that_the_model_has_not_are_refused():
    """vLLM takes the new part for the language model, and fails."""
    inner = {"text_config": {"max_position_embeddings": 131072}}
    with pytest.raises(ModelError, match="`hf-overrides` changes `text_config`") as error:
        known("Qwen3-8B", inner)
    assert "at the top" in (error.value.hint or "")
    assert known("Qwen3-VL-8B-Instruct", inner).max_positions == 131072
    assert known("Qwen3-8B", {"max_position_embeddings": 131072}).max_positions == 131072


def test_overrides_reach_the_part_that_a_class_makes_of_a_flat_config():
    """Run with transformers 5.19 and vLLM 0.32: `text_config` counts, keys at the top do not."""
    longer = {"max_position_embeddings": 131072}
    flat = {**SHORT, "model_type": "qwen2_5_vl", "vision_config": {}}
    assert longest(flat, "0.30.0rc1", **{"hf-overrides": {"text_config": longer}}) == 131072
    yarn = {"text_config": {"rope_scaling": YARN}}
    assert longest(flat, "0.18.0", **{"hf-overrides": yarn}) == 131072
    assert longest(flat, "0.30.0rc1", **{"hf-overrides": longer}) == 40960
    with pytest.raises(ModelError, match="`hf-overrides` changes `llm_config`"):
        read_shape(flat, overrides={"llm_config": longer})
