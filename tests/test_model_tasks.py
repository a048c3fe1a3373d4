"""What a model is for: generating, or reading a text and answering with numbers."""

import ast
import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest

from pooling_engine import Pooling, running
from ropeway.cli.main import exit_code
from ropeway.launch.programs import watch
from ropeway.models.build import count, read_shape
from ropeway.models.known import known, published_files
from ropeway.models.read import read_directory_shape
from ropeway.models.task import PATHS, QUESTIONS, overrides_for, task_notes, task_of

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 1000, "max_position_embeddings": 2048,
}  # fmt: skip


def shape_of(name: str = "Qwen3ForCausalLM", **more: object):
    return read_shape({**QWEN3, "architectures": [name], **more})


def vllm_registry() -> dict[str, list[str]]:
    """Return the tables of the installed vLLM's registry, read without importing it."""
    found = importlib.util.find_spec("vllm")
    assert found is not None and found.origin is not None
    registry = Path(found.origin).parent / "model_executor/models/registry.py"
    return {
        node.targets[0].id: [key.value for key in node.value.keys if isinstance(key, ast.Constant)]
        for node in ast.parse(registry.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        if isinstance(node.targets[0], ast.Name)
    }


def test_every_architecture_of_vllm_is_for_what_its_registry_says():
    tables = vllm_registry()
    generating = {*tables["_TEXT_GENERATION_MODELS"], *tables["_MULTIMODAL_MODELS"]}
    expected = {
        "_EMBEDDING_MODELS": {"embed", "score"}, "_LATE_INTERACTION_MODELS": {"score", "embed"},
        "_REWARD_MODELS": {"pool"}, "_TOKEN_CLASSIFICATION_MODELS": {"pool"},
        "_SEQUENCE_CLASSIFICATION_MODELS": {"classify", "score"},
    }  # fmt: skip
    assert {name for name in generating if task_of(shape_of(name)) != "generate"} == set()
    for table, tasks in expected.items():
        names = set(tables[table]) - generating  # one that is in both generates without flags
        assert names and {name for name in names if task_of(shape_of(name)) not in tasks} == set()


@pytest.mark.parametrize(
    ("name", "labels", "task"),
    [
        ("XLMRobertaForSequenceClassification", 1, "score"),
        ("BertForSequenceClassification", 3, "classify"),
        ("LlamaForSequenceClassification", 1, "score"),
        ("Qwen2ForRewardModel", 2, "pool"),
        ("Qwen2ForProcessRewardModel", 2, "pool"),
        ("LlamaForRewardModeling", 2, "pool"),
        ("BertForTokenClassification", 9, "pool"),
        ("JinaVLForRanking", 2, "score"),
        ("NewModel", 2, "embed"),
        ("SomethingNobodyKnows", 2, "generate"),
    ],
)
def test_a_name_and_its_labels_say_what_a_model_is_for(name, labels, task):
    marks = {"id2label": {str(number): "L" for number in range(labels)}}
    assert task_of(shape_of(name, **marks)) == task


RERANKER = {"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no"]}


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        ({}, "generate"),
        ({"runner": "auto", "convert": "auto"}, "generate"),
        ({"runner": "pooling"}, "embed"),
        ({"convert": "embed"}, "embed"),
        ({"convert": "classify"}, "classify"),
        ({"convert": "reward"}, "pool"),
        ({"task": "embed"}, "embed"),
        ({"task": "embedding"}, "embed"),
        ({"task": "score"}, "score"),
        ({"task": "reward"}, "pool"),
        ({"task": "generate"}, "generate"),
        ({"hf-overrides": RERANKER}, "score"),
        ({"hf_overrides": json.dumps(RERANKER), "runner": "pooling"}, "score"),
        ({"hf-overrides.architectures": ["Qwen3ForSequenceClassification"]}, "classify"),
        ({"hf-overrides": "{not json"}, "generate"),
        ({"hf-overrides": "[" * 100_000}, "generate"),
    ],
)
def test_flags_of_every_release_change_what_an_engine_does(flags, task):
    assert task_of(shape_of(), flags) == task


def test_a_folder_of_sentence_transformers_embeds_and_has_no_head(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(QWEN3))
    (tmp_path / "1_Pooling").mkdir()
    assert task_of(read_directory_shape(tmp_path)) == "generate"
    (tmp_path / "modules.json").write_text("[]")
    shape = read_directory_shape(tmp_path)
    assert task_of(shape) == "embed" and not shape.has_head
    assert task_of(shape, {"runner": "generate"}) == "generate"


