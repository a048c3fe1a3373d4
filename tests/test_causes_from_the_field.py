"""What people met in the field, and variants of it: the exact words or code win, wherever they
stand, and what the same text shows decides between causes."""

import itertools

import pytest

from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.signatures import Signature, table

RANK = "(VllmWorker TP3 pid=911) ERROR 09-14 08:00:16 [multiproc_executor.py:596] "
TRANSPORT = (
    f"{RANK}        Transport init error. Reason: [Create][DestLink]Create Dest error! creakLink "
    "para:rank[7]-localUserrank[7]-localIpAddr[10.7.0.3], dst_rank[1]-remoteUserrank[1]-"
    "remote_ip_addr[10.7.0.3]"
)
QUEUE_PAIR = (
    "EI0007: [PID: 911] 2025-09-14-08:00:15.905.517 Failed to allocate resource[qp] with info "
    "[aicpu rank:7,deviceLogicId:3]. Reason: Memory resources are exhausted."
)
OLD_PACKAGE = (
    "[ERROR] HCCL(911,python3):2025-09-14-08:00:16.747.057 [adapter_hccp.cc:2286] [627]this package"
    " does not support hrtRaAiQpCreate for device, please change new package"
)


def diagnosed(*lines: str) -> tuple[str | None, str | None]:
    diagnosis = diagnose({"a": "\n".join(lines)})
    return diagnosis.signature, diagnosis.category


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        (f"{RANK}RuntimeError: {QUEUE_PAIR}", ("driver-lacks-queue-pairs", "driver")),
        (f"[PID: 9] 2025-09-14-08:00:15.905.517 Allocation_Failure(EI0007): {QUEUE_PAIR[46:]}",
         ("driver-lacks-queue-pairs", "driver")),
        (OLD_PACKAGE, ("driver-lacks-function", "driver")),
        (f"{RANK}RuntimeError: EI0007: [PID: 9] 2025-09-14-08:00:15.905.517 Failed to allocate "
         "resource[notify] with info [x]", ("hccl-resource-exhausted", "device")),
        (f"{RANK}RuntimeError: EI0007: [PID: 9] 2025-09-14-08:00:15.905.517 Failed to allocate "
         "resource[DeviceMemory] with info [size:8]", ("device-memory-allocation", "memory")),
        (f"{RANK}EI0007: [PID: 9] 2025-09-14-08:00:15.905.517 no", ("cann-EI0007", "device")),
        (f"{RANK}the driver says EL0014, so it ends", ("cann-EL0014", "driver")),
        (f"{RANK}aclrtSetDevice failed, ret[207007]", ("graph-resources",
         "configuration")),
    ],
)  # fmt: skip
def test_the_exact_words_or_code_win_over_a_weak_symptom_on_either_side(
    exact: str, expected: tuple[str, str]
) -> None:
    for lines in itertools.permutations((exact, TRANSPORT, f"{RANK}ValueError: and then")):
        assert diagnosed(*lines) == expected


def test_an_exact_code_wins_over_a_weak_symptom_on_the_same_line() -> None:
    line = f"{RANK}RuntimeError: EL0014: not supported. Transport init error. Reason: x"
    assert diagnosed(line) == ("cann-EL0014", "driver")


@pytest.mark.parametrize("letter", "123456789ACDEFGHIJKLNOPZ")
def test_a_generic_code_is_called_an_inner_error_and_names_no_part(letter: str) -> None:
    code = f"E{letter}9999"
    diagnosis = diagnose({"a": f"{code}[PID: 20301] 2026-09-04-10:12:31.110.004 ({code}):  Call x"})
    assert diagnosis.verdict == "symptom"
    assert "inner error, which any part of CANN may report" in diagnosis.cause.en
    assert "通用" in table().fixes["device"].zh or "内部错误" in diagnosis.cause.zh


@pytest.mark.parametrize("line", ["E19999: Inner Error!", "EZ9999: x", "error code is 500000"])
def test_a_generic_code_yields_to_whatever_says_more(line: str) -> None:
    for lines in itertools.permutations((line, f"{RANK}ValueError: the moon is full")):
        diagnosis = diagnose({"a": "\n".join(lines)})
        assert diagnosis.headline == "ValueError: the moon is full"


