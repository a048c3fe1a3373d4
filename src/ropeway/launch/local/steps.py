"""A complete deployment as ordered steps, each with its undo. This is what `--dry-run` prints."""

from dataclasses import dataclass

from ropeway.engines.base import Node
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.engines.vllm_cpu import Deployment
from ropeway.hosts.base import Command, shell_line
from ropeway.hosts.processes import HOST, ROLE, SERVICE
from ropeway.launch.dry_run import count_hosts, shell_script
from ropeway.launch.local import ray
from ropeway.launch.local.record import RECORD, as_record
from ropeway.launch.probe import probe_command

RAY, ENGINE = "ray", "engine"


@dataclass(frozen=True)
class EndProcesses:
    """Undo: end what carries this role's label on this host."""

    host: str
    role: str


@dataclass(frozen=True)
class RemoveFolder:
    """Undo: remove a folder that we made."""

    path: str


@dataclass(frozen=True)
class Step:
    """One command on one host. `undo` holds also when the command was cut off half-way."""

    name: str
    host: str
    command: Command
    undo: EndProcesses | RemoveFolder | None = None
    timeout: float = 60.0


def steps(deployment: Deployment) -> tuple[Step, ...]:
    """Return everything from an empty host to a starting engine, whose token `run.start` awaits."""
    head = deployment.head.name
    first = (
        Step(
            f"take the name `{deployment.service}`",
            head,
            # mkdir fails when the folder exists: two starts at once cannot both get it.
            Command(("mkdir", "-m", "700", deployment.scratch)),
            RemoveFolder(deployment.scratch),
        ),
        Step("make the log folder", head, Command(("mkdir", "-p", deployment.logs))),
        Step("write down what runs here", head, _record(deployment)),
    )
    serve = Step(
        f"start the engine: {deployment.layout}", head, _serve(deployment),
        EndProcesses(head, ENGINE),
    )  # fmt: skip
    if not deployment.uses_ray:
        return (*first, serve)
    token = Step("make the token that Ray asks for", head, ray.make_token(deployment))
    if deployment.layout.data > 1:
        # vLLM 0.32.0 counts the hosts for its data ranks once, and does not wait for late ones.
        return (*first, token, *_ray_steps(deployment), serve)
    # The engine before Ray: it imports for ten seconds before it looks for Ray, waits for it when
    # it is late, and the two start-ups keep different cores busy.
    return (*first, token, serve, *_ray_steps(deployment))


def dry_run(deployment: Deployment) -> str:
    """Return the steps as a shell script: pasted into a shell, it starts what `up` would start."""
    addresses = {node.name: node.address for node in deployment.nodes}
    hosts = count_hosts(len(addresses))
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
    return shell_script([f"{deployment.layout} of {deployment.served_name} on {hosts}"], blocks)


def probe_of(deployment: Deployment, seconds: float = 60.0) -> Command:
    """Return the command that asks for one token: it succeeds when the engine is ready."""
    key = deployment.serve.api_key_env
    return probe_command(deployment.python, deployment.url, deployment.served_name, seconds, key)


def _ray_steps(deployment: Deployment) -> tuple[Step, ...]:
    return tuple(
        Step(
            f"start Ray on {node.name}",
            node.name,
            ray.start(deployment, node, _labels(deployment, node, RAY)),
            EndProcesses(node.name, RAY),
            timeout=180.0,
        )
        for node in deployment.nodes
    )


def _serve(deployment: Deployment) -> Command:
    head = deployment.head
    environment = _labels(deployment, head, ENGINE)
    if deployment.uses_ray:
        environment |= ray.settings(deployment)
    secrets = {KEY_VARIABLE: key} if (key := deployment.serve.api_key_env) else {}
    return Command(deployment.serve_argv(head), environment, secrets, log=deployment.engine_log)


def _labels(deployment: Deployment, node: Node, role: str) -> dict[str, str]:
    labels = {SERVICE: deployment.service, HOST: node.name, ROLE: role}
    return {**labels, **deployment.environment(node)}


def _record(deployment: Deployment) -> Command:
    path = f"{deployment.scratch}/{RECORD}"
    return Command(("sh", "-c", 'printf %s "$1" >"$2"', "sh", as_record(deployment), path))
