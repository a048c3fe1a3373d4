"""What plans are asked for, in the tests of all who make or show them."""

from dataclasses import replace

from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.load import Load
from ropeway.plan.machine import ascend, traits
from ropeway.spec.cluster import Cluster, RemoteHost

# As a hand writes it, with comments.
SPEC = """\
# two hosts, rented until Friday
name: chat
cluster:
  chip: 910B4          # npu-smi says so
  price_per_host_hour: 60
  hosts:
    - {address: 10.0.0.1, npus: 8}
    - {address: 10.0.0.2, npus: 8}
model:
  path: /data/Qwen3-30B-A3B   # on the hosts
serve:
  version: 0.11.0rc0
  layout: TP8          # what we had
  # the front door
  port: 8001
workload: {clients: 256, input_tokens: 512, output_tokens: 256}
x-note: 留着
"""


def cluster(*npus: int) -> Cluster:
    """Return hosts `h0`, `h1`, … with so many NPUs each."""
    return Cluster(
        hosts=tuple(RemoteHost(address=f"h{row}", npus=size) for row, size in enumerate(npus))
    )


def request(
    model: str = "Qwen3-VL-30B-A3B-Instruct",
    hosts: int = 2,
    chip: str = "910B4",
    version: str = "0.11.0rc0",
    **more: object,
) -> PlanRequest:
    """Return a request on hosts of eight NPUs, with `more` fields changed."""
    engine = more.get("traits") or traits(version)
    plain = PlanRequest(
        shape=known(model),
        model_name=model,
        cluster=cluster(*[8] * hosts),
        traits=engine,
        machine=ascend(chip_named(chip), engine),
        load=Load(1024, 256, clients=256),
        chip=chip_named(chip),
    )
    return replace(plain, **more)  # type: ignore[arg-type]
