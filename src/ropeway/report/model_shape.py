"""What a model is made of, on a terminal of 80 columns and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ropeway.models.shape import (
    Attention,
    FeedForward,
    ModelShape,
    Precision,
    numbers,
    numbers_of_blocks,
)
from ropeway.models.summary import CACHE_BITS, ModelSummary
from ropeway.plan.shards import StageShard
from ropeway.report.figures import NONE
from ropeway.report.line import one_line
from ropeway.report.plain import plain
from ropeway.report.table import pairs, prose, table
from ropeway.units import counted, format_bytes

# The parts of a model that may have different bits, and what they are called.
_PARTS = {
    "attention": "attention",
    "dense": "dense layers",
    "routed": "experts",
    "shared": "shared experts",
    "head": "output head",
}
_ATTENTION = {
    "full": "full attention",
    "window": "sliding window",
    "latent": "latent attention (MLA)",
    "compressed": "compressed attention",
    "linear": "linear attention",
    "mamba": "Mamba-2",
}


@dataclass(frozen=True)
class ShownLayout:
    """A layout's name, a StageShard for each pipeline stage, and why it would be refused."""

    name: str
    stages: tuple[StageShard, ...]
    problems: tuple[str, ...] = ()


def model_text(model: ModelSummary, layout: ShownLayout | None = None) -> RenderableType:
    """Return the screen."""
    shape = model.shape
    parts: list[RenderableType] = [
        Text(one_line(shape.architecture or shape.model_type or "unnamed model"), style="bold"),
        Text(one_line(model.source), style="dim"),
        Text(),
        pairs(_parameters(model), least=10),
        Text(),
        pairs(_sizes(model), least=10),
        Text(),
        _blocks(shape),
    ]
    if layout:
        parts += [Text(), Text(f"one NPU of {layout.name}", style="bold"), _stages(layout.stages)]
        parts += [prose(f"cannot run: {reason}", "yellow") for reason in layout.problems]
    if shape.assumed:
        parts += [Text(), *(prose(f"note: {one_line(note)}", "dim") for note in shape.assumed)]
    return Group(*parts)


def model_json(model: ModelSummary, layout: ShownLayout | None = None) -> dict[str, object]:
    """Return the same and more as plain data; figures under `stages` are those of one NPU."""
    return {
        **model.as_json(),
        "layout": layout.name if layout else None,
        "layout_problems": list(layout.problems) if layout else [],
        "stages": [_stage_json(stage) for stage in layout.stages] if layout else [],
    }


def _stage_json(stage: StageShard) -> dict[str, object]:
    rest = {key: value for key, value in plain(stage).items() if key not in ("weights", "flops")}
    return {
        **rest,
        "weight_bytes": stage.weights.total,
        "component_bytes": plain(stage.weights),
        "flops_per_token": stage.flops.total,
        "component_flops_per_token": plain(stage.flops),
        "kv_bytes_per_token": stage.kv_bytes_per_token,
    }


def _parameters(model: ModelSummary) -> Iterable[tuple[str, str]]:
    shape, parameters = model.shape, model.parameters
    if model.task != "generate":
        yield "for", str(model.task_words)
    yield "parameters", f"{_billions(parameters.language)}, language model with embeddings"
    if parameters.active != parameters.language:
        without = _billions(parameters.active_without_embeddings)
        yield "active", f"{_billions(parameters.active)} per token, {without} without embeddings"
    yield "", f"{_billions(parameters.without_embeddings)} without embeddings"
    if shape.encoders and parameters.with_vision is not None:
        kinds = " and ".join(encoder.kind for encoder in shape.encoders)
        yield "", f"{_billions(parameters.with_vision)} with the {kinds} encoder"
    elif shape.encoders:
        yield "", f"encoders not counted: {shape.encoders[0].why}"
    if parameters.mtp:
        layers = sum(block.count for block in shape.mtp)
        words = counted(layers, "MTP layer")
        yield "", f"{_billions(parameters.with_mtp)} with {words}"
    tied = "tied output head" if shape.tied_embeddings else "untied output head"
    yield "vocabulary", f"{shape.vocab_size:,} tokens × {shape.hidden_size:,}, {tied}"
    yield "context", f"{shape.max_positions:,} tokens" if shape.max_positions else "not stated"


