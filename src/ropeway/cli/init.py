"""`ropeway init`: an annotated spec to begin with."""

import shlex
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.errors import Refused
from ropeway.report.console import Screen
from ropeway.spec.model import DEFAULT_FILE, sample_text


@click.command()
@screen_options
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_FILE)
@click.option("--force", is_flag=True, help="Overwrite FILE when it is there already.")
def init(*, screen: Screen, file: Path, force: bool) -> None:
    """Write an annotated sample spec to FILE (by default ropeway.yaml).

    The sample serves a small model on this machine as it stands; its comments explain every key.

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
    """Create the file. Raises Refused when it is there already, or cannot be written."""
    try:
        with file.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise Refused(
            "the file is there already, and it is kept as it is",
            where=str(file),
            hint="give another name, or overwrite it with `--force`",
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"cannot write the file: {reason}", where=str(file)) from None
