"""A complete deployment as ordered steps, which `--dry-run` prints, and the record that it leaves.

The record is the deployment as JSON, beside the processes on the head. The host is the record:
whoever comes later, from another shell, reads it from there.
"""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from ropeway.engines.base import Node
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import HostError
from ropeway.hosts.base import Command, shell_line
from ropeway.hosts.processes import HOST, ROLE, SERVICE
from ropeway.launch import programs
from ropeway.launch.dry_run import shell_script
from ropeway.launch.probe import probe_args
from ropeway.phrases import phrase
from ropeway.units import counted

RECORD = "deployment.json"
SCRATCH_PARENT = "/tmp"
_TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
_RECORD = TypeAdapter(CpuReplica)


def scratch_of(service: str, user: int) -> str:
    """Return the service's folder for short-lived files. Its name is the lock of service and user.

    Short, because of Ray's sockets below it (prepare.check).
    """
    return f"{SCRATCH_PARENT}/rw-{user}-{service}"


def as_record(deployment: CpuReplica) -> str:
    """Return the deployment as one line of JSON."""
    return _RECORD.dump_json(deployment).decode()


def from_record(text: str, where: str) -> CpuReplica:
    """Read a record back. Raises HostError when it is not one of ours."""
    try:
        return _RECORD.validate_json(text)
    except ValidationError as error:
        raise HostError(
            phrase("the record of what runs here cannot be read"),
            where=where,
            evidence=tuple(str(error).splitlines()[:3]),
            hint=phrase("`ropeway down` takes down whatever carries the name"),
        ) from error


def ray_address(deployment: CpuReplica) -> str:
    return f"{deployment.head.address}:{deployment.ports.ray}"


def ray_settings(deployment: CpuReplica) -> dict[str, str]:
    """Return the variables of everything that is part of this Ray cluster, or talks to it.

    Ray listens on every interface when a node's address is not 127.0.0.1, and whoever reaches it
    can run code; so it asks for a token, which lies in a file that only we can read.
    """
    return {
        "RAY_ADDRESS": ray_address(deployment),
        "RAY_AUTH_MODE": "token",
        _TOKEN_PATH: f"{deployment.scratch}/ray-token",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray runs its workers at niceness 15; here they are the work.
        "RAY_worker_niceness": "0",
        # Ray starts a worker per core in advance, and vLLM's actors cannot use them.
        "RAY_prestart_worker_first_driver": "0",
    }


def ray_nodes(deployment: CpuReplica) -> Command:
    """Return the command that fails unless Ray has all nodes, and prints which it has."""
    counts = str(len(deployment.nodes)), str(sum(node.npus for node in deployment.nodes))
    argv = (deployment.python, "-m", f"{programs.__name__}.nodes", *counts, "0")
    return Command(argv, ray_settings(deployment))


RAY, ENGINE = "ray", "engine"


@dataclass(frozen=True)
class Step:
    """One command on one host. running.take_down undoes them all, also one that was cut off."""

    name: str
    host: str
    command: Command
    timeout: float = 60.0


def steps(deployment: CpuReplica) -> tuple[Step, ...]:
    """Return everything from an empty host to a starting engine, whose token `run.start` awaits."""
    head = deployment.head.name
    first = (
        Step(
            phrase("take the name `{name}`", name=deployment.service),
            head,
            # mkdir fails when the folder exists: two starts at once cannot both get it.
            Command(("mkdir", "-m", "700", deployment.scratch)),
        ),
        Step(phrase("make the log folder"), head, Command(("mkdir", "-p", deployment.logs))),
        Step(phrase("write down what runs here"), head, _record(deployment)),
    )
    serve = Step(
        phrase("start the engine: {layout}", layout=deployment.layout), head, _serve(deployment)
    )
    if not deployment.uses_ray:
        return (*first, serve)
    script = 'umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d " \\n" >"$1"'
    make_token = Command(("sh", "-c", script, "sh", ray_settings(deployment)[_TOKEN_PATH]))
    token = Step(phrase("make the token that Ray asks for"), head, make_token)
    if deployment.layout.data > 1:
        # vLLM 0.32.0 counts the hosts for its data ranks once, and does not wait for late ones.
        return (*first, token, *_ray_steps(deployment), serve)
    # The engine before Ray: it imports for ten seconds before it looks for Ray, waits for it when
    # it is late, and the two start-ups keep different cores busy.
    return (*first, token, serve, *_ray_steps(deployment))


def dry_run(deployment: CpuReplica) -> str:
    """Return the steps as a shell script: pasted into a shell, it starts what `up` would start."""
    addresses = {node.name: node.address for node in deployment.nodes}
    blocks = [
        (f"{step.name} ({step.host}, {addresses[step.host]})", [shell_line(step.command)])
        for step in steps(deployment)
    ]
    probe = shell_line(probe_of(deployment, seconds=5.0))
    blocks += [
        (
            "ready means that a token was generated; this asks until one was",
            [f"until {probe}; do sleep 2; done"],
        ),
        ("to take it down again", [f"# ropeway down --name {deployment.service}"]),
    ]
    hosts = counted(len(addresses), "host")
    return shell_script([f"{deployment.layout} of {deployment.served_name} on {hosts}"], blocks)


def probe_of(deployment: CpuReplica, seconds: float = 60.0) -> Command:
    """Return the command that asks for one token: it succeeds when the engine is ready; else the
    reason is on its stderr."""
    words = probe_args(deployment.url, deployment.served_name, seconds)
    argv = (deployment.python, "-m", f"{programs.__name__}.watch", *words)
    return Command(argv, secrets=_key(deployment))


def _ray_steps(deployment: CpuReplica) -> tuple[Step, ...]:
    """Return, for each host, the command that starts its raylet; on the head Ray's cluster too."""
    # `ray start --head` refuses to run when RAY_ADDRESS already names a cluster.
    own = {key: value for key, value in ray_settings(deployment).items() if key != "RAY_ADDRESS"}
    return tuple(
        Step(
            phrase("start Ray on {host}", host=node.name),
            node.name,
            Command(deployment.ray_start_argv(node), {**_labels(deployment, node, RAY), **own}),
            timeout=180.0,
        )
        for node in deployment.nodes
    )


def _serve(deployment: CpuReplica) -> Command:
    head = deployment.head
    environment = _labels(deployment, head, ENGINE)
    if deployment.uses_ray:
        environment |= ray_settings(deployment)
    argv, log = deployment.serve_argv(head), deployment.engine_log
    return Command(argv, environment, _key(deployment), log)


def _key(deployment: CpuReplica) -> dict[str, str]:
    """Return the engine's variable for its key → ours that holds it."""
    name = deployment.serve.api_key_env
    return {KEY_VARIABLE: name} if name else {}


def _labels(deployment: CpuReplica, node: Node, role: str) -> dict[str, str]:
    labels = {SERVICE: deployment.service, HOST: node.name, ROLE: role}
    return {**labels, **deployment.environment(node)}


def _record(deployment: CpuReplica) -> Command:
    path = f"{deployment.scratch}/{RECORD}"
    return Command(("sh", "-c", 'printf %s "$1" >"$2"', "sh", as_record(deployment), path))