def test_memory_of_the_npu_is_full_also_where_the_workspace_asks_for_it() -> None:
    line = (
        "NPU out of memory. NPUWorkspaceAllocator tried to allocate 187.54 MiB(NPU 0; 60.96 GiB "
        "total capacity; 61.91 MiB free). If you want to reduce memory usage, take a try to set"
    )
    bar = " 40%|####      | 93/232 [01:26<02:09,  1.07it/s]"
    diagnosis = diagnose({"a": f"{bar}[rank0]:[E1104 11:00:17.000000 x.ts:444] {line}"})
    assert diagnosis.signature == "npu-out-of-memory"
    assert [detail.en for detail in diagnosis.details] == [
        "asked for 187.54 MiB on an NPU of 60.96 GiB",
        "61.91 MiB is free",
    ]


CONNECT = "E20260312 09:01:44.100001  4101 ascend_direct_transport.cpp:820] Failed to connect to "
KV_TRANSFER = {
    "argument": (
        (f"{CONNECT}target: 172.18.0.4:25482, status: 103900",
         f"{CONNECT}segment: 172.18.0.4:16584",
         "(EngineCore_DP0 pid=4077) ERROR 03-12 09:01:44 [mooncake_connector.py:419] Mooncake "
         "transfer failed for request cmpl-1"),
        "kv-connect-refused-argument", "to 172.18.0.4:25482",
    ),
    "general failure": (
        (f"{CONNECT}target: 10.9.0.12:20064, status: 503900, errmsg: E19999: Inner Error!",
         "E19999[PID: 20301] 2026-03-12-09:01:44.110.004 (E19999):  Call llm::HcclAdapter::"
         "GetInstance().HcclCommPrepare(c.comm, &config, c.timeout_sec) fail, ret: 0x13[FUNC:x]",
         "       Call status.error_code fail. Failed to check peer process ret status, error code"
         "[503900], err msg[], local engine:10.9.0.11:20006, remote engine:10.9.0.12:20064"),
        "kv-link-failed", "to 10.9.0.12:20064",
    ),
    "not supported": (
        (f"{CONNECT}target: 172.18.0.4:25482, status: 103905",
         "(EngineCore_DP0 pid=4) ERROR 03-12 09:01:44 [x.py:4] KV transfer timed out"),
        "hixl-103905", "to 172.18.0.4:25482",
    ),
    "cache is gone": (
        ("(EngineCore_DP0 pid=4) ERROR 03-12 09:01:44 [x.py:4] timeout waiting for kv of cmpl-1",
         "(EngineCore_DP0 pid=4) ERROR 03-12 09:01:45 [x.py:4] Failed to pull kv cache, link "
         "timeout, error code is LLMStatusCode.LLM_KV_CACHE_NOT_EXIST"),
        "kv-cache-gone", None,
    ),
    "only a timeout": (("RuntimeError: timeout waiting for kv",), "kv-transfer-slow", None),
    "queue pairs of RDMA": (
        ("E0729 05:04:30.527725 14093 rdma_endpoint.cpp:70] Failed to create QP: Cannot allocate "
         "memory [12]", "RuntimeError: Mooncake memory registration failed."),
        "rdma-resources-exhausted", None,
    ),
    "memory that is not registered": (
        ("RuntimeError: Mooncake memory registration failed.",), "kv-memory-not-registered", None,
    ),
    "a segment that the driver cannot register": (
        ("[ERROR] HCCL(4101,python3):2026-03-12-09:01:44.100.001 [m.cc:88] [4101]"
         "HcclCommRegGlobalMem fail ret:0x4",), "kv-segment-not-registered", None,
    ),
    "a segment of a size": (
        ("E0419 16:59:47.826516 19842 ascend_direct_transport.cpp:487] Register mem ret:503900.",
         "E0419 16:59:47.826553 19842 client_service.cpp:1521] register_local_memory_failed "
         "base=0x12e5c0000000 size=107374182400, error=-1"),
        "kv-segment-not-registered", "a segment of 100.0 GiB",
    ),
    "a segment on a driver that lacks the function": (
        ("E0419 16:59:47.826516 19842 ascend_direct_transport.cpp:487] Register mem ret:207000.",),
        "acl-207000", None,
    ),
    "the master": (
        ("E20251112 11:16:11.129853 56431 client.cpp:1431] mount_segment_to_master_failed base=0x1 "
         "size=6, error=RPC_FAIL",
         "ERROR 11-12 11:16:11 [mooncake_store.py:65] Initialize mooncake failed."),
        "mooncake-master-unreachable", None,
    ),
    "timeout": (
        ("E20260608 14:45:44.404089 342420 x.cpp:1107] Connect timeout to: 10.2.0.4:20033, you can",
         "E20260608 14:45:44.404292 342420 x.cpp:836] Transfer slice failed with status: 103902"),
        "kv-connect-failed", "to 10.2.0.4:20033",
    ),
    "link of LLM-DataDist": (
        ("RuntimeError: link_clusters failed, error code is LLMStatusCode.LLM_LINK_FAILED",),
        "llm-datadist-link-failed", None,
    ),
    "memory of LLM-DataDist": (
        ("LLMException: allocate_cache failed, error code is LLM_DEVICE_OUT_OF_MEMORY",),
        "hixl-LLM_DEVICE_OUT_OF_MEMORY", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "signature", "peer"), KV_TRANSFER.values(), ids=list(KV_TRANSFER)
)
def test_a_kv_transfer_that_fails_is_told_by_its_first_cause_with_the_peer(
    lines: tuple[str, ...], signature: str, peer: str | None
) -> None:
    for order in itertools.permutations(lines):
        diagnosis = diagnose({"a": "\n".join(order)})
        assert diagnosis.signature == signature
        assert peer is None or peer in [detail.en for detail in diagnosis.details]


