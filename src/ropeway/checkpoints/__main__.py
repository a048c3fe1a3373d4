"""Make one checkpoint: `python -m ropeway.checkpoints NAME SOURCE INTO`.

Runs as a process of its own, so that Ropeway's own never loads numpy and the weights. `INTO` is an
empty directory. An error of ours is printed as one line of JSON and sets the exit code.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ropeway.checkpoints import moe, padded, smollm2, tiny
from ropeway.checkpoints.catalogue import PACKAGE, recipe_named
from ropeway.checkpoints.manifest import (
    WEIGHTS,
    Entry,
    Manifest,
    describe,
    read_manifest,
    write_manifest,
)
from ropeway.errors import RopewayError

_BUILDERS = {
    "smollm2": smollm2.build,
    "smollm2-padded": padded.build,
    "smollm2-moe": moe.build,
    "tiny-qwen3-moe": tiny.build,
}


def make(name: str, source: Path, into: Path) -> None:
    """Write the checkpoint `name` and its manifest into the empty directory `into`.

    `source` is the package file or the directory of the checkpoint that the recipe starts from.
    """
    recipe = recipe_named(name)
    if recipe.source:
        source_sha256 = read_manifest(source).files[WEIGHTS].sha256
    else:
        source_sha256 = describe(source).sha256
    weights_sha256 = _BUILDERS[name](source, into)
    files = {path.name: describe(path) for path in into.iterdir() if path.name != WEIGHTS}
    files[WEIGHTS] = Entry((into / WEIGHTS).stat().st_size, weights_sha256)
    source_name = recipe.source or PACKAGE
    write_manifest(into, Manifest(name, recipe.version, source_name, source_sha256, files))


def main(arguments: Sequence[str]) -> int:
    """Run `make` with these arguments; return the exit code."""
    name, source, into = arguments
    try:
        make(name, Path(source), Path(into))
    except RopewayError as error:
        sys.stdout.write(json.dumps(error.as_json()) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
