"""The diagnosis: which line of which log is the cause, over all ranks."""

import itertools
from dataclasses import replace

import pytest

from recorded import LOGS
from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import Diagnosis, LogLine, LogRead, RuledOut
from ropeway.diagnosis.signatures import table


@pytest.mark.parametrize("name", LOGS.names())
def test_a_recorded_log_has_its_diagnosis(name: str) -> None:
    expected = LOGS.expected_of(name)["diagnosis"]
    diagnosis = diagnose({name: LOGS.text_of(name)})
    if expected["verdict"] == "healthy":
        assert (diagnosis.verdict, diagnosis.line) == ("healthy", None)
        return
    assert diagnosis.line is not None
    assert diagnosis.line.log == name
    assert expected == {
        "verdict": diagnosis.verdict,
        "signature": diagnosis.signature,
        "line": diagnosis.line.number,
        "details": [detail.en for detail in diagnosis.details],
    }


def log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def named(logs: dict[str, str]) -> tuple[str | None, str, int]:
    """The signature, the log, and the line of the cause."""
    diagnosis = diagnose(logs)
    assert diagnosis.line is not None
    return diagnosis.signature, diagnosis.line.log, diagnosis.line.number


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
    text = FULL.splitlines()[1].partition("[worker.py:300] ")[2]
    line = LogLine("engine.log", 2, text, "12-15T11:45:16", "Worker_TP0", 12)
    core = LogLine(
        "engine.log", 4, "EngineCore failed to start.", "12-15T11:45:18", "EngineCore_DP0", 9
    )
    diagnosis = diagnose({"engine.log": FULL})
    details = diagnosis.details
    assert ["2.00 GiB" in details[0].zh, "2.21 GiB" in details[1].zh] == [True, True]
    assert "does not account for 18.8 GiB" in details[2].en
    assert diagnosis == Diagnosis(
        verdict="known",
        headline=text,
        line=line,
        signature="npu-out-of-memory",
        echo=False,
        category="memory",
        cause=row.cause,
        fix=row.fix,
        details=details,
        source=tuple(
            f"https://github.com/vllm-project/vllm-ascend/issues/{number}"
            for number in (1127, 7123, 1987, 19, 4678)
        ),
        versions=None,
        basis="recorded",
        evidence=(replace(line, number=3, text="a line of its own"),),
        aside=(RuledOut(core, 2, "engine-core-failed", echo.cause),),
        notes=(),
        logs=(LogRead("engine.log", 5, len(FULL), 3),),
    )


def test_nothing_is_healthy() -> None:
    assert diagnose({}).verdict == diagnose({"a.log": ""}).verdict == "healthy"


def test_a_line_that_is_only_of_level_error_is_better_than_none() -> None:
    plain = "ERROR 12-15 11:45:16 [x.py:1] the moon is full"
    diagnosis = diagnose({"a.log": log(plain)})
    assert (diagnosis.verdict, diagnosis.headline) == ("unknown", "the moon is full")
    assert named({"a.log": log(plain, "ValueError: no")}) == (None, "a.log", 2)


# What comes first, and what never does

ROOT = "RuntimeError: alloc device memory failed"
NEVER_A_CAUSE = [row.example for row in table().signatures if row.kind != "root" and not row.after]


@pytest.mark.parametrize("line", NEVER_A_CAUSE)
def test_a_line_that_follows_from_another_never_wins_over_it(line: str) -> None:
    for lines in ((line, ROOT), (ROOT, line)):
        diagnosis = diagnose({"a.log": log(*lines)})
        assert (diagnosis.signature, diagnosis.headline) == ("device-memory-allocation", ROOT)
    assert named({"a.log": log(line), "b.log": log("", "", ROOT)}) == (
        "device-memory-allocation",
        "b.log",
        3,
    )


@pytest.mark.parametrize("line", [row.example for row in table().signatures if row.kind == "noise"])
def test_noise_alone_is_not_a_failure(line: str) -> None:
    assert diagnose({"a.log": log(line)}).verdict == "healthy"


@pytest.mark.parametrize(
    "line", [row.example for row in table().signatures if row.kind in ("secondary", "echo")]
)
def test_with_only_consequences_the_cause_is_elsewhere(line: str) -> None:
    diagnosis = diagnose({"a.log": log(line)})
    assert diagnosis.verdict == "symptom"
    assert "in none of these logs" in diagnosis.notes[0].en


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


def test_an_error_that_the_server_survived_is_not_the_cause() -> None:
    ready = "(APIServer pid=7) INFO:     Application startup complete."
    diagnosis = diagnose({"a.log": log(ROOT, ready)})
    assert diagnosis.verdict == "healthy"
    [ruled_out] = diagnosis.aside
    assert (ruled_out.line.number, ruled_out.signature) == (1, "device-memory-allocation")
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


EXPERTS = "'enable_expert_parallel': True"
PIPELINED = f"non-default args: {{'pipeline_parallel_size': 2, {EXPERTS}}}"
ONE_STAGE = f"non-default args: {{'pipeline_parallel_size': 1, {EXPERTS}}}"
WITH_RAY = f"non-default args: {{'distributed_executor_backend': 'ray', {EXPERTS}}}"
TWO_HOSTS = (
    f"args: {{'nnodes': 2, {EXPERTS}, 'compilation_config':"
    " {'cudagraph_mode': 'FULL_DECODE_ONLY'}} non-default args"
)
CODE = "RuntimeError: x, error code is 507014"
WAITED = "RuntimeError: The wait execution of the Notify register times out"


@pytest.mark.parametrize(
    ("text", "failure", "version", "expected"),
    [
        (PIPELINED, CODE, "0.11.0", "mc2-with-pipeline"),
        (PIPELINED, CODE, "0.12.0", "acl-507014"),
        (PIPELINED, CODE, "0.10.1", "acl-507014"),
        (PIPELINED, "RuntimeError: HCCL_BUFFSIZE is too SMALL", "0.11.0", "hccl-buffer-too-small"),
        ("non-default args: {}", CODE, "0.11.0", "acl-507014"),
        (ONE_STAGE, CODE, "0.11.0", "acl-507014"),
        (WITH_RAY, "EngineCore failed to start.", "0.11.0rc1", "ray-expert-start"),
        (TWO_HOSTS, WAITED, "0.12.0", "graph-with-experts-hangs"),
    ],
)
def test_a_bare_code_is_explained_by_the_layout_and_the_version(
    text: str, failure: str, version: str, expected: str
) -> None:
    line = f"INFO 12-15 11:44:58 [api_server.py:1] vLLM API server version {version}"
    assert named({"a": log(line, f"INFO:     {text}", failure)}) == (expected, "a", 3)
