"""Ray's part: one raylet per host, whose resource `NPU` is what vLLM places its ranks by."""

import json

from ropeway.engines.base import Deployment, Node
from ropeway.hosts.base import Command

# Ray's own least for the object store; vLLM passes tensors over gloo and keeps nothing there.
_OBJECT_STORE_BYTES = 80_000_000


def address(deployment: Deployment) -> str:
    return f"{deployment.head.address}:{deployment.ray_port}"


def token_file(deployment: Deployment) -> str:
    return f"{deployment.scratch}/ray-token"


def settings(deployment: Deployment) -> dict[str, str]:
    """Variables for everything that is, or talks to, this Ray cluster.

    Ray listens on every interface when a node's address is not 127.0.0.1, and whoever reaches it
    can run code; so it asks for a token, which lies in a file that only we can read.
    """
    return {
        "RAY_ADDRESS": address(deployment),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": token_file(deployment),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at niceness 15; here they are the work.
        "RAY_worker_niceness": "0",
        # Ray starts a worker per core in advance, and vLLM's actors cannot use them.
        "RAY_prestart_worker_first_driver": "0",
    }


def make_token(deployment: Deployment) -> Command:
    """A fresh token, made on the host, readable by its owner alone."""
    script = 'umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d " \\n" >"$1"'
    return Command(("sh", "-c", script, "sh", token_file(deployment)))


def start(deployment: Deployment, node: Node, environment: dict[str, str]) -> Command:
    """Start this host's raylet, and on the head the cluster; it returns when Ray runs."""
    ray = f"{deployment.python.rpartition('/')[0]}/ray"
    head = node == deployment.head
    where = (
        ("--head", "--port", str(deployment.ray_port), "--include-dashboard", "false",
         "--disable-usage-stats", "--temp-dir", f"{deployment.scratch}/ray")
        if head
        else ("--address", address(deployment))
    )  # fmt: skip
    argv = (
        "setsid", "--wait", ray, "start", *where,
        "--node-ip-address", node.address,
        "--resources", json.dumps({"NPU": node.npus}),
        "--object-store-memory", str(_OBJECT_STORE_BYTES),
    )  # fmt: skip
    # `ray start --head` refuses to run when RAY_ADDRESS already names a cluster.
    own = {key: value for key, value in settings(deployment).items() if key != "RAY_ADDRESS"}
    return Command(argv, {**environment, **own})


def nodes(deployment: Deployment) -> Command:
    """Print, as JSON, the NPUs and the alive flag of each node that Ray knows, by address."""
    return Command((deployment.python, "-c", _NODES), settings(deployment))


def ranks(deployment: Deployment) -> Command:
    """Print, as JSON, the vLLM rank actors that Ray knows: their class, state, and host."""
    return Command((deployment.python, "-c", _RANKS), settings(deployment))


_NODES = """\
import json, logging, ray
ray.init(logging_level=logging.ERROR, log_to_driver=False)
print(json.dumps([
    {"address": node["NodeManagerAddress"], "alive": node["Alive"],
     "npus": node["Resources"].get("NPU", 0)}
    for node in ray.nodes()
]))
"""
_RANKS = """\
import json, logging, ray
from ray._private.state import actors
ray.init(logging_level=logging.ERROR, log_to_driver=False)
hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
print(json.dumps([
    {"kind": actor["ActorClassName"], "state": actor["State"], "pid": actor["Pid"],
     "address": actor["Address"]["IPAddress"] or hosts.get(actor["Address"].get("NodeID"))}
    for actor in actors().values()
]))
"""
