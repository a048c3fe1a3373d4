"""The flags of the verbs that speak to a model server."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import click

from ropeway.cli.options import with_options
from ropeway.endpoint.client import Endpoint, normalise_url
from ropeway.spec.model import load_spec


def endpoint_options(
    timeout: float, *, load: bool = False
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`--url`, `--key-env`, `--timeout`, passed as one `endpoint: Endpoint`; `--model`; `-c`.

    timeout  seconds of silence after which a request is given up, unless told otherwise
    load     the verb sends a load: `-c` gives its flags the spec's `workload` as defaults too
    """

    def decorate(verb: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(verb)
        def connected(*, url: str, key_env: str, timeout: float, **rest: object) -> object:
            key = os.environ.get(key_env) or None
            return verb(endpoint=Endpoint(normalise_url(url), key, key_env, timeout), **rest)

        return with_options(connected, _options(timeout, load=load))

    return decorate


def _options(timeout: float, *, load: bool) -> list[Callable[..., Callable[..., object]]]:
    def take_defaults(ctx: click.Context, _param: click.Parameter, file: Path | None) -> None:
        if file is None:
            return
        spec = load_spec(file)
        found: dict[str, object] = {"url": spec.serve.url}
        if spec.serve.api_key_env:
            found["key_env"] = spec.serve.api_key_env
        if load:
            found |= {**spec.workload.model_dump(), "layout": str(spec.serve.layout)}
        ctx.default_map = found

    what = "address, key and load" if load else "address and key"
    return [
        click.option(
            "-c",
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=take_defaults,
            help=f"Take {what} from this spec; other flags go before it.",
        ),
        click.option(
            "--url", default="http://127.0.0.1:8000/v1", show_default=True, help="Base URL."
        ),
        click.option("--model", help="Model name.  [default: the first that the server lists]"),
        click.option(
            "--key-env",
            default="OPENAI_API_KEY",
            show_default=True,
            metavar="NAME",
            help="Environment variable that holds the API key.",
        ),
        click.option(
            "--timeout",
            type=click.FloatRange(min=0, min_open=True),
            default=timeout,
            show_default=True,
            help="Longest silence of the server in one request, seconds.",
        ),
    ]
