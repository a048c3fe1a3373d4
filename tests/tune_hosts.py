"""Two virtual hosts for `tune`, and somebody who answers for the service that it brings up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fake_endpoint import Behaviour, running

from rehearsed import Cluster

LOAD = ("--clients", "2", "--requests", "4", "--input-tokens", "16", "--output-tokens", "4",
        "--warmup", "0", "--rounds", "3")  # fmt: skip
# Two settings, and none beside them.
SEARCH = (*LOAD, "--layouts", "2", "--vary", "layout", "--skip-checks", "--no-confirm")
HEAD = "http://127.0.0.1:"


@contextmanager
def answering(found: Cluster, behaviour: Behaviour | None = None) -> Iterator[Cluster]:
    """Two hosts, and where their service would listen somebody who answers for it."""
    quick = behaviour or Behaviour(ttft_s=0, tpot_s=0.001)
    with running(quick) as fake:
        found.serve(port=int(fake.url.removeprefix(HEAD).removesuffix("/v1")))
        found.change("model", served_name="fake")
        yield found


def settings(document: dict[str, Any]) -> list[str]:
    return [trial["setting"]["layout"] for trial in document["trials"]]


def starts(found: Cluster) -> int:
    """How often containers were started on the first host."""
    commands = found.virtual.commands
    return sum(one.starts_containers for one in commands if one.host == "host1")
