"""Heads of encoders, and which tensor ranks can divide them."""

import pytest

from ropeway.engines.ascend_flags import features
from ropeway.engines.ascend_layouts import Case, limits, notes
from ropeway.models.config import Config
from ropeway.models.encoders import read_encoders
from ropeway.models.known import known, published_files
from ropeway.spec.model import Layout


def encoder_reasons(model: str, layout: str, **engine_args: object) -> tuple[str, str]:
    """Return what is said of the vision encoder in a layout: what refuses it, and what is noted."""
    at = Case(Layout.parse(layout), known(model), "A2", 1, features=features(engine_args))
    said = (" ".join(limits(at, "0.30.0")), " ".join(notes(at, "0.30.0")))
    return said[0], said[1] if "vision encoder" in said[1] else ""


@pytest.mark.parametrize("model", ["GLM-4.5V", "GLM-4.6V", "GLM-4.5V-w8a8"])
def test_heads_of_a_vision_encoder_must_divide_unless_each_npu_has_a_whole_one(model):
    assert "mm-encoder-tp-mode" in encoder_reasons(model, "TP8")[0]
    assert encoder_reasons(model, "TP4") == ("", "")
    assert encoder_reasons(model, "TP8", **{"mm-encoder-tp-mode": "data"}) == ("", "")
    assert encoder_reasons(model, "TP8", mm_encoder_tp_mode="data") == ("", "")


def test_of_encoders_that_vllm_cuts_the_catalogue_knows_the_heads():
    """Those of Kimi fall back to a whole encoder, Gemma's is transformers'."""
    seen = {}
    for name in published_files():
        for encoder in known(name).encoders:
            if encoder.kind == "vision":
                seen[name] = encoder.heads
    unknown = {name for name, heads in seen.items() if heads is None}
    assert unknown == {"Qwen/Qwen2.5-Omni-7B"}
    assert {name.partition("/")[0] for name, heads in seen.items() if heads == 0} == {
        "moonshotai", "google"
    }  # fmt: skip
    assert len(seen) > 20
    refused, doubted = encoder_reasons("Qwen2.5-Omni-7B", "TP4")
    assert not refused and "is not known" in doubted
    assert encoder_reasons("Qwen2.5-Omni-7B", "TP1") == ("", "")
    assert encoder_reasons("Qwen2.5-Omni-7B", "TP4", **{"mm-encoder-tp-mode": "data"}) == ("", "")


def test_an_encoder_in_config_json_is_read_by_its_kind():
    def heads(vision: dict, model_type: str = "") -> int | None:
        config = {"vision_config": {"depth": 2, "hidden_size": 64, **vision}}
        return read_encoders(Config({**config, "model_type": model_type}, "c"))[0].heads

    assert heads({"model_type": "siglip_vision_model", "num_attention_heads": 12}) == 12
    assert heads({"vt_num_attention_heads": 12}, "kimi_k25") == 0
    assert heads({"model_type": "intern_vit_6b", "num_attention_heads": 25}) == 0
    assert heads({"model_type": "qwen2_5_vl"}) is None
    assert heads({"model_type": "never_heard_of", "num_heads": 4}) is None
