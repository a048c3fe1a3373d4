"""Engines: the whole command line of each layout, and what a log says to who waits."""

import pytest

from ropeway.engines import vllm, vllm_cpu
from ropeway.engines.base import Deployment, Node, Probe
from ropeway.engines.catalogue import engine_named
from ropeway.errors import Exit, Refused
from ropeway.spec.model import Layout, Serve

PYTHON = "/opt/venv/bin/python3"


def deployment(layout: str = "TP1", npus: int = 2, hosts: int = 2, **serve) -> Deployment:
    return Deployment(
        service="ropeway",
        nodes=tuple(
            Node(f"host{number}", f"127.0.0.{number + 2}", npus) for number in range(hosts)
        ),
        model="/models/moe",
        served_name="moe",
        layout=Layout.parse(layout),
        serve=Serve(**serve),
        context=2048,
        kv_cache=2**30,
        python=PYTHON,
        scratch="/tmp/rw-1000-ropeway",
        logs="/home/me/runs/1-up",
        ray_port=6379,
        threads=1,
    )


DP2 = (
    "--data-parallel-size 2 --data-parallel-size-local 1 --data-parallel-backend ray"
    " --data-parallel-address 127.0.0.2"
)


@pytest.mark.parametrize(
    ("layout", "flags"),
    [
        ("TP1", ""),
        ("TP2", "--tensor-parallel-size 2 --distributed-executor-backend ray"),
        ("TP4", "--tensor-parallel-size 4 --distributed-executor-backend ray"),
        ("PP2", "--pipeline-parallel-size 2 --distributed-executor-backend ray"),
        (
            "TP2×PP2+EP",
            "--tensor-parallel-size 2 --pipeline-parallel-size 2 --enable-expert-parallel"
            " --distributed-executor-backend ray",
        ),
        ("DP2×TP2", f"--tensor-parallel-size 2 {DP2} --distributed-executor-backend ray"),
        (
            "DP2×TP2+EP",
            f"--tensor-parallel-size 2 {DP2} --enable-expert-parallel"
            " --distributed-executor-backend ray",
        ),
    ],
)
def test_the_whole_command_line_of_a_layout(layout, flags):
    expected = (
        f"{PYTHON} -m vllm.entrypoints.openai.api_server --model /models/moe"
        " --served-model-name moe --host 127.0.0.1 --port 8000 --max-model-len 2048 --dtype auto"
        f" {flags} --disable-uvicorn-access-log --enforce-eager --kv-cache-memory-bytes 1073741824"
    )
    command = vllm_cpu.serve(deployment(layout))
    assert list(command.argv) == expected.split()
    assert command.log == "/home/me/runs/1-up/engine.log"
    assert command.secrets == {}


@pytest.mark.parametrize(
    ("layout", "npus", "local"), [("DP4", 2, 2), ("DP4", 8, 4), ("DP2×TP4", 2, 1)]
)
def test_the_head_takes_as_many_whole_data_ranks_as_it_holds(layout, npus, local):
    flags = vllm.layout_flags(deployment(layout, npus, hosts=4))
    assert flags[flags.index("--data-parallel-size-local") + 1] == str(local)


def test_the_number_of_sequences_is_handed_on():
    argv = vllm_cpu.serve(deployment(max_sequences=32)).argv
    assert argv[argv.index("--max-num-seqs") + 1] == "32"
    assert "--max-num-seqs" not in vllm_cpu.serve(deployment()).argv


def test_the_users_own_flags_come_last_and_untouched():
    own = {"block-size": 64, "hf-overrides": {"a": [1]}, "async-scheduling": False}
    argv = vllm_cpu.serve(deployment(engine_args=own)).argv
    assert argv[-5:] == (
        "--block-size", "64", "--hf-overrides", '{"a": [1]}', "--no-async-scheduling",
    )  # fmt: skip


