"""Lines of logs, in every format of engines, Ray, torch and CANN; and HCCL's tables of links."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from recorded import LOGS
from ropeway.diagnosis.links import Link, read_link
from ropeway.diagnosis.log_lines import (
    LONGEST_READ,
    LogEntry,
    ProcessTag,
    read_line,
    seconds_of,
)


def entry(message: str = "text", **fields: Any) -> LogEntry:
    return LogEntry(1, message, **fields)


def read_entries(text: str) -> Iterator[LogEntry]:
    """The entries of a whole log; blank lines have none."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        if line and not line.isspace():
            yield from read_line(line, number)


WORKER = ProcessTag("Worker_TP0", 545)
RAY = ProcessTag("RayWorkerWrapper", 545, "10.17.44.60")

# A line, and below it what is read from it besides the message `text`. A tag is name:pid:ip.
_HEADS = """\
# vLLM, of 2025 and after, and before
INFO 12-15 11:45:12 [model.py:2679] text
    time=12-15T11:45:12; level=INFO
WARNING 07-03 10:12:13 config.py:549] text
    time=07-03T10:12:13; level=WARNING
INFO:     text
    level=INFO
# processes, one inside the other
(EngineCore_DP0 pid=299) ERROR 12-15 11:45:16 [core.py:40] text
    time=12-15T11:45:16; level=ERROR; tags=EngineCore_DP0:299; pid=299
\x1b[36m(RayWorkerWrapper pid=545, ip=10.17.44.60)\x1b[0m (Worker_TP0 pid=545) text
    tags=RayWorkerWrapper:545:10.17.44.60 > Worker_TP0:545; pid=545; host=10.17.44.60
(VllmWorker TP0 pid=7) text
    tags=VllmWorker TP0:7; pid=7
(pid=7, ip=10.0.0.1) text
    tags=:7:10.0.0.1; pid=7; host=10.0.0.1
(raylet, ip=10.0.0.2) text
    tags=raylet::10.0.0.2; host=10.0.0.2
[rank1]: text
    rank=1
[rank12]:[E socket.cpp:472] [c10d] text
    level=ERROR; rank=12
# CANN
[ERROR] HCCL(7988,all_reduce_test):2025-03-19-04:16:13.978.979 [a.cc:625] [8211]text
    time=2025-03-19T04:16:13.978979; level=ERROR; pid=7988; module=HCCL
[EVENT] RUNTIME(7988,python3):2025-10-24-22:03:14.946.261 [engine.cc:1]8211 text
    time=2025-10-24T22:03:14.946261; level=EVENT; pid=7988; module=RUNTIME
[INFO] TDT(9,python):2025-10-24-22:03:14.946.261 [log.cpp:9][tid:12] text
    time=2025-10-24T22:03:14.946261; level=INFO; pid=9; module=TDT
EI0006: [PID: 749] 2025-04-08-18:07:20.444.436 text
    time=2025-04-08T18:07:20.444436; pid=749; code=EI0006
[PID: 749] 2025-12-29-03:16:15.787.356 Get_Socket_Timeout(EI0006): text
    time=2025-12-29T03:16:15.787356; pid=749; code=EI0006
# torch_npu; -1 is its word for what it does not know
[ERROR] 2025-06-25-10:45:23 (PID:13075, Device:0, RankID:8) ERR00100 text
    time=2025-06-25T10:45:23; level=ERROR; pid=13075; rank=8; code=ERR00100
[ERROR] 2025-06-25-10:45:23 (PID:-1, Device:-1, RankID:-1) ERR99999 text
    time=2025-06-25T10:45:23; level=ERROR; code=ERR99999
# torch and glog
[W623 13:45:18.430189590 compiler_depend.ts:79] text
    time=06-23T13:45:18.430189590; level=WARNING
I1215 11:46:21.793583   918 pybind_client.cpp:1218] text
    time=12-15T11:46:21.793583; level=INFO; pid=918
F20251215 11:46:21.793583   918 store.cpp:8] text
    time=2025-12-15T11:46:21.793583; level=FATAL; pid=918
# Ray
2026-11-23 21:23:14,131\tINFO worker.py:1841 -- text
    time=2026-11-23T21:23:14.131; level=INFO
[2025-11-24 22:27:20,620 C 7435 7435] (raylet) logging.cc:361: text
    time=2025-11-24T22:27:20.620; level=FATAL; pid=7435; module=raylet
# Python
2026-05-26 15:15:48,667 - INFO - text
    time=2026-05-26T15:15:48.667; level=INFO
2026-05-26 15:15:48,667 - ray.serve - ERROR - text
    time=2026-05-26T15:15:48.667; level=ERROR; module=ray.serve
2026-05-26 15:15:48,667 - ERROR - ray.serve - text
    time=2026-05-26T15:15:48.667; level=ERROR; module=ray.serve
2025-06-01 10:00:00,123 [INFO][sched.core][core.py:12] text
    time=2025-06-01T10:00:00.123; level=INFO; module=sched.core
[2025-03-26 11:49:01,311] [INFO] [logging.py:128:log_dist] [Rank 0] text
    time=2025-03-26T11:49:01.311; level=INFO; rank=0
01/31/2025 10:00:00 - WARNING - trainer.core - text
    time=2025-01-31T10:00:00; level=WARNING; module=trainer.core
WARNING:root:text
    level=WARNING; module=root
# Docker
2025-10-24T22:03:14Z text
    time=2025-10-24T22:03:14
time="2024-07-19T10:17:55+08:00" level=info msg="x"
    message=msg="x"; time=2024-07-19T10:17:55; level=INFO
# none
text
(see the manual) text
    message=(see the manual) text
[2026] text
    message=[2026] text
Error: no
    message=Error: no
"""


