"""The figures of a model that are worth showing, computed once."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ropeway.models.build import count, counted_bytes, kv_bytes_per_token, state_bytes
from ropeway.models.shape import ModelShape, Parameters
from ropeway.models.stored import Comparison, StoredWeights, compare
from ropeway.models.task import Task, task_of, task_words
from ropeway.phrases import Phrase

# The cache is kept in 16 bits unless the engine is configured otherwise.
CACHE_BITS = 16

_PLAIN = (
    "architecture", "model_type", "layers", "hidden_size", "heads", "kv_heads", "head_dim",
    "vocab_size", "intermediate_size", "experts", "experts_per_token", "expert_size", "kv_layers",
    "dtype", "max_positions", "tied_embeddings", "weight_bytes",
)  # fmt: skip
_TOTALS = ("with_vision", "with_mtp", "without_embeddings", "active_without_embeddings")


@dataclass(frozen=True)
class ModelSummary:
    """Figures of the whole model, before any parallel split.

    source              where it was read: a path, or the entry of the catalogue
    counted_bytes       of the language model's weights, counted from config.json
    kv_bytes_per_token  at CACHE_BITS, over all layers, windows not taken off
    state_bytes         recurrent state of one sequence
    stored, comparison  sizes from the weight files, where there are any, and how they compare
    """

    source: str
    shape: ModelShape
    parameters: Parameters
    counted_bytes: float
    kv_bytes_per_token: float
    state_bytes: int
    stored: StoredWeights | None = None
    comparison: Comparison | None = None

    @property
    def task(self) -> Task:
        """What the model is for, as vLLM serves it without flags."""
        return task_of(self.shape)

    @property
    def task_words(self) -> Phrase:
        """Return the same in words, with where it is asked to."""
        return task_words(self.task)

    def as_json(self) -> dict[str, object]:
        """Return all figures as plain data."""
        shape, parameters = self.shape, self.parameters
        return {
            "source": self.source,
            **{name: getattr(shape, name) for name in _PLAIN},
            "task": self.task,
            "weight_files": [str(file) for file in shape.weight_files],
            "parameters": {
                **asdict(parameters),
                **{name: getattr(parameters, name) for name in _TOTALS},
            },
            "precision": asdict(shape.precision),
            "counted_weight_bytes": round(self.counted_bytes),
            "stored": self._stored_json(),
            "kv_bytes_per_token": round(self.kv_bytes_per_token),
            "state_bytes_per_sequence": self.state_bytes,
            "blocks": [asdict(block) for block in shape.blocks],
            "outer": [asdict(weight) for weight in shape.outer],
            "mtp": [asdict(block) for block in shape.mtp],
            "mtp_outer": [asdict(weight) for weight in shape.mtp_outer],
            "towers": [asdict(encoder) for encoder in shape.encoders],
            "assumed": list(shape.assumed),
        }

    def _stored_json(self) -> Mapping[str, object] | None:
        if not self.stored or not self.comparison:
            return None
        comparison = self.comparison
        return {
            "source": self.stored.source,
            "total_bytes": self.stored.total_bytes,
            "component_bytes": dict(self.stored.components),
            "numbers": self.stored.numbers,
            "compared_with": comparison.parts,
            "counted_bytes": round(comparison.counted_bytes),
            "difference": comparison.difference,
            "agrees": comparison.agrees,
        }


def summarise(source: str, shape: ModelShape, stored: StoredWeights | None = None) -> ModelSummary:
    """Return the figures of a shape and of its weight files."""
    return ModelSummary(
        source=source,
        shape=shape,
        parameters=count(shape),
        counted_bytes=counted_bytes(shape),
        kv_bytes_per_token=kv_bytes_per_token(shape, CACHE_BITS / 8),
        state_bytes=state_bytes(shape),
        stored=stored,
        comparison=compare(shape, stored) if stored else None,
    )
