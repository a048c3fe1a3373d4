"""A failure is found wherever it stands: behind progress bars, in wrappers, in other encodings."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from ropeway.cli.main import exit_code
from ropeway.diagnosis.decide import diagnose, diagnose_blocks
from ropeway.diagnosis.pieces import pieces
from ropeway.diagnosis.wrapped import unwrapped
from ropeway.launch.logs import lines_of

BAR = " 40%|####      | 93/232 [01:26<02:09,  1.07it/s]"
CALM = "INFO 12-15 11:45:12 [model.py:2679] loading"
UNKNOWN = {
    "level": "(Worker_TP0 pid=77) ERROR 11-04 11:00:18 [core.py:840] the moon is full",
    "exception": "RuntimeError: the moon is full",
    "torch": "[rank0]:[E1104 11:00:17.000000 compiler_depend.ts:444] the moon is full",
    "glog": "E20260312 09:01:44.100001  4101 store.cpp:820] the moon is full",
    "CANN": "[ERROR] HCCL(312,python3):2025-08-27-13:03:25.747.057 [a.cc:1] [6]the moon is full",
    "torch_npu": "[ERROR] 2025-06-25-10:45:23 (PID:7, Device:0, RankID:8) the moon is full",
}
# Ways to write a failure {} so that it may be missed.
SHAPES = {
    "behind a bar": BAR + "{}",
    "behind a bar and a blank": f"Capturing: {BAR} {{}}",
    "behind a bar without a total": "93it [01:26,  1.07it/s]{}",
    "behind a bar of another unit": "12%|#| 5.1G/40G [01:26<1:02:09, 1.07GB/s]{}",
    "behind a bar with figures": "40%|##| 4/9 [00:01<00:02, 1.2it/s, loss=0.1]{}",
    "behind a bar of rich": "Loading ━━━━━╸━━━ 40% 0:00:12{}",
    "behind a bar of rich without an end": "Loading ━━━━━╸━━━ 40% -:--:--{}",
    "behind a bar of pip": "   ━━━━╸━━━━ 460.0/1024.0 MB 5.1 MB/s eta 0:01:49{}",
    "behind a bar of an older pip": "  |████████        | 460.0 MB 5.1 MB/s eta 0:01:49 {}",
    "behind a bar of wget": "x 45%[===>   ]   1.20G  5.10MB/s    eta 2m 3s{}",
    "behind a bar of wget that ended": "x 100%[=======>]   1.20G  5.10MB/s    in 2m 3s {}",
    "behind a bar of wget that stalled": "x 45%[===>   ]   1.20G  --.-KB/s    eta 3h {}",
    "behind a bar of curl": " 45 1024M   45  460M    0     0  5100k      0  0:03:21  0:01:32 "
    " 0:01:49 5200k{}",
    "behind a short bar of curl": "##########                   45.2%{}",
    "behind a bar of docker pull": "a1b2c3d4e5f6: Extracting [=====>      ]  460MB/1.02GB{}",
    "behind a bar of modelscope": "Downloading [m.safetensors]:  45%|▌ | 1.9G/4.2G [05:12<06:20, "
    "6.64MB/s]{}",
    "behind a calm line with a percentage": f"{CALM} 45% 0:00:12{{}}",
    "behind two bars": BAR + BAR + "{}",
    "behind a calm line and a bar": f"{CALM} {BAR}{{}}",
    "error, then a bar": "{}\rLoading 2%",
    "bar, error, bar": "Loading 1%\r{}\rLoading 2%",
    "bars, errors between them, and colours": "\x1b[32mLoading 1%\x1b[0m\r{}\r\x1b[32m2%\x1b[0m\r",
    "carriage returns only": f"{CALM}\r{CALM}\r{{}}\r{CALM}\r",
    "written over by moves of the cursor": f"{CALM}\n\x1b[A\x1b[2K{{}}\x1b[1A{BAR}\x1b[1B",
    "behind backspaces": "10%\b\b\b20%\b\b\b{}\b\b\b30%",
    "after a calm line, written over": f"{CALM}\r{{}}\r{CALM}",
    "with Windows' ends of lines": f"{CALM}\r\n{{}}\r\n{CALM}\r\n",
    "told by Ray for all": "\x1b[36m(pid=9, ip=10.0.0.1)\x1b[0m {}\x1b[32m [repeated 3x across "
    "cluster]\x1b[0m (Ray deduplicates logs by default.)",
    "in Docker's file": '{{"log":{json},"stream":"stderr","time":"2025-12-15T11:45:16.1Z"}}',
    "with Docker's time": "2025-12-15T11:45:16.123456789Z {}",
    "from Docker Compose": "vllm-ascend-1  | {}",
    "from Kubernetes": "2025-12-15T11:45:16.123456789+08:00 stderr F {}",
    "from Kubernetes, in two parts": "2025-12-15T11:45:16.1+08:00 stderr P {half}\n"
    "2025-12-15T11:45:16.1+08:00 stdout F done\n2025-12-15T11:45:16.2+08:00 stderr F {rest}",
    "from Kubernetes, in JSON": '2025-12-15T11:45:16.1Z stderr F {{"log":{json},"stream":"x"}}',
    "from syslog": "<14>Nov 30 17:26:43 host1 python3[1234]: {}",
    "in JSON within JSON": '{{"log":{nested},"stream":"stderr"}}',
    "in JSON behind a bar": BAR + '{{"msg":{json}}}',
    "in JSON over several lines": '{{\n  "record": {{\n    "msg": {json}\n  }}\n}}',
    "as bytes of journald": '{{"PRIORITY":"6","MESSAGE":{bytes}}}',
    "as the error of a calm line": '{{"level":"info","msg":"x","error":{{"message":{json}}}}}',
    "as the exception of a calm line": '{{"level":"info","msg":"x","exc_info":["y",{json}]}}',
    "from kubectl": "[pod/vllm-0/engine] {}",
    "from journald": "Nov 30 17:26:43 host1 python3[1234]: {}",
    "from journald, with years": "2025-12-15T11:45:16+0800 host1 python3[1234]: {}",
    "from a file that was searched": "run/engine.log:17:{}",
}  # fmt: skip


def written(shape: str, failure: str) -> str:
    line = failure + "\n"
    return "\n".join(
        (
            CALM,
            shape.format(
                failure,
                half=failure[:40],
                rest=failure[40:],
                json=json.dumps(line),
                nested=json.dumps(json.dumps({"msg": line})),
                bytes=list(line.encode()),
            ),
            CALM,
            "",
        )
    )


@pytest.mark.parametrize("failure", UNKNOWN.values(), ids=list(UNKNOWN))
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_an_unknown_failure_is_seen_in_every_shape(shape: str, failure: str) -> None:
    text = written(shape, failure)
    diagnosis = diagnose({"a": text})
    assert diagnosis.verdict == "unknown"
    assert "the moon is full" in diagnosis.headline
    assert "%" not in diagnosis.headline
    assert diagnose_blocks([("a", [text[at : at + 7] for at in range(0, len(text), 7)])]) == (
        diagnosis
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_known_failure_is_seen_in_every_shape(shape: str) -> None:
    failure = "OSError: [Errno 28] No space left on device"
    assert diagnose({"a": written(shape, failure)}).signature == "disk-full"


def test_a_failure_among_ten_thousand_bars_is_seen() -> None:
    wide = "Loading " + "#" * 300
    bars = [
        f"{wide}{number / 100}% [00:{number % 60:02}<00:10, 1.2it/s]" for number in range(9_999)
    ]
    bars[7_000] += UNKNOWN["level"]
    for end in ("\r", "\n"):
        assert diagnose({"a": end.join(bars)}).headline == "the moon is full"


@pytest.mark.parametrize(
    "line",
    [
        "Error: the moon is full",
        "vllm: error: the moon is full",
        "podman: Error: the moon is full",
        "fatal: the moon is full",
        "panic: the moon is full",
        "[ERROR] the moon is full",
        "[2025-12-15 11:45:16] my.logger ERROR: the moon is full",
        "2024-07-19 14:32:27.123 | ERROR    | app:main:12 - the moon is full",
        "ERROR | the moon is full",
        "**ERROR** the moon is full",
        "[2025-11-24 22:27:20,620 E 7435 7435] (raylet) x.cc:361: the moon is full",
        'ts=1 level=error msg="the moon is full"',
        "Fatal Python error: the moon is full",
        "启动失败：the moon is full",
        "NPU function error: the moon is full, error code is 207099",
        "━━━╸ 1.2/3.4 MB eta 0:00:01ERROR: the moon is full",
        '{"level":"error","ts":"2025-12-15T11:45:16Z","msg":"the moon is full"}',
        '{"levelname": "ERROR", "message": "the moon is full"}',
        '{"textPayload":"the moon is full","severity":"ERROR"}',
        '{"jsonPayload":{"message":"the moon is full"},"severity":"EMERGENCY"}',
        '{"SeverityText":"ERROR","Body":"the moon is full"}',
        '{"severity_number":17,"body":{"stringValue":"the moon is full"}}',
        '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"severityNumber":17,"body":{"stringValue":'
        '"the moon is full"}}]}]}]}',
        '{"log.level":"error","message":"the moon is full"}',
        '{"log":{"level":"error"},"message":"the moon is full"}',
        '{"PRIORITY":"3","MESSAGE":"the moon is full"}',
        f'{{"PRIORITY":"3","MESSAGE":{list(b"the moon is full")}}}',
        '{"level":50,"time":1765799116123,"msg":"the moon is full"}',
        '{"levelno":40,"msg":"the moon is full"}',
        '{"log":"{\\"level\\":\\"error\\",\\"msg\\":\\"the moon is full\\"}\\n","time":"2025"}',
        '{\n  "level": "error",\n  "msg": "the moon is full"\n}',
        '{"level":"error","msg":"the moon is full","size":' + "9" * 5_000 + "}",
        'vllm-1  | {"level":"error","msg":"the moon is full"}',
        BAR + '{"level":"error","msg":"the moon is full"}',
        "<11>Nov 30 17:26:43 host1 python3[1]: the moon is full",
        "<11>1 2025-12-15T11:45:16Z host1 vllm 12 - - the moon is full",
        "<0>the moon is full",
        "Saving ━━━━━╸━━━ 40% 0:00:10 OSError: the moon is full",
        "host1: step 7: ValueError: the moon is full",
        "thread 'the moon is full' panicked at src/x.rs:12:5:",
        f"{BAR}thread 'the moon is full' (77) panicked at src/x.rs:12:5:",
        "x 45%[===>   ]   1.20G  5.10MB/s    eta 2m 3sERROR 404: the moon is full.",
        "ERROR 503: the moon is full.",
        "40/100 (eta 3m) vllm.foo.Bad: the moon is full",
        "40/100 (1.2GB/s, ETA: 3m) vllm.foo.Bad: the moon is full",
        "  + Exception Group Traceback (most recent call last):\n  |   File 'x.py', line 1, in f\n"
        "  | BaseExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n    | Traceback (most recent call last):\n"
        "    |   File 'x.py', line 2, in g\n    | ValueError: the moon is full\n",
        "⠋ Loading the modelValueError: the moon is full",
        "Loading, 3s leftRuntimeError: the moon is full",
        ".....ValueError: the moon is full",
        "Downloading x: 45.2% (1.9G/4.2G, 6.64MB/s, eta 6m20s)ValueError: the moon is full",
        " 40%|####      | 93/232 [01:26<02:09,  1.07it/s]错误：the moon is full",
        "Loading ━━━ 40% 0:00:12致命错误：the moon is full",
        " 40%|####      | 93/232 [01:26<02:09,  1.07it/s]Process EngineCore_DP0:\nTraceback (most "
        "recent call last):\n  File 'a.py', line 1, in run\n    x()\nValueError: the moon is full",
    ],
)
def test_a_failure_in_a_form_of_its_own_is_seen(line: str) -> None:
    diagnosis = diagnose({"a": f"{CALM}\n{line}\n"})
    assert diagnosis.verdict == "unknown"
    assert "the moon is full" in diagnosis.headline


# What Linux says of disks, hardware and itself, by the row that claims it.
KERNEL = {
    "disk-faulty": [
        "Buffer I/O error on dev sda1, logical block 0",
        "EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2: comm vllm: reading directory",
        "EXT4-fs (sda1): Remounting filesystem read-only",
        "XFS (sda1): Corruption of in-memory data detected.  Shutting down filesystem",
        'XFS (dm-0): metadata I/O error in "xfs_trans_read_buf_map" at daddr 0x1 len 8 error 5',
        "BTRFS error (device sda1): bdev /dev/sda1 errs: wr 1, rd 0, flush 0, corrupt 0, gen 0",
        "Aborting journal on device sda1-8.",
        "blk_update_request: I/O error, dev sda, sector 1",
        "critical medium error, dev sda, sector 1 op 0x0:(READ) flags 0x80700",
        "nvme nvme0: I/O 12 QID 3 timeout, reset controller",
        "nvme nvme0: I/O tag 9 (1009) opcode 0x2 (Read) QID 3 timeout, aborting req_op:READ(0)",
        "nvme nvme0: controller is down; will reset: CSTS=0xffffffff, PCI_STATUS=0xffff",
        "md/raid1:md0: Disk failure on sda1, disabling device.",
    ],
    "file-server-silent": ["nfs: server 10.0.0.1 not responding, still trying"],
    "host-kernel-failed": [
        "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [python3:4242]",
        "NMI watchdog: Watchdog detected hard LOCKUP on cpu 3",
        "Kernel panic - not syncing: Fatal exception",
        "Oops: 0002 [#1] SMP NOPTI",
        "Internal error: Oops: 96000004 [#1] SMP",
        "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "Unable to handle kernel paging request at virtual address ffff800011d3d000",
        "general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
        "rcu: INFO: rcu_sched self-detected stall on CPU",
        "INFO: rcu_sched detected stalls on CPUs/tasks:",
    ],
    "segmentation-fault": ["traps: python3[42] general protection fault ip:7f sp:7f error:0"],
    "kernel-hardware-error": [
        "pcieport 0000:00:01.0: AER: Uncorrected (Fatal) error received: 0000:01:00.0",
        "AER: Multiple Uncorrectable (Non-Fatal) error message received from 0002:01:00.0",
        "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0",
        "Internal error: synchronous external abort: 96000210 [#1] SMP",
    ],
    "task-blocked": ["INFO: task vllm:123 blocked for more than 120 seconds."],
    "host-out-of-memory": ["Memory cgroup out of memory: Killed process 4242 (vllm)"],
}
KERNEL_SHAPES = [
    "{}",
    "[  12.3] {}",
    "[   12.345678][  T123] {}",
    "[Tue Jan  1 00:00:00 2026] {}",
    "Nov 30 17:26:43 host1 kernel: {}",
    "<4>Nov 30 17:26:43 host1 kernel: [  12.345678] {}",
    "2025-12-15T11:45:16+0800 host1 kernel: {}",
]


@pytest.mark.parametrize("shape", KERNEL_SHAPES)
@pytest.mark.parametrize(
    ("line", "row"), [(line, row) for row, lines in KERNEL.items() for line in lines]
)
def test_what_the_kernel_says_is_known_behind_its_heads(line: str, row: str, shape: str) -> None:
    entry = json.dumps({"PRIORITY": "4", "_TRANSPORT": "kernel", "MESSAGE": line})
    for each in (shape.format(line), entry):
        assert diagnose({"a": f"{CALM}\n{each}\n{CALM}\n"}).signature == row


@pytest.mark.parametrize(
    "line",
    [
        "blk_update_request: I/O error, dev fd0, sector 0",
        "Buffer I/O error on dev sr0, logical block 0, async page read",
        "operation not supported error, dev sda, sector 1 op 0x3:(DISCARD)",
        "EXT4-fs (sda1): re-mounted. Opts: errors=remount-ro",
        "XFS (sda1): Ending clean mount",
        "nvme nvme0: 32/0/0 default/read/poll queues",
        "AER: Corrected error received: 0000:00:1c.0",
        "pcieport 0000:0c:00.0: AER: No uncorrectable error found. Continuing.",
        "EDAC MC0: 1 CE memory read error on CPU_SrcID#0_MC#0_Chan#0_DIMM#0",
        "Kernel command line: BOOT_IMAGE=/vmlinuz panic=10 oops=panic softlockup_panic=1",
    ],
)
def test_what_the_kernel_says_in_good_health_is_no_failure(line: str) -> None:
    for shape in KERNEL_SHAPES:
        assert diagnose({"a": f"{CALM}\n{shape.format(line)}\n"}).verdict == "healthy"


MANY = "9" * 5_000


@pytest.mark.parametrize(
    "line",
    [
        f'{{"PRIORITY": "{MANY}", "MESSAGE": "x"}}',
        f'{{"MESSAGE": [{MANY}, 65]}}',
        f'{{"level": {MANY}, "msg": "x"}}',
        f"vLLM API server version {MANY}.1.1",
        "torch.OutOfMemoryError: NPU out of memory. Tried to allocate 2.00 GiB (NPU 0; 1.2.3 GiB "
        "total capacity; 0.50 GiB free; 1.00 GiB reserved in total by PyTorch)",
        *(f"exited with code {MANY}", f"[rank{MANY}]: RuntimeError: x", f"<{MANY}>x"),
    ],
    ids=lambda line: line[:30],
)
def test_a_number_that_is_none_is_no_mistake_of_ours(line: str) -> None:
    diagnose({"a": f"{line}\nAssertionError: assert self.vllm_config\n"})


@pytest.mark.parametrize(
    "line",
    [
        "error: 0.0123",
        "errors: 0",
        "VLLM_LOGGING_LEVEL=ERROR",
        "loss 0.1, error 0.2",
        "{1}[Hardware Error]: event severity: corrected",
        "nfs: server 10.0.0.1 OK",
        "/x/y.py:12: UserWarning: could not load image: ImportError: libjpeg.so",
        '{"level":"info","msg":"no ERROR here"}',
        '{"level":30,"msg":"the moon is full"}',
        '{"msg":"the moon is full","error":null,"priority":0}',
        '{"PRIORITY":"6","MESSAGE":"the moon is full"}',
        '{\n  "level": "error",\n  "handlers": ["x"]\n}',
        f'{CALM} {{"level":"error","message":"the moon is full"}}',
        '2025-12-15 11:45:12 INFO [x] {"level":"error","message":"the moon is full"}',
        "<14>Nov 30 17:26:43 host1 python3[1]: the moon is full",
        f"{CALM}: the last ValueError: was mended",
    ],
)
def test_a_word_that_only_looks_like_a_failure_is_none(line: str) -> None:
    assert diagnose({"a": f"{line}\n"}).verdict == "healthy"


def test_a_trace_is_told_by_its_end_also_when_that_is_no_error_by_name() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 1, in run\n    next(it)\n'
    assert diagnose({"a": trace}).verdict == "unknown"
    diagnosis = diagnose({"a": f"{trace}mylib.Stopped: the moon is full\n"})
    assert diagnosis.headline == "mylib.Stopped: the moon is full"
    assert diagnosis.line is not None and diagnosis.line.number == 4


@pytest.mark.parametrize(
    "line",
    ["ERROR 12-15 11:45:12 [x.py:1] after 300s failed to reach the moon",
     "ERROR 12-15 11:45:12 [x.py:1] at 95% error correction failed",
     "2025-12-15 11:45:12 ERROR the moon is full, 40GB could not be had",
     "11:45:12 ERROR: the moon is full"],
)  # fmt: skip
def test_a_line_of_words_and_figures_is_no_bar(line: str) -> None:
    assert pieces(line) == [line]


@given(
    st.dictionaries(
        st.sampled_from(["msg", "log.level", "stringValue", "", "error", ".", "PRIORITY", "time"]),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["msg", ""]), inner),
        ),
    )
)
def test_any_object_is_read_without_a_mistake(document: dict[str, object]) -> None:
    assert all(isinstance(each, str) for each in unwrapped(json.dumps(document)))


@pytest.mark.parametrize(
    "piece", ["{", '{"', '{"a":', "{\n", "| ", "2025-1 stderr P x\n", "}", " F"]
)
def test_objects_and_parts_without_end_are_read_in_linear_time(piece: str) -> None:
    assert_linear(lambda text: diagnose({"a": f"{{\n{text}}}"}), piece)
    assert_linear(lambda text: unwrapped(f"{text}{{}}"), piece)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_a_log_saved_by_windows_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(f"{CALM}\r\n{UNKNOWN['level']}\r\n".encode(encoding) * 20_000)
    assert exit_code(["diagnose", str(path)]) == 1
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert exit_code(["diagnose", str(path)]) == 1


def test_what_stands_behind_a_bar_in_a_containers_log_keeps_its_time() -> None:
    text = "2025-12-15T11:45:16.1Z Loading 1%\rERROR x\n2025-12-15T11:45:17.1Z \x0bdone\n"
    assert [line.time[:19] for line in lines_of("host1", text)] == [
        "2025-12-15T11:45:16",
        "2025-12-15T11:45:17",
    ]
