"""Vision and audio encoders, counted as far as config.json goes."""

from ropeway.models.config import Config
from ropeway.models.shape import Encoder

_DEPTH = ("depth", "num_hidden_layers", "vt_num_hidden_layers", "encoder_layers", "layers")
_WIDTH = ("hidden_size", "vt_hidden_size", "embed_dim", "d_model", "width")
_INNER = ("intermediate_size", "vt_intermediate_size", "encoder_ffn_dim", "mlp_hidden_dim")
# `model_type` of encoders that divide their heads by the tensor ranks (`dist_utils.divide` in
# glm4_1v.py, glm_ocr.py, qwen2_vl.py, qwen2_5_vl.py of vLLM 0.32.0); others pad them or go whole.
_DIVIDED = ("glm4v", "glm_ocr", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5")


def read_encoders(config: Config) -> tuple[Encoder, ...]:
    """Read the encoders that config.json describes.

    Counts are good to a tenth: position tables and the part that joins an encoder to the language
    model differ between families.
    """
    encoders = []
    thinker = config.part("thinker_config")
    for kind in ("vision", "audio", "sound"):
        name = f"{kind}_config"
        if section := config.section(name) or thinker.section(name):
            encoders.append(_encoder(Config(section, config.where), kind, config))
    return tuple(encoders)


def _encoder(part: Config, kind: str, model: Config) -> Encoder:
    depth, width = part.find(_DEPTH), part.find(_WIDTH)
    # In Qwen2-VL's encoder `hidden_size` is the language model's and `embed_dim` its own.
    width = part.find(("embed_dim",)) or width
    if not depth or not width:
        return Encoder(kind, None, why=f"`{kind}_config` gives no depth or width")
    inner = part.find(_INNER) or 4 * width
    total = depth * _layer_numbers(part, width, inner) + _ends(part, kind, width, model)
    heads = part.find(("num_heads",)) if part.model_type.startswith(_DIVIDED) else 0
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
