"""The flags of the verbs that talk to a model server."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ropeway.bench.asked import said_by_spec
from ropeway.cli.kept import mention_kept, require_kept
from ropeway.cli.options import POSITIVE, with_options
from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import ServedModel
from ropeway.errors import Refused
from ropeway.hosts.connect import ssh_hosts
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.file import SpecFile, read_spec_file
from ropeway.spec.model import DEFAULT_FILE, Spec
from ropeway.spec.types import api_url, bracketed, is_loopback

# Keys of the context's `meta`: the spec, whether `--url` names a server of its own, typed flags.
_SPEC_FILE, _ELSEWHERE, _TYPED = "ropeway.spec_file", "ropeway.elsewhere", "ropeway.typed"
_URL = "http://127.0.0.1:8000/v1"


class _Config(click.Option):
    """`-c`, by default the spec of this folder; with `--url` none, and no key of a spec at all."""

    def consume_value(
        self, ctx: click.Context, opts: Mapping[str, Any]
    ) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        ctx.meta[_TYPED] = frozenset(opts)
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
            defaults |= said_by_spec(spec.workload, ctx.meta[_TYPED])
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
