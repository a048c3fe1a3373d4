"""The command `ropeway`: its verbs, and how errors are reported."""

import os
import re
import resource
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from typing import NoReturn

import click

from ropeway import __version__
from ropeway.cli.bug_report import bug_report, write_report
from ropeway.cli.call import Call
from ropeway.errors import Exit, Refused, RopewayError
from ropeway.facts.redaction import redact, secret_values
from ropeway.phrases import joined, phrase
from ropeway.report.chinese import LANGUAGES
from ropeway.report.console import Screen
from ropeway.streams import OutputFailed, ReaderGone, drop_output, mend_streams
from ropeway.suggest import nearest

# In order of use, each with the first sentence of its help. Verb `x` is the click command `x` of
# `ropeway.cli.x`, imported on use: the list must not wait for what verbs import.
VERBS = {
    "init": "Write an annotated spec to FILE (by default ropeway.yaml).",
    "model": "Fetch a small model, inspect a model directory, or copy one to all hosts.",
    "doctor": "Look at every host of the cluster and say what would go wrong, before anything "
    "starts.",
    "plan": "Choose the parallel layout: what fits, how fast it is, what it costs, and why.",
    "calibrate": "Measure this machine, so that `plan` can predict the local cluster.",
    "up": "Bring the model up in one parallel layout and serve it.",
    "status": "Show what is running, and whether it generates a token right now.",
    "logs": "Show the last lines of the engine's log, of all ranks.",
    "diagnose": "Find the line of the logs that says why a start or a run failed.",
    "chat": "Talk with a served model, at any OpenAI-compatible URL.",
    "bench": "Measure an endpoint under load: throughput, TTFT, time per output token.",
    "batch": "Answer a file of prompts: every row once, however often the job is interrupted.",
    "compare": "Measure layouts or endpoints on the same prompts, and say which is faster.",
    "tune": "Find the best setting for a load by measuring few of them.",
    "restart": "Restart a service on its hosts, as it is, and wait for its first token.",
    "exec": "Run a command in the head's container, or with `--all` in every one, and show what it "
    "prints.",
    "bundle": "Collect spec, facts, logs and versions of a service into one file, without secrets.",
    "down": "Take a service down: its processes, its shared memory, its temporary files.",
    "demo": "Rehearse the main job on this machine: real engine, real Ray, virtual NPUs.",
}

_FILES = 65_536  # enough for 8,000 hosts; with more, what closes all that there may be gets slow

_EPILOG = """\b
Exit codes:
  0    success
  1    a check or a request failed
  2    bad input, such as a flag or a spec: nothing was changed
  3    a bug in Ropeway: a report is written, to attach to an issue
  130  interrupted

\b
Language: that of the terminal; English or Chinese for one call:
  ropeway VERB --lang zh
  of init, doctor, plan, up, status, logs, diagnose, bench, batch, tune, restart,
  bundle, down;
  the other verbs print English, and their errors the terminal's language

\b
Completion in bash; in zsh and fish alike:
  eval "$(_ROPEWAY_COMPLETE=bash_source ropeway)"

\b
Example:
  ropeway init && ropeway up
  ropeway chat -p "What is the capital of France?"
"""


# Packages that only some verbs need, and the extra that brings each.
_EXTRAS = {"msgspec": "batch"}

# What people call a verb whose name is another.
_OTHER_WORDS = {
    "inspect": "show", "info": "show", "get": "fetch", "download": "fetch", "pull": "fetch",
    "ls": "list", "copy": "push", "check": "doctor", "start": "up", "serve": "up", "stop": "down",
    "ps": "status",
}  # fmt: skip

