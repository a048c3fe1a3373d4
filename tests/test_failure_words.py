"""What the shell, libc, systemd, Docker and others print when something fails is never health, and
the tool's own words name the cause."""

import pytest

from linear import assert_linear
from ropeway.cli.main import exit_code
from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.scan import LONGEST_JUDGED

CALM = "INFO 12-15 11:45:12 [model.py:2679] loading"

KNOWN = {
    "program-not-found": [
        "sh: 1: vllm: not found",
        "/bin/sh: 1: vllm: not found",
        "/bin/sh: vllm: not found",
        "./start.sh: 3: vllm: not found",
        "dash: 12: ray: not found",
        "env: 'python3': No such file or directory",
        "/usr/bin/env: ‘python3’: No such file or directory",
        "nohup: failed to run command 'vllm': No such file or directory",
        "timeout: failed to run command ‘vllm’: No such file or directory",
        "xargs: vllm: No such file or directory",
        "-bash: vllm: command not found",
        "sudo: vllm: command not found",
        "zsh: command not found: vllm",
        "/usr/bin/vllm: 1: exec: python3: not found",
    ],
    "interpreter-not-found": [
        "bash: ./x: /usr/bin/python3.11: bad interpreter: No such file or directory",
        "-bash: ./start.sh: /bin/bash^M: bad interpreter: No such file or directory",
        "bash: ./start.sh: cannot execute: required file not found",
        "/usr/bin/env: ‘bash\\r’: No such file or directory",
        "/usr/bin/env: 'bash\r': No such file or directory",
        "exec /entrypoint.sh: no such file or directory",
        "standard_init_linux.go:228: exec user process caused: no such file or directory",
    ],
    "wrong-architecture": [
        "exec /usr/bin/python3: exec format error",
        'standard_init_linux.go:228: exec user process caused "exec format error"',
        "bash: ./vllm: cannot execute binary file: Exec format error",
        "no matching manifest for linux/arm64/v8 in the manifest list entries",
    ],
    "shell-script-wrong": [
        "bash: syntax error near unexpected token `newline'",
        "sh: 1: Syntax error: Unterminated quoted string",
        "start.sh: line 12: unexpected EOF while looking for matching `\"'",
        "start.sh: line 3: MODEL: unbound variable",
        "sh: 3: MODEL: parameter not set",
        "/entrypoint.sh: 5: source: not found",
        "/bin/sh: 1: set: Illegal option -o pipefail",
    ],
    "flag-unknown": [
        "vllm serve: error: unrecognized arguments: --modle",
        "error: unknown option --modle",
        "error: unexpected argument '--modle' found",
        "ls: unrecognized option '--modle'",
        "ls: invalid option -- 'W'",
        "unknown flag: --gpu",
        "unknown shorthand flag: 'x' in -x",
    ],
    "permission-denied": [
        "bash: ./start.sh: Permission denied",
        "sh: 1: ./start.sh: Permission denied",
        "vllm.service: Failed to execute command: Permission denied",
    ],
    "file-not-found": [
        "cat: /etc/hccn.conf: No such file or directory",
        "bash: cd: /x: No such file or directory",
        "sh: 1: cannot open /x/y: No such file",
        "/entrypoint.sh: 5: .: Can't open /usr/local/Ascend/set_env.sh",
        "Error: statfs /models: no such file or directory",
    ],
    "undefined-symbol": [
        "python3: symbol lookup error: /usr/lib/libfoo.so: undefined symbol: bar",
        "python3: relocation error: /lib/x.so: symbol y version GLIBC_2.34 not defined",
    ],
    "c-library-too-old": [
        "vllm: /lib/x86_64-linux-gnu/libc.so.6: version 'GLIBC_2.34' not found (required by vllm)",
    ],
    "static-tls-exhausted": [
        "ImportError: /lib/libgomp.so.1: cannot allocate memory in static TLS block",
    ],
    "python-home-wrong": [
        "Fatal Python error: init_fs_encoding: failed to get the Python codec of the filesystem",
        "ModuleNotFoundError: No module named 'encodings'",
        "Could not find platform independent libraries <prefix>",
    ],
    "segmentation-fault": [
        "Segmentation fault (core dumped)",
        "munmap_chunk(): invalid pointer",
        "realloc(): invalid next size",
        "corrupted double-linked list",
        "*** buffer overflow detected ***: terminated",
        "pure virtual method called",
        "[12345.678] python3[4242]: segfault at 0 ip 0000 sp 0000 error 4 in libc.so",
    ],
    "illegal-instruction": [
        "Illegal instruction",
        "Illegal instruction (core dumped)",
        "bash: line 1:  4242 Illegal instruction     (core dumped) vllm serve",
        "[12345.678] traps: python3[4242] trap invalid opcode ip:7f sp:7f error:0 in x.so",
    ],
    "terminated-by-exception": [
        "terminate called after throwing an instance of 'std::runtime_error'",
        "terminate called without an active exception",
        "Aborted",
        "Aborted (core dumped)",
        "bash: line 1:  4242 Aborted                 vllm serve",
    ],
    "process-killed": [
        "Terminated",
        "bash: line 1:  4242 Terminated              vllm serve",
        "[1]+  Killed                  vllm serve",
        "zsh: killed     vllm serve",
        "command terminated with exit code 137",
        "      Exit Code:    137",
        "the worker ended, returncode=-9",
        "vllm-1 exited with code 137",
        "Container exited with exit code 137",
        'docker inspect: "ExitCode": 137,',
        "vllm  Exited (137) 3 minutes ago",
    ],
    "host-out-of-memory": [
        "vllm.service: A process of this unit has been killed by the OOM killer.",
        "vllm.service: Failed with result 'oom-kill'.",
        '"OOMKilled": true,',
        "[Tue Jan 1 00:00:00 2026] Memory cgroup out of memory: Killed process 4242 (vllm)",
    ],
    "host-allocation-failed": [
        "tcmalloc: large alloc 17179869184 bytes == (nil) @  0x7f 0x8f",
        "tcmalloc: large alloc 17179869184 bytes == nil",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "bash: fork: Cannot allocate memory",
    ],
    "no-more-threads": [
        "OpenBLAS blas_thread_init: pthread_create failed for thread 12 of 64: Resource "
        "temporarily unavailable",
        "OpenBLAS blas_thread_init: pthread_create failed for thread 0",
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "OMP: Error #34: System unable to allocate necessary resources for OMP thread:",
        "sh: 0: Cannot fork",
    ],
    "threads-blocked": [
        "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 64: Operation not "
        "permitted",
    ],
    "docker-not-reached": [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon "
        "running?",
        "permission denied while trying to connect to the Docker daemon socket at unix:///x: dial "
        "unix /var/run/docker.sock: connect: permission denied",
    ],
    "image-not-there": [
        "docker: Error response from daemon: pull access denied for x, repository does not exist "
        "or may require 'docker login': denied: requested access to the resource is denied.",
        "docker: Error response from daemon: manifest for quay.io/ascend/vllm-ascend:v9 not found:"
        " manifest unknown: manifest unknown.",
        'Error: short-name "vllm" did not resolve to an alias',
        "toomanyrequests: You have reached your pull rate limit.",
        "unauthorized: authentication required",
    ],
    "container-name-taken": [
        'docker: Error response from daemon: Conflict. The container name "/vllm" is already in '
        'use by container "abc".',
    ],
    "container-runtime-unknown": [
        "docker: Error response from daemon: unknown or invalid runtime name: ascend.",
        'docker: Error response from daemon: could not select device driver "" with capabilities: '
        "[[gpu]].",
    ],
    "port-taken": [
        "docker: Error response from daemon: driver failed programming external connectivity on "
        "endpoint x: Bind for 0.0.0.0:8000 failed: port is already allocated.",
    ],
    "container-not-started": ["Error response from daemon: No such container: vllm"],
    "service-program-missing": [
        "vllm.service: Failed at step EXEC spawning /usr/bin/vllm: No such file or directory",
        "vllm.service: Main process exited, code=exited, status=203/EXEC",
        "vllm.service: Changing to the requested working directory failed: No such file or "
        "directory",
    ],
    "service-ended": [
        "Job for vllm.service failed because the control process exited with error code.",
        "vllm.service: Start request repeated too quickly.",
        "vllm-1 exited with code 139",
        "Back-off restarting failed container",
        "[1]+  Exit 1                  vllm serve",
        "Command exited with non-zero status 1",
        "      Exit Code:    143",
        '"ExitCode": 1,',
        "vllm  Exited (139) 3 minutes ago",
        "the worker's exit code: -11",
    ],
    "pod-not-scheduled": ["0/4 nodes are available: 4 Insufficient huawei.com/Ascend910."],
    "disk-full": [
        "failed to register layer: write /x: no space left on device",
        "curl: (23) write: No space left on device",
    ],
    "storage-broken": [
        "OSError: [Errno 5] Input/output error: '/x'",
        "mkdir: cannot create directory '/x': Read-only file system",
        "ls: cannot access '/models': Stale file handle",
    ],
    "address-not-here": [
        "OSError: [Errno 99] Cannot assign requested address",
        "zmq.error.ZMQError: Cannot assign requested address (addr='tcp://10.0.0.1:1')",
    ],
    "host-name-unknown": [
        "curl: (6) Could not resolve host: hub.example.org",
        "wget: unable to resolve host address ‘hub.example.org’",
    ],
    "download-broken-off": [
        "curl: (56) Recv failure: Connection reset by peer",
        "curl: (18) transfer closed with 1234 bytes remaining to read",
        "2026-11-24 22:27:20 (5.10 MB/s) - Read error at byte 12/99 (Connection reset by peer).",
        "requests.exceptions.ConnectionError: ('Connection aborted.', ConnectionResetError(104, "
        "'Connection reset by peer'))",
        "requests.exceptions.ChunkedEncodingError: ('Connection broken: IncompleteRead(1 bytes "
        "read, 2 more expected)')",
        "modelscope.hub.errors.FileDownloadError: File m.safetensors download incomplete, "
        "content_length: 100 but the file downloaded length: 30, please download again",
        "OSError: Consistency check failed: file should be of size 100 but has size 30 (x).",
        "huggingface_hub.errors.HfHubHTTPError: 504 Server Error",
        "httpx.ReadError: [Errno 104] Connection reset by peer",
        "2026-11-30 10:00:00,123 - modelscope - ERROR - Download: x failed: Connection reset by "
        "peer",
    ],
    "certificate-not-trusted": [
        "curl: (60) SSL certificate problem: unable to get local issuer certificate",
    ],
    "peer-gone": ["curl: (7) Failed to connect to 127.0.0.1 port 8000: Connection refused"],
    "ray-not-running": [
        "ConnectionError: Could not find any running Ray instance. Please specify the one to",
    ],
    "process-echo": ["Process EngineCore_DP0:", "Process SpawnProcess-1:3:"],
}  # fmt: skip
LINES = [(line, row) for row, lines in KNOWN.items() for line in lines]


