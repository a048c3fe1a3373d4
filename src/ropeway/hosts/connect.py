"""From the spec's cluster to hosts, and the end of the connections to them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ropeway.errors import Refused, reason_of
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.interrupts import uninterrupted
from ropeway.hosts.local import LocalHost
from ropeway.hosts.ssh import LONGEST_SOCKET, SshHost
from ropeway.phrases import phrase
from ropeway.spec.cluster import Cluster

_PREFIX = "ropeway-"
_NAME_LENGTH = len(f"/{_PREFIX}12345678/65535")  # the folder, and the number of a host


@contextmanager
def connected(cluster: Cluster, *, ssh_config: str | None = None) -> Iterator[tuple[Host, ...]]:
    """Yield the cluster's hosts in their order; close all connections at the end.

    The first command on a host makes the connection. `ssh_config` is read in place of
    ~/.ssh/config. The virtual hosts of a local cluster are this machine.
    """
    if cluster.local is not None:
        yield tuple(
            LocalHost(f"host{index}", f"127.0.0.{index + 2}")
            for index in range(cluster.local.hosts)
        )
        return
    with uninterrupted():
        folder = socket_folder()
    hosts = ssh_hosts(cluster, folder, ssh_config)
    try:
        yield hosts
    finally:
        with uninterrupted():
            run_on_all(hosts, SshHost.close)
            shutil.rmtree(folder, ignore_errors=True)


def ssh_hosts(cluster: Cluster, folder: str, ssh_config: str | None = None) -> tuple[SshHost, ...]:
    """Return the cluster's hosts, each with a control socket of its own in the folder."""
    remote = zip(cluster.host_names, cluster.hosts or (), strict=True)
    return tuple(
        SshHost(name, host.address, f"{folder}/{number}", host.user, host.port, ssh_config)
        for number, (name, host) in enumerate(remote)
    )


def socket_folder() -> str:
    """Make a private folder for control sockets. Raises Refused when that is impossible."""
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > LONGEST_SOCKET - _NAME_LENGTH:
        parent = "/tmp"
    try:
        return tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    except OSError as error:
        what = phrase("cannot make a folder for control sockets: {reason}", reason=reason_of(error))
        raise Refused(what, where=parent) from error