def _sizes(model: ModelSummary) -> Iterable[tuple[str, str]]:
    yield "stored as", _precision(model.shape.precision)
    yield "weights", f"{format_bytes(model.counted_bytes)} counted from config.json"
    if model.stored and model.comparison:
        comparison = model.comparison
        yield "", f"{format_bytes(model.stored.total_bytes)} according to {model.stored.source}"
        counted = format_bytes(comparison.counted_bytes)
        verdict = "agrees" if comparison.agrees else "DISAGREES"
        yield "", f"{verdict}: {comparison.difference:+.2%} from {counted} ({comparison.parts})"
    cache = model.kv_bytes_per_token
    if cache:
        yield "KV cache", f"{format_bytes(cache)} per token at {CACHE_BITS} bits"
    attentions = [block.attention for block in model.shape.blocks if block.attention]
    if windows := sorted({item.window for item in attentions if item.window}):
        sizes = ", ".join(f"{window:,}" for window in windows)
        yield "", f"windowed layers keep only the last {sizes} tokens"
    if model.state_bytes:
        yield "state", f"{format_bytes(model.state_bytes)} per sequence, at any length"


def _precision(precision: Precision) -> str:
    groups: dict[str, list[str]] = {}
    for name, words in _PARTS.items():
        groups.setdefault(f"{round(getattr(precision, name), 2):g}", []).append(words)
    if len(groups) == 1:
        return f"{precision.scheme}, {''.join(groups)} bits"
    widths = "; ".join(f"{bits} bits: {', '.join(names)}" for bits, names in groups.items())
    return f"{precision.scheme}; {widths}"


def _blocks(shape: ModelShape) -> Table:
    """Return a table of layers, with equal ones in one row wherever in the model they are."""
    grid = table(">layers", "kind", ">parameters\neach")
    rows: dict[tuple[str, ...], list[int]] = {}
    for block in shape.blocks:
        kinds = (_attention(block.attention), _feed(block.feed))
        row = rows.setdefault(kinds, [0, numbers(block.weights)])
        row[0] += block.count
    for parts, (layers, each) in rows.items():
        grid.add_row(f"{layers}", "\n".join(filter(None, parts)), _billions(each))
    in_total = _billions(numbers_of_blocks(shape.blocks))
    grid.add_row(f"{shape.layers}", "in total", in_total, style="dim")
    return grid


def _attention(attention: Attention | None) -> str:
    if not attention:
        return ""
    heads = f"{attention.heads} heads of {attention.head_dim}"
    if attention.kind in ("full", "window"):
        heads += f", {attention.kv_heads} KV heads"
    kind = _ATTENTION[attention.kind]
    if attention.window:
        kind += f"{', window' if attention.window_width else ' of'} {attention.window:,}"
    if attention.read_limit:
        heads += f", reads {attention.read_limit:,} tokens"
    return f"{kind}: {heads}"


def _feed(feed: FeedForward | None) -> str:
    if not feed:
        return ""
    parts = []
    if feed.dense_width:
        parts.append(f"dense, {feed.dense_width:,} wide")
    if feed.experts:
        parts.append(f"{feed.experts_per_token} of {feed.experts} experts, {feed.expert_width:,}")
    if feed.shared_width:
        parts.append(f"shared {feed.shared_width:,}")
    return " + ".join(parts)


def _stages(stages: Sequence[StageShard]) -> Table:
    names = ("stage", "layers", "weights", "experts", "attention", "KV/token", "state/seq.")
    grid = table(*(f">{name}" for name in names))
    for number, stage in enumerate(stages, start=1):
        grid.add_row(
            f"{number}",
            f"{stage.layers}",
            format_bytes(stage.weights.total),
            format_bytes(stage.weights.routed) if stage.experts else NONE,
            format_bytes(stage.weights.attention),
            format_bytes(stage.kv_bytes_per_token),
            format_bytes(stage.state_bytes) if stage.state_bytes else NONE,
        )
    return grid


def _billions(numbers: int) -> str:
    """30532122624 → "30.5 B", 134515008 → "135 M"."""
    if numbers >= 999_500_000:
        size = numbers / 1e9
        return f"{size:,.0f} B" if size >= 99.95 else f"{size:.2f} B"
    return f"{numbers / 1e6:.0f} M" if numbers >= 999_500 else f"{numbers / 1e3:.0f} k"
