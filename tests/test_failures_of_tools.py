"""What other programs, runtimes and codes say of a failure is seen; served text is none."""

import pytest

from ropeway.diagnosis.decide import diagnose

CALM = "INFO 12-15 11:45:12 [model.py:2679] loading"
HEAD = "INFO 12-15 11:45:12 [x.py:1]"
FAILED = [
    "Task exception was never retrieved\nfuture: <Task finished exception=RuntimeError('boom')>",
    "Future exception was never retrieved",
    "Exception in callback _run()",
    "Exception in thread Thread-1 (run):",
    "Unhandled exception in thread started by <function f at 0x7f>",
    "Unhandled exception in event loop",
    "Uncaught exception: boom",
    "[HCCL] hcclCommInitRootInfo failed, return 4, HCCL_E_PTR",
    "hcclResult=HCCL_E_TIMEOUT at AllReduce",
    "HcclBroadcast: HCCL_E_NEVER_HEARD_OF",
    f"{HEAD} HcclAllReduce ret: 9 (HCCL_E_TIMEOUT)",
    "rtStreamSynchronize execute failed, reason=[...], retCode=0x7150050 , error 507018",
    f"{HEAD} aclrtMalloc ret=207001",
    "aclrtMalloc failed, error 207001",
    "(raylet) A worker died or was killed while executing a task by an unexpected system error.",
    "npm ERR! code ENOSPC\nnpm ERR! syscall write",
    "npm error code ENOSPC",
    "E: Sub-process /usr/bin/dpkg returned an error code (1)",
    "error[E0425]: cannot find value",
    "⠋ Loading model RuntimeError: odd thing nobody knows",
    "⠙ Loading model ERROR odd",
    "acme.errors.NpuGoneAway: device 3 went",
    "acme.exceptions.Gone",
    'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\nx.y.Quit',
    "ERROR 11-20 [nixl_connector.py:1] NIXL transfer failed: NIXL_ERR_REMOTE_DISCONNECT",
    "ERROR 11-20 something odd",
    "ERROR 11-20 10:11 something odd",
    "ERROR 2025-11-20 [x.py:1] something odd",
    "ERROR 2025-11-20 10:11:12 something odd",
    "CRITICAL 11-20 [x.py:1] something odd",
    "main exited with status 1",
    "[FAIL] step 2: device plugin",
    "✗ model check: bad magic",
    "✘ model check",
    "❌ model check",
    f"{HEAD} Engine is dead, shutting down",
    f"{HEAD} EngineCore died",
    f"{HEAD} Engine process died",
    f"{HEAD} rtStreamSynchronize retCode=507018",
    "main exited with signal 9",
    "killed by signal 11",
    "exited on signal 6",
    "error TS2304: Cannot find name",
    "FAIL tests/x.py",
    "not ok 1 - x",
    "ERR! code ENOSPC",
    "prompt: hello\nRuntimeError: the moon is full",
    '{"prompt": "hello", "error": "RuntimeError: the moon is full"}',
    'request failed {"user": "a"}: RuntimeError: the moon is full',
    "ERROR 12-15 11:45:12 [x.py:1] prompt: Segmentation fault (core dumped)",
]
FINE = [
    "mean abs error 0.001, rel error = 0.2%\nMSE error: 0.01",
    "Max error: 1e-5",
    "quantization error: 0.01 (mean), 0.2 (max)",
    "2025-11-20 INFO stderr: (empty)",
    "ERRORS: none",
    "Error: none",
    "Error: None",
    "error: null",
    "error: (none)",
    "Error: false",
    "Error code: 0",
    "failed: false",
    "no unhandled exception",
    "Uncaught exceptions: 0",
    "HcclAllReduce ret: 0 (HCCL_SUCCESS)",
    f"{HEAD} aclrtMalloc ret=0",
    f"{HEAD} if the engine is dead, restart it",
    "INFO 11-20 [x.py:1] all is well",
    "⠋ Loading model",
    "[PASS] step 2",
    "✓ model check",
    "prompt: Why is Segmentation fault (core dumped) printed?",
    "Prompt: 'a', Generated text: 'RuntimeError: NPU out of memory'",
    "Prompt: RuntimeError: NPU out of memory. Tried to allocate 2 GiB",
    "Generated text: ' ERROR: no'",
    "[assistant]: Segmentation fault means",
    "content: 'Segmentation fault'",
    "user: What does Segmentation fault mean?",
    '{"role":"user","content":"Why is Segmentation fault (core dumped) printed?"}',
    '{"model": "x", "prompt": "Why is Segmentation fault (core dumped) printed?"}',
    f"(APIServer pid=1) {HEAD} Received request cmpl-1: prompt: 'Engine is dead HCCL_E_TIMEOUT'",
    "trap 'echo ERROR >&2' ERR",
    "set -e; trap 'echo ERROR >&2' ERR",
    "+ trap 'echo ERROR >&2' ERR",
    '+ true || echo "FATAL: no"',
]


