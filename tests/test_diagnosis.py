"""The diagnosis: which line of which log is the cause, over all ranks."""

import itertools
from dataclasses import replace

import pytest

from facts_recordings import text_of
from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import Aside, Diagnosis, LogLine, LogRead, Text
from ropeway.diagnosis.signatures import table
from test_logs import recorded

# What each recording is: verdict, signature, line, details. Checked by eye, from its text and from
# what was found out where it was reported.
KNOWN, SYMPTOM = "known", "symptom"
RECORDED = {
    "err_log_04": (
        SYMPTOM,
        "hccl-notify-timeout",
        2,
        "reported by rank 0 of 4",
        "operation AllReduce",
        "2 processes report it, the last 344 s after the first",
    ),
    "err_log_05": (
        SYMPTOM,
        "hccl-notify-timeout",
        8,
        "it waited for rank 3",
        "reported by rank 0 of 4",
        "operation AllReduce",
    ),
    "err_log_06": (KNOWN, "plugin-of-another-vllm", 1),
    "err_log_07": (
        KNOWN,
        "hccl-topology-timeout",
        1,
        "it waited 120 s",
        "no answer from 127.10.0.1, port 60000",
    ),
    "err_log_09": (KNOWN, "stale-process-on-npu", 2),
    "err_log_11": (
        KNOWN,
        "hccl-peer-silent",
        4,
        "it waited 120 s",
        "rank 27 (10.20.0.29) did not answer rank 0",
    ),
    "err_log_12": (
        KNOWN,
        "npu-out-of-memory",
        1,
        "asked for 260.00 MiB on an NPU of 28.50 GiB",
        "149.57 MiB is free; this process holds 10.28 GiB",
        "this process does not account for 18.1 GiB of the card: another one holds it",
    ),
    "err_log_14": (
        KNOWN,
        "device-memory-allocation",
        1,
        "asked for 30.0 GiB",
        "device 6 may be in use by another process",
    ),
    "err_log_15": (SYMPTOM, "hccl-notify-timeout", 5, "operation AllReduce"),
    "err_log_16": (
        KNOWN,
        "hccl-tls-differs",
        1,
        "on: 10.78.106.107/0",
        "off: 10.78.106.107/0",
    ),
    "err_log_17": (
        KNOWN,
        "npu-out-of-memory",
        1,
        "asked for 3.47 GiB on an NPU of 60.97 GiB",
        "1.66 GiB is free; this process holds 58.95 GiB",
    ),
    "err_log_20": (KNOWN, "cann-not-initialised", 7),
    "err_log_22": (KNOWN, "stale-process-on-npu", 3),
    "err_log_25": (
        KNOWN,
        "hccl-peer-silent",
        1,
        "it waited 130 s",
        "rank 8 (192.168.2.199) did not answer rank 10",
    ),
    "err_log_27": (
        KNOWN,
        "roce-retransmission",
        1,
        "status 12",
        "from 127.11.0.1 on 127.10.0.1",
        "to 127.11.0.2 on 127.10.0.2",
    ),
    "err_log_28": (KNOWN, "hccl-peer-silent", 3),
    "err_log_29": (SYMPTOM, "stream-sync-timeout", 2),
    "err_log_30": (KNOWN, "hccl-peer-silent", 3, "HCCL itself names no faulty rank"),
    "err_log_31": (SYMPTOM, "hccl-notify-timeout", 24),
    "err_log_32": (KNOWN, "hccl-npu-port-taken", 1, "192.168.20.160, port 16666"),
    "err_log_35": (KNOWN, "memory-copy-failed", 1, "device 0"),
    "err_log_36": (KNOWN, "context-missing", 5),
    "err_log_38": (KNOWN, "torch-port-taken", 2, "port 29500"),
    "err_log_40": (KNOWN, "device-memory-allocation", 5),
    "err_log_42": (SYMPTOM, "hccl-notify-timeout", 3),
    "err_log_43": (KNOWN, "too-many-device-processes", 10),
    "err_log_44": (KNOWN, "device-memory-allocation", 5),
    "err_log_45": (
        SYMPTOM,
        "hccl-notify-timeout",
        1,
        "reported by rank 6 of 8",
        "operation Broadcast",
    ),
    "err_log_46": (
        KNOWN,
        "hccl-peer-silent",
        1,
        "it waited 120 s",
        "HCCL found: 192.168.200.100 device 1 cannot reach 192.168.200.100 device 0",
        "rank 0 (192.0.2.199) did not answer rank 1",
    ),
    "startup_log_07": (SYMPTOM, "engine-core-failed", 19),
    "startup_log_13": (SYMPTOM, "engine-core-failed", 7),
}


