"""vLLM-CPU: the whole command line of each layout, and what a log says to those who wait."""

import json
from pathlib import Path

import pytest

from ropeway.engines import vllm
from ropeway.engines.base import Node
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import LayoutError
from ropeway.models.known import known
from ropeway.spec.model import Layout, Serve

PYTHON = "/opt/venv/bin/python3"
# The log of a start of TP2×PP2+EP with vLLM-CPU 0.32.0, cut to what matters, with the activity
# after each line. The last line is one that Ray brought ten seconds late.
RECORDING = Path(__file__).parent / "recordings" / "starts" / "vllm_cpu.json"
START = [(step["line"], step["activity"]) for step in json.loads(RECORDING.read_text("utf-8"))]


def deployment(layout: str = "TP1", npus: int = 2, hosts: int = 2, **keys) -> CpuReplica:
    serve = Serve(**keys)
    return CpuReplica(
        service="ropeway",
        nodes=tuple(
            Node(f"host{number}", f"127.0.0.{number + 2}", npus) for number in range(hosts)
        ),
        model="/models/moe",
        served_name="moe",
        layout=Layout.parse(layout),
        serve=serve,
        address=serve.address,
        port=serve.port,
        context=2048,
        kv_cache=2**30,
        python=PYTHON,
        scratch="/tmp/rw-1000-ropeway",
        logs="/home/me/runs/1-up",
        threads=1,
    )


def head_argv(*layout, **keys) -> tuple[str, ...]:
    replica = deployment(*layout, **keys)
    return replica.serve_argv(replica.head)


DP2 = (
    "--data-parallel-size-local 1 --data-parallel-backend ray --data-parallel-address 127.0.0.2"
    " --distributed-executor-backend ray"
)


@pytest.mark.parametrize(
    ("layout", "flags"),
    [
        ("TP1", ""),
        ("TP2", "--tensor-parallel-size 2 --distributed-executor-backend ray"),
        ("TP4", "--tensor-parallel-size 4 --distributed-executor-backend ray"),
        ("PP2", "--pipeline-parallel-size 2 --distributed-executor-backend ray"),
        ("TP2×PP2+EP", "--pipeline-parallel-size 2 --tensor-parallel-size 2"
         " --enable-expert-parallel --distributed-executor-backend ray"),
        ("DP2×TP2", f"--tensor-parallel-size 2 --data-parallel-size 2 {DP2}"),
        ("DP2×TP2+EP",
         f"--tensor-parallel-size 2 --data-parallel-size 2 --enable-expert-parallel {DP2}"),
    ],
)  # fmt: skip
def test_the_whole_command_line_of_a_layout(layout, flags):
    program = "ropeway.sim.serve" if "ray" in flags else "vllm.entrypoints.openai.api_server"
    expected = (
        f"{PYTHON} -m {program} --model /models/moe"
        " --served-model-name moe --host 127.0.0.1 --port 8000 --max-model-len 2048 --dtype auto"
        f" {flags} --disable-uvicorn-access-log --enforce-eager --kv-cache-memory-bytes 1073741824"
    )
    assert list(head_argv(layout)) == expected.split()


@pytest.mark.parametrize(
    ("layout", "npus", "local"), [("DP4", 2, 2), ("DP4", 8, 4), ("DP2×TP4", 2, 1)]
)
def test_the_head_takes_as_many_whole_data_ranks_as_it_holds(layout, npus, local):
    flags = head_argv(layout, npus, hosts=4)
    assert flags[flags.index("--data-parallel-size-local") + 1] == str(local)


def test_the_number_of_sequences_is_passed_on():
    argv = head_argv(max_sequences=32)
    assert argv[argv.index("--max-num-seqs") + 1] == "32"
    assert "--max-num-seqs" not in head_argv()


def test_the_users_own_flags_come_last_and_untouched():
    own = {"block-size": 64, "hf-overrides": {"a": [1]}, "async-scheduling": False}
    argv = head_argv(engine_args=own)
    assert argv[-5:] == (
        "--block-size", "64", "--hf-overrides", '{"a": [1]}', "--no-async-scheduling",
    )  # fmt: skip


def test_variables_are_the_hosts_own_and_the_users_win():
    plan = deployment("TP4", env={"OMP_NUM_THREADS": "7", "MINE": "x"})
    assert plan.environment(plan.nodes[1]) == {
        "ROPEWAY_VIRTUAL_NPU": "1",
        "VLLM_HOST_IP": "127.0.0.3",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "7",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_RPC_BASE_PATH": "/tmp/rw-1000-ropeway",
        "TMPDIR": "/tmp/rw-1000-ropeway",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "MINE": "x",
    }


def test_a_data_parallel_rank_holds_all_weights_and_its_ranks_share_them():
    weights = 800_000_000
    one = deployment("TP1").memory(weights)
    four = deployment("TP2×PP2").memory(weights)
    two = deployment("DP2×TP2").memory(weights)
    wide = deployment("TP1", dtype="float32").memory(weights)
    assert one.per_rank - four.per_rank == weights * 3 // 4
    assert one.per_rank - two.per_rank == weights // 2
    assert wide.per_rank - one.per_rank == weights
    assert one.per_rank > weights + 2**30
    assert two.server > one.server == four.server


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
    ],
)
def test_the_url_is_one_that_the_head_can_open(address, url):
    assert deployment(address=address, api_key_env="KEY").url == url


def test_a_follower_has_no_server():
    replica = deployment("TP4")
    with pytest.raises(ValueError, match="host1"):
        replica.serve_argv(replica.nodes[1])


def test_a_layout_larger_than_its_hosts_is_refused():
    shape = known("Qwen3-32B")
    deployment("TP4").check(shape)
    with pytest.raises(LayoutError) as caught:
        deployment("TP8").check(shape)
    assert caught.value.evidence == ("host0: 2", "host1: 2")
    assert deployment().notes(shape) == ()


def test_the_activity_is_the_furthest_step_reached():
    lines = [line for line, _ in START]
    activities = [vllm.activity("\n".join(lines[: number + 1])) for number in range(len(lines))]
    assert activities == [activity for _, activity in START]
    assert vllm.activity("") == "importing vLLM"


def test_it_listens_when_its_web_server_says_so():
    lines = [line for line, _ in START]
    assert vllm.listening("\n".join(lines))
    assert not vllm.listening("\n".join(lines[:-2]))
