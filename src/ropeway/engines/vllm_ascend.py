"""vLLM-Ascend on real hosts: the commands, the variables and the refusals of each release.

    AscendReplica ─ backend ─→ how its hosts are joined (ascend_backends.backend_for)
                  ├ check   ─→ LayoutError, Refused, or nothing
                  ├ notes   ─→ doubts, and what was adapted
                  ├ ray_start_argv, serve_argv  (per node)
                  └ environment                 (per node, set when its container starts)

Nothing here was verified on NPU hardware by us. `#N` is an issue or pull request of
vllm-project/vllm-ascend; docs/versions.md says where the version data comes from.
"""

import json
from dataclasses import dataclass
from functools import cached_property

from ropeway.engines import ascend_flags, ascend_layouts, ascend_serve, ascend_settings, vllm
from ropeway.engines.ascend_backends import (
    NODES_DOCUMENTED,
    RAY_SPAN_SINCE,
    Backend,
    backend_for,
    data_ranks,
)
from ropeway.engines.ascend_quantisation import quantisation_fault
from ropeway.engines.ascend_releases import Release, order
from ropeway.engines.base import Node, Replica
from ropeway.engines.disaggregated import role_notes
from ropeway.engines.named_paths import NamedPath, named_paths
from ropeway.errors import LayoutError, Refused
from ropeway.models.shape import ModelShape
from ropeway.models.task import task_notes
from ropeway.phrases import joined, phrase
from ropeway.spec.engine_args import engine_argument_flags
from ropeway.spec.engine_flags import flag_value, sets_flag
from ropeway.spec.types import bracketed

# Since then vLLM logs requests only on demand (vllm-project/vllm pull request 21739).
_SILENT_SINCE = "0.10.1"


@dataclass(frozen=True, kw_only=True)
class AscendReplica(Replica):
    """One replica in containers.

    release       of vLLM-Ascend, as the image has it
    family        of the chips: A2, A3, 310P, 950
    backend       what joins its hosts
    scheme  None or "none", "ascend" (ModelSlim), "compressed-tensors"; other formats by the
                  name that config.json gives them ("fp8"), or "cuda" where only that is known
    privileged    its containers see every NPU of their host, under the host's numbers
    ray           the version of Ray in the image, "" where it is not known
    buffers       HCCL_BUFFSIZE in MiB, which MC2 needs for this model; 0 without MC2
    """

    release: Release
    family: str
    backend: Backend
    scheme: str | None
    privileged: bool = False
    ray: str = ""
    buffers: int = 0

    @property
    def uses_ray(self) -> bool:
        """Whether Ray joins several hosts. On one host vLLM starts its ranks itself."""
        return self.backend == "ray" and len(self.nodes) > 1

    @cached_property
    def settings(self) -> ascend_settings.Settings:
        """The user's variables and `--additional-config`, in the terms of this release."""
        return ascend_settings.resolve_settings(
            self.serve.env, self.serve.engine_args, self.release.version
        )

    @cached_property
    def named_paths(self) -> tuple[NamedPath, ...]:
        """The files that the user's flags and variables point into."""
        return named_paths(
            self.serve.engine_args,
            self.serve.env,
            lambda flag: ascend_flags.of_server(flag, self.release),
        )

    @cached_property
    def shares(self) -> tuple[int, ...] | None:
        """Data-parallel ranks of each node; None when one is larger than a host."""
        return data_ranks(self.layout, self.nodes)

    @property
    def eager(self) -> bool:
        """Whether the user's flags turn graphs off."""
        return ascend_flags.is_given(self.serve.engine_args, "enforce-eager")

    def check(self, shape: ModelShape) -> None:
        """Refuse what this release cannot run, with the reason, its source and what can.

        Raises LayoutError for the layout, Refused for the quantisation, a flag or a variable that
        this release does not have, a missing interface.
        """
        backend_for(self.layout, self.nodes, self.release, self.backend)
        _check_interfaces(self)
        _check_layout(self, shape)
        ascend_serve.check(self.serve, self.release, self.family)
        _check_quantisation(self, shape)

    def notes(self, shape: ModelShape) -> tuple[str, ...]:
        return (
            *self.release.notes,
            phrase("not verified on NPU hardware by us"),
            *ascend_layouts.notes(_case(self, shape), self.release.version),
            *ascend_serve.notes(self.serve, self.release, self.family),
            *role_notes(self.serve.engine_args),
            *task_notes(self.model, shape, self.serve.engine_args),
            *_own_notes(self),
        )  # fmt: skip

    def ray_start_argv(self, node: Node) -> tuple[str, ...]:
        """Return `ray start` for this node; it ends when Ray is up.

        The NPUs are a custom resource, never `--num-gpus`: with GPUs registered vLLM finds no NPU
        (#3114).
        """
        role = (
            ("--head", "--port", str(self.ports.ray), "--include-dashboard=false")
            if node == self.head
            else ("--address", f"{bracketed(self.head.address)}:{self.ports.ray}")
        )
        return (
            "ray", "start", *role,
            "--node-ip-address", node.address,
            "--resources", json.dumps({"NPU": node.npus}),
            "--disable-usage-stats",
        )  # fmt: skip

    def serve_argv(self, node: Node) -> tuple[str, ...]:
        """Return `vllm serve MODEL …` for this node: the head's, or that of a headless follower.

        With Ray only the head has one; ValueError for another node then.
        """
        head = node == self.head
        if not head and self.backend == "ray":
            raise ValueError(f"with Ray, `vllm serve` runs on the head alone, not on {node.name}")
        logs_requests = order(self.release.vllm) < order(_SILENT_SINCE)
        return (
            "vllm", "serve", self.model,
            "--served-model-name", self.served_name,
            *(("--host", self.address, "--port", str(self.port)) if head else ()),
            # Single requests stay out of the log: there may be hundreds a second.
            "--disable-uvicorn-access-log",
            *(("--disable-log-requests",) if logs_requests else ()),
            *(("--distributed-executor-backend", "ray") if self.backend == "ray" else ()),
            *vllm.parallel_flags(self.layout),
            *_joining_flags(self, node),
            *_engine_flags(self),
            *engine_argument_flags(_user_arguments(self, node)),
        )  # fmt: skip

    def environment(self, node: Node) -> dict[str, str]:
        """Return the variables of this node's container; `serve.env` wins over all of them.

        They are set when the container starts: Ray hands none of HCCL's on to its workers, and what
        is changed after `ray start` nobody sees (docs/source/tutorials/features/ray.md). Where the
        image's Ray has token authentication, it is set; the token itself is a secret, for
        RAY_AUTH_TOKEN, and not in here.
        """
        variables: dict[str, str] = {}
        if len(self.nodes) > 1 or self.backend == "ray":
            variables |= ascend_settings.network_variables(node, self.serve.start_timeout)
        if self.backend == "ray":
            variables |= ascend_settings.ray_variables(self.ray)
            variables |= _packing(self)
        if self.backend == "ray" or self.privileged:
            variables |= ascend_settings.visible_devices(node, privileged=self.privileged)
        variables |= ascend_settings.engine_variables(
            self.release.version,
            self.serve.start_timeout,
            data_over_hosts=self.layout.data > 1 and len(self.nodes) > 1,
            sleep=ascend_flags.is_given(self.serve.engine_args, "enable-sleep-mode"),
        )
        if self.buffers:
            variables["HCCL_BUFFSIZE"] = str(self.buffers)
        return variables | self.settings.env


