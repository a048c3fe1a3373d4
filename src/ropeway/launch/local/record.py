"""What lies beside the processes on the head and says what they are: the deployment as JSON.

The host is the record. Whoever comes later, from another shell, reads it from there.
"""

import json
from dataclasses import asdict

from ropeway.engines.base import Node, Ports
from ropeway.engines.vllm_cpu import Deployment
from ropeway.errors import HostError
from ropeway.spec.model import Layout, Serve

RECORD = "deployment.json"
SCRATCH_PARENT = "/tmp"


def scratch_of(service: str, user: int) -> str:
    """Return the service's folder for short-lived files. Its name is the lock of service and user.

    Short, because of Ray's sockets below it (prepare.check).
    """
    return f"{SCRATCH_PARENT}/rw-{user}-{service}"


def as_record(deployment: Deployment) -> str:
    """Return the deployment as one line of JSON."""
    data = asdict(deployment)
    data["layout"] = str(deployment.layout)
    data["serve"] = deployment.serve.model_dump(mode="json")
    return json.dumps(data)


def from_record(text: str, where: str) -> Deployment:
    """Read a record back. Raises HostError when it is not one of ours."""
    try:
        data = json.loads(text)
        return Deployment(
            **{
                **data,
                "layout": Layout.model_validate(data["layout"]),
                "ports": Ports(**data["ports"]),
                "serve": Serve.model_validate(data["serve"]),
                "nodes": tuple(
                    Node(**{**node, "devices": tuple(node["devices"])}) for node in data["nodes"]
                ),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise HostError(
            "the record of what runs here cannot be read",
            where=where,
            evidence=(str(error).splitlines()[0],),
            hint="`ropeway down` takes down whatever carries the name",
        ) from error