@pytest.mark.parametrize(("line", "row"), LINES, ids=[line[:70] for line, _ in LINES])
def test_a_tools_own_words_name_the_cause(line: str, row: str) -> None:
    for text in (
        f"{line}\n",
        f"{CALM}\n{line}\n{CALM}\n",
        f"40%|#| 9/23 [01:26<02:09, 1it/s]{line}",
    ):
        assert diagnose({"a": text}).signature == row


@pytest.mark.parametrize(
    "line",
    [
        "[Errno 97] error while attempting to bind on address ('::1', 80): address family not "
        "supported by protocol",
        "ulimit: open files: cannot modify limit: Operation not permitted",
        "sudo: a password is required",
        "su: Authentication failure",
        "Unit vllm.service could not be found.",
        "Failed to start vllm.service: Unit vllm.service not found.",
        "docker: invalid reference format.",
        "docker: 'rum' is not a docker command.",
        "mytool: cannot open the moon: Too many levels of symbolic links",
        "mytool[12]: unable to reach the moon",
        "wget: download of the moon failed",
        "curl: (22) The requested URL returned error: 404",
        "curl: (99) the moon",
        "libgomp: could not create thread pool destructor.",
        "vllm: a.cpp:12: int main(): Assertion `x' failed.",
        "OMP: Error #15: Initializing libiomp5.so, but found libiomp5.so already initialized.",
        "/sys/fs/cgroup/x: Device or resource busy",
        "open /var/lib/x: text file busy",
        "Connecting to hub.example.org|1.2.3.4|:443... failed: Connection timed out.",
        "Hangup",
        "Quit (core dumped)",
        "bash: line 7: 12 Bus error               vllm",
        "torch._dynamo.exc.Unsupported: the moon",
        "subprocess.TimeoutExpired: Command '['npu-smi']' timed out after 5 seconds",
        "_queue.Empty",
        "E: Unable to locate package moon",
        "EV0001: the moon",
        "unexpected EOF",
        "a1b2c3d4e5f6: Downloading [===>   ]  460MB/1.02GBunexpected EOF",
        "Get https://registry.example.org/v2/: net/http: TLS handshake timeout",
        "rpc error: code = Unknown desc = the moon",
        "pulling the image: context deadline exceeded",
        "mytool: cannot reach the moon: retry limit exceeded",
        "mytool: failed, see the warnings above",
        "连接失败，重试 3 次后放弃",
        "Ray cluster is not found at 10.0.0.1:6379",
        "oom_reaper: reaped process 4242 (python3)",
        "-bash: fork: retry: No child processes",
        '*** Aborted at 1700000000 (unix time) try "date -d @1"',
        "==1==ERROR: AddressSanitizer: heap-buffer-overflow",
        "status: 103902",
        "*** longjmp causes uninitialized stack frame ***: terminated",
        "Inconsistency detected by ld.so: dl-close.c: 7: _dl_close: Assertion `x' failed!",
        "Fatal glibc error: CPU does not support x86-64-v2",
        "vllm.service: start operation timed out. Terminating.",
        "Dependency failed for vLLM.",
        "vllm.service: Watchdog timeout (limit 3min)!",
        "Error from server (NotFound): pods x not found",
        "Host key verification failed.",
        "rsync error: some files could not be transferred (code 23)",
        "make: *** [all] Error 2",
        "CMake Error at CMakeLists.txt:1",
        "zsh: abort      vllm",
        "bash: vllm: Is a directory",
        "模型加载失败",
        "找不到模型目录 /models",
        "cat: /x: 没有那个文件或目录",
        "启动时出错，请查看日志",
        "启动失败，如果仍然失败请联系管理员",
        "启动失败后退出",
        "不支持失败重试",
        "未找到配置文件",
        "无法连接，正在退出",
        "connection refused 3 times, giving up",
        "Some weights were not found in the checkpoint",
        "rm: cannot remove '/models/x': Permission denied",
        "mkdir: cannot create directory '/logs': Permission denied",
        "fatal: unable to access 'https://example.org/': Could not resolve host: example.org",
        "dmesg: command not found",
    ],
)  # fmt: skip
def test_a_failure_in_words_of_its_own_is_never_health(line: str) -> None:
    for text in (line, f"{CALM}\n{line}\n{CALM}"):
        assert diagnose({"a": text}).verdict != "healthy"