def _own_notes(replica: AscendReplica) -> list[str]:
    """Return what is doubtful, or was adapted, for the chips and the way the hosts are joined."""
    notes: list[str] = []
    renumbered = any(node.devices != tuple(range(len(node.devices))) for node in replica.nodes)
    old = order(replica.release.version) < order("0.29.0rc1")
    if replica.family == "950" and replica.backend == "ray" and renumbered and old:
        notes.append(
            "until 0.29 the plug-in reads ASCEND_RT_VISIBLE_DEVICES as the host's numbers when it "
            "looks for an NPU's endpoint file, and they are the container's (#12959, #16256)"
        )
    if _over_nodes(replica) and order(replica.release.version) < order(NODES_DOCUMENTED):
        notes.append(
            phrase(
                "`--nnodes` is in the code of {release}, but not documented before 0.13.0",
                release=replica.release.version,
            )
        )
    elif _over_nodes(replica) and replica.layout.data > 1:
        notes.append(
            "`--nnodes` with data parallelism over several hosts: known from vLLM's code alone"
        )
    if replica.uses_ray:
        notes.append(
            phrase(
                "anyone who reaches Ray's ports can run code: its token authentication came with "
                "Ray {since}, and the images have {newest} or older; keep the cluster's network "
                "closed",
                since=ascend_settings.RAY_TOKENS_SINCE,
                newest=ascend_settings.RAY_NEWEST,
            )
        )
    return notes


def _engine_flags(replica: AscendReplica) -> tuple[str, ...]:
    """Return the flags of the spec's own keys; what is None is left to the engine."""
    serve = replica.serve
    flags: list[str] = []
    if serve.context is not None:
        flags += ["--max-model-len", str(serve.context)]
    if dtype := _dtype(replica):
        flags += ["--dtype", dtype]
    if serve.memory is not None:
        flags += ["--gpu-memory-utilization", f"{serve.memory:g}"]
    if serve.kv_cache is not None:
        flags += ["--kv-cache-memory-bytes", str(serve.kv_cache)]
    if serve.max_sequences is not None:
        flags += ["--max-num-seqs", str(serve.max_sequences)]
    if replica.scheme == "ascend" and not ascend_flags.is_given(serve.engine_args, "quantization"):
        # Needed up to 0.16; since 0.17.0rc1 the plug-in finds it out by itself (#6873).
        flags += ["--quantization", "ascend"]
    return tuple(flags)


