"""`ropeway init`: write an annotated sample spec."""

import shlex
from pathlib import Path

import click

from ropeway.cli.files import writing
from ropeway.cli.options import screen_options
from ropeway.errors import Refused
from ropeway.report.console import Screen
from ropeway.spec.model import DEFAULT_FILE, sample_text


@click.command()
@screen_options
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_FILE)
@click.option("--force", is_flag=True, help="Overwrite an existing FILE.")
def init(*, screen: Screen, file: Path, force: bool) -> None:
    """Write an annotated sample spec to FILE (by default ropeway.yaml).

    As it is, the sample serves a small model on this machine; its comments explain every key.

    \b
    Example:
      ropeway init
      ropeway init cluster.yaml --force
    """
    _write(file, sample_text(), force)
    option = "" if str(file) == DEFAULT_FILE else f" --config {shlex.quote(str(file))}"
    screen.answer(f"wrote {file}; bring it up with `ropeway up{option}`")
    screen.result({"file": str(file)})


def _write(file: Path, text: str, force: bool) -> None:
    """Create the file. Raises Refused when it exists and `force` is false, or on an error."""
    with writing(file):
        try:
            with file.open("w" if force else "x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            raise Refused(
                "the file exists already; it was not changed",
                where=str(file),
                hint="choose another name, or overwrite it with `--force`",
            ) from None
