"""The feed-forward part of one layer: dense, a mixture of experts, or both.

The spellings are those of published config.json files, the commonest first; a new family usually
needs one more word in a row.
"""

from dataclasses import replace

from ropeway.models.attention import HIDDEN, LEARNT_POSITIONS, matrix, norm
from ropeway.models.config import Config
from ropeway.models.shape import FeedForward, Weight

EXPERTS = (
    "num_experts", "num_local_experts", "n_routed_experts", "num_routed_experts", "moe_num_experts",
)  # fmt: skip
PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "top_k_experts",
    "moe_topk", "moe_top_k", "moe_k",
)  # fmt: skip
_INTERMEDIATE = ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner")
# Llama 4 and MiniMax-M3 call the expert's width `intermediate_size`.
_DENSE = ("intermediate_size_mlp", "dense_intermediate_size", *_INTERMEDIATE)
EXPERT_WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "expert_hidden_dim")
_SHARED_COUNT = (
    "n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts",
)  # fmt: skip
_SHARED_WIDTH = ("moe_shared_expert_intermediate_size", "shared_intermediate_size")
_LATENT = ("routed_expert_hidden_size", "moe_latent_size")

# Families whose feed-forward part has no gate projection; all others have one.
_UNGATED = (
    "apertus", "arcee", "bloom", "falcon", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "mpt",
    "nemotron", "nemotron_h", "opt", "persimmon", "phi", "starcoder2", *LEARNT_POSITIONS,
)  # fmt: skip

# Every matrix of the feed-forward part has a bias.
_BIASED = ("gpt2", "gpt_bigcode", "opt", "phi", *LEARNT_POSITIONS)


def dense(config: Config, width: int = 0) -> FeedForward:
    """Return a dense part of `width`, by default the config's."""
    hidden = config.need("hidden size", HIDDEN)
    width = width or dense_width(config)
    weights = [*_gated(config, "dense", hidden, width), norm("post_attention_norm", hidden)]
    return FeedForward(tuple(weights), dense_width=width)


def dense_width(config: Config) -> int:
    """Return the width of a dense layer; GPT-2 and similar leave it out: 4 × hidden."""
    if config.model_type in _UNGATED and not config.find(_DENSE):
        return 4 * config.need("hidden size", HIDDEN)
    return config.need("feed-forward width", _DENSE)


def moe(config: Config) -> FeedForward:
    """Return a mixture of experts with its router and shared experts.

    The experts of Kimi-K3 and Nemotron-3 work on a latent narrower than the hidden size.
    """
    hidden = config.need("hidden size", HIDDEN)
    experts = config.need("experts", EXPERTS)
    width = config.find(EXPERT_WIDTH) or config.need("expert width", _INTERMEDIATE)
    inner = config.find(_LATENT) or hidden
    per_token, idle = _visited(config, experts)
    one = _expert_numbers(config, inner, width)
    bias = experts if config.model_type == "gpt_oss" else 0
    router = Weight("gate", "router", (experts + idle) * hidden + bias, 1, 2 * experts * hidden)
    weights = [
        Weight("experts", "routed", experts * one, width, per_token * 2 * one),
        router,
        norm("post_attention_norm", hidden),
    ]
    if inner != hidden:
        weights.append(matrix("latent_down_proj", "router", (inner, hidden)))
        weights.append(matrix("latent_up_proj", "router", (hidden, inner)))
    shared = shared_width(config, width)
    if shared:
        weights += _gated(config, "shared", hidden, shared)
        if config.find(("shared_expert_intermediate_size",)):
            weights.append(matrix("shared_expert_gate", "router", (1, hidden)))
    return FeedForward(
        tuple(weights),
        experts=experts,
        experts_per_token=per_token,
        expert_width=width,
        expert_numbers=one,
        shared_width=shared,
    )


def both(first: FeedForward, second: FeedForward) -> FeedForward:
    """Join a dense part and a mixture in the same layer (Gemma 4)."""
    return replace(second, weights=(*first.weights, *second.weights), dense_width=first.dense_width)


def shared_width(config: Config, expert_width: int) -> int:
    """Return the width of all shared experts together; 0 where there are none."""
    if config.model_type == "llama4":  # Llama4MoE always has one of an expert's width
        return expert_width
    whole = config.find(("shared_expert_intermediate_size", "share_expert_dim"))
    if whole:
        return whole
    single = config.find(_SHARED_WIDTH)
    return config.find(_SHARED_COUNT, 1 if single else 0) * (single or expert_width)


def _visited(config: Config, experts: int) -> tuple[int, int]:
    """Return the experts a token visits, and the number of idle ones (LongCat's `zero_expert_num`).

    Where the router also chooses among idle experts, a token visits fewer real ones on average.
    """
    chosen = config.need("experts per token", PER_TOKEN)
    idle = config.find(("zero_expert_num",))
    return max(1, round(chosen * experts / (experts + idle))), idle


def _expert_numbers(config: Config, hidden: int, width: int) -> int:
    if config.model_type == "gpt_oss":  # with biases: 2 × width of gate and up, hidden of down
        return 3 * hidden * width + 2 * width + hidden
    return (3 if _is_gated(config) else 2) * hidden * width


def _gated(config: Config, component: str, hidden: int, width: int) -> list[Weight]:
    gates = 2 if _is_gated(config) else 1
    bias = config.flag("mlp_bias") or config.model_type in _BIASED
    into = "gate_up_proj" if gates == 2 else "up_proj"
    return [
        matrix(into, component, (gates * width, hidden), width, bias=bias),
        matrix("down_proj", component, (hidden, width), width, bias=bias),
    ]


def _is_gated(config: Config) -> bool:
    return config.model_type not in _UNGATED and config.text(("mlp_hidden_act",)) != "relu2"
