"""The logs of the engine and of CANN: what they say of a start, of throughput, of links."""

import csv
from typing import Any

import pytest

from facts_recordings import RECORDINGS, expected_of, shown, text_of
from ropeway.facts import logs
from ropeway.facts.catalogue import OUTPUTS, recognise
from ropeway.facts.log_lines import read_line
from ropeway.facts.logs import (
    EngineLog,
    HcclRank,
    HcclSetting,
    LevelCount,
    Link,
    Plog,
    ProcessStart,
    Throughput,
    parse_engine_log,
    parse_plog,
    read_link,
    read_throughput,
)
from test_engines import START


def recorded() -> list[str]:
    """The names of the recorded logs; INDEX-logs.tsv says where each is from."""
    with (RECORDINGS / "INDEX-logs.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row["file"].removesuffix(".txt") for row in rows]


@pytest.mark.parametrize("name", recorded())
def test_a_recorded_log_is_read_whole_and_known_for_what_it_is(name: str) -> None:
    text, expected = text_of(name), expected_of(name)
    output = next(each for each in OUTPUTS if each.name == expected["output"])
    assert shown(output, output.parse(text)) == expected
    assert recognise(text) is output


def test_every_recorded_log_is_listed() -> None:
    kinds = ("err_log_*.txt", "startup_log_*.txt", "throughput_log_*.txt")
    assert {path.stem for kind in kinds for path in RECORDINGS.glob(kind)} == set(recorded())


# A start


def engine_log(text: str) -> EngineLog:
    reading = parse_engine_log(text)
    assert reading.state == "ok"
    assert reading.value is not None
    return reading.value


def starts(text: str) -> tuple[ProcessStart, ...]:
    return engine_log(text).starts


WORKER = "(Worker_TP0 pid=12) INFO 12-15 11:45"
CORE = "(EngineCore_DP0 pid=9) INFO 12-15 11:45"
ON_NPUS = f"""\
INFO 12-15 11:44:50 [__init__.py:213] Platform plugin ascend is activated
(APIServer pid=7) INFO 12-15 11:44:58 [api_server.py:1772] vLLM API server version 0.11.0rc3
{CORE}:12 [core.py:77] Initializing a V1 LLM engine (v0.11.0rc3) with config: model='/m'
{WORKER}:13 [parallel_state.py:1208] rank 3 in world size 4 is assigned as DP rank 1, PP rank 0, \
TP rank 1, EP rank 3
{WORKER}:14 [model_runner_v1.py:2679] Starting to load model /models/Qwen3-8B...
{WORKER}:15 [layer.py:1052] [EP Rank 3/4] Expert parallelism is enabled. Local/global number of \
experts: 32/128. Experts local to global index map: 0->96
{WORKER}:16 [default_loader.py:268] Loading weights took 7.06 seconds
{WORKER}:17 [model_runner_v1.py:2704] Loading model weights took 15.3023 GB
{WORKER}:20 [worker_v1.py:218] Available memory: 38921879961, total memory: 65452113920
{CORE}:21 [kv_cache_utils.py:1087] GPU KV cache size: 263,936 tokens
{CORE}:22 [kv_cache_utils.py:1091] Maximum concurrency for 40,960 tokens per request: 6.44x
{WORKER}:30 [model_runner_v1.py:3000] Graph capturing finished in 12 secs, took 0.23 GiB
{CORE}:31 [core.py:210] init engine (profile, create kv cache, warmup model) took 17.05 seconds
(APIServer pid=7) INFO 12-15 11:45:32 [api_server.py:2011] Starting vLLM API server 0 on \
http://0.0.0.0:8000
(APIServer pid=7) INFO:     Application startup complete.
"""


def test_the_milestones_of_a_start_on_npus_are_told_by_process() -> None:
    found = engine_log(ON_NPUS)
    assert (found.first_time, found.last_time) == ("12-15T11:44:50", "12-15T11:45:32")
    assert (found.version, found.plugin, found.url) == (
        "0.11.0rc3",
        "ascend",
        "http://0.0.0.0:8000",
    )
    assert (found.ready_line, found.failed_line) == (15, None)
    assert found.levels == (LevelCount("INFO", 15),)
    assert found.starts == (
        ProcessStart(
            "Worker_TP0",
            12,
            model="/models/Qwen3-8B",
            world_rank=3,
            world_size=4,
            dp_rank=1,
            pp_rank=0,
            tp_rank=1,
            ep_rank=3,
            ep_size=4,
            local_experts=32,
            global_experts=128,
            load_seconds=7.06,
            weights_gb=15.3023,
            available_memory_bytes=38_921_879_961,
            total_memory_bytes=65_452_113_920,
            capture_seconds=12.0,
            capture_gib=0.23,
        ),
        ProcessStart(
            "EngineCore_DP0",
            9,
            kv_cache_tokens=263_936,
            concurrency_tokens=40_960,
            concurrency=6.44,
            init_seconds=17.05,
        ),
    )


def test_the_start_of_a_newer_vllm_on_two_hosts_is_read() -> None:
    found = engine_log("\n".join(line for line, _ in START))
    assert (found.version, found.url, found.ready_line) == ("0.32.0", "http://127.0.0.1:8000", 14)
    assert found.starts == (
        ProcessStart("Worker_PP0_TP1_EP1", 5459, model="/models/moe"),
        ProcessStart("Worker_PP1_TP0_EP0", 5523, load_seconds=0.18),
        ProcessStart(
            "EngineCore",
            5331,
            kv_cache_tokens=139_776,
            concurrency_tokens=2048,
            concurrency=68.25,
            init_seconds=8.31,
        ),
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("# NPU blocks: 2093, # CPU blocks: 128", {"npu_blocks": 2093, "cpu_blocks": 128}),
        ("Available KV cache memory: -1.25 GiB", {"available_kv_gib": -1.25}),
        ("Model loading took 0.9 GiB and 3.2 seconds", {"weights_gb": 0.9}),
        ("torch.compile takes 18.6 s in total", {"compile_seconds": 18.6}),
        ("Overriding num_gpu_blocks=0; num_gpu_blocks is: 77", {"npu_blocks": 77}),
    ],
)
def test_what_other_versions_say_of_a_start_is_read(line: str, said: dict[str, Any]) -> None:
    assert starts(f"INFO 12-15 11:45:12 [worker.py:1] {line}") == (ProcessStart(**said),)