@pytest.mark.parametrize(
    "line",
    [
        "Unable to find image 'quay.io/ascend/vllm-ascend:v0.30.0' locally",
        "nohup: ignoring input and appending output to 'nohup.out'",
        "bash: warning: setlocale: LC_ALL: cannot change locale (en_US.UTF-8)",
        "perl: warning: Setting locale failed.",
        "ERROR: ld.so: object 'x.so' from LD_PRELOAD cannot be preloaded (cannot open shared "
        "object file): ignored.",
        "bash: cannot set terminal process group (-1): Inappropriate ioctl for device",
        "mesg: ttyname failed: Inappropriate ioctl for device",
        "tcmalloc: large alloc 1073741824 bytes == 0x55d0 @ 0x7f",
        "/x/y.py:12: UserWarning: Failed to load image Python extension: libc10.so",
        '"OOMKilled": false,',
        '"ExitCode": 0,',
        '"Error": "",',
        "failed_requests: 0",
        "Failed requests:                         0",
        "0 failed, 12 passed",
        "Server started, no errors so far",
        "error_policy: fail",
        "on_failure: restart",
        "kv_load_failure_policy: 'fail'",
        "HCCL_CONNECT_TIMEOUT=1800",
        "health_check_timeout: 10",
        "[Gloo] Rank 0 is connected to 7 peer ranks. Expected number of connected peers is : 7",
        "Downloading model 40% 0:00:12",
        "python: /lib/libz.so.1: no version information available (required by python)",
        "vllm.service: Consumed 1min 2.3s CPU time.",
        "[1]+  Done                    vllm serve",
        "mytool: cannot reach the moon, will retry in 5 s",
        "连接失败，正在重试",
        "--disable-fail-fast  do not abort when a test failed",
        "异常: 0",
        "没有错误",
        "检查完成，0 个失败",
        "无异常",
        "超时时间: 30 秒",
        "groups: cannot find name for group ID 1000",
        "whoami: cannot find name for user ID 1000",
        "debconf: unable to initialize frontend: Dialog",
        "debconf: (Can't locate Term/ReadLine.pm in @INC (you may need to install it))",
        "dmesg: read kernel buffer failed: Operation not permitted",
        "locale: Cannot set LC_ALL to default locale: No such file or directory",
        "sh: warning: setlocale: LC_ALL: cannot change locale (C.UTF-8): No such file or directory",
        "manpath: can't set the locale; make sure $LC_* and $LANG are correct",
        "Failed to set locale, defaulting to C.UTF-8",
        "W: Failed to fetch http://ports.example.org/dists/InRelease  Could not connect",
        "W: Download is performed unsandboxed as root as file '/x' couldn't be accessed by user "
        "'_apt'. - pkgAcquire::Run (13: Permission denied)",
        "N: Unable to locate package numactl",
        "invoke-rc.d: policy-rc.d denied execution of start.",
        "ERROR: pip's dependency resolver does not currently take into account all the packages "
        "that are installed.",
        "fatal: detected dubious ownership in repository at '/vllm-workspace/vllm'",
        "fatal: not a git repository (or any of the parent directories): .git",
        "sudo: unable to resolve host node-1: Name or service not known",
        'tput: unknown terminal "xterm-kitty"',
        "rm: cannot remove 'engine.pid': No such file or directory",
        "mkdir: cannot create directory '/logs': File exists",
        "bash: line 7: kill: (1234) - No such process",
        "connection refused 3 times, connected at last",
        "Connection reset by peer, retrying in 5 s",
        "Failed attempts: 2, connected",
        "Some weights were not found in the checkpoint and are newly initialized",
        "generation_config.json was not found, a default one is used",
        "Could not find config.yaml, using defaults",
        "日志级别: 错误",
        "错误级别: 3",
        "未找到配置文件，使用默认值",
        "无法获取版本号，使用默认版本",
        "找不到缓存文件，将重新生成",
        "目录不存在，正在创建",
        "如果出现错误，请查看日志",
        "若启动失败，请检查配置",
        "遇到错误时退出",
        "超时后自动退出",
        "启用异常检测",
        "连接失败 3 次后成功",
    ],
)  # fmt: skip
def test_what_goes_on_all_the_same_is_no_failure(line: str) -> None:
    assert diagnose({"a": f"{CALM}\n{line}\n"}).verdict == "healthy"


