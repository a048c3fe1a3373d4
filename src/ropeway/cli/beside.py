"""What `bench` looks at beside the load: the engines' figures, and the NPUs of the spec's hosts."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import click

from ropeway.bench.observers import Beside
from ropeway.bench.samples import HostNpus
from ropeway.cli.call import current_call
from ropeway.cli.endpoint import spec_file
from ropeway.cli.kept import require_kept
from ropeway.cli.options import with_options
from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import Client
from ropeway.endpoint.failures import RequestFailed
from ropeway.errors import Refused
from ropeway.facts.npu_work import npu_work
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import run_on_all
from ropeway.phrases import phrase

_NONE = "none"
_METRICS_S = 5.0
# A host is asked every five seconds; one that takes longer is left out of that sample.
_ALL_HOSTS_S = 10.0


_OPTIONS = (
    click.option(
        "--metrics", metavar="URL", multiple=True,
        help="Where the engine's `/metrics` is read during the run, for each engine behind a"
        " router; `none`: nowhere.  [default: beside the API]",
    ),
    click.option(
        "--npus", is_flag=True,
        help="Log in to the spec's hosts during the run, and ask each every 5 s for the use of its"
        " NPUs (`npu-smi info`).",
    ),
)  # fmt: skip


def beside_options(verb: Callable[..., object]) -> Callable[..., object]:
    """`--metrics` and `--npus`, passed as one `beside: Beside`, the hosts connected.

    Place it below the options of the endpoint. Raises Refused before the verb begins, when a URL
    that was named has no figures of vLLM's, or no spec names hosts.
    """

    @functools.wraps(verb)
    def looking(*, metrics: tuple[str, ...], npus: bool, **rest: object) -> object:
        engines = _metrics(metrics)
        if not npus:
            return verb(beside=Beside(engines), **rest)
        with _hosts() as hosts:
            return verb(beside=Beside(engines, functools.partial(_ask, hosts)), **rest)

    return with_options(looking, _OPTIONS)


def _metrics(urls: Sequence[str]) -> tuple[Endpoint, ...] | None:
    if not urls:
        return None
    if _NONE in urls:
        if len(urls) > 1:
            raise Refused(
                phrase("`--metrics none` stands alone"), hint=phrase("leave one of the two out")
            )
        return ()
    endpoints = tuple(
        Endpoint(normalise_url(url.rstrip("/").removesuffix("/metrics")), timeout_s=_METRICS_S)
        for url in urls
    )
    asyncio.run(_check(endpoints))
    return endpoints


async def _check(endpoints: Sequence[Endpoint]) -> None:
    for endpoint in endpoints:
        where = endpoint.url.removesuffix("/v1") + "/metrics"
        why: str = phrase("it has no `/metrics` of vLLM's")
        try:
            async with Client(endpoint) as client:
                if await client.metrics() is not None:
                    continue
        except RequestFailed as error:
            why = error.what
        raise Refused(
            phrase("`--metrics` names no engine: {why}", why=why),
            where=where,
            hint=phrase("try it with `curl {where}`, or leave it out with `--metrics none`",
                        where=where),
        )  # fmt: skip


def _hosts() -> AbstractContextManager[Sequence[Host]]:
    if click.get_current_context().params.get("rehearsal"):
        kept = require_kept()
        return kept.connected(kept.spec.cluster)
    file = spec_file()
    if file is None or file.spec.cluster.is_local:
        raise Refused(
            phrase("`--npus` asks the hosts of a spec, and none is named"),
            hint=phrase("name a spec with `cluster.hosts`: `-c ropeway.yaml`"),
        )
    connect = current_call().connect or connected
    return connect(file.spec.cluster)


def _ask(hosts: Sequence[Host]) -> Sequence[HostNpus]:
    """Ask every host once; what one does not say is in its place."""
    told = []
    for outcome in run_on_all(hosts, npu_work, timeout=_ALL_HOSTS_S):
        if outcome.result is None:
            missed = outcome.error.what if outcome.error else ""
            told.append(HostNpus(host=outcome.host.name, missed=missed))
            continue
        shares = [
            one.hbm_used_mb / one.hbm_total_mb
            if one.hbm_used_mb is not None and one.hbm_total_mb
            else None
            for one in outcome.result
        ]
        told.append(
            HostNpus(
                host=outcome.host.name,
                aicore=tuple(one.aicore for one in outcome.result),
                hbm_use=tuple(share if share is None else round(share, 4) for share in shares),
            )
        )
    return told
