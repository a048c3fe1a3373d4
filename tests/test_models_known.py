"""The catalogue: every entry can be read, and names are found however they are written."""

import csv
from pathlib import Path

import pytest

from ropeway.errors import ModelError
from ropeway.models.build import count, read_shape
from ropeway.models.known import WITHOUT_CONFIG, entry_of, known, published_files, published_name

CONFIGS = Path(__file__).parent / "model_configs"
INDEX = list(csv.DictReader(CONFIGS.with_suffix(".tsv").read_text().splitlines(), delimiter="\t"))
# Models that public throughput figures name (the `model` column of what plans are fitted to).
MEASURED = (
    "Qwen3-30B-A3B", "MiniMax-M2.5", "Qwen3-32B", "Qwen3-14B", "Qwen3.5-397B-A17B",
    "DeepSeek-V4-Flash", "Qwen3-235B-A22B", "Qwen2.5-VL-7B-Instruct", "Qwen2.5-7B-Instruct",
    "DeepSeek-R1", "GLM-5.1", "DeepSeek-V3.2", "Qwen3.5-122B-A10B", "GLM-5.2", "Qwen3.5-27B",
    "Qwen3-8B", "MiniMax-M2.7", "Qwen3.5-35B-A3B", "Qwen3-VL-8B-Instruct", "DeepSeek-R1-0528",
    "Kimi-K2.6", "DeepSeek-V3.2-Exp", "Kimi-K2-Thinking", "MiniMax-M3", "GLM-5", "DeepSeek-V4-Pro",
    "Qwen3-VL-30B-A3B-Instruct", "DeepSeek-V3.1", "Hy3-preview", "QwQ-32B", "Kimi-K2.5",
    "Qwen3.6-35B-A3B", "gemma-4-26B-A4B", "DeepSeek-V3", "Hy3", "Qwen3.6-27B",
    "DeepSeek-R1-Distill-Llama-70B", "Qwen2.5-Omni-7B", "Kimi-K2.7-Code", "Llama-3.1-8B-Instruct",
    "Kimi-K2-Instruct", "Qwen3-0.6B", "Qwen3-4B", "LongCat-Flash", "Qwen3-Next-80B-A3B",
    "Qwen2.5-32B",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(published_files()))
def test_every_entry_is_a_shape_with_its_source(name):
    entry = entry_of(name)
    shape = read_shape(entry.config)
    assert entry.name == name
    assert entry.source.startswith("https://")
    assert shape.layers and count(shape).language > 10**8
    assert published_name(name) == name


@pytest.mark.parametrize("row", INDEX, ids=[row["file"] for row in INDEX])
def test_the_catalogue_keeps_all_that_a_shape_is_made_from(row):
    name = row["file"].removesuffix(".json").replace("__", "/")
    assert count(known(name)).language / 1e9 == pytest.approx(
        float(row["derived_total_params_b"]), rel=0.01
    )


@pytest.mark.parametrize("name", MEASURED)
def test_what_was_measured_in_public_can_be_planned(name):
    assert known(name).layers


@pytest.mark.parametrize(
    ("written", "name", "scheme"),
    [
        ("Qwen3-32B", "Qwen/Qwen3-32B", "bf16"),
        ("qwen/qwen3-32b", "Qwen/Qwen3-32B", "bf16"),
        ("vllm-ascend/Qwen3-32B-W8A8", "Qwen/Qwen3-32B", "w8a8"),
        ("Qwen2.5-32B-Instruct-AWQ", "Qwen/Qwen2.5-32B", "awq"),
        ("Qwen2.5-14B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-14B", "gptq"),
        ("DeepSeek-R1-0528-W4A8", "deepseek-ai/DeepSeek-R1-0528", "w4a8"),
        ("deepseek-r1-0611", "deepseek-ai/DeepSeek-R1", "fp8"),
        ("Mistral-Nemo", "mistralai/Mistral-Nemo-Instruct-2407", "bf16"),
        ("Kimi-K2", "moonshotai/Kimi-K2-Instruct", "fp8"),
        ("Qwen3_Next_80B_A3B", "Qwen/Qwen3-Next-80B-A3B-Instruct", "bf16"),
        ("Qwen3-30B-A3B-Thinking-2507-FP8", "Qwen/Qwen3-30B-A3B", "fp8"),
    ],
)
def test_names_are_found_in_every_usual_spelling(written, name, scheme):
    assert published_name(written) == name
    assert known(written).precision.scheme == scheme


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ModelError, match="neither a path nor a model we know") as caught:
        known("Qwen3-33B")
    assert caught.value.hint and caught.value.hint.startswith("did you mean `Qwen/Qwen3-32B`")


def test_a_name_like_none_gets_no_suggestion():
    with pytest.raises(ModelError) as caught:
        known("xyzzy")
    assert caught.value.hint == "give the directory of the model, or its `config.json`"


@pytest.mark.parametrize("name", WITHOUT_CONFIG)
def test_a_model_without_a_public_config_is_told_apart(name):
    with pytest.raises(ModelError, match=r"no config\.json of"):
        known(name)


def test_a_note_of_the_catalogue_reaches_the_shape():
    assert "`Qwen/Qwen2.5-32B`" in known("QwQ-32B").assumed[0]
    assert known("Kimi-K2-Thinking").encoders == ()
    assert known("Kimi-K2.5").encoders