# What click says, and our template for it.
_SAID = tuple(
    (re.compile(pattern), template)
    for pattern, template in (
        (r"invalid value for (?P<name>`.+?`): (?P<why>.+)", "invalid value for {name}: {why}"),
        (r"(?P<value>.+) is not a valid integer( range)?", "{value} is not a whole number"),
        (r"(?P<value>.+) is not a valid float( range)?", "{value} is not a number"),
        (r"(?P<value>.+) is not in the range x>=(?P<least>\S+)", "{value} is not at least {least}"),
        (r"(?P<value>.+) is not in the range x>(?P<least>\S+)", "{value} is not more than {least}"),
        (r"(?P<value>.+) is not in the range x<=(?P<most>\S+)", "{value} is not at most {most}"),
        (r"(?P<value>.+) is not in the range (?P<least>\S+)<=x<=(?P<most>\S+)",
         "{value} is not between {least} and {most}"),
        (r"(?P<value>`.*`) is not one of (?P<known>`.+)", "{value} is not one of {known}"),
        (r"(?P<value>`.*`) is not (?P<form>a name of .+)", "{value} is not {form}"),
        (r"no such option (?P<name>`.+`)", "no such option {name}"),
        (r"no such command (?P<name>`.+`)", "no such command {name}"),
        (r"missing option (?P<name>`.+`)", "missing option {name}"),
        (r"missing argument (?P<name>`.+`)", "missing argument {name}"),
        (r"option (?P<name>`.+`) requires an argument", "option {name} requires an argument"),
        (r"option (?P<name>`.+`) does not take a value", "option {name} does not take a value"),
        (r"got unexpected extra arguments? \((?P<words>.+)\)", "unexpected argument: {words}"),
        (r"(file|directory|path) (?P<path>`.*`) does not exist", "{path} does not exist"),
        (r"(file|directory|path) (?P<path>`.*`) is a directory", "{path} is a directory"),
        (r"(file|directory|path) (?P<path>`.*`) is a file", "{path} is a file"),
    )
)  # fmt: skip


class Interrupted(RopewayError):
    """Ctrl-C."""

    exit_code = Exit.INTERRUPTED


class Bug(RopewayError):
    """A bug in Ropeway."""

    exit_code = Exit.BUG


class _Verbs(click.Group):
    """The verbs, each imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in VERBS:
            return None
        try:
            command: click.Command = getattr(import_module(f"ropeway.cli.{name}"), name)
        except ModuleNotFoundError as error:
            if error.name not in _EXTRAS:
                raise
            return _without_extra(name, error.name, _EXTRAS[error.name])
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with suppress(OSError):  # as click does it, which fails where the terminal was closed
                click.echo(err=True)
            raise click.Abort from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] == "help":
            args = [*args[1:2], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args[0] not in VERBS and not args[0].startswith("-"):
            raise _no_such_verb(args[0])
        return super().resolve_command(ctx, args)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


def _without_extra(verb: str, package: str, extra: str) -> click.Command:
    """Return a command that says which packages the verb needs, whatever its arguments."""

    def refuse(_: click.Context, __: click.Parameter, ___: object) -> NoReturn:
        raise Refused(
            phrase("`ropeway {verb}` needs the package {package}", verb=verb, package=package),
            hint=phrase('pip install "ropeway[{extra}]"', extra=extra),
        )

    anything = click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED, callback=refuse)
    settings = {"ignore_unknown_options": True, "help_option_names": []}
    return click.Command(verb, params=[anything], context_settings=settings)


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    subcommand_metavar="VERB …",
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="ropeway")
@click.pass_context
def ropeway(ctx: click.Context) -> None:
    """Deploy a large model on a cluster of Ascend NPUs, or rehearse it on one Linux machine.

    `ropeway VERB --help` explains a verb, with an example.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run() -> NoReturn:
    """Run the command, and exit."""
    # Each command on a host takes some files, and a lock or a followed log lasts.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        limit = _FILES if most == resource.RLIM_INFINITY else min(most, _FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    mend_streams()
    sys.exit(exit_code(sys.argv[1:]))


def exit_code(
    args: Sequence[str], command: click.Command = ropeway, call: Call | None = None
) -> int:
    """Run the command, report its error, if any, and return the exit code."""
    call = call or Call()
    end = _end_of(command, args, call)
    code = int(end.exit_code if isinstance(end, RopewayError) else end)
    if isinstance(end, OutputFailed):
        drop_output()
    screen = call.screen or Screen(
        json="--json" in args and code != Exit.OK,
        verb=call.verb,
        language=_asked_language(args) or call.language,
    )
    try:
        if isinstance(end, RopewayError):
            _tell(end, screen, args)
        screen.close(ok=code == Exit.OK)
        sys.stdout.flush()
    except OutputFailed as error:
        drop_output()
        _tell(error, screen, args)
        return code or int(Exit.NO)
    return code


def _tell(error: RopewayError, screen: Screen, args: Sequence[str]) -> None:
    if isinstance(error, ReaderGone):
        return
    known = secret_values(args, os.environ)

    def mask(text: str) -> str:
        masked = redact(text, known)
        return text if masked == text else masked  # a phrase, which may be shown in Chinese

    # A server, a log or a command may have said a secret, and a URL may have one.
    error.what = mask(error.what)
    error.where = error.where and mask(error.where)
    error.evidence = tuple(map(mask, error.evidence))
    error.hint = error.hint and mask(error.hint)
    screen.error(error)


