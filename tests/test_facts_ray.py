"""Ray's cluster as `ray status` and `ray list nodes` tell it, and the programs that run."""

from pathlib import Path

import pytest

from ropeway.facts.base import ToolError
from ropeway.facts.programs import (
    COMMANDS,
    HostProcess,
    HostProcesses,
    parse_processes,
)
from ropeway.facts.ray import (
    NodeGroup,
    NodeUsage,
    RayNode,
    RayNodes,
    RayStatus,
    Resource,
    parse_ray_nodes,
    parse_ray_status,
)
from ropeway.hosts.local import LocalHost

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


def memory(name: str, used: float, total: float, unit: int) -> Resource:
    return Resource(name, used, float(round(total * unit)), "bytes")


def status(**fields) -> RayStatus:
    """A cluster where nothing waits and nothing failed."""
    nothing = dict.fromkeys(
        ("active", "idle", "pending", "failures", "resources", "demands", "constraints", "nodes"),
        (),
    )
    return RayStatus(**{"time": None, **nothing, **fields})


def test_npus_registered_as_gpus_are_seen():
    reading = parse_ray_status(recording("ray_status_01.txt"))
    assert reading.state == "ok"
    assert reading.value == status(
        time="2025-09-23 03:00:18.401662",
        active=(
            NodeGroup(1, "node_f2e99af987618864161970a2b891f4e31f4edf2236deb98329cc5a17"),
            NodeGroup(1, "node_a7769d9548f5020b5ea9a593d89761b6adc5b4cee107d72c71e21d8e"),
        ),
        resources=(
            Resource("CPU", 0.0, 384.0),
            Resource("GPU", 0.0, 16.0),
            memory("memory", 0.0, 3.91, 2**40),
            memory("object_store_memory", 0.0, 18.63, 2**30),
        ),
    )


def test_an_indented_status_with_npus_is_read():
    reading = parse_ray_status(recording("ray_status_npu.txt"))
    assert reading.state == "ok" and reading.value is not None
    assert reading.value.resources[1] == Resource("NPU", 0.0, 16.0)
    assert len(reading.value.active) == 2


def test_the_layout_of_2021_is_read():
    reading = parse_ray_status(recording("ray_status_2021.txt"))
    assert reading.state == "ok"
    assert reading.value == status(
        time="2021-10-12 13:10:21.035674",
        active=(NodeGroup(1, "ray.head.default"), NodeGroup(2, "ray.worker.cpu")),
        resources=(
            Resource("CPU", 0.0, 10.0),
            memory("memory", 0.0, 70.437, 2**30),
            memory("object_store_memory", 0.0, 10.306, 2**30),
        ),
    )


def test_the_layout_with_idle_nodes_and_reservations_is_read():
    reading = parse_ray_status(recording("ray_status_v2.txt"))
    assert reading.state == "ok" and reading.value is not None
    assert reading.value.active == (NodeGroup(1, "headgroup"), NodeGroup(1, "small-group"))
    assert reading.value.idle == ()
    assert reading.value.resources[1] == Resource("GPU", 2.0, 2.0, "count", 2.0, 2.0)


def test_a_lost_node_and_waiting_work_are_seen():
    reading = parse_ray_status(recording("ray_status_verbose.txt"))
    assert reading.state == "ok"
    cpu, npu = Resource("CPU", 1.0, 192.0), Resource("NPU", 8.0, 8.0)
    assert reading.value == status(
        time="2026-10-01 08:00:00.123456",
        active=(NodeGroup(1, "node_aaaa0001"), NodeGroup(1, "node_aaaa0002")),
        failures=("node_aaaa0003: NodeTerminated (ip: 10.0.0.3)",),
        resources=(
            Resource("CPU", 2.0, 384.0),
            Resource("NPU", 16.0, 16.0, "count", 0.0, 0.0),
            Resource("accelerator_type:Ascend910B4", 0.0, 2.0),
            memory("memory", 0.0, 2.58, 2**40),
            memory("object_store_memory", 88.0, 372.56, 2**30),
        ),
        demands=(
            "{'NPU': 1.0}: 4+ pending tasks/actors",
            "{'NPU': 8.0} * 2 (PACK): 1+ pending placement groups",
        ),
        nodes=(
            NodeUsage(
                "aaaa0001 (node_aaaa0001)",
                None,
                (cpu, npu, memory("memory", 0.0, 1.29, 2**40)),
                ("Busy workers on node.", "Resource: NPU currently in use."),
            ),
            NodeUsage("aaaa0002", None, (cpu, npu), ()),
        ),
    )


def test_a_status_retyped_with_blanks_in_its_numbers_is_read():
    reading = parse_ray_status(recording("ray_status_retyped.txt"))
    assert reading.state == "ok" and reading.value is not None
    assert len(reading.value.active) == 3
    assert reading.value.resources == (
        Resource("CPU", 0.0, 40.0),
        Resource("GPU", 0.0, 5.0),
        memory("memory", 0.0, 124.65, 2**30),
        memory("object_store_memory", 0.0, 28.79, 2**30),
    )