@pytest.mark.parametrize("line", FAILED)
def test_what_a_program_says_of_its_failure_is_never_health(line: str) -> None:
    for text in (line, f"{CALM}\n{line}\n{CALM}\n"):
        assert diagnose({"a": text}).verdict != "healthy"


@pytest.mark.parametrize("line", FINE)
def test_what_was_served_asked_or_measured_is_no_failure(line: str) -> None:
    assert diagnose({"a": f"{CALM}\n{line}\n{CALM}\n"}).verdict == "healthy"


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (
            "ValueError: fp8e4nv data type is not supported on this NPU",
            "quantisation-not-on-this-chip",
        ),
        (
            "ValueError: type fp8e5 not supported in this architecture",
            "quantisation-not-on-this-chip",
        ),
        (
            "NotImplementedError: Ascend quantization method mxfp4 is not supported by Atlas A2",
            "quantisation-method-not-on-this-chip",
        ),
        (
            "ValueError: GGUF model with architecture qwen3moe is not supported yet.",
            "gguf-not-read",
        ),
        ("nixlBackendError: NIXL_ERR_BACKEND", "nixl-failed"),
        ("ERROR 11-20 [x.py:1] NIXL transfer failed: NIXL_ERR_REMOTE_DISCONNECT", "nixl-failed"),
        (
            "E1120 10:11:12.000001  4101 engine.cpp:77] Failed to open segment 10.0.0.7:1",
            "kv-connect-failed",
        ),
        (
            "[2025-11-24 22:27:20,620 E 7435 7435] (raylet) node_manager.cc:3001: 1 Workers (tasks"
            " / actors) killed due to memory pressure (OOM)",
            "host-out-of-memory",
        ),
        ("process 4242 died with exitcode -9", "process-killed"),
        ("process 4242 died with exitcode -11", "service-ended"),
        ("HcclAllReduce ret: 9 (HCCL_E_TIMEOUT)", "hccl-9"),
        ("[HCCL] hcclCommInitRootInfo failed, return 4, HCCL_E_PTR", "hccl-2"),
        (f"{HEAD} aclrtMalloc ret=207001", "device-memory-allocation"),
        ("rtStreamSynchronize execute failed, reason=[...], error 507018", "acl-507018"),
    ],
)
def test_the_cause_is_named(line: str, row: str) -> None:
    assert diagnose({"a": line}).signature == row


def test_the_last_exception_of_a_chain_is_shown_too() -> None:
    frames = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    g()\n'
    between = "\nDuring handling of the above exception, another exception occurred:\n\n"
    diagnosis = diagnose({"a": f"{frames}KeyError: 'x'\n{between}{frames}x.y.Quit\n"})
    assert diagnosis.headline == "KeyError: 'x'"
    assert [each.line.text for each in diagnosis.aside] == ["x.y.Quit"]


def test_a_spinner_is_no_part_of_the_failure() -> None:
    assert diagnose({"a": "⠋ Loading model RuntimeError: odd"}).headline == "RuntimeError: odd"
