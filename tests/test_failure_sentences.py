"""What people, launchers and engines say of a failure in a sentence is never health; what says that
nothing failed is no failure."""

import pytest

from ropeway.diagnosis.decide import diagnose

CALM = "INFO 12-15 11:45:12 [model.py:2679] loading"
FAILED = """\
Worker 3 died
worker 0 died
rank 0 failed
rank 0 failed to start
EngineCore is dead
the engine core has crashed
No NPU found
No NPU found.
No Ascend devices found on this host
Error - no NPU found!
no model weights were found in /models/x
no healthy workers
assertion failed: x == y
timed out waiting for the engine
Request timed out
rank 3 exited unexpectedly
rank 3 exited with status 1
child process terminated abnormally
error loading model
NPU 0 error detected
Deadlock detected
the process hung
worker 2 is not responding
container is unhealthy
lost connection to worker 3
heartbeat lost
card 0 lost
insufficient memory
gave up after 3 attempts
内存不足
磁盘空间不足
进程被杀死
心跳丢失
进程已退出，退出码 1
退出码：137
进程退出码=139
./run.sh：第 3 行：12345 已杀死   vllm serve
./run.sh：第 3 行：12345 已终止   vllm serve
./run.sh: 行 3: 12345 已杀死   vllm serve
./run.sh: 第 3 行：12345 已放弃   vllm serve
端口 8000 已被占用
设备不可用
NPU 0 异常
卡0故障
共 10 个错误
加载失败无法启动
没有可用设备无法启动
未检测到 NPU
没有权限
连接被重置
服务意外退出
模型文件损坏
""".splitlines()
FINE = """\
0 workers died
12 passed, 0 failed
workers killed: 0
Timed out: 0
timed out requests: 0
no worker has died
no deadlock detected
deadlock detection enabled
no memory leak detected
No stale worker found
No errors found
No CUDA runtime is found, using CUDA_HOME='/usr/local/cuda'
No cached weights found, downloading
vllm: no process found
8 NPUs found
restart if the container is unhealthy
exit code 0
process exited with status 0
request timed out, retrying
retrying after timeout, attempt 2 succeeded
3 packets transmitted, 3 received, 0% packet loss, time 2002ms
heartbeat timeout: 30 s
没有发生错误
未发生错误
没有任何错误
未检测到 NPU 错误
没有致命错误
没有进程被杀死
端口未被占用
没有丢失数据
未出现内存不足
0 个包丢失
拒绝请求 0 个
不可用节点：0
硬件故障：无
退出码：0
进程已退出，退出码 0
耗时不足 1 秒
条件已满足
内存不足时将自动回收
避免内存不足
连接断开后自动重连
是否缺少依赖：否
异常检测模块已加载
已终止旧进程，开始启动
离线推理开始
""".splitlines()


@pytest.mark.parametrize("line", FAILED)
def test_a_sentence_of_a_failure_is_never_health(line: str) -> None:
    for text in (line, f"{CALM}\n{line}\n{CALM}\n"):
        assert diagnose({"a": text}).verdict != "healthy"


@pytest.mark.parametrize("line", FINE)
def test_a_sentence_that_nothing_failed_is_no_failure(line: str) -> None:
    assert diagnose({"a": f"{CALM}\n{line}\n{CALM}\n"}).verdict == "healthy"


@pytest.mark.parametrize(
    ("line", "row"),
    [
        ("./run.sh：第 3 行：12345 已杀死   vllm serve", "process-killed"),
        ("退出码：137", "process-killed"),
        ("进程已退出，退出码 1", "service-ended"),
    ],
)
def test_a_chinese_shell_is_read_as_an_english_one(line: str, row: str) -> None:
    assert diagnose({"a": line}).signature == row