@pytest.mark.parametrize(
    ("name", "task", "millions"),
    [
        ("bge-m3", "embed", 568),
        ("BAAI/bge-reranker-v2-m3", "score", 568),
        ("bge-large-zh-v1.5", "embed", 326),
        ("Qwen3-Embedding-8B", "embed", 7_570),
        ("Qwen/Qwen3-Embedding-0.6B", "embed", 596),
    ],
)
def test_published_embedders_have_their_published_size_and_encoders_no_cache(name, task, millions):
    shape = known(name)
    assert task_of(shape) == task
    assert count(shape).language / 1e6 == pytest.approx(millions, rel=0.005)
    assert shape.caches == name.startswith("Qwen")


ENCODERS = [
    (395, {"architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert",
           "hidden_size": 1024, "intermediate_size": 2624, "num_hidden_layers": 28,
           "num_attention_heads": 16, "vocab_size": 50368, "tie_word_embeddings": True}),
    (305, {"architectures": ["NewModel"], "model_type": "new", "hidden_size": 768,
           "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
           "vocab_size": 250048, "type_vocab_size": 1, "position_embedding_type": "rope"}),
    (137, {"architectures": ["NomicBertModel"], "model_type": "nomic_bert", "n_embd": 768,
           "n_inner": 3072, "n_layer": 12, "n_head": 12, "vocab_size": 30528,
           "type_vocab_size": 2}),
    (303, {"architectures": ["Gemma3TextModel"], "model_type": "gemma3_text", "hidden_size": 768,
           "intermediate_size": 1152, "num_hidden_layers": 24, "num_attention_heads": 3,
           "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262144,
           "use_bidirectional_attention": True}),
    (22.7, {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384,
            "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 12,
            "vocab_size": 30522, "max_position_embeddings": 512, "type_vocab_size": 2}),
    (1236, {"architectures": ["LlamaBidirectionalModel"], "model_type": "llama_bidirec",
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256}),
]  # fmt: skip


@pytest.mark.parametrize(("millions", "config"), ENCODERS)
def test_encoders_of_other_families_have_their_size_too_and_no_cache(millions, config):
    shape = read_shape(config)
    assert count(shape).language / 1e6 == pytest.approx(millions, rel=0.005)
    assert task_of(shape) == "embed" and not shape.caches and not shape.has_head


def test_all_other_published_models_generate():
    others = {name for name in published_files() if not name.startswith("BAAI/")}
    tasks = {name: task_of(known(name)) for name in others}
    assert {name for name, task in tasks.items() if task != "generate"} == {
        *(f"Qwen/Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B")),
        *(f"Qwen/Qwen3-VL-Embedding-{size}" for size in ("2B", "8B")),
        "Alibaba-NLP/gte-Qwen2-7B-instruct",
    }


def test_a_reranker_that_is_stored_as_a_generator_is_told_from_one():
    shape, path = known("Qwen3-Reranker-8B"), "/data/models/Qwen3-Reranker-8B/"
    (note,) = task_notes(path, shape, {})
    needed = overrides_for(path, shape.architecture)
    assert json.dumps(needed) in note
    assert task_of(shape, {"hf-overrides": needed}) == "score"
    assert "/rerank" in task_notes(path, shape, {"hf-overrides": needed})[0]
    assert "GteNewModel" in " ".join(task_notes("/data/gte", shape_of("NewModel"), {}))
    assert overrides_for("/data/Qwen3-8B", "Qwen3ForCausalLM") == {}
    assert overrides_for("/data/gte", "NewModel") == {"architectures": ["GteNewModel"]}


def test_the_watchdog_asks_what_clients_ask():
    asked = {path: body for path, body, _ in watch.QUESTIONS}
    assert asked.keys() == set(PATHS.values())
    assert all(asked[PATHS[task]] == question for task, question in QUESTIONS.items())


@pytest.mark.parametrize("status", [400, 404, 501])
@pytest.mark.parametrize("task", ["embed", "score", "classify", "pool"])
def test_chat_and_bench_say_that_a_model_does_not_generate(
    task, status, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    path = PATHS[task]
    refusal = "The model does not support Chat Completions API"
    with running(Pooling(path, {"data": [1], "results": [1]}, status, refusal)) as url:
        for verb in (["chat", "-p", "hi"], ["bench", "--requests", "1", "--clients", "1"]):
            assert exit_code([*verb, "--url", url]) != 0
            error = " ".join(capsys.readouterr().err.split())
            assert "generates nothing" in error and path in error