@pytest.mark.parametrize(("number", "size", "fits"), [(12, 8, 4), (16, 6, 2), (27, 8, 1)])
def test_a_size_that_tensor_parallel_does_not_divide_comes_with_one_that_does(
    number: int, size: int, fits: int
) -> None:
    diagnosis = diagnose({"a": f"{RANK}AssertionError: {number} is not divisible by {size}"})
    assert diagnosis.category == "layout"
    assert f"--tensor-parallel-size {fits} divides both" in [each.en for each in diagnosis.details]


@pytest.mark.parametrize(
    "line",
    [
        "KeyError: <PlatformEnum.OOT: 6>",
        "ValueError: Failed to find a kernel that can implement the ScaledMM linear layer.",
        "NotImplementedError: No compressed-tensors compatible scheme was found.",
        "RuntimeError: call aclnnCast failed, not implemented for DT_FLOAT8_E4M3FN",
        "ValueError: fp8_e4m3 KV cache is not supported on this platform",
        "RuntimeError: Unsupported dtype torch.float8_e4m3fn for npu",
    ],
)
def test_a_format_that_the_chip_cannot_load_is_told(line: str) -> None:
    assert diagnose({"a": f"{RANK}{line}"}).category == "quantisation"


START = {
    "python: can't open file '/x/serve.py': [Errno 2] No such file or directory":
        "program-not-found",
    "bash: line 1: vllm: command not found": "program-not-found",
    'exec: "vllm": executable file not found in $PATH: unknown': "program-not-found",
    "/usr/bin/python3: No module named vllm": "package-missing",
    "ModuleNotFoundError: No module named 'msgspec'": "package-missing",
    "ImportError: cannot import name 'Foo' from 'transformers' (/x.py)": "name-not-importable",
    "AttributeError: module 'torch' has no attribute 'npu'": "name-not-importable",
    "SyntaxError: invalid syntax": "python-syntax",
    "IndentationError: unexpected indent": "python-syntax",
    "TypeError: unsupported operand type(s) for |: 'type' and 'NoneType'": "python-syntax",
    "ImportError: libGL.so.1: cannot open shared object file: No such file": "library-missing",
    "python: error while loading shared libraries: libhccl.so: cannot open shared object file: No "
    "such file or directory": "library-missing",
    "/lib/libc.so.6: version `GLIBC_2.34' not found (required by python)": "c-library-too-old",
    "ImportError: libstdc++.so.6: version `CXXABI_1.3.15' not found": "c-library-too-old",
    "vllm serve: error: unrecognized arguments: --tp": "flag-unknown",
    "api_server.py: error: argument --port: expected one argument": "flag-unknown",
    "Killed": "process-killed",
    "/x/start.sh: line 12:  4711 Killed                  vllm serve": "process-killed",
    "/x/start.sh：行 3: vllm：未找到命令": "program-not-found",
    "/x/start.sh: 行 3: 4711 已杀死               vllm serve": "process-killed",
    "段错误 (核心已转储)": "segmentation-fault",
    "free(): invalid pointer": "segmentation-fault",
    "docker: Error response from daemon: no such image": "container-not-started",
    "vllm.service: Main process exited, code=killed, status=9/KILL": "process-killed",
}  # fmt: skip


@pytest.mark.parametrize(("line", "row"), START.items(), ids=list(START))
def test_a_start_that_never_reached_the_engine_is_told(line: str, row: str) -> None:
    assert diagnosed(f"INFO:     all is well\n{line}\n")[0] == row


@pytest.mark.parametrize(
    "row", [row for row in table().signatures if row.kind == "root" and row.example]
)
def test_a_list_of_causes_is_called_closed_only_where_the_line_names_the_fault(
    row: Signature,
) -> None:
    notes = " ".join(note.en for note in diagnose({"a": row.example}).notes)
    assert ("there may be others" in notes) == bool(row.weak)


