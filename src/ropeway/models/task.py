"""What a model is for: to generate, or to read a text and answer with numbers.

vLLM decides it from `architectures` of config.json, from the folder's files, and from its flags;
this follows vllm/config/model.py and model_executor/models/registry.py of 0.32.0.
"""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from ropeway.models.shape import ModelShape
from ropeway.phrases import Phrase, phrase
from ropeway.spec.engine_flags import flag_settings, flag_value

# generate  text, token after token
# embed     a vector of a text
# score     how well two texts fit together: rerankers, and reward models with one figure
# classify  a probability for each of several labels
# pool      anything else that is read off a text: rewards of steps, a label for each token
Task = Literal["generate", "embed", "score", "classify", "pool"]

# Where a model of each kind answers.
PATHS: Mapping[Task, str] = {
    "generate": "/v1/completions",
    "embed": "/v1/embeddings",
    "score": "/rerank",
    "classify": "/classify",
    "pool": "/pooling",
}
# What to ask there; programs/watch.py, which imports nothing of ours, says the same.
QUESTIONS: Mapping[Task, Mapping[str, object]] = {
    "embed": {"input": "1"},
    "score": {"query": "1", "documents": ["1"]},
    "classify": {"input": "1"},
    "pool": {"input": "1"},
}
_WORDS: Mapping[Task, str] = {
    "generate": phrase("generates"),
    "embed": phrase("embeds texts"),
    "score": phrase("scores pairs of texts"),
    "classify": phrase("classifies texts"),
    "pool": phrase("rates texts"),
}

# How a name ends and what that says, the first that fits; "label": by the number of labels.
# `_SUFFIX_TO_DEFAULTS` of vLLM, and what its registry says of names that end in another way.
_ENDINGS: Sequence[tuple[str | tuple[str, ...], Task | Literal["label"]]] = (
    (("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel"), "generate"),
    (("ChatGLMModel", "DashengLMModel", "AudioModel", "OmniModel", "UltravoxModel"), "generate"),
    (("ForTokenClassification", "ForJointSchema", "ForRewardModeling", "RewardModel"), "pool"),
    ("Classification", "label"),
    ("ClassificationModel", "label"),
    (("ForRanking", "ForRetrieval", "ColBERT"), "score"),
    (("ForMaskedLM", "ForTextEncoding", "Model", "Terratorch"), "embed"),
)
# ColQwen3, ColBERTModernBertModel, …: a vector for each token, to be compared pair by pair.
_LATE = ("Col", "OpsCol")

# Published rerankers that are stored as generators, and names that are too general, with what vLLM
# needs to be told of them (docs/models/pooling_models/scoring.md; tutorials of vllm-ascend): part
# of the folder's name, the architecture in it, `hf-overrides`.
_YES_OR_NO = {"classifier_from_token": ["no", "yes"], "is_original_qwen3_reranker": True}
_TOLD: Sequence[tuple[str, str, dict[str, object]]] = (
    ("qwen3-reranker", "Qwen3ForCausalLM",
     {"architectures": ["Qwen3ForSequenceClassification"], **_YES_OR_NO}),
    ("qwen3-vl-reranker", "Qwen3VLForConditionalGeneration",
     {"architectures": ["Qwen3VLForSequenceClassification"], **_YES_OR_NO}),
    ("mxbai-rerank", "Qwen2ForCausalLM",
     {"architectures": ["Qwen2ForSequenceClassification"],
      "classifier_from_token": ["0", "1"], "method": "from_2_way_softmax"}),
    ("bge-reranker-v2-gemma", "GemmaForCausalLM",
     {"architectures": ["GemmaForSequenceClassification"],
      "classifier_from_token": ["Yes"], "method": "no_post_processing"}),
    ("", "NewForSequenceClassification", {"architectures": ["GteNewForSequenceClassification"]}),
    ("", "NewModel", {"architectures": ["GteNewModel"]}),
)  # fmt: skip


def sees_pooling(names: Iterable[str]) -> bool:
    """Return whether a folder with these names is one of sentence-transformers that pools: vLLM
    then serves it with `--runner pooling`, whatever its architecture (get_pooling_config)."""
    there = set(names)
    return "modules.json" in there and any(name.endswith("_Pooling") for name in there)


