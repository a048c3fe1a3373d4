"""`ropeway model`: the checkpoints of the local cluster, and what a model directory holds."""

import os
from dataclasses import asdict
from pathlib import Path

import click

from ropeway.checkpoints.catalogue import RECIPES, Recipe
from ropeway.checkpoints.fetch import default_root, ensure, fault
from ropeway.cli.options import screen_options
from ropeway.errors import ModelError
from ropeway.hosts.local import LocalHost
from ropeway.models import ModelShape, kv_bytes_per_token, read_model
from ropeway.report.console import Screen
from ropeway.units import format_bytes

_CACHE_DTYPE_BYTES = 2  # the KV cache is kept in 16 bits unless the engine is told otherwise

_DIR = click.option(
    "--dir",
    "root",
    type=click.Path(path_type=Path),
    help="Folder of the checkpoints.  [default: ~/.cache/ropeway/models]",
)


@click.group(invoke_without_command=True)
@click.pass_context
def model(ctx: click.Context) -> None:
    """Fetch a small model to rehearse with, or look into a model directory.

    \b
    Example:
      ropeway model fetch smollm2
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@model.command()
@screen_options
@click.argument("name")
@_DIR
@click.option("--verify", is_flag=True, help="Read every file again and compare its sha256.")
def fetch(*, screen: Screen, name: str, root: Path | None, verify: bool) -> None:
    """Fetch the checkpoint NAME and whatever it is made from; `ropeway model list` has the names.

    What is there already and whole is left as it is. The directory is printed on stdout.

    \b
    Example:
      ropeway model fetch smollm2
      ropeway model fetch smollm2-moe --dir /data/models
    """
    path = ensure(name, _root(root), host=LocalHost(), on_step=screen.say, verify=verify)
    screen.answer(str(path))
    screen.result({"name": name, "path": str(path)})


@model.command(name="list")
@screen_options
@_DIR
def list_(*, screen: Screen, root: Path | None) -> None:
    """List the checkpoints that can be fetched, and say which are here.

    \b
    Example:
      ropeway model list
    """
    folder = _root(root)
    faults = {name: _fault(recipe, folder) for name, recipe in RECIPES.items()}
    for name, recipe in RECIPES.items():
        size = format_bytes(recipe.weight_bytes)
        screen.answer(f"{name:<15} {size:>9}  {faults[name] or 'here'}\n  {recipe.summary}")
    screen.say(f"in {folder}")
    rows = [
        {**asdict(recipe), "path": str(folder / name), "fault": faults[name]}
        for name, recipe in RECIPES.items()
    ]
    screen.result({"folder": str(folder), "checkpoints": rows})


@model.command()
@screen_options
@click.argument("path", type=click.Path(path_type=Path))
def show(*, screen: Screen, path: Path) -> None:
    """Read the model directory PATH: its shape, its size, and whether its files are whole.

    Only headers are read, so this is quick for any size.

    \b
    Example:
      ropeway model show ~/.cache/ropeway/models/smollm2
    """
    shape = read_model(path.expanduser())
    cache = kv_bytes_per_token(shape, _CACHE_DTYPE_BYTES)
    for label, value in _rows(shape, cache):
        screen.answer(f"{label:<13} {value}")
    files = [str(file) for file in shape.weight_files]
    screen.result({**asdict(shape), "weight_files": files, "kv_bytes_per_token": cache})


def _rows(shape: ModelShape, cache: int) -> list[tuple[str, str]]:
    experts = f"{shape.experts}, {shape.experts_per_token} per token" if shape.experts else "none"
    files = len(shape.weight_files)
    return [
        ("architecture", shape.architecture or shape.model_type),
        ("layers", str(shape.layers)),
        ("hidden size", str(shape.hidden_size)),
        ("heads", f"{shape.heads} of {shape.head_dim}, {shape.kv_heads} for keys and values"),
        ("experts", experts),
        ("vocabulary", str(shape.vocab_size)),
        ("context", f"{shape.max_positions} tokens" if shape.max_positions else "not said"),
        ("weights", f"{format_bytes(shape.weight_bytes)} in {files} file{'s' * (files > 1)}"),
        ("type", shape.dtype or "not said"),
        ("KV cache", f"{format_bytes(cache)} per token at {8 * _CACHE_DTYPE_BYTES} bits"),
    ]


def _root(chosen: Path | None) -> Path:
    return chosen.expanduser().absolute() if chosen else default_root(os.environ)


def _fault(recipe: Recipe, root: Path) -> str | None:
    try:
        return fault(recipe, root)
    except ModelError as error:
        return error.what
