"""The catalogue: every entry can be read, and names are found however they are written."""

import pytest

from ropeway.errors import ModelError
from ropeway.models.build import count, read_shape
from ropeway.models.known import WITHOUT_CONFIG, entry_of, known, published_files, published_name


@pytest.mark.parametrize("name", sorted(published_files()))
def test_every_entry_is_a_shape_with_its_source(name):
    entry = entry_of(name)
    shape = read_shape(entry.config)
    assert entry.name == name
    assert entry.source.startswith("https://")
    assert shape.layers and count(shape).language > 10**8
    assert published_name(name) == name


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
        ("Qwen2.5-Omni-7B", "Qwen/Qwen2.5-Omni-7B", "bf16"),
        ("Kimi-K2", "moonshotai/Kimi-K2-Instruct", "fp8"),
        ("Qwen3_Next_80B_A3B", "Qwen/Qwen3-Next-80B-A3B-Instruct", "bf16"),
        ("Qwen3-30B-A3B-Thinking-2507-FP8", "Qwen/Qwen3-30B-A3B", "fp8"),
    ],
)
def test_names_are_found_in_every_usual_spelling(written, name, scheme):
    assert published_name(written) == name
    assert known(written).precision.scheme == scheme


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
