"""The engines there are. A new one is a module and a line here."""

from ropeway.engines import vllm_cpu
from ropeway.engines.base import Engine
from ropeway.errors import Refused

ENGINES: dict[str, Engine] = {"vllm-cpu": vllm_cpu}


def engine_named(name: str) -> Engine:
    """The engine of this name. Raises Refused when this version cannot start it."""
    if name in ENGINES:
        return ENGINES[name]
    raise Refused(
        f"this version of Ropeway cannot start `{name}` yet",
        evidence=(f"it starts: {', '.join(ENGINES)}",),
        hint="write `cluster: {local: {hosts: 2, npus: 2}}` to rehearse on this machine",
    )