def _dtype(replica: AscendReplica) -> str:
    if replica.serve.dtype != "auto":
        return replica.serve.dtype
    return "float16" if replica.family == "310P" else ""


def _user_arguments(replica: AscendReplica, node: Node) -> dict[str, object]:
    """Return `serve.engine_args` for a node, with the resolved `additional-config`.

    Only the head gets those of the HTTP server.
    """
    head = node == replica.head
    arguments = {
        key: value
        for key, value in replica.serve.engine_args.items()
        if not sets_flag(key, "additional-config")
        and (head or not ascend_flags.of_server(key, replica.release))
    }
    if replica.settings.config:
        arguments["additional-config"] = dict(replica.settings.config)
    return arguments


def _joining_flags(replica: AscendReplica, node: Node) -> tuple[str, ...]:
    shares, head = replica.shares, replica.head
    if replica.backend == "ray" and replica.layout.data == 1:
        return ()
    if replica.backend == "ray":  # it places the data-parallel ranks, those of the head first
        return (
            "--data-parallel-backend", "ray",
            *(("--data-parallel-size-local", str(shares[0])) if shares else ()),
            "--data-parallel-address", head.address,
        )  # fmt: skip
    if len(replica.nodes) == 1:
        return ()
    follower = ("--headless",) if node != head else ()
    if _over_nodes(replica):
        return (
            "--distributed-executor-backend", "mp",
            "--nnodes", str(len(replica.nodes)),
            "--node-rank", str(replica.nodes.index(node)),
            "--master-addr", head.address,
            "--master-port", str(replica.ports.master),
            *follower,
        )  # fmt: skip
    assert shares is not None  # backend_for and check let nothing else through
    place = replica.nodes.index(node)
    start = ("--data-parallel-start-rank", str(sum(shares[:place]))) if place else ()
    return (
        "--data-parallel-size-local", str(shares[place]),
        *start,
        "--data-parallel-address", head.address,
        "--data-parallel-rpc-port", str(replica.ports.data_parallel),
        *follower,
    )  # fmt: skip


def _over_nodes(replica: AscendReplica) -> bool:
    """Whether vLLM itself joins the hosts to one engine (`--nnodes`)."""
    if replica.backend == "ray" or len(replica.nodes) == 1:
        return False
    return replica.layout.data == 1 or replica.shares is None


def _packing(replica: AscendReplica) -> dict[str, str]:
    """Return how Ray spreads data-parallel ranks; by default each host gets as many as the head."""
    if replica.layout.data == 1 or order(replica.release.version) < order(RAY_SPAN_SINCE):
        return {}
    if replica.layout.world_size > max(n.npus for n in replica.nodes):
        return {"VLLM_RAY_DP_PACK_STRATEGY": "span"}
    even = len(set(replica.shares or ())) == 1
    return {} if even else {"VLLM_RAY_DP_PACK_STRATEGY": "fill"}


def _check_interfaces(replica: AscendReplica) -> None:
    if len(replica.nodes) == 1:
        return
    if nameless := [node.name for node in replica.nodes if not node.nic]:
        raise Refused(
            "the network interface of a host is not known, and HCCL and Gloo need its name",
            where=joined(nameless, ", "),
            hint="set `cluster.nic`, or `nic` of the host",
        )


def _case(replica: AscendReplica, shape: ModelShape) -> ascend_layouts.Case:
    hosts = len(replica.nodes)
    return ascend_layouts.Case(
        replica.layout,
        shape,
        replica.family,
        hosts,
        graph="eager" if replica.eager else "full",
        backend=replica.backend,
        features=ascend_flags.features(replica.serve.engine_args),
    )


def _check_layout(replica: AscendReplica, shape: ModelShape) -> None:
    case = _case(replica, shape)
    reasons = ascend_layouts.limits(case, replica.release.version)
    if not reasons:
        return
    later = ascend_layouts.runs_from(case, replica.release.version)
    raise LayoutError(
        phrase("{layout} does not run in this release", layout=replica.layout),
        where=f"vLLM-Ascend {replica.release.version}",
        evidence=reasons,
        hint=phrase("take vLLM-Ascend {later} or later, or another layout", later=later)
        if later
        else "take another layout",
    )


def _check_quantisation(replica: AscendReplica, shape: ModelShape) -> None:
    fault = quantisation_fault(
        replica.scheme,
        shape,
        replica.release.version,
        replica.family,
        flag_value(replica.serve.engine_args, "quantization"),
    )
    if fault is not None:
        raise fault.refused(replica.release.version, replica.model)
