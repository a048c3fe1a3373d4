"""What is known of the model before anything starts: from the hosts, else as its name tells. Pure,
but for a model's directory on this machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.engines.ascend_quantisation import scheme_of
from ropeway.errors import CheckFailed, ModelError
from ropeway.facts.host import HostFacts
from ropeway.models.build import read_shape
from ropeway.models.known import as_named, known, published_name
from ropeway.models.positions import NOTHING
from ropeway.models.quantisation import counted_precision
from ropeway.models.read import read_alone, read_directory_shape
from ropeway.models.shape import ModelShape
from ropeway.models.task import as_loaded
from ropeway.outside import is_folder, local_path
from ropeway.phrases import phrase


@dataclass(frozen=True)
class ServedModel:
    """The model as the hosts have it.

    scheme   how its weights are quantised, as AscendReplica has it
    assumed  what no host has confirmed
    """

    shape: ModelShape
    scheme: str | None = None
    assumed: tuple[str, ...] = ()


def served_model(
    path: str,
    facts: Mapping[str, HostFacts],
    overrides: Mapping[str, object] = NOTHING,
    config: str | None = None,
) -> ServedModel:
    """Return the model as the first host has it, or without any answer as this machine does, or as
    it was published; with the `overrides` of `--hf-overrides`. Raises CheckFailed or ModelError.

    `config` is the path of its config.json here.
    """
    for name, host in facts.items():
        if host.model is not None and host.model.there:
            where = f"{name}:{path}/config.json"
            if host.model.config is None:
                raise ModelError(phrase("config.json cannot be read"), where=where)
            shape = read_shape(host.model.config, where, overrides)
            precision = counted_precision(host.model.kinds, shape)
            shape = as_loaded(replace(shape, precision=precision), pools=host.model.pools)
            shape = as_named(shape, path)
            return ServedModel(shape, host.model.scheme)
    if facts:
        raise CheckFailed(
            phrase("no host has the model"),
            where=path,
            evidence=tuple(
                phrase("{host}: {reason}", host=name, reason=_absence(host))
                for name, host in facts.items()
            ),
            hint=phrase("put it on one of them; `ropeway model push` then copies it to the others"),
        )
    if config:
        shape = read_alone(local_path(config), path, overrides)
        origin = phrase("the hosts' model has the config in {path}", path=config)
    elif is_folder(Path(path)):
        shape = as_named(read_directory_shape(Path(path), overrides), path)
        origin = phrase("the hosts have the same model as this machine in {path}", path=path)
    else:
        shape, name = known(path, overrides), published_name(path)
        origin = phrase("{path} is the published {name}", path=path, name=name)
    scheme = scheme_of(shape)
    return ServedModel(shape, scheme, (origin, _quantisation(shape, scheme)))


def _quantisation(shape: ModelShape, scheme: str | None) -> str:
    name = shape.precision.scheme
    if scheme is None:
        return phrase("its weights are not quantised ({scheme})", scheme=name)
    if scheme == "ascend":
        return phrase("its weights are quantised as {scheme}, with ModelSlim", scheme=name)
    return phrase("its weights are quantised as {scheme}", scheme=name)


def _absence(host: HostFacts) -> str:
    return (host.model and host.model.problem) or phrase("there is no such directory")
