"""Ray's part: one raylet per host, whose resource `NPU` is what vLLM places its ranks by."""

from ropeway.engines.base import Node
from ropeway.engines.vllm_cpu import Deployment
from ropeway.hosts.base import Command


def address(deployment: Deployment) -> str:
    return f"{deployment.head.address}:{deployment.ports.ray}"


def token_file(deployment: Deployment) -> str:
    return f"{deployment.scratch}/ray-token"


def settings(deployment: Deployment) -> dict[str, str]:
    """Return the variables of everything that is part of this Ray cluster, or talks to it.

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
    """Return the command that makes a fresh token on the host, readable by its owner alone."""
    script = 'umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d " \\n" >"$1"'
    return Command(("sh", "-c", script, "sh", token_file(deployment)))


def start(deployment: Deployment, node: Node, environment: dict[str, str]) -> Command:
    """Return the command that starts this host's raylet; on the head it starts the cluster.

    It ends when Ray runs.
    """
    # `ray start --head` refuses to run when RAY_ADDRESS already names a cluster.
    own = {key: value for key, value in settings(deployment).items() if key != "RAY_ADDRESS"}
    return Command(deployment.ray_start_argv(node), {**environment, **own})


def nodes(deployment: Deployment) -> Command:
    """Return the command that prints, as JSON, each node of Ray: address, alive or not, NPUs."""
    return Command((deployment.python, "-c", _NODES), settings(deployment))


_NODES = """\
import json, logging, ray
ray.init(logging_level=logging.ERROR, log_to_driver=False)
print(json.dumps([
    {"address": node["NodeManagerAddress"], "alive": node["Alive"],
     "npus": node["Resources"].get("NPU", 0)}
    for node in ray.nodes()
]))
"""