def heads() -> dict[str, LogEntry]:
    """Return the expected entry of each line."""
    fields: dict[str, dict[str, Any]] = {}
    for row in _HEADS.splitlines():
        if row.startswith("    "):
            pairs = (pair.partition("=") for pair in row.strip().split("; "))
            fields[list(fields)[-1]] |= {name: _value(name, text) for name, _, text in pairs}
        elif not row.startswith("# "):
            fields[row] = {}
    return {line: entry(**values) for line, values in fields.items()}


def _value(name: str, text: str) -> Any:
    if name != "tags":
        return int(text) if text.isdecimal() else text
    tags = ((*tag.split(":"), "", "")[:3] for tag in text.split(" > "))
    return tuple(ProcessTag(name or None, int(pid) if pid else None, ip or None)
                 for name, pid, ip in tags)  # fmt: skip


HEADS = heads()


@pytest.mark.parametrize(("line", "expected"), HEADS.items(), ids=list(HEADS))
def test_a_line_is_read_in_every_format(line: str, expected: LogEntry) -> None:
    assert read_line(line) == (expected,)


def test_the_process_of_a_line_is_the_innermost_that_has_a_name() -> None:
    tags = (RAY, WORKER, ProcessTag(None, 9))
    assert entry(tags=tags).process == "Worker_TP0"
    assert entry().process is None


def test_a_code_within_the_message_is_read_and_the_message_stays_whole() -> None:
    line = "RuntimeError: EJ0002: [PID: 38079] 2025-07-15-12:45:31.202.787 The port is down."
    expected = entry(line, time="2025-07-15T12:45:31.202787", pid=38079, code="EJ0002")
    assert read_line(line) == (expected,)


@pytest.mark.parametrize(
    "line",
    [
        "> INFO 12-15 11:45:12 [model.py:2679] text",
        ".INFO 12-15 11:45:12 [model.py:2679] text",
        "run-1/engine.log:17:INFO 12-15 11:45:12 [model.py:2679] text",
        "\x1b[32mINFO\x1b[0m 12-15 11:45:12 [model.py:2679] text",
        "    INFO 12-15 11:45:12 [model.py:2679] text  \r",
        "Loading:  10%\rINFO 12-15 11:45:12 [model.py:2679] text",
    ],
)
def test_what_people_and_terminals_add_is_left_out(line: str) -> None:
    assert read_line(line) == (next(iter(HEADS.values())),)


def test_a_pasted_log_is_read_with_the_numbers_of_its_lines() -> None:
    pasted = "\ufeff```text\r\nINFO:     one\r\n\r\n   \r\n(pid=7)\r\nINFO:     two\r\n```\r\n"
    entries = read_entries(pasted)
    assert [(each.line, each.message) for each in entries] == [(2, "one"), (6, "two")]


def shown(value: Any) -> Any:
    """Return an entry as its expectation is written: without None and empty tags."""
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items() if each not in (None, ())}
    return [shown(each) for each in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", LOGS.names())
def test_a_recorded_log_is_read_whole(name: str) -> None:
    entries = [shown(asdict(each)) for each in read_entries(LOGS.text_of(name))]
    assert entries == LOGS.expected_of(name)["entries"]


def test_every_recorded_log_is_listed_with_its_expectation() -> None:
    for ending in ("txt", "json"):
        assert {path.stem for path in LOGS.folder.glob(f"*.{ending}")} == set(LOGS.names())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "|  10.20.0.29(27) |  10.20.0.2(0) |  server  | no connect | DISABLE |",
            Link("10.20.0.29", 27, 0, "no connect"),
        ),
        ("|  fe80::1%enp1(3) |  fe80::2%enp1(4) |", Link("fe80::1%enp1", 3, 4)),
        ("|  dest_ip(user_rank)  |   src_ip(user_rank)   |   MyRole   |   Status   |", None),
    ],
)
def test_a_row_of_hccls_table_of_links_is_read(row: str, expected: Link | None) -> None:
    assert read_link(entry(row)) == expected


def test_a_time_is_seconds_with_its_year_or_without() -> None:
    whole, next_year = (
        seconds_of(f"{year}-01-01T00:00:00", with_year=True) for year in (2025, 2026)
    )
    assert whole is not None and next_year is not None
    assert next_year - whole == 365 * 24 * 3600
    assert seconds_of("02-29T00:00:00", with_year=False) is not None, "a leap year's day is a day"
    assert seconds_of("2025-13-40T99:00:00", with_year=True) is None


@given(st.text() | st.lists(st.sampled_from(list(HEADS))).map(" ".join))
def test_any_text_is_read_without_a_mistake_and_heads_after_heads_too(text: str) -> None:
    assert all(each.message for each in read_entries(text))


@pytest.mark.parametrize(
    "piece", ["x", "(", "[", "E", "[ERROR] ", "(Worker pid=1) ", "1:", "\x1b[", "a."]
)
def test_a_megabyte_on_one_line_is_read_in_linear_time(piece: str) -> None:
    assert_linear(lambda text: list(read_entries(text)), piece, cut=LONGEST_READ)
