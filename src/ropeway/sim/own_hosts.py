"""The hosts of a spec as virtual ones, with its image and its model."""

import ipaddress
from collections import Counter
from dataclasses import replace

from ropeway.errors import ModelError, Refused
from ropeway.hosts.connect import ssh_hosts
from ropeway.launch.complete import release_for
from ropeway.launch.images import image_name
from ropeway.outside import local_path
from ropeway.phrases import joined, phrase
from ropeway.sim.machine import Fleet, equipped, kind_named, machine, made_up_address, made_up_model
from ropeway.sim.model_folder import ModelFolder, described, published
from ropeway.spec.cluster import RemoteHost
from ropeway.spec.model import Spec


def own_fleet(spec: Spec, chip: str) -> Fleet:
    """Return sound virtual hosts for those of a spec. `chip` goes before the spec's, if given.

    Raises Refused or ModelError for what cannot be rehearsed.
    """
    hosts, runtime = spec.cluster.hosts or (), spec.runtime
    if not (chip or spec.cluster.chip):
        raise Refused(
            phrase("which chip do the hosts have?"),
            where="cluster.chip",
            hint=phrase("write `chip: 910B4` below `cluster`, or type `--rehearse 910B4`"),
        )
    if runtime.command != "docker":
        raise Refused(
            phrase(
                "virtual hosts have Docker, and the spec says `{command}`", command=runtime.command
            ),
            where="runtime.command",
            hint=phrase("`--rehearse 2x8-910B4` rehearses with hosts that are made up"),
        )
    kind = kind_named(chip or spec.cluster.chip or "")
    named = Counter(host.address for host in hosts)
    mounts = (mount.partition(":")[0] for mount in runtime.mounts)
    folders = tuple(folder for folder in (*mounts, runtime.cache, runtime.wheels) if folder)
    logins = ssh_hosts(spec.cluster, "")
    machines = []
    for number, (name, host) in enumerate(zip(spec.cluster.host_names, hosts, strict=True)):
        own = _is_plain(host.address) and named[host.address] == 1
        address = host.address if own else made_up_address(number)
        one = machine(number, name, address, _npus(host, kind.dies), kind)
        nic = host.nic or spec.cluster.nic or one.nic
        machines.append(replace(one, nic=nic, folders=folders, by_hand=logins[number].by_hand))
    image = image_name(release_for(spec, {}, ""), kind.family, runtime)
    fleet = equipped(machines, _model(spec.model.path, spec.model.config), image)
    return replace(fleet, port=spec.serve.port)


def _npus(host: RemoteHost, dies: int) -> int:
    """Return how many NPUs the host has: those that the spec names, on whole cards."""
    npus = max((host.npus, *(device + 1 for device in host.devices or ())))
    return npus + -npus % dies


def _is_plain(address: str) -> bool:
    """Whether other hosts could reach this address."""
    try:
        return not ipaddress.IPv4Address(address).is_loopback
    except ValueError:
        return False


def _model(path: str | None, config: str | None) -> ModelFolder:
    if path is None:  # `up` refuses that by itself, and `doctor` needs none
        return made_up_model()
    if config:
        return described(local_path(config), path)
    try:
        return published(path, path)
    except ModelError as error:
        raise Refused(
            phrase(
                "no published model has the name of this folder, and virtual hosts need a"
                " config.json"
            ),
            where=path,
            hint=joined(
                (error.hint or "", phrase("take another's: `--model /data/Qwen3-30B-A3B`")), "\n"
            ),
        ) from None