def test_nodes_that_start_are_pending():
    text = recording("ray_status_2021.txt").replace(
        " (no pending nodes)", " m4.4xlarge, 2 launching\n 1.2.3.4: m4.4xlarge, waiting-for-ssh"
    )
    value = parse_ray_status(text).value
    assert value is not None
    assert value.pending == ("m4.4xlarge, 2 launching", "1.2.3.4: m4.4xlarge, waiting-for-ssh")


def test_a_status_cut_before_its_resources_is_partial():
    text = recording("ray_status_01.txt")
    reading = parse_ray_status(text[: text.index("Total Usage")])
    assert reading.state == "partial" and reading.value is not None
    assert len(reading.value.active) == 2


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (
            parse_ray_status,
            "Traceback (most recent call last):\n  File \"x\", line 1\nConnectionError: "
            "Could not find any running Ray instance. Please specify the one to connect to\n",
            "ConnectionError: Could not find any running Ray instance. Please specify the one to"
            " connect to",
        ),
        (
            parse_ray_status,
            "No cluster status. It may take a few seconds for the Ray internal services to start"
            " up.\n",
            "No cluster status. It may take a few seconds for the Ray internal services to start"
            " up.",
        ),
        (
            parse_ray_nodes,
            "RuntimeError: Ray version mismatch: cluster has Ray version 2.9 but local is 2.8\n",
            "RuntimeError: Ray version mismatch: cluster has Ray version 2.9 but local is 2.8",
        ),
    ],
)  # fmt: skip
def test_no_cluster_is_an_error(parse, text, message):
    reading = parse(text)
    assert (reading.state, reading.error) == ("error", ToolError("failed", message))


def test_a_host_without_ray_has_none():
    assert parse_ray_status("bash: ray: command not found\n").state == "absent"


def node(number: int, head: bool, state: str = "ALIVE", message: str | None = None) -> RayNode:
    return RayNode(
        id=f"{number}af0" * 14,
        address=f"10.0.0.{number}",
        head=head,
        state=state,
        message=message,
        resources=(
            Resource("CPU", None, 192.0),
            Resource("NPU", None, 8.0),
            Resource("memory", None, float(round(1320.96 * 2**30)), "bytes"),
            Resource("object_store_memory", None, float(round(186.28 * 2**30)), "bytes"),
        ),
    )


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_nodes_are_the_same_in_every_form(form):
    reading = parse_ray_nodes(recording(f"ray_nodes_{form}.txt"))
    dead = "health check failed due to missing too many heartbeats"
    assert (reading.state, reading.unread) == ("ok", ())
    assert reading.value == RayNodes((node(1, True), node(2, False), node(3, False, "DEAD", dead)))


def test_processes_have_a_kind_and_no_secrets():
    text = """\
    PID    PPID USER     COMMAND
  12290       1 root     /opt/ray/core/src/ray/gcs/gcs_server --redis_password=s3cret --x
  12378   12290 root     /opt/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ray
  12402   12378 ma       ray::RayWorkerWrapper.execute_method
  13000       1 ma       /usr/bin/python3 /usr/local/bin/vllm serve /m --api-key s3cret --port 1
  13001   13000 ma       VLLM::EngineCore
"""
    reading = parse_processes(text)
    assert reading.state == "ok"
    assert reading.value == HostProcesses(
        (
            HostProcess(
                12_290, 1, "root", "ray-head",
                "/opt/ray/core/src/ray/gcs/gcs_server --redis_password=… --x",
            ),
            HostProcess(
                12_378, 12_290, "root", "ray-node",
                "/opt/ray/core/src/ray/raylet/raylet --raylet_socket_name=/tmp/ray",
            ),
            HostProcess(12_402, 12_378, "ma", "ray-worker", "ray::RayWorkerWrapper.execute_method"),
            HostProcess(
                13_000, 1, "ma", "engine",
                "/usr/bin/python3 /usr/local/bin/vllm serve /m --api-key … --port 1",
            ),
            HostProcess(13_001, 13_000, "ma", "engine", "VLLM::EngineCore"),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "parent"),
    [
        ("root      77      1  0 10:02 ?        00:00:01 /x/gcs_server --a\n", 1),
        ("root      77  0.1  0.2 123 456 ?  Ssl  10:02   0:01 /x/gcs_server --a\n", None),
    ],
)
def test_processes_of_other_layouts_are_read(text, parent):
    assert parse_processes(text).value == HostProcesses(
        (HostProcess(77, parent, "root", "ray-head", "/x/gcs_server --a"),)
    )


def test_a_host_where_none_of_them_runs():
    assert parse_processes("").value == HostProcesses(())


def test_the_command_does_not_find_itself():
    value = parse_processes(LocalHost().run(COMMANDS["ps"]).stdout).value
    assert value is not None
    assert not [each for each in value.processes if "[g]cs_server" in each.command]
