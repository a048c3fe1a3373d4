"""How an engine is started and listened to. A new engine is a new module and a line in ENGINES.

An engine module decides and never acts: it returns commands and reads text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ropeway.hosts.base import Command
from ropeway.spec.model import Layout, Serve


@dataclass(frozen=True)
class Node:
    """One host of the deployment. `npus` is how many this deployment may use there.

    nic      the interface that has `address`, where it matters to the engine
    devices  the numbers N of the /dev/davinciN it may use; none on a virtual host
    """

    name: str
    address: str
    npus: int
    nic: str = ""
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """A complete Serve: every blank filled. What the steps are made from, and kept on the host.

    model      the model's directory, as the hosts see it
    python     the interpreter that has the engine
    scratch    a folder on each host for sockets and other short-lived files; `down` removes it
    logs       a folder for the logs; it stays
    ray_port   where the head's Ray listens
    threads    CPU threads per rank
    """

    service: str
    nodes: tuple[Node, ...]
    model: str
    served_name: str
    layout: Layout
    serve: Serve
    context: int
    kv_cache: int
    python: str
    scratch: str
    logs: str
    ray_port: int
    threads: int

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def url(self) -> str:
        """Where clients on the head find it: the base URL of the OpenAI-shaped API."""
        return self.serve.url

    @property
    def engine_log(self) -> str:
        return f"{self.logs}/engine.log"

    @property
    def uses_ray(self) -> bool:
        """One rank alone needs nobody to place it."""
        return self.layout.npus > 1


@dataclass(frozen=True)
class Needs:
    """Memory a deployment takes, in bytes: of each rank, and of the server on the head."""

    per_rank: int
    server: int


class Engine(Protocol):
    """The contract of an engine module."""

    @property
    def name(self) -> str: ...

    def serve(self, deployment: Deployment) -> Command:
        """The command that serves, for the head."""
        ...

    def environment(self, deployment: Deployment, node: Node) -> Mapping[str, str]:
        """Variables that the engine and its ranks need on this host."""
        ...

    def needs(self, deployment: Deployment, weight_bytes: int) -> Needs:
        """Memory to expect, before anything is started."""
        ...

    def activity(self, log: str) -> str:
        """What the engine is doing now, in a few words, from its log so far."""
        ...

    def listening(self, log: str) -> bool:
        """Whether it says that it answers requests; only then is it asked for a token."""
        ...


@dataclass(frozen=True)
class Probe:
    """Asks the endpoint for one token. Ready means that: engines that cannot serve answer /health.

    The key, if there is one, comes from the environment of the engine's host.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0

    def command(self, python: str) -> Command:
        argv = (python, "-c", _PROBE, self.url, self.model, f"{self.timeout:g}")
        secrets = {"ROPEWAY_PROBE_KEY": self.key_variable} if self.key_variable else {}
        return Command(argv, secrets=secrets)


# Prints the token count; anything else than a generated token is an exit code above 0. Only the
# standard library, and no proxy: it talks to the host it runs on.
_PROBE = """\
import json, os, sys, urllib.request
url, model, limit = sys.argv[1:]
body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1}).encode()
headers = {"Content-Type": "application/json"}
if os.environ.get("ROPEWAY_PROBE_KEY"):
    headers["Authorization"] = "Bearer " + os.environ["ROPEWAY_PROBE_KEY"]
request = urllib.request.Request(url + "/completions", body, headers)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    answer = json.load(opener.open(request, timeout=float(limit)))
    count = answer["usage"]["completion_tokens"]
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
if not count:
    sys.exit("it answers, but generates no token")
print(count)
"""