def test_an_exit_code_of_137_is_no_proof_of_memory() -> None:
    diagnosis = diagnose({"a": "vllm-1 exited with code 137"})
    assert diagnosis.category == "process"
    for other in ("memory ran out", "docker stop", "health probe", "a person"):
        assert other in diagnosis.cause.en
    proven = diagnose({"a": 'vllm-1 exited with code 137\n"OOMKilled": true,'})
    assert proven.signature == "host-out-of-memory"


@pytest.mark.parametrize(
    ("line", "told"),
    [("x exited with code 139", "crashed"), ("exit code: -11", "crashed"),
     ("vllm.service: Main process exited, code=dumped, status=11/SEGV", "crashed"),
     ("x exited with code 134", "aborted"), ("Exit Code:  143", "asked to end"),
     ("x exited with code 127", "no such program"), ("x exited with code 1", "")],
)  # fmt: skip
def test_an_exit_code_of_the_shell_is_put_into_words(line: str, told: str) -> None:
    details = diagnose({"a": line}).details
    assert [told in detail.en for detail in details] == [True] * bool(told)


def test_the_engines_own_error_wins_over_the_shell_that_tells_of_its_end() -> None:
    own = "RuntimeError: alloc device memory failed"
    for after in ("Aborted (core dumped)", "vllm-1 exited with code 137", "Terminated", "Killed"):
        assert diagnose({"a": f"{own}\n{after}\n"}).signature == "device-memory-allocation"


