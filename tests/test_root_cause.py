"""Why a start failed: the line of the engine's log that shows it, and the error made of it."""

import pytest

from ropeway.diagnosis.signatures import table
from ropeway.errors import HostError
from ropeway.launch.attempt import engine_failure, root_cause
from test_vllm_cpu import START


def test_a_good_start_has_no_root_cause():
    warning = (
        "(APIServer pid=1) WARNING 11-23 21:23:04 [system_utils.py:255] Found ulimit of 20000 and"
        " failed to automatically increase. This can cause errors like `OSError: [Errno 24]`."
        "\n(Worker pid=2) WARNING 11-23 21:23:05 [x.py:1] a larger batch may run out of memory"
    )
    assert root_cause({"engine.log": "\n".join([*(line for line, _ in START), warning])}) is None


# A failed start: the rank's own error first, then how each process above tells of it.
NESTED = """\
(EngineCore_DP0 pid=6903) INFO 10-09 01:31:14 [kv_cache_utils.py:864] GPU KV cache size: 3 tokens
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718] EngineCore failed to start.
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718] Traceback (most recent call last):
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718]   File "/v/core.py", line 709, in run
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718]     raise RuntimeError("no")
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718] ray.exceptions.RayTaskError(ValueError): x
(EngineCore pid=6903) ERROR 10-09 01:31:16 [core.py:718] ValueError: No available memory for KV
(EngineCore pid=6903) Process EngineCore:
(EngineCore pid=6903) ValueError: told again
(APIServer pid=6800) Traceback (most recent call last):
(APIServer pid=6800) RuntimeError: Engine core initialization failed. See root cause above. \
Failed core proc(s): {}
"""
# vLLM-CPU 0.32.0 without the pipeline fix: the core fails over the answer of a rank that failed.
LATE_RANK = """\
(EngineCore pid=3112) ERROR 11-23 23:56:25 [core.py:1512] KeyError: 'cmpl-aee5a620ae2113a7'
(APIServer pid=2868) ERROR 11-23 23:56:25 [async_llm.py:906] vllm.v1.engine.exceptions.\
EngineDeadError: EngineCore encountered an issue.
\x1b[36m(RayWorkerProc pid=9)\x1b[0m (Worker_PP1 pid=9) ERROR 11-23 23:56:25 [m.py:1063]     \
assert self.intermediate_tensors is not None
\x1b[36m(RayWorkerProc pid=9)\x1b[0m (Worker_PP1 pid=9) ERROR 11-23 23:56:25 [m.py:1063]     ^^^^^
\x1b[36m(RayWorkerProc pid=9)\x1b[0m (Worker_PP1 pid=9) ERROR 11-23 23:56:25 [m.py:1063] \
AssertionError
"""
LEFT_ALONE = """\
\x1b[36m(RayWorkerProc pid=9)\x1b[0m ConnectionError: a peer rank has gone
(EngineCore pid=3112) ValueError: no room
"""


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (NESTED, "ValueError: No available memory for KV"),
        (
            "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for"
            " ModelConfig\n(APIServer pid=1)   Value error, max_model_len (9999) is too long."
            " [type=value_error, input_value=ArgsKwargs((), {})]",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig:"
            " Value error, max_model_len (9999) is too long.",
        ),
        (LATE_RANK, "AssertionError: assert self.intermediate_tensors is not None"),
        (LEFT_ALONE, "ValueError: no room"),
        ("AssertionError", "AssertionError"),
        ("RuntimeError: Engine core initialization failed. See root cause above.", None),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", None),
        ("    raise ValueError('x')\nNoError here", None),
        ("", None),
    ],
)
def test_the_root_cause_is_the_earliest_real_error(log, cause):
    diagnosis = root_cause({"engine.log": log})
    assert (diagnosis.headline if diagnosis else None) == cause


ENDED = HostError("the engine ended while it was starting")
LOG = "/home/me/engine.log"
TOO_SMALL = "HCCL_BUFFSIZE is too SMALL, NEEDED_HCCL_BUFFSIZE(x) = 512MB"
WAITED = "The wait execution of the Notify register times out"


@pytest.mark.parametrize(
    ("line", "signature", "details"),
    [
        (f"RuntimeError: {TOO_SMALL}", "hccl-buffer-too-small", ["HCCL_BUFFSIZE=512"]),
        (f"RuntimeError: {WAITED}", "hccl-notify-timeout", []),
        ("ValueError: no room", None, []),
    ],
)
def test_the_error_of_a_start_has_the_cause_and_what_is_known_of_it(line, signature, details):
    cause = root_cause({"engine.log": line})
    assert cause is not None
    error = engine_failure(ENDED, cause, [LOG], None)
    assert line in error.what
    assert error.where == LOG
    assert error.evidence[-1] == ENDED.what
    assert error.hint is not None and LOG in error.hint
    assert len(error.evidence) == (1 if signature is None else 2 + len(details))
    if signature is None:
        assert len(error.hint.splitlines()) == 1
    else:
        row = table()[signature]
        assert error.evidence[0] == row.cause.en
        assert error.hint.startswith(row.fix.en)
        assert all(source in error.hint for source in cause.source)
    assert all(
        detail in evidence for detail, evidence in zip(details, error.evidence[1:], strict=False)
    )
