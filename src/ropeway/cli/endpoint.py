"""The flags of the verbs that talk to a model server."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from ropeway.bench.asked import LoadFlags, load_of
from ropeway.bench.goals import Goals, parse_goals
from ropeway.bench.ladder import ladder_of
from ropeway.bench.load_test import MOST_TOKENS, parse_range
from ropeway.bench.workloads.pictures import MOST_SIDE
from ropeway.cli.kept import mention_kept, require_kept
from ropeway.cli.options import POSITIVE, with_options
from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import ServedModel
from ropeway.errors import Refused
from ropeway.hosts.connect import ssh_hosts
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.file import SpecFile, read_spec_file
from ropeway.spec.model import DEFAULT_FILE, REQUESTS_PER_CLIENT, Spec
from ropeway.spec.types import api_url, bracketed, is_loopback

# Keys of the context's `meta`: the spec, and whether `--url` names a server of its own.
_SPEC_FILE, _ELSEWHERE = "ropeway.spec_file", "ropeway.elsewhere"
_URL = "http://127.0.0.1:8000/v1"
_COUNT = click.IntRange(min=1)


# Generic for the checker, and in older clicks not at all.
class _Several(click.ParamType):  # type: ignore[type-arg]
    """One value, or several with commas between them; always a tuple."""

    def __init__(self, kind: click.ParamType) -> None:  # type: ignore[type-arg]
        self._kind = kind
        self.name = f"{kind.name}[,…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """See click.ParamType.convert."""
        if isinstance(value, tuple):
            return value
        parts = value.split(",") if isinstance(value, str) else [value]
        return tuple(self._kind.convert(part, param, ctx) for part in parts)


class _Config(click.Option):
    """`-c`, by default the spec of this folder; with `--url` none, and no key of a spec at all."""

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        ctx.meta[_ELSEWHERE] = opts.get("url") is not None or "rehearsal" in opts
        given = source is not ParameterSource.DEFAULT or ctx.meta[_ELSEWHERE]
        return (
            (value, source) if given or not Path(DEFAULT_FILE).exists() else (DEFAULT_FILE, source)
        )


def _url_of(spec: Spec) -> str:
    """Return the URL of the spec's service as this machine reaches it."""
    serve, hosts = spec.serve, spec.cluster.hosts
    everywhere = serve.address in ("0.0.0.0", "::")
    return api_url(hosts[0].address, serve.port) if hosts and everywhere else serve.url


def _way_to(spec: Spec) -> str:
    """Return how this machine reaches a service that listens on the loopback of its host, if so."""
    port, address = spec.serve.port, spec.serve.address
    if spec.cluster.is_local or not is_loopback(address):
        return ""
    head = ssh_hosts(spec.cluster, "")[0]
    return phrase(
        "the service listens on the loopback of {host} alone; from here:\n{command}\n"
        "or set `serve.address` to one that other machines reach",
        host=head.name,
        command=f"{head.by_hand} -N -L {port}:{bracketed(address)}:{port}",
    )


def spec_file() -> SpecFile | None:
    """Return the spec that the running verb has its defaults from. Only inside a verb."""
    file: SpecFile | None = click.get_current_context().meta.get(_SPEC_FILE)
    return file


def is_typed(flag: str) -> bool:
    """Return whether a flag of the running verb was typed, and has no default or the spec's."""
    source = click.get_current_context().get_parameter_source(flag)
    return source is ParameterSource.COMMANDLINE


def tell_rehearsal(served: Iterable[ServedModel], endpoint: Endpoint, screen: Screen) -> None:
    """Say when what answers is a rehearsal, in the document too."""
    if any(model.rehearsed for model in served):
        screen.rehearsal = True
        screen.warn(
            phrase(
                "a rehearsal answers at {url}: no model runs there, and its speed is made up",
                url=endpoint.url,
            )
        )


