"""Which workload a load test sends."""

from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe
from ropeway.bench.sending.worker import Workload
from ropeway.bench.workloads.rows import OwnPrompts
from ropeway.bench.workloads.words import RandomPrompts


def workload_of(model: str, load: LoadTest, recipe: Recipe, *, warm_up: bool = False) -> Workload:
    """Return the user's own prompts, where the recipe has some, else random ones."""
    if recipe.own is not None:
        return OwnPrompts(model, load, recipe.own, warm_up)
    return RandomPrompts(model, load, recipe, warm_up)