# What a shell printed beside the error

ERROR = "npu-smi: dcmi module initialize failed. ret is -8005"
ROOT, USER = "uid=0(root) gid=0(root) groups=0(root)", "uid=1001(me) gid=1001(me) groups=1001(me)"
FILES = ("davinci3", "davinci_manager", "devmm_svm", "hisi_hdc")


def listed(mode: str, owner: str) -> str:
    return "\n".join(f"{mode} 1 {owner} 236, 0 May  2 10:00 /dev/{each}" for each in FILES)


SHOWN = {
    "capabilities": (
        (ROOT, "CapEff: 0000000000000000", listed("crw-rw----", "1000 1000")),
        "capabilities-dropped",
    ),
    "capabilities, without id": (
        ("CapEff:\t00000000a80425f9", listed("crw-rw----", "1000 1000")), "capabilities-dropped",
    ),
    "capabilities are there": (
        (ROOT, "CapEff: 00000000a80425fb", listed("crw-rw----", "1000 1000")),
        "npu-held-by-another",
    ),
    "capabilities of capsh": (
        ("Current: =", "Bounding set =", listed("crw-rw----", "1000 1000")), "capabilities-dropped",
    ),
    "capabilities of capsh, named": (
        ("Current: cap_chown,cap_kill=ep", listed("crw-rw----", "1000 1000")),
        "capabilities-dropped",
    ),
    "capabilities of capsh, all but one": (
        ("Current: =ep cap_dac_override-ep", listed("crw-rw----", "1000 1000")),
        "capabilities-dropped",
    ),
    "capabilities of capsh, given in part": (
        ("Current: =e cap_kill+p cap_dac_override+ip", listed("crw-rw----", "1000 1000")),
        "npu-held-by-another",
    ),
    "capabilities of capsh are there": (
        ("Current: =ep cap_sys_admin-ep", listed("crw-rw----", "1000 1000")), "npu-held-by-another",
    ),
    "dropped by Docker": (('"CapAdd": null,', '"CapDrop": [', '    "ALL"', "],"),
                          "capabilities-dropped"),
    "dropped by Docker, on one line": (
        ('"CapDrop":["ALL"],', listed("crw-rw----", "1000 1000")), "capabilities-dropped",
    ),
    "dropped by Docker, and given": (
        ('"CapAdd": ["CAP_DAC_OVERRIDE"],', '"CapDrop": ["ALL"],', listed("crw-rw----", "7 7")),
        "npu-held-by-another",
    ),
    "dropped by Kubernetes": (("capabilities:", "  drop:", "  - ALL"), "capabilities-dropped"),
    "dropped by Kubernetes, and given": (
        ("  drop: [ALL]", "  add:", "  - DAC_OVERRIDE"), "npu-held-or-forbidden",
    ),
    "dropped by a flag": (("docker run --cap-drop=ALL --name x y",), "capabilities-dropped"),
    "dropped and given by flags": (
        ("docker run --cap-drop ALL --cap-add DAC_OVERRIDE x",), "npu-held-or-forbidden",
    ),
    "others are dropped": (('"CapDrop": ["CAP_NET_RAW"],',), "npu-held-or-forbidden"),
    "dropped, but the files are open": (
        ('"CapDrop": ["ALL"],', listed("crw-rw-rw-", "1000 1000")), "npu-held-by-another",
    ),
    "of root": (
        (ROOT, "CapEff: 0000000000000000", listed("crw-rw----", "root root")),
        "npu-held-by-another",
    ),
    "not in the group": ((USER, listed("crw-rw----", "root HwHiAiUser")), "device-files-closed"),
    "in the group": (
        (f"{USER},1002(HwHiAiUser)", listed("crw-rw----", "root HwHiAiUser")),
        "npu-held-by-another",
    ),
    "for all": ((USER, listed("crw-rw-rw-", "root root")), "npu-held-by-another"),
    "missing": (
        (ROOT, "ls: cannot access '/dev/davinci_manager': No such file or directory"),
        "device-files-missing",
    ),
    "unknown capabilities": ((ROOT, listed("crw-rw----", "1000 1000")), "npu-held-or-forbidden"),
    "nothing": ((), "npu-held-or-forbidden"),
}  # fmt: skip


@pytest.mark.parametrize(("shown", "signature"), SHOWN.values(), ids=list(SHOWN))
def test_what_a_shell_printed_decides_between_causes(
    shown: tuple[str, ...], signature: str
) -> None:
    for lines in ((*shown, ERROR), (ERROR, *shown)):
        assert diagnosed(*lines)[0] == signature
    assert diagnose({"a": ERROR, "b": "\n".join(shown)}).signature == signature