@pytest.mark.parametrize("name", recorded())
def test_a_recorded_log_has_its_diagnosis(name: str) -> None:
    found = diagnose({name: text_of(name)})
    if name not in RECORDED:
        assert found.verdict == "healthy"
        return
    assert found.line is not None
    details = tuple(detail.en for detail in found.details)
    assert (found.verdict, found.signature, found.line.number, *details) == RECORDED[name]
    assert found.line.log == name


def log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def named(logs: dict[str, str]) -> tuple[str | None, str, int]:
    """The signature, the log, and the line of the cause."""
    found = diagnose(logs)
    assert found.line is not None
    return found.signature, found.line.log, found.line.number


# A whole answer

FULL = log(
    "(APIServer pid=7) INFO 12-15 11:44:58 [api_server.py:1772] vLLM API server version 0.11.0",
    "(Worker_TP0 pid=12) ERROR 12-15 11:45:16 [worker.py:300] RuntimeError: NPU out of memory. "
    "Tried to allocate 2.00 GiB (NPU 0; 29.50 GiB total capacity; 8 GiB already allocated; "
    "2.21 GiB free; 8.50 GiB reserved in total by PyTorch)",
    "(Worker_TP0 pid=12) ERROR 12-15 11:45:16 [worker.py:301] a line of its own",
    "(EngineCore_DP0 pid=9) ERROR 12-15 11:45:18 [core.py:700] EngineCore failed to start.",
    "(EngineCore_DP0 pid=9) ERROR 12-15 11:45:18 [core.py:701] Exception: WorkerProc "
    "initialization failed due to an exception in a background process.",
)


def test_the_answer_is_whole() -> None:
    row, echo = table()["npu-out-of-memory"], table()["engine-core-failed"]
    text = (
        "RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 29.50 GiB total "
        "capacity; 8 GiB already allocated; 2.21 GiB free; 8.50 GiB reserved in total by PyTorch)"
    )
    line = LogLine("engine.log", 2, text, "12-15T11:45:16", "Worker_TP0", 12)
    core = LogLine(
        "engine.log", 4, "EngineCore failed to start.", "12-15T11:45:18", "EngineCore_DP0", 9
    )
    assert diagnose({"engine.log": FULL}) == Diagnosis(
        verdict="known",
        headline=text,
        line=line,
        signature="npu-out-of-memory",
        echo=False,
        category="memory",
        cause=row.cause,
        fix=row.fix,
        details=(
            Text("asked for 2.00 GiB on an NPU of 29.50 GiB", "申请 2.00 GiB，该 NPU 共 29.50 GiB"),
            Text(
                "2.21 GiB is free; this process holds 8.50 GiB",
                "剩余 2.21 GiB；本进程占用 8.50 GiB",
            ),
            Text(
                "this process does not account for 18.8 GiB of the card: another one holds it",
                "该卡有 18.8 GiB 不属于本进程，被其他进程占用",
            ),
        ),
        source=tuple(
            f"https://github.com/vllm-project/vllm-ascend/issues/{number}"
            for number in (1127, 7123, 1987, 19)
        ),
        versions=None,
        basis="recorded",
        evidence=(replace(line, number=3, text="a line of its own"),),
        aside=(Aside(core, 2, "engine-core-failed", echo.cause),),
        notes=(),
        logs=(LogRead("engine.log", 5, len(FULL), 3),),
    )