def test_the_key_goes_by_its_variable_only(monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cr3t")
    command = vllm_cpu.serve(deployment(api_key_env="MY_KEY"))
    assert command.secrets == {"VLLM_API_KEY": "MY_KEY"}
    assert "s3cr3t" not in repr(command)
    probe = Probe("http://127.0.0.1:8000/v1", "moe", "MY_KEY").command(PYTHON)
    assert probe.secrets == {"ROPEWAY_PROBE_KEY": "MY_KEY"}


def test_variables_are_the_hosts_own_and_the_users_win():
    plan = deployment("TP4", env={"OMP_NUM_THREADS": "7", "MINE": "x"})
    assert vllm_cpu.environment(plan, plan.nodes[1]) == {
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


def test_a_replica_holds_all_weights_and_its_ranks_share_them():
    weights = 800_000_000
    one = vllm_cpu.needs(deployment("TP1"), weights)
    four = vllm_cpu.needs(deployment("TP2×PP2"), weights)
    two = vllm_cpu.needs(deployment("DP2×TP2"), weights)
    wide = vllm_cpu.needs(deployment("TP1", dtype="float32"), weights)
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


def test_an_engine_that_cannot_be_started_is_refused():
    assert engine_named("vllm-cpu") is vllm_cpu
    with pytest.raises(Refused, match="cannot start `vllm-ascend` yet") as caught:
        engine_named("vllm-ascend")
    assert caught.value.evidence == ("it starts: vllm-cpu",)
    assert caught.value.exit_code == Exit.REFUSED


# The log of a start of TP2×PP2+EP with vLLM-CPU 0.32.0, cut to what matters, with what is
# expected after each line. The last line is one that Ray brought ten seconds late.
START = (
    ("Triton is installed, but doesn't include CPU backend. Disabling Triton.", "importing vLLM"),
    (
        "(APIServer pid=5114) INFO 11-23 21:23:04 [api_utils.py:286] non-default args: {}",
        "reading the model's config",
    ),
    (
        "(EngineCore pid=5331) INFO 11-23 21:23:14 [core.py:133] Initializing a V1 LLM engine"
        " (v0.32.0) with config: model='/models/moe'",
        "starting the engine core",
    ),
    (
        "2026-11-23 21:23:14,131\tINFO worker.py:1841 -- Connecting to existing Ray cluster at"
        " address: 127.0.0.2:6379...",
        "joining Ray",
    ),
    (
        "(EngineCore pid=5331) INFO 11-23 21:23:14 [ray_utils.py:607] No current placement group"
        " found. Creating a new placement group.",
        "placing ranks on the hosts",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5459, ip=127.0.0.3)\x1b[0m (Worker pid=5459) INFO 11-23"
        " 21:23:32 [parallel_state.py:1906] world_size=4 rank=1 local_rank=1 backend=gloo",
        "ranks meet",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5459)\x1b[0m (Worker_PP0_TP1_EP1 pid=5459) INFO 11-23 21:23:33"
        " [cpu_model_runner.py:68] Starting to load model /models/moe...",
        "loading weights",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5458)\x1b[0m Loading safetensors checkpoint shards:   0%"
        " Completed | 0/1 [00:00<?, ?it/s]",
        "loading weights, 0 %",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5458)\x1b[0m Loading safetensors checkpoint shards: 100%"
        " Completed | 1/1 [00:00<00:00,  5.84it/s]",
        "loading weights, 100 %",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5523)\x1b[0m (Worker_PP1_TP0_EP0 pid=5523) INFO 11-23 21:23:33"
        " [default_loader.py:501] Loading weights took 0.18 seconds",
        "weights are loaded",
    ),
    (
        "(EngineCore pid=5331) INFO 11-23 21:23:41 [kv_cache_utils.py:2327] CPU KV cache size:"
        " 139,776 tokens, Maximum concurrency for 2,048 tokens per request: 68.25x",
        "KV cache: 139,776 tokens",
    ),
    (
        "(EngineCore pid=5331) INFO 11-23 21:23:44 [core.py:402] init engine (profile, create kv"
        " cache, warmup model) took 8.31 s",
        "warming up",
    ),
    (
        "(APIServer pid=5114) INFO 11-23 21:23:46 [entry.py:140] Starting vLLM server on"
        " http://127.0.0.1:8000",
        "opening the port",
    ),
    (
        "(APIServer pid=5114) INFO:     Application startup complete.",
        "waiting for the first token",
    ),
    (
        "\x1b[36m(RayWorkerProc pid=5533)\x1b[0m (Worker pid=5533) INFO 11-23 21:23:33"
        " [parallel_state.py:1906] world_size=4 rank=3 backend=gloo [repeated 7x across cluster]",
        "waiting for the first token",
    ),
)


def test_the_activity_is_the_furthest_step_reached():
    lines = [line for line, _ in START]
    told = [vllm.activity("\n".join(lines[: number + 1])) for number in range(len(lines))]
    assert told == [words for _, words in START]
    assert vllm.activity("") == "importing vLLM"


def test_it_listens_when_its_web_server_says_so():
    lines = [line for line, _ in START]
    assert vllm.listening("\n".join(lines))
    assert not vllm.listening("\n".join(lines[:-2]))