@pytest.mark.parametrize(
    "error",
    [
        "dcmi model initialized failed, because the device is used. ret is -8020",
        f"{RANK}RuntimeError: NPU function error: aclrtSetDevice, error code is 507899",
        f"{RANK}EL0015: The device access is invalid",
    ],
)
@pytest.mark.parametrize("beside", [ERROR, "INFO:     all is well"])
def test_capabilities_that_are_dropped_explain_whatever_the_driver_says(
    error: str, beside: str
) -> None:
    assert diagnosed(beside, error, *SHOWN["capabilities"][0])[0] == "capabilities-dropped"


def test_what_is_shown_is_evidence_for_it() -> None:
    diagnosis = diagnose({"a": "\n".join((*SHOWN["capabilities"][0], ERROR))})
    assert [detail.en for detail in diagnosis.details] == [
        "CapEff 0000000000000000; /dev/davinci3: crw-rw---- 1 1000 1000"
    ]
    dropped = diagnose({"a": "\n".join((*SHOWN["dropped by Docker"][0], ERROR))})
    assert [detail.en for detail in dropped.details] == ["--cap-drop ALL"]


NO_LIBRARY = (
    "ImportError: libascend_hal.so: cannot open shared object file: No such file or directory"
)


@pytest.mark.parametrize(
    ("shown", "error", "signature"),
    [
        ("ls: cannot access '/usr/local/Ascend/driver/lib64': No such file or directory",
         NO_LIBRARY, "driver-not-mounted"),
        ("ls: /usr/local/Ascend/driver: No such file or directory", NO_LIBRARY,
         "driver-not-mounted"),
        ("cat: /usr/local/Ascend/driver/version.info: No such file or directory", NO_LIBRARY,
         "driver-not-mounted"),
        ("ls: 无法访问 '/usr/local/Ascend/driver': 没有那个文件或目录", NO_LIBRARY,
         "driver-not-mounted"),
        ("/usr/local/Ascend/driver/lib64/driver/libascend_hal.so", NO_LIBRARY,
         "driver-library-not-found"),
        ("-r--r--r-- 1 root root 1867 Dec 1 10:00 libascend_hal.so", NO_LIBRARY,
         "driver-library-not-found"),
        ("ls: cannot access '/usr/local/Ascend/driver/tools/x': No such file or directory",
         NO_LIBRARY, "driver-library-missing"),
        ("ls: cannot access '/dev/davinci0': No such file or directory",
         "RuntimeError: Initialize: NPU function error: c10_npu::SetDevice(device_id_), "
         "error code is 507033", "device-files-missing"),
    ],
)  # fmt: skip
def test_what_a_shell_could_not_show_is_evidence_and_no_cause_of_its_own(
    shown: str, error: str, signature: str
) -> None:
    for lines in ((shown, error), (error, shown)):
        diagnosis = diagnose({"a": "\n".join(lines)})
        assert (diagnosis.signature, diagnosis.headline) == (signature, error)
        refined = signature != "driver-library-missing"
        assert bool(diagnosis.details) == refined
        assert bool(diagnosis.aside) != refined


def test_what_a_shell_could_not_show_is_told_where_nothing_else_is() -> None:
    shown = "ls: cannot access '/usr/local/Ascend/driver': No such file or directory"
    for beside in ("INFO:     all is well", "OSError: the moon is full"):
        assert diagnose({"a": f"{shown}\n{beside}"}).signature == "file-not-found"


def test_a_variable_that_the_cause_speaks_of_is_told_with_its_value_and_no_secret() -> None:
    lines = ("export HCCL_BUFFSIZE=200", "VLLM_API_KEY=secret", "HF_TOKEN=secret")
    diagnosis = diagnose(
        {"a": "\n".join((*lines, f"{RANK}RuntimeError: HCCL_BUFFSIZE is too SMALL"))}
    )
    assert [detail.en for detail in diagnosis.details] == ["HCCL_BUFFSIZE=200"]
    assert "secret" not in str(diagnosis)


@pytest.mark.parametrize("before", ["", "(Worker_TP3 pid=12) ERROR 11-30 10:00:00 [x.py:1] "])
def test_memory_of_the_npu_is_not_the_hosts_whatever_torch_calls_the_error(before: str) -> None:
    full = "torch.OutOfMemoryError: NPU out of memory. Tried to allocate 1.17 GiB (NPU 3; 60.96 GiB total capacity; 412.31 MiB free)"  # noqa: E501
    assert diagnose({"a": before + full}).signature == "npu-out-of-memory"
