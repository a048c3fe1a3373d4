"""The command that runs a verb again, anywhere: with what it had from flags and from a spec."""

import shlex

import click
from click.core import ParameterSource

_MEANT = {
    ParameterSource.COMMANDLINE,
    ParameterSource.ENVIRONMENT,
    ParameterSource.DEFAULT_MAP,
}
# They change nothing of what is done; the last names a folder that exists by now.
_LEFT_OUT = {"as_json", "quiet", "verbose", "color", "out"}


def command_to_repeat(ctx: click.Context) -> str:
    """Return the running verb as a line for a shell, without flags that have their default."""
    words = ["ropeway", *ctx.command_path.split()[1:]]
    for option in ctx.command.params:
        name = option.name or ""
        given = ctx.get_parameter_source(name) in _MEANT
        if isinstance(option, click.Option) and given and name in ctx.params:
            words += [] if name in _LEFT_OUT else _words(option, ctx.params[name])
    return shlex.join(words)


def _words(option: click.Option, value: object) -> list[str]:
    if value is None:
        return []
    if option.is_flag:
        return [option.opts[0]] if value else option.secondary_opts[:1]
    values = value if option.multiple and isinstance(value, tuple) else (value,)
    return [word for one in values for word in (option.opts[0], _typed(one))]


def _typed(value: object) -> str:
    """Return a value as it is typed; one that is a list, with commas."""
    return ",".join(map(str, value)) if type(value) is tuple else str(value)