def _asked_language(args: Sequence[str]) -> str | None:
    """Return what `--lang` says, where the flags are too wrong to be parsed."""
    words = (word for flag, word in pairwise(args) if flag == "--lang")
    return next((word for word in words if word in LANGUAGES), None)


def _end_of(command: click.Command, args: Sequence[str], call: Call) -> RopewayError | int:
    """Return the error that the command raised, or the exit code that it chose."""
    try:
        call.verb = _verb_of(command, args)
        return int(
            command.main(list(args), prog_name="ropeway", standalone_mode=False, obj=call) or 0
        )
    except RopewayError as error:
        return error
    except click.ClickException as error:
        return _refusal(error)
    except (KeyboardInterrupt, click.Abort):
        return Interrupted("interrupted")
    except Exception as error:  # the only one: any other error is a bug
        return _bug(error, args, call)


def _verb_of(command: click.Command, args: Sequence[str]) -> str | None:
    """Return the verb that is called, even with wrong flags: `plan`, `model show`."""
    words: list[str] = []
    ctx = click.Context(command)
    for arg in args:
        found = command.get_command(ctx, arg) if isinstance(command, click.Group) else None
        if found is None:
            break
        command = found
        words.append(arg)
    return " ".join(words) or None


def _refusal(error: click.ClickException) -> Refused:
    """Convert click's error about a flag or an argument to ours."""
    message = getattr(error, "message", "") or error.format_message()
    if isinstance(error, click.BadParameter):  # names the flag only when it is formatted
        message = error.format_message()
    what = _said(re.sub(r"'([^']*)'", r"`\1`", message))
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and ctx:
        if _is_of_verbs(error.option_name, ctx):
            command = f"`{ctx.command_path} VERB {error.option_name}`"
            return Refused(what, hint=phrase("write it after the verb: {command}", command=command))
        flags = [flag for param in ctx.command.get_params(ctx) for flag in param.opts]
        known = [flag.removeprefix("--") for flag in flags if flag.startswith("--")]
        if near := nearest(error.option_name.lstrip("-"), known):
            return Refused(what, hint=phrase("did you mean {names}?", names=f"`--{near[0]}`"))
    if ctx and isinstance(ctx.command, click.Group) and what.startswith("no such command"):
        verbs = ctx.command.list_commands(ctx)
        word = next(iter(re.findall(r"`(.+?)`", what)), "")
        names = joined((f"`{ctx.command_path} {verb}`" for verb in verbs), ", ")
        there = phrase("there are {names}", names=names)
        return Refused(what, hint=_meant(ctx.command_path, word, verbs) or there)
    return Refused(
        what,
        hint=phrase("see `{command} --help`", command=ctx.command_path) if ctx else None,
    )


def _is_of_verbs(flag: str, ctx: click.Context) -> bool:
    """Whether a flag that stands before the verb is one of those behind it."""
    if not isinstance(ctx.command, click.Group):
        return False
    verbs = (ctx.command.get_command(ctx, name) for name in ctx.command.list_commands(ctx))
    return any(flag in param.opts for verb in verbs if verb for param in verb.params)


def _said(message: str) -> str:
    """Return a message of click in our words, as a phrase where it is one that we know."""
    text = message[:1].lower() + message[1:].rstrip().rstrip(".")
    for pattern, template in _SAID:
        if match := pattern.fullmatch(text):
            values = match.groupdict()
            why = {"why": _said(values["why"])} if "why" in values else {}
            return phrase(template, **{**values, **why})
    return text


def _meant(group: str, word: str, verbs: Iterable[str]) -> str | None:
    """Return the question for the verb that was meant; None when none is near."""
    near = nearest(_OTHER_WORDS.get(word, word), verbs)
    return phrase("did you mean {names}?", names=f"`{group} {near[0]}`") if near else None


def _no_such_verb(name: str) -> Refused:
    hint = _meant("ropeway", name, VERBS)
    return Refused(phrase("no such verb: `{name}`", name=name), hint=hint or "see `ropeway --help`")


def _bug(error: Exception, args: Sequence[str], call: Call) -> Bug:
    report = bug_report(error, args, os.environ)
    path = write_report(report, call.folder)
    what = "this is a bug in Ropeway, not your mistake"
    if path is None:
        return Bug(what, evidence=(report,), hint="please report it with the lines above")
    brief = redact(f"{type(error).__name__}: {error}", secret_values(args, os.environ))
    hint = "please report it with this file attached; check first that it holds no secret"
    return Bug(what, where=str(path), evidence=(brief,), hint=hint)