def test_a_log_without_errors_is_healthy_and_says_that_the_server_is_ready() -> None:
    text = log("INFO:     one", "INFO:     Application startup complete.")
    found = diagnose({"a.log": text})
    assert (found.verdict, found.signature, found.line, found.aside) == ("healthy", None, None, ())
    assert [note.en for note in found.notes] == ["the server says that it is ready: a.log:2"]
    assert found.logs == (LogRead("a.log", 2, len(text), 0),)
    assert diagnose({}).verdict == diagnose({"a.log": ""}).verdict == "healthy"


def test_an_error_nobody_knows_is_said_to_be_unknown_with_its_line() -> None:
    found = diagnose({"a.log": log("INFO:     one", "ValueError: the moon is full")})
    assert found.verdict == "unknown"
    assert found.line == LogLine("a.log", 2, "ValueError: the moon is full")
    assert (found.signature, found.category, found.source, found.basis) == (None, None, (), "none")
    assert found.cause.en == "Not known: no row of the failure table fits this line."


def test_a_line_that_is_only_of_level_error_is_better_than_none() -> None:
    plain = "ERROR 12-15 11:45:16 [x.py:1] the moon is full"
    found = diagnose({"a.log": log(plain)})
    assert (found.verdict, found.headline) == ("unknown", "the moon is full")
    assert named({"a.log": log(plain, "ValueError: no")}) == (None, "a.log", 2)


# What comes first, and what never does

ROOT = "RuntimeError: alloc device memory failed"
NEVER_A_CAUSE = [row.example for row in table().signatures if row.kind != "root" and not row.after]


@pytest.mark.parametrize("line", NEVER_A_CAUSE)
def test_a_line_that_follows_from_another_never_wins_over_it(line: str) -> None:
    for lines in ((line, ROOT), (ROOT, line)):
        found = diagnose({"a.log": log(*lines)})
        assert (found.signature, found.headline) == ("device-memory-allocation", ROOT)
    assert named({"a.log": log(line), "b.log": log("", "", ROOT)}) == (
        "device-memory-allocation",
        "b.log",
        3,
    )


@pytest.mark.parametrize("line", [row.example for row in table().signatures if row.kind == "noise"])
def test_noise_alone_is_no_failure(line: str) -> None:
    assert diagnose({"a.log": log(line)}).verdict == "healthy"


@pytest.mark.parametrize(
    "line", [row.example for row in table().signatures if row.kind in ("secondary", "echo")]
)
def test_with_nothing_but_what_follows_the_cause_is_said_to_be_elsewhere(line: str) -> None:
    found = diagnose({"a.log": log(line)})
    assert found.verdict == "symptom"
    assert found.notes[0].en.startswith(
        "The cause is in none of these logs: add those of the other"
    )


def core(clock: str, message: str) -> str:
    return f"(EngineCore pid=9) ERROR 12-15 {clock} [core.py:1] {message}"


def rank(number: int, clock: str, message: str, day: str = "12-15") -> str:
    return f"(Worker_TP{number} pid={number}) ERROR {day} {clock} [worker.py:1] {message}"


FULL_DISK = "OSError: [Errno 28] No space left on device"


def test_the_earliest_cause_over_all_logs_wins() -> None:
    logs = {
        "host1.log": log(rank(0, "11:45:30", ROOT)),
        "host2.log": log("", rank(1, "11:45:10", FULL_DISK)),
    }
    assert named(logs) == ("disk-full", "host2.log", 2)


def test_a_time_without_a_year_is_compared_with_one_that_has_it() -> None:
    plog = "[ERROR] DRV(1,python):2025-12-15-11:45:09.500.000 [a.c:1] alloc device memory failed"
    logs = {"engine.log": log(rank(0, "11:45:30", FULL_DISK)), "plog": log(plog)}
    assert named(logs) == ("device-memory-allocation", "plog", 1)


def test_within_a_moment_the_line_that_says_more_wins() -> None:
    silent = "RuntimeError: EI0006: Getting socket times out."
    soon = {"a": log(rank(0, "11:45:10", silent)), "b": log(rank(1, "11:45:11", ROOT))}
    late = {"a": log(rank(0, "11:45:10", silent)), "b": log(rank(1, "11:45:20", ROOT))}
    assert named(soon) == ("device-memory-allocation", "b", 1)
    assert named(late) == ("hccl-peer-silent", "a", 1)


