"""`ropeway model`: fetch checkpoints, show what a model is made of, copy one to the hosts."""

import os
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import click

from ropeway.checkpoints.catalogue import RECIPES, Recipe
from ropeway.checkpoints.fetch import default_root, ensure, fault
from ropeway.cli.completion import one_of
from ropeway.cli.model_push import push_
from ropeway.cli.options import screen_options
from ropeway.errors import Exit, ModelError
from ropeway.hosts.local import LocalHost
from ropeway.models.build import read_shape
from ropeway.models.known import entry_of, known, published_name, short_names
from ropeway.models.read import read_directory_shape
from ropeway.models.shape import ModelShape
from ropeway.models.stored import read_stored
from ropeway.models.summary import ModelSummary, summarise
from ropeway.models.weights import find_weight_files, read_json_object
from ropeway.outside import is_file
from ropeway.phrases import phrase
from ropeway.plan.layout import problems
from ropeway.plan.resolve import model_path
from ropeway.plan.shards import shard
from ropeway.report.console import Screen
from ropeway.report.model_shape import ShownLayout, model_json, model_text
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Layout
from ropeway.units import format_bytes

_LARGEST_HOST = 1024  # of spec.cluster.RemoteHost

_DIR = click.option(
    "--dir",
    "root",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Directory of the checkpoints.  [default: ~/.cache/ropeway/models]",
)


@click.group(invoke_without_command=True)
@click.pass_context
def model(ctx: click.Context) -> None:
    """Fetch a small model, inspect a model directory, or copy one to all hosts.

    \b
    Example:
      ropeway model fetch smollm2
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


model.add_command(push_)


@model.command()
@screen_options
@click.argument("name", shell_complete=one_of(lambda: RECIPES))
@_DIR
@click.option("--verify", is_flag=True, help="Read every file and compare its sha256.")
def fetch(*, screen: Screen, name: str, root: Path | None, verify: bool) -> None:
    """Fetch the checkpoint NAME and what it is made from.

    `ropeway model list` shows the names. Files that are complete are kept. The directory is
    printed on stdout.

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
    """List the checkpoints that can be fetched, and which are here.

    \b
    Example:
      ropeway model list
    """
    folder = _root(root)
    rows = []
    for name, recipe in RECIPES.items():
        size, fault_ = format_bytes(recipe.weight_bytes), _fault(recipe, folder)
        rows.append({**asdict(recipe), "path": str(folder / name), "fault": fault_})
        screen.answer(f"{name:<15} {size:>9}  {fault_ or 'here'}\n  {recipe.summary}")
    screen.say(f"in {folder}")
    screen.result({"folder": str(folder), "checkpoints": rows})


@model.command()
@screen_options
@click.argument("model_name", metavar="PATH|NAME", shell_complete=one_of(short_names))
@click.option(
    "--layout",
    metavar="LAYOUT",
    help="Show the share of one NPU in this layout: `TP8`, `TP8xPP2+EP`.",
)
@_DIR
@click.pass_context
def show(
    ctx: click.Context, *, screen: Screen, model_name: str, layout: str | None, root: Path | None
) -> None:
    """Show what a model is made of, and what one NPU holds of it.

    PATH is a model directory or a config.json. NAME is a fetched checkpoint or a published model,
    which need not be on this machine. Only the headers of weight files are read. Exit code 1: the
    model cannot run in the layout.

    \b
    Example:
      ropeway model show ~/.cache/ropeway/models/smollm2
      ropeway model show Qwen3-30B-A3B --layout TP8
    """
    model = _read(model_name, root)
    share = _share(model.shape, layout) if layout else None
    screen.answer(model_text(model, share))
    screen.result(model_json(model, share))
    ctx.exit(Exit.NO if share and share.problems else Exit.OK)


def _read(name: str, root: Path | None) -> ModelSummary:
    path = model_path(name, _root(root))
    if path is None:
        entry = entry_of(published_name(name))
        where = "/".join(entry.source.split("/")[2:5])  # the permalink is in the catalogue's file
        return summarise(f"{entry.name}, as read in {where}", known(name))
    if is_file(path):
        return summarise(str(path), read_shape(read_json_object(path), where=str(path)))
    try:
        shape = read_directory_shape(path)
    except ModelError as error:
        error.hint = error.hint or _published(name)
        raise
    stored = read_stored(path)
    files = find_weight_files(path) if stored and stored.components else ()
    size = stored.total_bytes if stored else 0
    return summarise(str(path), replace(shape, weight_bytes=size, weight_files=files), stored)


def _published(name: str) -> str | None:
    """Return the command that shows the published model of a folder's name, where there is one."""
    try:
        published_name(name)
    except ModelError as error:
        return error.hint
    command = f"ropeway model show {shlex.quote(Path(name).name)}"
    return phrase("the published model of this name: {command}", command=command)


def _share(shape: ModelShape, text: str) -> ShownLayout:
    layout = Layout.parse(text)
    # One host for all NPUs, because which hosts there are does not matter here.
    host = RemoteHost(address="any", npus=min(layout.npus, _LARGEST_HOST))
    fits = layout.npus <= _LARGEST_HOST
    reasons = problems(layout, shape, Cluster(hosts=(host,))) if fits else ()
    return ShownLayout(str(layout), shard(shape, layout), reasons)


def _root(chosen: Path | None) -> Path:
    return chosen.expanduser().absolute() if chosen else default_root(os.environ)


def _fault(recipe: Recipe, root: Path) -> str | None:
    try:
        return fault(recipe, root)
    except ModelError as error:
        return error.what
