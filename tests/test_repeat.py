"""The command that runs a verb again."""

from collections.abc import Sequence

import click
import pytest

from ropeway.cli.options import screen_options
from ropeway.cli.repeat import command_to_repeat


@click.command()
@screen_options
@click.option("--clients", type=click.INT, default=4)
@click.option("--url", multiple=True)
@click.option("--sizes", callback=lambda _, __, text: text and tuple(text.split(",")))
@click.option("--eos/--no-eos", default=True)
@click.option("--fast", is_flag=True)
@click.option("--out")
@click.pass_context
def verb(ctx: click.Context, /, **_: object) -> None:
    click.echo(command_to_repeat(ctx))


@pytest.mark.parametrize(
    ("given", "again"),
    [
        ([], ""),
        (["--clients", "4"], " --clients 4"),
        (["--clients=8", "--fast", "-v", "--json", "--out", "x"], " --clients 8 --fast"),
        (["--url", "a b", "--url", "c"], " --url 'a b' --url c"),
        (["--sizes", "1,8"], " --sizes 1,8"),
        (["--no-eos"], " --no-eos"),
        (["--eos"], " --eos"),
    ],
)
def test_what_was_given_is_given_again(
    given: Sequence[str], again: str, capsys: pytest.CaptureFixture[str]
) -> None:
    verb.main(list(given), prog_name="ropeway verb", standalone_mode=False)
    assert capsys.readouterr().out == f"ropeway verb{again}\n"


def test_what_a_spec_gave_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    defaults = {"clients": 16, "url": ["a"], "eos": False, "sizes": None}
    verb.main([], prog_name="ropeway verb", standalone_mode=False, default_map=defaults)
    assert capsys.readouterr().out == "ropeway verb --clients 16 --url a --no-eos\n"
