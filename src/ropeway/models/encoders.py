"""Vision and audio encoders, counted as far as config.json goes."""

from ropeway.models.config import Config
from ropeway.models.shape import Encoder

_DEPTH = ("depth", "num_hidden_layers", "vt_num_hidden_layers", "encoder_layers", "layers")
_WIDTH = ("hidden_size", "vt_hidden_size", "embed_dim", "d_model", "width")
_INNER = ("intermediate_size", "vt_intermediate_size", "encoder_ffn_dim", "mlp_hidden_dim")
_HEADS = ("num_heads", "num_attention_heads", "vt_num_attention_heads", "heads")
# `model_type` of encoders, or of the model, by what vLLM 0.32.0 does where the tensor ranks do not
# divide their heads (model_executor/models). It fails: `divide` in glm4_1v.py, qwen2_vl.py,
# qwen2_5_vl.py (Qwen3's too), siglip.py, clip.py, pixtral.py, moonvit.py …, an assertion in
# mllama4.py, step_vl.py.
_DIVIDED = (
    "clip", "dots", "ernie4_5_vl", "glm4v", "glm_ocr", "kimi_vl", "llama4", "mimo_v2_omni",
    "moonvit", "openpangu", "paddleocr_vl", "pixtral", "qwen2_5_omni", "qwen2_5_vl", "qwen2_vl",
    "qwen3_5", "qwen3_omni", "qwen3_vl", "siglip", "step3",
)  # fmt: skip
# It gives each rank a whole one, or pads them: kimi_k25_vit.py, intern_vit.py, gemma4_mm.py (of
# transformers), and the audio encoders of qwen2_5_omni_thinker.py and qwen3_omni_moe_thinker.py.
_WHOLE = ("gemma4", "intern", "kimi_k25", "kimi_k3")
_SEES = ("ForConditionalGeneration", "OmniModel")


def read_encoders(config: Config) -> tuple[Encoder, ...]:
    """Read the encoders that config.json describes.

    Counts are good to a tenth: position tables and the part that joins an encoder to the language
    model differ between families.
    """
    encoders = []
    thinker = config.part("thinker_config")
    for kind in ("vision", "audio", "sound"):
        name = f"{kind}_config"
        part = config.part(name) if config.section(name) else thinker.part(name)
        if part.outer:
            encoders.append(_encoder(part, kind, config))
    if not encoders and _architecture(config).endswith(_SEES) and not _is_whole(config):
        why = "config.json describes none"
        encoders.append(Encoder("vision", None, why=why, heads=None))
    return tuple(encoders)


def _architecture(config: Config) -> str:
    names = config.outer.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _is_whole(model: Config) -> bool:
    return str(model.outer.get("model_type") or "").startswith(_WHOLE)


def _heads(part: Config, kind: str, model: Config) -> int | None:
    """Return the heads that tensor ranks must divide; 0 where they need not, None for unknown."""
    names = (part.model_type, str(model.outer.get("model_type") or ""))
    if kind != "vision" or part.model_type.startswith(_WHOLE) or _is_whole(model):
        return 0
    if not any(name.startswith(_DIVIDED) for name in names):
        return None
    return part.find(_HEADS) or None


def _encoder(part: Config, kind: str, model: Config) -> Encoder:
    depth, width = part.find(_DEPTH), part.find(_WIDTH)
    # In Qwen2-VL's encoder `hidden_size` is the language model's and `embed_dim` its own.
    width = part.find(("embed_dim",)) or width
    heads = _heads(part, kind, model)
    if not depth or not width:
        why = f"`{kind}_config` gives no depth or width"
        return Encoder(kind, None, why=why, heads=heads)
    inner = part.find(_INNER) or 4 * width
    total = depth * _layer_numbers(part, width, inner) + _ends(part, kind, width, model)
    return Encoder(kind, total, depth, width, heads=heads)


def _layer_numbers(part: Config, width: int, inner: int) -> int:
    """Count one layer: Q, K, V and output; two matrices, or three if gated; biases and norms."""
    joined = part.find(("qkv_hidden_size",)) or width
    gated = part.model_type.startswith(("qwen2_5_vl", "qwen2_5_omni_vision", "gemma4", "pixtral"))
    attention = 4 * width * joined
    if part.model_type.startswith("glm4v"):  # the feed-forward width is that of the output
        return attention + 3 * width * part.find(("out_hidden_size",))
    return attention + (3 if gated else 2) * width * inner + 9 * width + inner


def _ends(part: Config, kind: str, width: int, model: Config) -> int:
    """Count the patch embedding, and the projection into the language model's width."""
    patch = part.find(("patch_size",))
    patches = 3 * patch * patch * part.find(("temporal_patch_size",), 1) * width
    positions = part.find(("num_position_embeddings", "position_embedding_size")) * width
    if part.find(("position_embedding_size",)):  # Gemma 4: a table for each axis
        positions *= 2
    hidden = model.find(("hidden_size",))
    out = part.find(("out_hidden_size", "output_dim", "text_hidden_size")) or hidden
    merge = part.find(("spatial_merge_size",)) or _side(part.listed("merge_kernel_size"))
    narrow = part.find(("projector_input_dim",))
    if narrow:  # Llama 4: pixel shuffle, two layers, then the language model's width
        last = part.find(("projector_output_dim",)) or narrow
        return patches + part.find(_INNER) * narrow + last * last + last * hidden
    if part.model_type.startswith("glm4v"):
        inner = part.find(_INNER)
        return patches + width * out * merge * merge + out * out + 3 * out * inner
    wide = model.outer.get("projector_hidden_size")
    if isinstance(wide, int) and merge:  # MiniMax-M3: each patch, then each group of patches
        return patches + wide * (width + (2 + merge * merge) * hidden)
    if kind != "vision" or not merge:
        return patches + positions + width * out
    joined = width * merge * merge
    mergers = 1 + len(part.listed("deepstack_visual_indexes"))
    return patches + positions + mergers * (joined * joined + joined * out + 3 * joined)


def _side(kernel: tuple[object, ...]) -> int:
    first = kernel[0] if kernel else 0
    return first if isinstance(first, int) else 0