def endpoint_options(
    timeout: float, *, load: bool = False, several: bool = False
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`--url`, `--rehearsal`, `--key-env` and `--timeout`, passed as one `endpoint: Endpoint`;
    `--model`; `-c`.

    timeout  seconds of silence after which a request is given up, by default
    load     the verb sends a load: `-c` gives its flags the spec's `workload` as defaults too
    several  `--url` may be given several times, and the verb gets `endpoints: tuple[Endpoint, ...]`
    """

    def decorate(verb: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(verb)
        def connected(
            *,
            url: str | tuple[str, ...],
            key_env: str,
            timeout: float,
            rehearsal: bool,
            **rest: object,
        ) -> object:
            urls = url if isinstance(url, tuple) else (url,)
            key = key_of(key_env)
            file = spec_file()

            def endpoint(url: str) -> Endpoint:
                way = _way_to(file.spec) if file and url == _url_of(file.spec) else ""
                return Endpoint(normalise_url(url), key, key_env, timeout, way)

            endpoints = tuple(map(endpoint, _meant(urls, rehearsal=rehearsal)))
            return verb(
                **({"endpoints": endpoints} if several else {"endpoint": endpoints[0]}), **rest
            )

        return with_options(connected, _options(timeout, load=load, several=several))

    return decorate


def key_of(variable: str) -> str | None:
    """Return the key; None where there is none. Raises Refused where the flag names no variable
    that is set: a word that was mistyped would else be a request without a key.
    """
    key = os.environ.get(variable) or None
    source = click.get_current_context().get_parameter_source("key_env")
    if key is None and source is ParameterSource.COMMANDLINE:
        raise Refused(
            phrase("`--key-env {name}`: that variable is not set", name=variable),
            hint=phrase("`export {name}=…`, or leave the flag out", name=variable),
        )
    return key


def _meant(urls: tuple[str, ...], *, rehearsal: bool) -> tuple[str, ...]:
    """Return the URLs, or that of the kept rehearsal. Raises Refused.

    Whoever names neither is told of one.
    """
    ctx = click.get_current_context()
    given = ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE
    if not rehearsal:
        if not given:
            mention_kept()
        return urls
    if given:
        raise Refused(
            phrase("`--rehearsal` has an address of its own"),
            hint=phrase("leave one of the two out"),
        )
    return (require_kept().url,)


def _options(
    timeout: float, *, load: bool, several: bool
) -> list[Callable[..., Callable[..., object]]]:
    def take_defaults(ctx: click.Context, _param: click.Parameter, file: Path | None) -> None:
        if file is None:
            return
        ctx.meta[_SPEC_FILE] = read = read_spec_file(file)
        spec = read.spec
        url = _url_of(spec)
        defaults: dict[str, object] = {"url": [url] if several else url}
        if spec.serve.api_key_env and not ctx.meta[_ELSEWHERE]:
            defaults["key_env"] = spec.serve.api_key_env
        if load:
            defaults |= spec.workload.model_dump()
            if spec.serve.has_layout:
                defaults["layout"] = str(spec.serve.layout)
        ctx.default_map = defaults

    what = "address, key and load" if load else "address and key"
    return [
        click.option(
            "-c", "--config", cls=_Config, metavar="FILE", type=click.Path(path_type=Path),
            is_eager=True, expose_value=False, callback=take_defaults,
            help=f"Take {what} from this spec; other flags override it."
            f"  [default: {DEFAULT_FILE}, unless --url or --rehearsal is given]",
        ),
        click.option(
            "--url", default=[_URL] if several else _URL, show_default=True, multiple=several,
            help="Base URL; of several replicas each, one after another." if several
            else "Base URL.",
        ),
        click.option(
            "--rehearsal", is_flag=True,
            help="Where the rehearsal that `up --rehearse --keep` left answers.",
        ),
        click.option("--model", help="Model name.  [default: the first that the server lists]"),
        click.option(
            "--key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True,
            help="Environment variable that holds the API key.",
        ),
        click.option(
            "--timeout", type=POSITIVE, default=timeout, show_default=True,
            help="How long the server may be silent in one request, in seconds.",
        ),
    ]  # fmt: skip


class _Lengths(NamedTuple):
    """The least and the most tokens."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least}-{self.most}"


class _Size(NamedTuple):
    """Width and height of a picture."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def _lengths(_: click.Context, param: click.Parameter, text: str) -> _Lengths:
    """Return the least and the most tokens, written `128` or `64-512`."""
    try:
        return _Lengths(*parse_range(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from None


def _size(_: click.Context, param: click.Parameter, text: str) -> _Size:
    """Return the width and the height of a picture, written `640x480`."""
    sides = [int(side) for side in text.split("x") if side.isdecimal() and len(side) < 9]
    if len(sides) != 2 or text.count("x") != 1 or not all(1 <= side <= MOST_SIDE for side in sides):
        why = f"`{text}` is not a size like 640x480, up to {MOST_SIDE}"
        raise click.BadParameter(why, param=param)
    return _Size(*sides)


class _Goals(click.ParamType):  # type: ignore[type-arg]
    """`ttft=2s,tpot=50ms`."""

    name = "goals"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Goals:
        """See click.ParamType.convert."""
        del param, ctx
        return value if isinstance(value, Goals) else parse_goals(value)


GOALS = _Goals()

# names, type or what reads it, default, help
_LOAD_FLAGS: tuple[tuple[str, Any, Any, str | None], ...] = (
    ("--clients", _Several(_COUNT), 256,
     "Requests in flight: each client sends one after another. Several, such as 1,8,64, are"
     " measured in turn."),
    ("--requests", _COUNT, None,
     "Requests in total; with several --clients or --rate of each, with --find-max of each probe."
     f"  [default: {REQUESTS_PER_CLIENT} per client, or so many conversations; of several, what"
     " makes a steady part]"),
    ("--duration duration_s", POSITIVE, None,
     "Begin no request after so many seconds; those in flight end and count."),
    ("--rate", _Several(POSITIVE), None,
     "Requests per second to send, with at most --clients in flight. Several, such as 1,2,4, are"
     " measured in turn."),
    ("--arrivals", click.STRING, "poisson",
     "How they come at that rate: poisson, constant, burst:8 (so many at once); or trace:FILE,"
     " whose lines are seconds, or JSON with `timestamp`."),
    ("--input-tokens", _lengths, "128",
     "Length of each prompt, chat template included; 64-512: each length as likely."),
    ("--output-tokens", _lengths, "128", "Longest answer; 64-512: each length as likely."),
    ("--prefixes", click.IntRange(0, 1_000_000), 0,
     "Shared beginnings, of which each prompt has one."),
    ("--prefix-tokens", click.IntRange(0, MOST_TOKENS), 0,
     "Length of each, on top of --input-tokens."),
    ("--turns", click.IntRange(1, 1000), 1,
     "Questions of a conversation, each sent with all before it; requests are questions."),
    ("--images", click.IntRange(0, 8), 0,
     "Pictures in each prompt, in a conversation in the first."),
    ("--image-size", _size, "640x480", "Their width and height in pixels."),
    ("--seed", click.INT, 0, "The same seed gives the same prompts and arrivals."),
    ("--temperature", click.FloatRange(0, 2), 0.0, None),
    ("--warmup", click.IntRange(min=0), 4, "Requests sent first and not counted."),
    ("--ignore-eos/--no-ignore-eos", click.BOOL, True,
     "Make each answer as long as it may be (vLLM and its relatives)."),
    ("--time-limit time_limit_s", POSITIVE, None, "Stop after this many seconds."),
    ("--slo goals", GOALS, None,
     "What each request is to keep, such as ttft=2s,tpot=50ms,e2e=30s (any of the three): says how"
     " many a second do."),
)  # fmt: skip
_PROMPT_FLAGS = (
    click.option("--prompts", "files", metavar="FILE", multiple=True,
                 help="Send these prompts, in a random order: a file as `batch` takes it, or"
                 " ShareGPT's JSON. Give it once for each."),
    click.option("--template", metavar="TEXT",
                 help='The prompt, with columns of that file in braces: "Translate: {text}".'),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE",
                 help="Put into every row of it without a body, such as max_tokens=256."),
)  # fmt: skip


def load_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of a load test, passed as one `load: LoadTest`, and `ladder: Ladder | None`.

    Where several loads are asked for, `load` is the first of them.
    """
    names = [field.name for field in fields(LoadFlags)]

    @functools.wraps(verb)
    def loading(**flags: Any) -> object:
        given = [name for name in names if is_typed(name)]
        asked = {name: flags.pop(name) for name in names}
        clients, rates = asked["clients"], asked["rate"] or ()
        ladder = ladder_of(clients, rates, asked["requests"] if "requests" in given else None)
        asked |= {"clients": clients[0], "rate": rates[0] if rates else None}
        return verb(load=load_of(LoadFlags(**asked), given), ladder=ladder, **flags)

    options = [
        click.option(
            *names.split(),
            **({"type": kind} if isinstance(kind, click.ParamType) else {"callback": kind}),
            default=default,
            show_default=True,
            help=text,
        )
        for names, kind, default, text in _LOAD_FLAGS
    ]
    return with_options(loading, [*options, *_PROMPT_FLAGS])
