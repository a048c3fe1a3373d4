"""What Linux says of a host: system, limits, network, pings."""

import pytest

from ropeway.facts.host import Nic
from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.linux.limits import Filesystem, Limits, Sysctl
from ropeway.facts.linux.system import Kernel, Memory
from ropeway.facts.question import Question
from ropeway.facts.questions import questions_in
from ropeway.hosts.local import LocalHost


@pytest.mark.parametrize(
    ("question", "text", "value"),
    [
        (system.KERNEL, "Linux 5.10.0-60.oe2203 aarch64\n", Kernel("5.10.0-60.oe2203", "aarch64")),
        (system.KERNEL, "Darwin 5.10.0 arm64\n", None),
        (system.USER_ID, "0\n", 0),
        (system.USER_ID, "1001\n", 1001),
        (system.USER_ID, "uid=0(root)\n", None),
        (system.CORES, "192\n", 192),
        (system.CORES, "0\n", None),
        (system.CORES, "²\n", None),
        (system.CORES, "9" * 5000 + "\n", None),
        (system.HUGEPAGES, "always [madvise] never\n", "madvise"),
        (system.HUGEPAGES, "always madvise never\n", None),
        (system.HOME, "/root\n", "/root"),
        (system.HOME, "\n", None),
        (system.GOVERNOR, "      2 powersave\n      4 performance\n", "performance"),
        (system.GOVERNOR, "      1 cat: x: No such file or directory\n", None),
        (system.HYPERVISOR, "Architecture: x86_64\nHypervisor vendor:  KVM\n", "KVM"),
        (system.HYPERVISOR, "架构：  aarch64\n超管理器厂商：  KVM\n", "KVM"),
        (system.HYPERVISOR, "Architecture: x86_64\nCPU(s): 4\n", ""),
        (system.HYPERVISOR, "Hypervisor vendor:  KVM\n", None),
        (system.OS_RELEASE, "# by hand\nNAME='Ubuntu'\nID=ubuntu\n", "Ubuntu"),
        (system.OS_RELEASE, 'NAME="x"\nPRETTY_NAME="Kylin V10 (Tercel)"\n', "Kylin V10 (Tercel)"),
        (system.PROCESSES, "      1 systemd\n  88120 raylet\n", {1: "systemd", 88120: "raylet"}),
        (system.MEMORY, "MemTotal:  100 kB\nHugePages_Total:  0\n", Memory(102_400, None)),
        (ping.CLOCK, "1795491938.123456789\n", 1795491938.123456789),
        (ping.CLOCK, "1795491938.%N\n", 1795491938.0),  # busybox
        (ping.CLOCK, "1795491938\n", 1795491938.0),
        (ping.CLOCK, "Tue Nov 24 03:38:28 UTC 2026\n", None),
        (ping.CLOCK, "12\n", None),
    ],
)
def test_one_figure_is_read(question, text, value):
    assert question.parse(text).value == value


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("cat: /etc/os-release: No such file or directory\n", "absent"),
        ("sh: 1: uname: not found\n", "absent"),
        ("bash: nproc: command not found\n", "absent"),
        ("cat: /etc/os-release: 没有那个文件或目录\n", "absent"),
        ("cat: /etc/os-release: Permission denied\n", "error"),
        ("cat: /etc/os-release: 权限不够\n", "error"),
        ("what?\n", "unknown"),
    ],
)
def test_what_a_shell_says_is_no_value(text, state):
    for question in questions_in(system, limits, network):
        parsed = question.parse(text)
        assert (parsed.state, parsed.value) == (state, None), question.key


def test_a_size_in_another_unit_is_left_over():
    parsed = system.parse_memory("MemTotal:  100 kB\nMemAvailable:  50 MB\n")
    assert (parsed.value, parsed.unparsed) == (Memory(102_400, None), ("MemAvailable:  50 MB",))


LIMITS = """\
Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max open files            1024                 524288               files
Max locked memory         unlimited            unlimited            bytes
"""


def test_what_a_process_meets_is_the_soft_limit():
    assert limits.parse_limits(LIMITS).value == Limits(1024, None)
    text = LIMITS.replace("memory         unlimited", "memory         65536    ")
    assert limits.parse_limits(text).value == Limits(1024, 65536)


def test_kernel_parameters_have_their_file_before_them():
    text = """\
/proc/sys/kernel/numa_balancing:1
/proc/sys/net/ipv4/ip_local_port_range:32768\t60999
/proc/sys/net/ipv4/ip_local_reserved_ports:60000-60002,16666
"""
    parsed = limits.parse_sysctl(text)
    ports = frozenset({60000, 60001, 60002, 16666})
    assert (parsed.state, parsed.value) == ("ok", Sysctl(1, (32768, 60999), ports))
    missing = "grep: /proc/sys/kernel/numa_balancing: No such file or directory\n"
    assert limits.parse_sysctl(missing + text.split("\n", 1)[1]).value == Sysctl(
        None, (32768, 60999), ports
    )
    odd = text.replace("60000-60002,16666", "0-99999,x,1-2-3,²").replace("32768\t60999", "1")
    assert limits.parse_sysctl(odd).value == Sysctl(1, (1, 1), frozenset())