def task_of(shape: ModelShape, engine_args: Mapping[str, object] | None = None) -> Task:
    """Return what an engine with these flags (`serve.engine_args`) makes of the model.

    The flags are `runner` and `convert`, in releases before vLLM 0.12 `task`, and `architectures`
    in `hf-overrides`, by which a generator becomes a reranker.
    """
    args = engine_args or {}
    overrides = flag_settings(args, "hf-overrides")
    names = _names(overrides.get("architectures")) or (shape.architecture,)
    labels = 1 if overrides.get("classifier_from_token") else label_count(overrides, shape.labels)
    runner, convert, asked = (str(flag_value(args, name)) for name in ("runner", "convert", "task"))
    natural: Task = next(filter(None, (_by_name(name, labels) for name in names)), "generate")
    if runner == "generate" or asked in ("generate", "transcription"):
        return "generate"
    if "reward" in (asked, convert):
        return "pool"
    if asked == "score":
        return "score"
    if "classify" in (asked, convert):
        return _labelled(labels)
    if asked in ("embed", "embedding") or convert == "embed":
        return "embed"
    if natural == "generate" and (shape.pools or runner == "pooling"):
        return "embed"
    return natural


def curl_line(task: Task, url: str, model: str) -> str:
    """Return the command that asks a model which does not generate, at the `url` of its path."""
    body = json.dumps({"model": model, **QUESTIONS[task]})
    return shlex.join(("curl", "-H", "Content-Type: application/json", "-d", body, url))


def came_words(task: Task) -> Phrase:
    """Return what says that the engine is ready, once it is."""
    if task == "generate":
        return phrase("the first token is there")
    return phrase("the first answer is there")


def overrides_for(name: str, architecture: str) -> Mapping[str, object]:
    """Return the `hf-overrides` without which vLLM does not serve the model for what it is made
    for; empty for most. `name`: its path, or its published name."""
    plain = name.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
    fits = (made for part, of, made in _TOLD if part in plain and of == architecture)
    return next(fits, {})


def override_notes(
    name: str, shape: ModelShape, engine_args: Mapping[str, object]
) -> tuple[Phrase, ...]:
    """Say what vLLM has to be told of a model, where it is not."""
    needed = overrides_for(name, shape.architecture)
    if not needed or flag_settings(engine_args, "hf-overrides"):
        return ()
    return (
        phrase(
            "stored as {architecture}, this model is served for what it is made for with"
            " `engine_args: {{hf-overrides: {overrides}}}`",
            architecture=shape.architecture,
            overrides=json.dumps(needed),
        ),
    )


def task_notes(
    name: str, shape: ModelShape, engine_args: Mapping[str, object]
) -> tuple[Phrase, ...]:
    """Say what a model does that does not generate, and what vLLM has to be told of it."""
    task, told = task_of(shape, engine_args), override_notes(name, shape, engine_args)
    if task == "generate":
        return told
    return (phrase("the model {does}, and generates nothing", does=task_words(task)), *told)


def task_words(task: Task) -> Phrase:
    """Return what a model does and where it is asked to: `embeds texts at /v1/embeddings`."""
    return phrase("{does} at {path}", does=_WORDS[task], path=PATHS[task])


def as_loaded(shape: ModelShape, *, pools: bool = False) -> ModelShape:
    """Return the shape as vLLM loads it without flags. `pools`: see ModelShape."""
    shape = replace(shape, pools=pools) if pools else shape
    return shape if task_of(shape) == "generate" else as_pooled(shape)


def as_pooled(shape: ModelShape) -> ModelShape:
    """Return the shape as vLLM loads it to pool: without a head and what drafts tokens."""
    outer = tuple(weight for weight in shape.outer if weight.component != "head")
    return replace(shape, outer=outer, mtp=(), mtp_outer=())


def label_count(config: Mapping[str, object], default: int = 2) -> int:
    """Return how many labels a classifier has; transformers' default is two."""
    labels, number = config.get("id2label"), config.get("num_labels")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    return number if isinstance(number, int) and number > 0 else default


def _by_name(name: str, labels: int) -> Task | None:
    if name.startswith(_LATE):
        return "score"
    for endings, task in _ENDINGS:
        if name.endswith(endings):
            return _labelled(labels) if task == "label" else task
    return None


def _labelled(labels: int) -> Task:
    return "score" if labels == 1 else "classify"


def _names(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