def test_a_failed_start_is_noted_with_its_line() -> None:
    found = engine_log(
        "INFO:     one\nERROR 12-15 11:45:12 [core.py:1] EngineCore failed to start."
    )
    assert (found.ready_line, found.failed_line) == (None, 2)
    assert found.levels == (LevelCount("ERROR", 1), LevelCount("INFO", 1))


# Throughput


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "INFO 12-15 11:46:22 [loggers.py:208] Engine 001: Avg prompt throughput: 13.6 tokens/s,"
            " Avg generation throughput: 0.1 tokens/s, Running: 2 reqs, Waiting: 1 reqs,"
            " GPU KV cache usage: 4.2%, Prefix cache hit rate: 50.0%",
            Throughput(1, "12-15T11:46:22", 1, 13.6, 0.1, 2, 1, 4.2, 50.0),
        ),
        (
            "INFO 03-14 08:00:00 metrics.py:455] Avg prompt throughput: 1.0 tokens/s, Avg"
            " generation throughput: 20.5 tokens/s, Running: 3 reqs, Swapped: 0 reqs, Pending:"
            " 4 reqs, GPU KV cache usage: 0.5%, CPU KV cache usage: 0.0%.",
            Throughput(1, "03-14T08:00:00", None, 1.0, 20.5, 3, 4, 0.5, None),
        ),
        (
            "Avg prompt throughput: 0.0 tokens/s, Avg generation throughput: 9 tokens/s",
            Throughput(1, None, None, 0.0, 9.0, None, None, None, None),
        ),
        ("Running: 2 reqs", None),
    ],
)
def test_a_line_of_throughput_is_read(line: str, expected: Throughput | None) -> None:
    [entry] = read_line(line)
    assert read_throughput(entry) == expected