BEGAN = "(APIServer pid=7) INFO 12-15 11:44:58 [x.py:1] vLLM API server version 0.11.0"


@pytest.mark.parametrize(
    "said", ["sh: 1: npu-smi: not found", "cat: /x: Permission denied", "Killed"]
)
def test_what_a_shell_said_before_the_engine_began_is_not_why_that_failed(said: str) -> None:
    failed = "ValueError: the moon is full"
    assert diagnose({"a": f"{said}\n{BEGAN}\n{failed}\n"}).headline == failed
    for alone in (f"{said}\n{BEGAN}\n", f"{BEGAN}\n{said}\n", f"{BEGAN}\n{said}\n{failed}\n"):
        assert diagnose({"a": alone}).headline == said


def test_a_program_that_is_not_there_ends_diagnose_with_1(tmp_path) -> None:  # type: ignore[no-untyped-def]
    log = tmp_path / "a.log"
    log.write_text("sh: 1: vllm: not found\n", encoding="utf-8")
    assert exit_code(["diagnose", str(log)]) == 1


@pytest.mark.parametrize(
    "piece",
    ["sh: 1: ", "a: ", "a.", "a/", "failed ", "cannot ", "0:00:12", "12%", "1.2GB ", "line 1: 1 ",
     "Error", "错误", "━", "cap_", "Current: =", "--cap-drop=", "'", "curl: (", "Assertion `",
     "fail", "error", "failed_", "fail: ", "no error", "without ", "if a fail",
     "AError: a ", "a: failed ", "错误0", "if a ", "1AError: ", "如", "default ", "W: ",
     "no npu ", "worker 1 ", "0 个", "未发现", "没有", "不足0", "退出码", "XFS (a): ",
     "nvme nvme0: "],
)  # fmt: skip
def test_words_without_end_are_read_in_linear_time(piece: str) -> None:
    assert_linear(lambda text: diagnose({"a": text}), piece, cut=LONGEST_JUDGED)
