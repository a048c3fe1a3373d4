"""The flags of `ropeway batch`."""

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from click.core import ParameterSource

from ropeway.batch.input.template import APIS
from ropeway.batch.output.stored import Output, Stored, output_at
from ropeway.batch.stores import check_no_keys
from ropeway.cli.options import NOT_NEGATIVE, POSITIVE, passed_as, ssh_config_option, with_options
from ropeway.cli.target import checked_name
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused
from ropeway.launch.detached import NAME
from ropeway.phrases import joined, phrase

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


def _share(_: click.Context, param: click.Parameter, text: str) -> float:
    """Return a share of the rows, written `5%` or `0.05`."""
    try:
        share = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"`{text}` is not a share like 5%", param=param)
    return share


def _moment(_: click.Context, param: click.Parameter, text: str | None) -> float | None:
    """Return a time of day, the next there is, or a date and a time, as `time.time` has it."""
    if text is None:
        return None
    now = datetime.fromtimestamp(time.time())
    try:
        if clock := _CLOCK.fullmatch(text.strip()):
            moment = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0)
            moment += timedelta(days=moment <= now)
        else:
            moment = datetime.fromisoformat(text.strip())
        return moment.timestamp()
    except (ValueError, OverflowError):
        why = f"`{text}` is not a time like 18:00 or 2027-01-31T18:00"
        raise click.BadParameter(why, param=param) from None


