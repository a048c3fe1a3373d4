"""Where a push comes from: the folder, and the host (or this machine) with a complete copy."""

import posixpath
from collections.abc import Sequence
from pathlib import Path

from ropeway.errors import Refused
from ropeway.hosts.local import LocalHost
from ropeway.weights.survey import Peer, survey_host

HERE = "here"  # what `--from` calls this machine
_FROM_HERE = f"to send it from this machine: `--from {HERE}`"


def folders(path: str, source: str | None, to: str | None) -> tuple[Path, str]:
    """Return the model's folder on this machine, and the one on the hosts.

    path    as the user wrote it; relative to the current folder
    source  a host, HERE, or None for the first that has the model
    to      the folder on the hosts, when it is not the same as here

    Raises Refused.
    """
    here = Path(path).expanduser().absolute()
    root = posixpath.normpath(to if to is not None else str(here))
    if not root.startswith("/") or root.strip("/") == "":
        raise Refused(f"`{root}` cannot be a model's directory", hint="it must begin with `/`")
    if "\0" in root:
        raise Refused("a path cannot contain NUL")
    if to is not None and source != HERE:
        raise Refused(
            "`--to` is only for a model that is sent from this machine",
            hint="a service has one path for its model, the same on all hosts: omit `--to`\n"
            + _FROM_HERE,
        )
    return here, "/" + root.lstrip("/")


def choose_source(
    source: str | None, peers: Sequence[Peer], here: Path, root: str
) -> tuple[Peer, tuple[Peer, ...]]:
    """Return who sends, and who receives.

    Unless `source` names it, the source is the first host with a complete copy, or else this
    machine, if the model is here under the same path. Raises Refused.
    """
    if source == HERE:
        return _this_machine(here), tuple(peers)
    if source is not None:
        sender = next((peer for peer in peers if source in (peer.name, peer.host.address)), None)
        if sender is None:
            names = ", ".join(peer.name for peer in peers)
            raise Refused(f"no host that answers is called `{source}`", hint=f"these are: {names}")
        if sender.fault is not None:
            raise Refused(f"the model there {sender.fault}", where=f"{sender.name}:{root}")
    else:
        sender = next((peer for peer in peers if peer.fault is None), None)
    if sender is None and here.is_dir() and str(here) == root:
        return _this_machine(here), tuple(peers)
    if sender is None:
        raise Refused(
            "no host has a complete copy of this model",
            where=root,
            evidence=[f"{peer.name}: {peer.fault}" for peer in peers[:8]],
            hint=_FROM_HERE,
        )
    return sender, tuple(peer for peer in peers if peer is not sender)


def _this_machine(here: Path) -> Peer:
    peer = survey_host(LocalHost("this machine"), str(here))
    if peer.fault is not None:
        raise Refused(f"the model here {peer.fault}", where=str(here))
    return peer