def test_disks_are_known_by_their_mount_point():
    text = """\
Filesystem        1024-blocks     Used Available Capacity Mounted on
/dev/vda1           103081248 41833604  56978312      43% /
//a server/share            4        0         4       0% /mnt/a disk
proc                        0        0         -        - /proc
"""
    parsed = limits.parse_disks(text)
    assert parsed.state == "ok"
    assert parsed.value == {
        "/": Filesystem(103_081_248 * 1024, 56_978_312 * 1024),
        "/mnt/a disk": Filesystem(4096, 4096),
        "/proc": Filesystem(0, None),
    }


def test_interfaces_without_addresses_count_too():
    text = """\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
    inet 127.0.0.1/8 scope host lo
       valid_lft forever preferred_lft forever
3: bond0.100@bond0: <BROADCAST,MULTICAST> mtu 1500 qdisc noop state DOWN
4: eth0: <BROADCAST,UP> mtu 9000
    inet6 fe80::1/64 scope link
    inet nonsense scope link
"""
    parsed = network.parse_nics(text)
    assert parsed.unparsed == ("inet nonsense scope link",)
    assert parsed.value == (
        Nic("lo", ("127.0.0.1",), 65536, True),
        Nic("bond0.100", (), 1500, False),
        Nic("eth0", ("fe80::1",), 9000, True),
    )


@pytest.mark.parametrize(
    ("text", "nic"),
    [
        ("default via 10.0.0.1 dev eth0\n10.0.0.0/8 dev eth1 scope link\n", "eth0"),
        ("default dev eth0 metric 100\ndefault via 10.0.0.1 dev eth1 metric 50\n", "eth1"),
        ("default dev eth0 metric 100\ndefault via 10.0.0.1 dev eth1\n", "eth1"),
        ("unreachable 10.1.0.0/16\n10.0.0.0/8 dev eth1 scope link\n", ""),
        ("RTNETLINK answers: Operation not supported\n", None),
    ],
)
def test_the_default_route_is_that_with_the_least_metric(text, nic):
    assert network.parse_default_nic(text).value == nic


def test_the_own_name_resolves_or_not():
    text = "hostname: n1\n10.0.0.5        n1\n10.0.0.5        STREAM n1\n127.0.1.1 n1\n"
    assert network.parse_own_name(text).value == "10.0.0.5"
    assert network.parse_own_name("hostname: n1\n").value == ""
    assert network.parse_own_name("10.0.0.5 n1\n").value is None


def test_ports_are_known_with_their_programs():
    text = """\
State  Recv-Q Send-Q Local Address:Port  Peer Address:Port Process
LISTEN 0      128          0.0.0.0:22         0.0.0.0:*     users:(("sshd",pid=12,fd=3))
LISTEN 0      128             [::]:22            [::]:*
LISTEN 0      128    127.0.0.53%lo:53         0.0.0.0:*
LISTEN 0      128                *:99999      0.0.0.0:*
"""
    parsed = network.parse_ss(text)
    assert parsed.value == {22: "sshd", 53: None}
    assert len(parsed.unparsed) == 1
    header = text.partition("\n")[0]
    assert network.parse_ss(header).value == {}


# 127.0.0.1:8000 and 0.0.0.0:22 listen; 8000 is also talked to from 54321 (state 01).
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5821 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1093 1
   2: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 5824 1
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1A0B 00000000000000000000000000000000:0000 0A 00000000:0
"""


def test_sockets_that_listen_are_told_from_others():
    assert network.parse_proc_net_tcp(TCP).value == {8000, 22, 6667}
    assert network.parse_proc_net_tcp(TCP.partition("\n")[0]).value == frozenset()
    assert network.parse_proc_net_tcp("a b:zz c 0A\n").value is None


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("2 packets transmitted, 2 received, 0% packet loss, time 1001ms\n", 0.0),
        ("2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 1031ms\n", 100.0),
        ("3 packets transmitted, 2 packets received, 33.3% packet loss\n", 33.3),  # busybox
        ("PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n", None),
        ("ping: bad address 'x'\n", None),
        ("connect: Network is unreachable\n", None),
    ],
)
def test_the_loss_of_a_ping_is_what_it_prints(text, loss):
    assert ping.parse_ping(text).value == loss


def test_the_commands_answer_on_this_machine():
    asked: tuple[Question[object], ...] = (
        system.OS_RELEASE, system.KERNEL, system.USER_ID, system.CORES, system.MEMORY, system.HOME,
        limits.LIMITS, limits.SYSCTL, limits.DISKS.about("/", "/dev/shm"), network.PROC_NET_TCP,
        network.OWN_NAME, ping.CLOCK,
    )  # fmt: skip
    for question in asked:
        assert question.parse(LocalHost().run(question.argv).stdout).state == "ok", question.key