def _job_name(_: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Return a name that a folder and a container can have."""
    if text is not None and not NAME.fullmatch(text):
        raise click.BadParameter(
            f"`{text}` is not a name of at most 31 letters a-z, digits and `-`", param=param
        )
    return text


def _output(_: click.Context, __: click.Parameter, text: str | None) -> Output | None:
    """Return a file of this machine, or one in object storage."""
    return None if text is None else output_at(text)


@dataclass(frozen=True)
class BatchFlags:
    """The flags of `batch` as they were given; see their help."""

    out: Output | None
    errors: Output | None
    journal: Path | None
    api: str
    template: str | None
    settings: tuple[str, ...]
    samples: int
    kind: str | None
    pictures: bool
    pictures_from: Path | None
    skip_bad: bool
    ordered: bool
    retry_errors: bool
    dedupe: bool
    check: Path | None
    in_flight: int
    tries: int
    max_errors: float
    until: float | None
    price: float | None
    token_price: tuple[float, float] | None
    currency: str
    max_cost: float | None
    html: Path | None
    plan: bool
    on: str | None
    ray_address: str | None
    tasks: int | None
    at_first: int | None


@dataclass(frozen=True)
class BatchRequest:
    """What is asked of `batch`. `model`: the one that is named."""

    inputs: tuple[str, ...]
    flags: BatchFlags
    endpoints: tuple[Endpoint, ...]
    model: str | None


_OPTIONS = (
    click.option("-o", "--out", callback=_output, metavar="FILE",
                 help="The output, a file or s3://…; needed unless --plan is given."),
    click.option("--errors", callback=_output, metavar="FILE",
                 help="File for rows without an answer.  [default: of a.jsonl a.errors.jsonl]"),
    click.option("--journal", type=click.Path(path_type=Path), metavar="FOLDER",
                 help="Where the job is remembered.  [default: OUT.journal; of s3://… here]"),
    click.option("--api", type=click.Choice(tuple(APIS)), default="chat", show_default=True,
                 help="What rows without a body of their own ask for."),
    click.option("--template", metavar="TEXT",
                 help='The prompt, with columns in braces: "Translate: {text}".'),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                 help="Put into every row without a body, such as max_tokens=256."),
    click.option("-n", "--samples", type=click.IntRange(1, 1000), default=1, show_default=True,
                 help="Answers for each row; each is a row of its own."),
    click.option("--format", "kind", type=click.Choice(("jsonl", "csv", "tsv", "parquet")),
                 help="What the input is, where its name does not say it."),
    click.option("--pictures/--no-pictures", default=True,
                 help="Send the columns `image` and `images` (paths or URLs).  [default: send]"),
    click.option("--pictures-from", type=click.Path(path_type=Path), metavar="DIR",
                 help="Folder that pictures may be in besides that of the input."),
    click.option("--skip-bad", is_flag=True,
                 help="Leave out lines that cannot be sent; each is an error row."),
    click.option("--ordered", is_flag=True, help="Write the output in the order of the input."),
    click.option("--retry-errors", is_flag=True,
                 help="Go on, and do again what has no answer; look again at what was left out."),
    click.option("--dedupe", is_flag=True,
                 help="Ask equal requests once, where they come near each other."),
    click.option("--check", type=click.Path(path_type=Path), metavar="SCHEMA",
                 help="JSON schema that whole answers must fit; others are asked again."),
    click.option("--in-flight", type=click.IntRange(1, 65536), default=1024, show_default=True,
                 help="Most rows at once for each endpoint; how many is found."),
    click.option("--tries", type=click.IntRange(1, 1000), default=5, show_default=True,
                 help="Of a row, before it has failed."),
    click.option("--max-errors", callback=_share, default="50%", show_default=True, metavar="SHARE",
                 help="Stop when more rows than this get no answer (from 200 rows on)."),
    click.option("--until", callback=_moment, metavar="TIME", help="Stop at this time: 18:00."),
    click.option("--price", type=POSITIVE, help="Price of one host for an hour."),
    click.option("--token-price", type=(NOT_NEGATIVE, NOT_NEGATIVE), metavar="IN OUT",
                 help="Price of a million tokens of prompts, and of answers; added to --price."),
    click.option("--currency", default="", metavar="NAME", help="Currency of prices."),
    click.option("--max-cost", type=POSITIVE, help="Stop when this run has cost so much."),
    click.option("--html", type=click.Path(path_type=Path), metavar="FILE",
                 help="Write a page at the end."),
    click.option("--plan", is_flag=True,
                 help="Look at the input, say what the job takes, and send nothing."),
    click.option("--on", type=click.Choice(("ray",)),
                 help="Send from the machines of a Ray cluster: a task for each file, or 256 MB."),
    click.option("--ray-address", metavar="HOST:PORT",
                 help="Of the cluster; `local` starts one."
                 "  [default: RAY_ADDRESS, the Ray here, else local]"),
    click.option("--tasks", type=click.IntRange(1, 10000),
                 help="Tasks at once, with --on ray.  [default: two for each machine]"),
    # What a job in a container is told, which has no spec.
    click.option("--at-first", type=click.IntRange(1, 65536), hidden=True),
)  # fmt: skip


@dataclass(frozen=True)
class DetachFlags:
    """The flags of `batch` that are about a job in a container on the head; see their help."""

    detach: bool
    attach: bool
    stop: bool
    remove: bool
    job: str | None
    host: str | None
    name: str | None
    ssh_config: str | None

    def check(self, inputs: Sequence[str], flags: BatchFlags) -> None:
        """Raise Refused for flags that do not go together, and for an input that is missing."""
        given = [name for name in ("detach", "attach", "stop", "remove") if getattr(self, name)]
        words = [f"`--{name}`" for name in given]
        words += ["`--plan`"] * flags.plan + ["`--on ray`"] * bool(flags.on)
        words += ["`--journal`"] * bool(flags.journal)
        words += ["`--pictures-from`"] * bool(flags.pictures_from)  # a folder of this machine
        if given and len(words) > 1:
            raise Refused(
                phrase("{flags} contradict each other", flags=joined(words, ", ")),
                hint=phrase("leave all but one of them out"),
            )
        stored = [path for path in (flags.out, flags.errors) if isinstance(path, Stored)]
        if given and stored:
            raise Refused(
                phrase("a job on the head writes files there, and `--attach` fetches them"),
                where=str(stored[0]),
                hint=phrase("name a file: `-o answers.jsonl`"),
            )
        about_another = given not in ([], ["detach"])
        if about_another and inputs:
            raise Refused(
                phrase("{flag} is about a job that has its input", flag=words[0]),
                hint=phrase("leave the input out; `--job` names the job"),
            )
        if not about_another and not inputs:
            raise Refused(
                phrase("no input is named"),
                hint=phrase("name its files, or `-` for standard input"),
            )
        if self.detach:
            check_no_keys(inputs)
        if flags.on:  # Ray notes the whole command, for whoever asks it which jobs there are
            check_no_keys([*inputs, *sys.argv[1:]])
        context = click.get_current_context()
        sources = {name: context.get_parameter_source(name) for name in ("url", "rehearsal")}
        elsewhere = [f"`--{name}`" for name, source in sources.items()
                     if source is ParameterSource.COMMANDLINE]  # fmt: skip
        if given and elsewhere:
            raise Refused(
                phrase("{flags} contradict each other", flags=joined([words[0], *elsewhere], ", ")),
                hint=phrase(
                    "leave {flags} out: a job on the head asks the replicas of its service, and a"
                    " rehearsal has no head",
                    flags=joined(elsewhere, ", "),
                ),
            )


_DETACH_OPTIONS = (
    click.option("--detach", is_flag=True,
                 help="Run the job in a container on the head; INPUT may be head:/PATH."),
    click.option("--attach", is_flag=True,
                 help="Show how such a job goes; fetch its results to -o when it has ended."),
    click.option("--stop", is_flag=True, help="Have such a job commit what it has, and end it."),
    click.option("--remove", is_flag=True, help="Remove all of such a job from the head."),
    click.option("--job", metavar="NAME", callback=_job_name,
                 help="Name of such a job."
                 "  [default: with --detach made of OUT, else the only one]"),
    click.option("--host", metavar="HOST",
                 help="A host of the job's service, as `user@address:port`: no spec."),
    click.option("--name", callback=checked_name,
                 help="Name of the job's service.  [default: the spec's]"),
    ssh_config_option,
)  # fmt: skip

# What is not said again to a job in a container: where its files are is another matter there.
_OWN_FILES = ("out", "errors", "journal", "check", "html", "plan")


def as_words(flags: BatchFlags) -> tuple[str, ...]:
    """Return the flags as they are typed, without those that name files."""
    values = {name: value for name, value in vars(flags).items() if name not in _OWN_FILES}
    if flags.until is not None:  # another machine may be in another time zone
        values["until"] = datetime.fromtimestamp(flags.until, UTC).isoformat()
    words: list[str] = []
    for option in click.command()(with_options(lambda: None, _OPTIONS)).params:
        value = values.get(str(option.name))
        assert isinstance(option, click.Option)
        if option.is_flag:
            names = option.opts if value else option.secondary_opts
            words += names[-1:] if option.name in values else []
        elif value not in (None, "", ()):
            for one in value if option.multiple else [value]:
                words += [option.opts[-1], *map(str, one if option.nargs > 1 else [one])]
    return tuple(words)


def batch_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of a batch job, passed as one `flags: BatchFlags`."""
    return passed_as("flags", BatchFlags, verb, _OPTIONS)


def detach_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of a job in a container, passed as one `detached: DetachFlags`."""
    return passed_as("detached", DetachFlags, verb, _DETACH_OPTIONS)
