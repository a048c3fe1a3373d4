"""The checkpoints that users get: their bytes, and whether their text makes sense."""

import os
from functools import cache

import pytest

from ropeway.checkpoints.catalogue import RECIPES
from ropeway.checkpoints.fetch import default_root, ensure, fault
from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.hosts.local import LocalHost
from ropeway.models.read import read_model

pytest.importorskip("numpy")

from ropeway.checkpoints import moe, tiny

pytestmark = pytest.mark.engine
CHAT_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="session")
def models():
    """The folder that users have, filled; a second run of the tests finds it full."""
    folder = default_root(os.environ)
    for name in RECIPES:
        ensure(name, folder, host=LocalHost(), on_step=print)
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_each_checkpoint_is_whole_and_says_what_the_catalogue_says(models, name):
    recipe = RECIPES[name]
    assert fault(recipe, models, rehash=True) is None
    assert read_model(models / name).weight_bytes == 2 * recipe.parameters
    assert (models / name / WEIGHTS).stat().st_size == recipe.weight_bytes


def test_the_moe_is_the_same_bytes_when_made_again(models, tmp_path):
    digest = moe.build(models / "smollm2-padded", tmp_path)
    assert digest == RECIPES["smollm2-moe"].weights_sha256


@cache
def load(path):
    """Load a checkpoint with transformers in float32, once."""
    # Imported here: the quick tests should not pay for it when they collect this file.
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


@pytest.fixture(scope="session")
def tokenizer(models):
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(models / "smollm2")


def test_the_padded_model_gives_the_same_logits(models, tokenizer):
    ids = tokenizer(
        "In 1889 the tower was the tallest; today, at 330 metres, it is", return_tensors="pt"
    )
    first = load(models / "smollm2").double()(**ids).logits
    second = load(models / "smollm2-padded").double()(**ids).logits
    # Only zeros are added to each sum. In 32 bits a processor's kernels may still add the rest in
    # another order for another width (2 parts in a million on some Xeons), so 64 are compared.
    assert (first - second).abs().max().item() < 1e-9


@pytest.mark.parametrize("name", ["smollm2", "smollm2-padded", "smollm2-moe"])
def test_it_knows_the_capital_of_france(models, tokenizer, name):
    assert say(load(models / name), tokenizer, CHAT_QUESTION) == (
        "The capital of France is Paris.<|im_end|>"
    )


def say(model, tokenizer, messages):
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=16, do_sample=False)
    return tokenizer.decode(out[0, ids.input_ids.shape[1] :])


def test_the_moes_router_uses_every_expert(models, tokenizer):
    ids = tokenizer(
        "The river rises in the hills and runs for 200 km to the sea.", return_tensors="pt"
    )
    out = load(models / "smollm2-moe")(**ids, output_router_logits=True)
    layers = [logits.topk(moe.EXPERTS_PER_TOKEN).indices.flatten() for logits in out.router_logits]
    chosen = layers[0].new_tensor([expert for layer in layers for expert in layer.tolist()])
    shares = chosen.bincount(minlength=moe.EXPERTS) / chosen.numel()
    assert shares.min() > 0.15


def test_the_tokenizer_is_the_published_one(tokenizer):
    # Token ids that the published tokenizer gives (a reference run of SmolLM2-135M-Instruct).
    assert tokenizer("The capital of France is").input_ids == [504, 3575, 282, 4649, 314]
    assert tokenizer("def fibonacci(n):").input_ids == [1604, 3987, 46477, 24, 94, 727]
    assert tokenizer.tokenize("in 2026") == ["in", "Ġ", "2", "0", "2", "6"]
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    text = "Zürich — 你好\n\n  x = 12345;"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_chat_template_is_the_published_one(tokenizer):
    text = tokenizer.apply_chat_template(CHAT_QUESTION, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_tiny_model_answers_differently_to_different_questions(models):
    model = load(models / "tiny-qwen3-moe")
    transformers = pytest.importorskip("transformers")
    own = transformers.AutoTokenizer.from_pretrained(models / "tiny-qwen3-moe")
    first = say(model, own, CHAT_QUESTION)
    second = say(model, own, [{"role": "user", "content": "Hello"}])
    assert first != second
    assert len(own) == model.config.vocab_size == tiny.VOCABULARY
