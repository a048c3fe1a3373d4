"""The table of failure signatures: every row is sound, and claims its own lines and no other's."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from ropeway.diagnosis.details import Value
from ropeway.diagnosis.log_lines import read_line
from ropeway.diagnosis.result import CATEGORIES, Basis
from ropeway.diagnosis.scan import CALM, scan
from ropeway.diagnosis.signatures import Kind, Signature, link_to, table

ROWS = table().signatures
WORDED = [row for row in ROWS if not row.after]
CHINESE = re.compile(r"[\u4e00-\u9fff]")


def claim(line: str) -> Signature | None:
    """The row that claims this line of a log."""
    [entry] = read_line(line)
    return table().claim(entry.message, entry.code, calm=entry.level in CALM)


def name_of(line: str) -> str | None:
    row = claim(line)
    return row.id if row else None


# Every row


@pytest.mark.parametrize("row", WORDED, ids=lambda row: row.id)
def test_a_row_claims_its_own_example_also_between_others(row: Signature) -> None:
    assert name_of(row.example) == row.id
    lines = ("INFO:     all is well", row.example, "INFO:     all is well")
    failures = scan("a.log", ["\n".join(lines)]).failures.values()
    assert [each.entry.line for each in failures if each.row == row] == [2]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_whole(row: Signature) -> None:
    assert row.kind in get_args(Kind)
    assert row.basis in get_args(Basis)
    assert row.category in CATEGORIES
    assert row.source
    assert bool(row.text or row.codes) != bool(row.after), "words of its own, or it refines others"
    for words in (row.cause, row.fix):
        assert words.en.strip() and not CHINESE.search(words.en)
        assert CHINESE.search(words.zh)
    for detail in row.details:
        for words in (detail.say.en, detail.say.zh):
            assert set(re.findall(r"\{(\w+)", words)) <= set(detail.find.groupindex)
        worded = re.search("[a-z]{3}", re.sub(r"\{.*?\}", "", detail.say.en))
        assert not worded or CHINESE.search(detail.say.zh)


def test_rows_refine_rows_and_codes_that_are_there() -> None:
    known = {row.id for row in ROWS} | {f"acl-{code}" for code in table().codes["acl"]}
    assert {name for row in ROWS for name in row.after} <= known


def test_a_fragment_or_a_code_stands_in_one_row_only() -> None:
    for taken in (
        [(text, row.pattern) for row in ROWS for text in row.text],
        [code for row in ROWS for code in row.codes],
    ):
        assert len(set(taken)) == len(taken)


def test_every_code_has_a_meaning_and_a_fix_for_its_kind() -> None:
    for codes in table().codes.values():
        for known in codes.values():
            assert known.kind in get_args(Kind)
            assert known.meaning.en and CHINESE.search(known.meaning.zh)
            assert known.category in table().fixes
    for fix in table().fixes.values():
        assert fix.en and CHINESE.search(fix.zh)


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("vllm-ascend#4051", "https://github.com/vllm-project/vllm-ascend/issues/4051"),
        ("vllm#15102", "https://github.com/vllm-project/vllm/issues/15102"),
        ("Ascend/pytorch#67", "https://github.com/Ascend/pytorch/issues/67"),
        ("https://docs.ray.io/", "https://docs.ray.io/"),
        ("Linux manual: mmap(2)", "Linux manual: mmap(2)"),
    ],
)
def test_a_source_is_something_to_open(source: str, link: str) -> None:
    assert link_to(source) == link


def test_no_repository_is_named_in_short_that_is_not_known() -> None:
    links = {link_to(source) for row in ROWS for source in row.source}
    assert not [link for link in links if re.match(r"https://github.com/[\w.-]+/issues/", link)]


# Other words, codes and patterns than those of a row's own example, and the row that claims them

LINES = {
    "ACL stream synchronize failed, error code:507014": "acl-507014",
    "MoeDistributeDispatchV2 do tiling failed": "moe-dispatch-shape",
    "HCCL function error: hcclCommInitRootInfoConfig(n), error code is 11": "hccl-init-failed",
    "host nic listen start failed, port[60000]": "hccl-host-port-taken",
    "[PID: 7] 2025-12-29-03:16:15.787.356 Bind_IP_Port(EI0019): no": "hccl-host-port-taken",
    "listen on ip[10.1.1.1] and specific port[16666] fail": "hccl-npu-port-taken",
    "port 65536 have already been bound": "hccl-npu-port-taken",
    "The HCCL execution timeout was set to never timeout": "hccl-never-timeout",
    "Cluster Exception Location[IP/ID]:[x], error code is 507048": "cluster-exception",
    "NPU function error: c10_npu::SetDevice(device), error code is 507033": "device-open-failed",
    "EL0003: The argument is invalid.": "cann-EL0003",
    "NPU function error: c10_npu::SetDevice(device), error code is 107001": "invalid-device-number",
    "Invalid device id": "invalid-device-number",
    "Waiting for creating a placement group of specs for 10 seconds.": "placement-group-waits",
    "Cannot provide a placement group of placement_group_specs=[]": "placement-group-waits",
    "Timed out waiting for engine core processes to start": "data-rank-missing",
    "raylet [exit code=1]": "ray-processes-ended",
    "System memory request exceeds memory available in /dev/shm": "shared-memory-too-small",
    "[W1009 13:45:18.4 socket.cpp:7] no name. Using the loopback address": "gloo-wrong-interface",
    "No available shared memory broadcast block found in 60 seconds.": "broadcast-wait",
    "Available memory: 0, total memory: 65452113920": "no-memory-for-kv-cache",
    "Available KV cache memory: -1.2 GiB": "kv-memory-negative",
    "stream wait event failed, runtime result = 207005": "graph-resources",
    "EL0009: Stream resources are insufficient": "graph-resources",
    "Alloc sq cq fail": "graph-resources",
    "KeyError: 'layers.3.mlp.experts.w13_weight'": "quantised-weight-missing",
    "ImportError: libmki.so: undefined symbol: _ZN3Mki6Logger": "torch-npu-does-not-fit",
    "NPU function error: at_npu::AclSetCompileopt(x), error code is 500001": "cann-not-initialised",
    "RuntimeError: Get ACL JitCompile default value failed": "cann-not-initialised",
    "[RanktablCheck] no": "npu-address-missing",
    "MLA only support {32, 64, 128}": "mla-head-ratio",
    "NPU function error: x, error code is 507034": "acl-507034",
    "NPU function error: x, error code is 507018": "acl-507018",
    "NPU function error: x, error code is 507899": "acl-507899",
    "E19000: Path [/x] is empty": "cann-E19000",
    "EH0013: aclInit failed. Reason: Standard function mmap failed. [Errno 12]": "cann-EH0013",
    "Transfer slice failed with status: 103905": "hixl-103905",
    "Failed to initialize Hixl, status: 103905": "hixl-103905",
    "Mooncake transfer failed, LLM_LINK_BUSY": "hixl-LLM_LINK_BUSY",
    "ibv_reg_mr failed: Cannot allocate memory": "rdma-resources-exhausted",
    "Failed to register memory 0x7: Resource temporarily unavailable [11]":
        "rdma-resources-exhausted",
    "Failed to register memory 0x7: Bad address [14]": "kv-memory-not-registered",
    "Mooncake Transfer Engine initialization failed.": "kv-transport-not-started",
    "ModuleNotFoundError: No module named 'mooncake'": "mooncake-missing",
    "AttributeError: 'TransferEngine' object has no attribute 'f'": "mooncake-version-differs",
    "AttributeError: module 'mooncake.engine' has no attribute 'F'": "mooncake-version-differs",
    "TypeError: setup(): incompatible function arguments. The": "mooncake-version-differs",
    "ImportError: cannot import name 'F' from 'mooncake.engine' (/x)": "mooncake-version-differs",
    "ModuleNotFoundError: No module named 'vllm_ascend.x'": "plugin-of-another-vllm",
    "RPC call failed: Connection timed out": "mooncake-master-unreachable",
    "ValueError: Unsupported kv_role: kv_x. Supported roles are": "kv-connector-unknown",
    "ValueError: Unknown quantization method: ascend. Must be one of": "plugin-missing",
    "ValueError: Invalid quantization method: ascend2": "quantisation-unknown",
    "ValueError: torch.bfloat16 is not supported for quantization method awq.":
        "dtype-of-quantisation",
    "ValueError: The output_size of gate's weight = 64 is not divisible by weight quantization "
    "block_n = 128.": "quantisation-block-not-divisible",
    "RuntimeError: EI0007: Failed to allocate resource[stream] with info [x]":
        "hccl-resource-exhausted",
    "RuntimeError: EI0007: Failed to allocate resource[HostMemory] with info [x]": "cann-EI0007",
    "RuntimeError: Failed to allocate resource[DeviceMemory] with info [size:8]":
        "device-memory-allocation",
    "safetensors_rust.SafetensorError: No such file or directory: /x": "file-not-found",
    "ImportError: tokenizers>=0.21,<0.22 is required for a normal functioning of this module, but "
    "found tokenizers==0.15.0.": "tokenizer-newer",
    "AttributeError: 'Qwen2TokenizerFast' object has no attribute 'x'": "name-not-importable",
    "ImportError: Foo requires the SentencePiece library but it was not found in your environment":
        "package-missing",
    "ValueError: numpy.dtype size changed, may indicate binary incompatibility": "numpy-two",
    "ValueError: Foo does not support LoRA yet.": "adapter-refused",
    "Loading lora a failed: No adapter found for /lora/a": "adapter-refused",
    "KeyError: \"Tool parser 'foo' not found.\"": "parser-unknown",
    "KeyError: 'invalid tool call parser: foo (chose from { hermes })'": "parser-unknown",
    "max_num_batched_tokens (2048) is smaller than max_model_len (4096).": "batched-tokens-too-few",
    "ValueError: Ray does not allocate any GPUs on the driver node": "node-without-npus",
    "Exception: Unable to connect to GCS (ray head) at 10.0.0.1:6379.": "ray-not-running",
    "(raylet) Warning: The following resource request cannot be scheduled right now: {'NPU': 1.0}.":
        "placement-group-waits",
    "[123.4] ascend: [drv_x] hbm ecc multi bit error": "hbm-error",
    "[123.4] ascend: device 3 heartbeat lost": "device-heartbeat-lost",
    "mce: [Hardware Error]: Machine check events logged": "kernel-hardware-error",
    "nfs: server 10.0.0.1 not responding, still trying": "file-server-silent",
    "[9.1] INFO: task python3:4242 blocked for more than 122 seconds.": "task-blocked",
    "[Errno 98] error while attempting to bind on address ('10.0.0.9', 8000): address already in "
    "use": "port-taken",
    "[Errno 99] error while attempting to bind on address ('10.0.0.9', 8000): cannot assign "
    "requested address": "address-not-here",
    "ERROR:    [Errno 13] error while attempting to bind on address ('0.0.0.0', 80): permission "
    "denied": "port-not-allowed",
    "zmq.error.ZMQError: Permission denied (addr='tcp://10.0.0.1:80')": "port-not-allowed",
    "me@host: Permission denied (keyboard-interactive).": "ssh-login-refused",
    "Permission denied, please try again.": "ssh-login-refused",
    "open /x: permission denied (mode 0600)": "permission-denied",
    "vllm.service: Main process exited, code=killed, status=9/KILL": "process-killed",
    "vllm.service: Control process exited, code=killed, status=9/KILL": "process-killed",
    "vllm.service: Main process exited, code=killed, status=15/TERM": "service-ended",
    "ExceptionGroup: x (2 sub-exceptions)": "exception-group",
    "ImportError: Numba needs Python 3.10 or greater. Got Python 3.9.": "numba-numpy",
    "RuntimeError: Bfloat16 is not supported on Ascend310P": "bfloat16-not-on-this-chip",
    "NotImplementedError: Unsupported quant type: W4A4_MXFP4": "quantisation-not-by-msmodelslim",
    "NotImplementedError: Currently, vLLM Ascend doesn't support W4A16 for linear.":
        "quantisation-not-by-msmodelslim",
    "ValueError: num_heads (12) must be divisible by tp_size (8)": "heads-not-divisible",
    "ValueError: No chat template available. Provide `chat_template` explicitly.":
        "chat-template-missing",
    "E1204 10:45:22.126 108700 transfer_metadata.cpp:74] Error from etcd client, etcd uri: x":
        "mooncake-metadata-unreachable",
    "Error: No available node types can fulfill resource request {'NPU': 16.0}.":
        "placement-group-waits",
}  # fmt: skip


@pytest.mark.parametrize(("line", "row"), LINES.items(), ids=list(LINES))
def test_a_line_that_is_known_has_its_row(line: str, row: str) -> None:
    assert name_of(line) == row
    failures = scan("a.log", [f"INFO:     all is well\n{line}\n"]).failures.values()
    assert [each.row and each.row.id for each in failures] == [row]


# Codes


@pytest.mark.parametrize(
    "code",
    [
        *(107001, 107002, 107022, 207001, 207005, 207008, 507010, 507011, 507013, 507014, 507015),
        *(507016, 507017, 507018, 507033, 507034, 507035, 507046, 507047, 507048, 507899),
        *(161002, 361001, 561002, 561003),
    ],
)
@pytest.mark.parametrize(
    "form",
    [
        "RuntimeError: x:1 NPU function error: aclF(), error code is {}",
        "call failed, runtime result = {}[FUNC:ReportCallError]",
        "Stream failed, error code:{}",
        "call failed, errorCode={}",
        "call failed, error no is {}",
        "call failed, errno:{}",
        "call failed, ret={}",
        "call failed, ret[{}]",
    ],
)
def test_a_code_of_acl_has_a_meaning_in_whatever_form_it_is_printed(code: int, form: str) -> None:
    line = form.format(code)
    row = claim(line)
    assert row is not None
    assert row.id == f"acl-{code}" or str(code) in row.codes or str(code) in "".join(row.text)
    assert [each.row for each in scan("a.log", [line]).failures.values()] == [row]


@pytest.mark.parametrize("code", range(1, 23))
def test_a_result_of_hccl_is_put_into_words(code: int) -> None:
    row = claim(f"RuntimeError: OPS function error: HcclAllreduce, error code is {code}")
    assert row is not None
    assert row.id == f"hccl-{code}"
    assert row.cause.en.startswith(f"HCCL code {code}: ")
    assert row.weak == 2


@pytest.mark.parametrize(
    "line",
    [
        "EI0099: [PID: 5] 2025-12-29-03:16:15.787.356 of which nothing is known",
        "EZ0501: of which nothing is known",
        "[PID: 5] 2025-12-29-03:16:15.787.356 Something(EL0777): of which nothing is known",
        "RuntimeError: EK0001: of which nothing is known",
        "E30099: of which nothing is known",
        "E19014: of which nothing is known",
    ],
)
def test_a_code_of_cann_says_at_least_which_part_speaks(line: str) -> None:
    row = claim(line)
    assert row is not None
    assert row.id.startswith("cann-E")
    assert row.basis == "code"


def test_weights_that_could_not_be_placed_are_not_called_damaged() -> None:
    assert claim("safetensors_rust.SafetensorError: device npu:0 is invalid") is None


@pytest.mark.parametrize(
    "line",
    [
        "exit code is 1",
        "error code is 0",
        "HTTP status code: 500",
        "port 507014 is open",
        "INFO 12-15 11:45:12 [x.py:1] error code is 507014",
        "EMPTY1: text",
        "text",
    ],
)
def test_a_number_that_is_no_code_says_nothing(line: str) -> None:
    assert claim(line) is None


# Which row claims a line that several fit


def test_the_longest_match_claims_a_line_whatever_the_order_of_rows() -> None:
    message = "HCCL_BUFFSIZE_EP is too SMALL"
    backwards = replace(table(), fragments=tuple(reversed(table().fragments)))
    assert table().claim(message) == backwards.claim(message) == table()["hccl-ep-buffer-too-small"]


def test_words_win_over_a_code_but_for_those_that_only_echo_it() -> None:
    assert name_of("EngineCore failed to start. error code is 507014") == "acl-507014"
    assert name_of("alloc device memory failed, error code is 507014") == "device-memory-allocation"
    assert name_of("The wait execution of the Notify register times out, error code is 507014") == (
        "hccl-notify-timeout"
    )


@pytest.mark.parametrize(
    ("value", "form", "printed"),
    [
        ("1073741824", "bytes", "1.0 GiB"),
        ("11", "hccl", table().codes["hccl"]["11"].meaning.en),
        ("11", "hccl-zh", table().codes["hccl"]["11"].meaning.zh),
        ("99", "hccl", "99"),
        ("?", "bytes", "?"),
        ("text", "", "text"),
    ],
)
def test_a_value_of_a_log_is_printed_as_it_is_asked_for(
    value: str, form: str, printed: str
) -> None:
    assert format(Value(value), form) == printed