# CANN


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "|  192.168.2.199(8)   |  16666  |   192.168.2.197(10)   |  0  |  client  | time out |",
            Link(1, "192.168.2.199", 8, "192.168.2.197", 10, 16666, 0, "client", "time out"),
        ),
        (
            "|  10.20.0.29(27) |  10.20.0.2(0) |  server  | no connect | DISABLE |",
            Link(
                1,
                "10.20.0.29",
                27,
                "10.20.0.2",
                0,
                role="server",
                status="no connect",
                tls="DISABLE",
            ),
        ),
        ("|  fe80::1%enp1(3) |  fe80::2%enp1(4) |", Link(1, "fe80::1%enp1", 3, "fe80::2%enp1", 4)),
        ("|  dest_ip(user_rank)  |   src_ip(user_rank)   |   MyRole   |   Status   |", None),
    ],
)
def test_a_row_of_hccls_table_of_links_is_read(row: str, expected: Link | None) -> None:
    [entry] = read_line(row)
    assert read_link(entry) == expected


def test_a_plog_tells_its_settings_its_ranks_and_who_wrote_it() -> None:
    head = "(69395,python3):2024-04-07-18:35:5"
    text = f"""\
[INFO] HCCL{head}3.327.288 [externalinput.cc:208][69395]HCCL_CONNECT_TIMEOUT set by environment \
to [600]s
[INFO] HCCL{head}3.327.289 [externalinput.cc:209][69395]HCCL_EXEC_TIMEOUT set by default to [1836]s
[INFO] HCCL{head}3.327.290 [topoinfo_detect.cc:208][69395][HCCL_TRACE]SetupAgent rankNum[4], \
rank[2], rootInfo identifier[10.0.0.1%eth0_60000_0_17], server[10.0.0.1%eth0], logicDevId[0], \
phydevId[6], deviceIp[192.168.10.9]
[ERROR] RUNTIME{head}4.000.000 [engine.cc:12]69400 ReportExceptProc:Task exception!
a line of something else
"""
    reading = parse_plog(text)
    assert reading.state == "ok"
    found = reading.value
    assert isinstance(found, Plog)
    assert (found.first_time, found.last_time) == (
        "2024-04-07T18:35:53.327288",
        "2024-04-07T18:35:54.000000",
    )
    assert (found.pids, found.modules) == ((69395,), ("HCCL", "RUNTIME"))
    assert found.levels == (LevelCount("ERROR", 1), LevelCount("INFO", 3), LevelCount(None, 1))
    assert found.settings == (
        HcclSetting("HCCL_CONNECT_TIMEOUT", "600s", "environment"),
        HcclSetting("HCCL_EXEC_TIMEOUT", "1836s", "default"),
    )
    assert found.ranks == (
        HcclRank(3, 2, 4, "10.0.0.1%eth0_60000_0_17", "10.0.0.1%eth0", 6, "192.168.10.9"),
    )
    assert found.links == ()
    assert [entry.line for entry in found.entries] == [1, 2, 3, 4, 5]


# What is none, and what is too much


@pytest.mark.parametrize("text", ["", " \n", "NPU 0: OK\n", "a\nb\n"])
def test_what_is_no_log_is_not_taken_for_one(text: str) -> None:
    assert parse_engine_log(text).state == "unknown"
    assert parse_plog(text).state == "unknown"
    assert all(output.recognise(text) == 0 for output in logs.OUTPUTS)


def test_a_log_of_vllm_is_no_plog() -> None:
    assert parse_plog("\n".join(line for line, _ in START)).state == "unknown"


def test_a_long_log_is_read_as_far_as_its_size_allows_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_MOST_ENTRIES", 3)
    three = "INFO:     text\n" * 3
    assert parse_engine_log(three).state == "ok"
    cut = parse_engine_log(three + "INFO:     text\n")
    assert cut.state == "partial"
    assert cut.value is not None
    assert len(cut.value.entries) == 3
