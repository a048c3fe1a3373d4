"""What the endpoints of a job are, asked before it begins: their models and their engine."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import Client, ServedModel
from ropeway.endpoint.failures import KeyRefused, RequestFailed
from ropeway.errors import Refused
from ropeway.phrases import Phrase, joined, phrase

_ASKING_S = 10.0  # servers that are there tell of themselves at once
_LONGEST, _MOST = 200, 1000


@dataclass(frozen=True)
class Server:
    """One endpoint. `engine`: its version, "" where it does not tell; `failure`: no answer came."""

    endpoint: Endpoint
    models: tuple[ServedModel, ...] = ()
    engine: str = ""
    failure: RequestFailed | None = None


@dataclass(frozen=True)
class Servers:
    """All endpoints of a job.

    model     that rows are for which name none
    context   the most tokens that it takes; None where they do not tell
    names     all models, where the servers list all that they take (vLLM); else none
    engine    its version; of several, all of them
    doubts    what the user should know before anything is sent
    """

    all: tuple[Server, ...]
    model: str
    context: int | None
    names: frozenset[str]
    engine: str
    doubts: tuple[Phrase, ...]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where rows are sent, those that are away included: they may come back."""
        return tuple(server.endpoint for server in self.all)

    @property
    def listed(self) -> frozenset[str]:
        """The models that any of them said it has."""
        return frozenset(model.name for server in self.all for model in server.models)

    @property
    def rehearsed(self) -> tuple[ServedModel, ...]:
        """The models that are none, but a rehearsal's."""
        return tuple(model for server in self.all for model in server.models if model.rehearsed)


async def ask_servers(endpoints: Sequence[Endpoint], model: str | None) -> Servers:
    """Ask every endpoint what it serves. `model`: the one that the user names.

    Raises RequestFailed when none answers, or one refuses the key, and Refused when they serve
    different models.
    """
    servers = tuple(await asyncio.gather(*map(_ask, endpoints)))
    for server in servers:
        if isinstance(server.failure, KeyRefused):
            raise server.failure
    there = [server for server in servers if server.failure is None]
    if not there:
        failure = servers[0].failure
        assert failure is not None
        raise failure
    return _joined(servers, there, model)


async def replicas_of(endpoint: Endpoint, hosts: Collection[str]) -> tuple[Endpoint, ...]:
    """Return the replicas behind a router of ours, if each of them can be reached from here.

    Only addresses of `hosts` are taken: whatever else a server names was never named by the user.
    """
    bounded = replace(endpoint, timeout_s=_ASKING_S)
    try:
        async with Client(bounded) as client:
            urls = _backends(await client.beside("/ropeway/backends"))
    except RequestFailed:
        return ()
    if not urls or any(urlsplit(url).hostname not in hosts for url in urls):
        return ()
    try:
        replicas = [replace(endpoint, url=normalise_url(url), way_there="") for url in urls]
    except Refused:
        return ()
    servers = await asyncio.gather(*map(_ask, replicas))
    return () if any(server.failure for server in servers) else tuple(replicas)


async def _ask(endpoint: Endpoint) -> Server:
    try:
        async with Client(
            replace(endpoint, timeout_s=min(_ASKING_S, endpoint.timeout_s))
        ) as client:
            models = await client.models()
            return Server(endpoint, models, _version(await client.beside("/version")))
    except RequestFailed as failure:
        return Server(endpoint, failure=failure)


def _version(said: Any) -> str:
    """Return the engine's version, as vLLM's server tells it; "" where nothing does."""
    version = said.get("version") if isinstance(said, dict) else None
    return version[:_LONGEST] if isinstance(version, str) else ""


def _backends(said: Any) -> list[str]:
    """Return the URLs of the replicas, if it is a router of ours that answered."""
    listed = said.get("backends") if isinstance(said, dict) else None
    rows = listed if isinstance(listed, list) else []
    urls = [row.get("url") for row in rows[:_MOST] if isinstance(row, dict)]
    return [url for url in urls if isinstance(url, str)]


def _joined(servers: Sequence[Server], there: Sequence[Server], model: str | None) -> Servers:
    """Return what several servers have in common."""
    doubts = [
        phrase("{url} does not answer yet: {why}", url=away.endpoint.url, why=away.failure.what)
        for away in servers
        if away.failure is not None
    ]
    lists_all = all(any(one.context for one in server.models) for server in there)
    common = set.intersection(*({one.name for one in server.models} for server in there))
    if model is None:
        model = next((one.name for one in there[0].models if one.name in common), None)
        if model is None and any(server.models for server in there):
            raise Refused(
                phrase("the endpoints serve different models"),
                where=there[0].endpoint.url,
                evidence=[
                    phrase("{url}: {names}", url=server.endpoint.url, names=_names(server))
                    for server in there
                ],
                hint=phrase("name only endpoints of one model: each row may go to any of them"),
            )
    contexts = [
        one.context
        for server in there
        for one in server.models
        if one.name == model and one.context
    ]
    engines = sorted({server.engine for server in there if server.engine})
    if len(engines) > 1:
        listed = joined(engines, ", ")
        doubts.append(phrase("the endpoints run different versions: {versions}", versions=listed))
    return Servers(
        all=tuple(servers),
        model=model or "",
        context=min(contexts, default=None),
        names=frozenset(common if lists_all else ()),
        engine=", ".join(engines),
        doubts=tuple(doubts),
    )


def _names(server: Server) -> str:
    return ", ".join(f"`{one.name}`" for one in server.models[:5]) or "–"
