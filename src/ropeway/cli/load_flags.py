"""The flags of a load that has another default: the spec's, or that of a recorded run."""

import functools
from collections.abc import Callable
from typing import Any

import click

from ropeway.cli.options import POSITIVE, with_options
from ropeway.spec.model import REQUESTS_PER_CLIENT

_COUNT = click.IntRange(min=1)
# name, type, help
_FLAGS = (
    ("clients", _COUNT, "Requests in flight: each client sends one after another."),
    ("requests", _COUNT,
     f"Requests of a round, or of a run.  [default: the spec's, with --clients"
     f" {REQUESTS_PER_CLIENT} each]"),
    ("rate", POSITIVE,
     "Requests per second to send (Poisson), with at most --clients in flight."),
    ("input_tokens", _COUNT, "Length of each prompt, chat template included."),
    ("output_tokens", _COUNT, "Longest answer."),
    ("seed", click.INT, "The same seed gives the same arrivals."),
    ("temperature", click.FloatRange(0, 2), None),
    ("warmup", click.IntRange(min=0), "Requests sent before each round and not counted."),
    ("ignore_eos", click.BOOL, "Make each answer --output-tokens long (vLLM and its relatives)."),
    ("time_limit_s", POSITIVE, "End each round after this many seconds."),
)  # fmt: skip
_SPELLED = {"ignore_eos": "--ignore-eos/--no-ignore-eos", "time_limit_s": "--time-limit"}


def load_flags(verb: Callable[..., object]) -> Callable[..., object]:
    """Add the flags of a load without defaults, passed as `given: dict` of those typed."""

    @functools.wraps(verb)
    def loading(*args: object, **flags: Any) -> object:
        found = {name: flags.pop(name) for name, _, _ in _FLAGS}
        given = {name: value for name, value in found.items() if value is not None}
        return verb(*args, given=given, **flags)

    options = [
        click.option(
            _SPELLED.get(name, f"--{name.replace('_', '-')}"), name, type=kind, default=None,
            help=text,
        )
        for name, kind, text in _FLAGS
    ]  # fmt: skip
    return with_options(loading, options)