def test_a_rank_is_heard_before_those_who_watch_it() -> None:
    mine, other = "ValueError: mine", "KeyError: 'other'"
    assert named({"a": log(core("11:45:10", other), rank(1, "11:45:11", mine))}) == (None, "a", 2)
    assert named({"a": log(core("11:45:10", other), rank(1, "11:45:19", mine))}) == (None, "a", 1)


def test_an_error_that_the_server_survived_is_no_cause() -> None:
    ready = "(APIServer pid=7) INFO:     Application startup complete."
    found = diagnose({"a.log": log(ROOT, ready)})
    assert found.verdict == "healthy"
    assert [(one.line.number, one.why.en) for one in found.aside] == [
        (1, "its process went on after it")
    ]
    assert named({"a.log": log(FULL_DISK, ready, ROOT)}) == ("device-memory-allocation", "a.log", 3)


def test_an_unknown_error_before_the_known_one_of_the_same_process_was_survived() -> None:
    lines = [rank(0, "11:45:01", "ValueError: optional"), rank(0, "11:45:30", ROOT)]
    assert named({"a": log(*lines)}) == ("device-memory-allocation", "a", 2)


ORDER = [
    rank(0, "11:45:20", "RuntimeError: EI0006: Getting socket times out."),
    rank(1, "11:45:10", ROOT),
    rank(2, "11:45:40", "RuntimeError: The wait execution of the Notify register times out"),
    core("11:45:41", "EngineCore failed to start."),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_the_order_of_ranks_and_of_logs_does_not_matter(order: tuple[int, ...]) -> None:
    merged = diagnose({"all.log": log(*(ORDER[each] for each in order))})
    assert (merged.signature, merged.headline) == ("device-memory-allocation", ROOT)
    apart = {f"rank{each}.log": log(ORDER[each]) for each in order}
    assert diagnose(apart) == diagnose(dict(sorted(apart.items())))
    assert named(apart) == ("device-memory-allocation", "rank1.log", 1)


# Several lines, several logs, together


def layout(text: str, failure: str, version: str = "0.11.0") -> str | None:
    line = f"INFO 12-15 11:44:58 [api_server.py:1] vLLM API server version {version}"
    return diagnose({"a": log(line, f"INFO:     {text}", failure)}).signature


PIPELINED = "non-default args: {'pipeline_parallel_size': 2, 'enable_expert_parallel': True}"


@pytest.mark.parametrize(
    ("text", "failure", "version", "expected"),
    [
        (PIPELINED, "RuntimeError: x, error code is 507014", "0.11.0", "mc2-with-pipeline"),
        (PIPELINED, "RuntimeError: x, error code is 507014", "0.12.0", "acl-507014"),
        (PIPELINED, "RuntimeError: x, error code is 507014", "0.10.1", "acl-507014"),
        (PIPELINED, "RuntimeError: HCCL_BUFFSIZE is too SMALL", "0.11.0", "hccl-buffer-too-small"),
        ("non-default args: {}", "RuntimeError: x, error code is 507014", "0.11.0", "acl-507014"),
        (
            "non-default args: {'pipeline_parallel_size': 1, 'enable_expert_parallel': True}",
            "RuntimeError: x, error code is 507014",
            "0.11.0",
            "acl-507014",
        ),
        (
            "non-default args: {'distributed_executor_backend': 'ray',"
            " 'enable_expert_parallel': True}",
            "EngineCore failed to start.",
            "0.11.0rc1",
            "ray-expert-start",
        ),
        (
            "args: {'nnodes': 2, 'enable_expert_parallel': True,"
            " 'compilation_config': {'cudagraph_mode': 'FULL_DECODE_ONLY'}} non-default args",
            "RuntimeError: The wait execution of the Notify register times out",
            "0.12.0",
            "graph-with-experts-hangs",
        ),
    ],
)
def test_a_bare_code_is_explained_by_the_layout_and_the_version(
    text: str, failure: str, version: str, expected: str
) -> None:
    assert layout(text, failure, version) == expected
