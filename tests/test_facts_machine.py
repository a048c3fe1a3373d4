"""Processors, memory, limits and file systems of a host, from the texts that its commands print."""

from pathlib import Path

import pytest

from ropeway.facts import filesystems, limits, memory, processor
from ropeway.facts.filesystems import Filesystem, Filesystems, df_command, parse_df
from ropeway.facts.limits import (
    Limit,
    Limits,
    PortRange,
    Sysctls,
    parse_proc_limits,
    parse_sysctl,
    parse_ulimit,
    soft_limit,
)
from ropeway.facts.memory import Memory, TransparentHugepages
from ropeway.facts.processor import Cores, GovernorCount, Governors, NumaNode, Processors
from ropeway.hosts.local import LocalHost

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("text", "expected"), [("192\n", Cores(192)), ("$ nproc\n8\n", Cores(8))])
def test_cores_are_counted(text, expected):
    assert processor.parse_nproc(text).value == expected


@pytest.mark.parametrize("text", ["", "0\n", "nproc: error\n", "²\n", "9" * 5000 + "\n"])
def test_no_number_of_cores_is_no_cores(text):
    assert processor.parse_nproc(text).value is None


def test_a_virtual_machine_says_so():
    reading = processor.parse_lscpu(recording("lscpu.txt"))
    assert reading.state == "ok"
    assert reading.value == Processors(
        architecture="x86_64",
        vendor="AuthenticAMD",
        model="AMD EPYC",
        cpus=2,
        online="0,1",
        threads_per_core=1,
        cores_per_socket=2,
        sockets=1,
        hypervisor="KVM",
        numa_nodes=(NumaNode(0, "0,1"),),
    )


KUNPENG = Processors(
    architecture="aarch64",
    vendor="HiSilicon",
    model="Kunpeng-920",
    cpus=192,
    online="0-191",
    threads_per_core=1,
    cores_per_socket=48,
    sockets=4,
    max_mhz=2600.0,
)


def test_a_kunpeng_is_read():
    assert processor.parse_lscpu(recording("lscpu_kunpeng.txt")).value == KUNPENG


def test_lscpu_speaks_chinese():
    reading = processor.parse_lscpu(recording("lscpu_chinese.txt") + "NUMA 节点1 CPU：  24-47\n")
    assert reading.state == "ok"
    assert reading.value == Processors(
        architecture="aarch64",
        vendor="HiSilicon",
        model="Kunpeng-920",
        cpus=96,
        online="0-95",
        threads_per_core=1,
        cores_per_socket=48,
        sockets=2,
        max_mhz=2600.0,
        numa_nodes=(NumaNode(1, "24-47"),),
    )


def test_sockets_that_the_firmware_hides_are_not_known():
    value = processor.parse_lscpu(recording("lscpu_clusters.txt")).value
    assert value is not None
    assert (value.cpus, value.sockets, value.cores_per_socket) == (320, None, None)
    assert (value.cores_per_cluster, value.model) == (80, None)


def test_flags_that_go_on_over_lines_are_no_surprise():
    text = (
        "Architecture: x86_64\nCPU(s): 4\nFlags: fpu vme\n   de pse\nL1d cache: 1\nwhat is this\n"
    )
    assert processor.parse_lscpu(text).unread == ("what is this",)


def test_arm_processors_are_named_by_their_part():
    assert processor.parse_cpuinfo(recording("cpuinfo_kunpeng.txt")).value == Processors(
        architecture=None, vendor="HiSilicon", model="Kunpeng-920", cpus=2
    )


def test_sockets_are_counted_from_cpuinfo():
    text = "processor\t: 0\nmodel name\t: X\nphysical id\t: 0\n\n" * 2
    text += "processor\t: 2\nmodel name\t: X\nphysical id\t: 1\n"
    value = processor.parse_cpuinfo(text).value
    assert value is not None and (value.cpus, value.sockets, value.model) == (3, 2, "X")


@pytest.mark.parametrize(
    "text",
    [
        "performance\nperformance\npowersave\n",
        "      2 performance\n      1 powersave\n",
    ],
)
def test_governors_are_counted(text):
    assert processor.parse_governors(text).value == Governors(
        (GovernorCount("performance", 2), GovernorCount("powersave", 1))
    )


def test_a_host_that_cannot_change_its_clock_has_no_governor():
    text = "1 cat: '/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor': No such file\n"
    assert processor.parse_governors(text.replace("file", "file or directory")).state == "absent"


def test_memory_is_in_bytes():
    reading = memory.parse_meminfo(recording("meminfo.txt"))
    assert reading.state == "ok"
    assert reading.value == Memory(
        total_bytes=24_684_096 * 1024,
        free_bytes=11_695_596 * 1024,
        available_bytes=18_837_344 * 1024,
        shared_bytes=8_812 * 1024,
        swap_total_bytes=0,
        swap_free_bytes=0,
        hugepages_total=0,
        hugepages_free=0,
        hugepage_bytes=2 * 2**20,
    )


def test_an_old_kernel_does_not_say_what_can_be_had():
    value = memory.parse_meminfo("MemTotal:  100 kB\nMemFree:  50 kB\n").value
    assert value is not None and value.available_bytes is None and value.total_bytes == 102_400


def test_a_size_in_another_unit_is_left_over():
    reading = memory.parse_meminfo("MemTotal:  100 kB\nMemFree:  50 MB\n")
    assert reading.unread == ("MemFree:  50 MB",)
    assert reading.value is not None and reading.value.free_bytes is None


@pytest.mark.parametrize("mode", ["always", "madvise", "never"])
def test_the_mode_of_hugepages_is_the_one_in_brackets(mode):
    text = "always madvise never\n".replace(mode, f"[{mode}]")
    assert memory.parse_transparent_hugepages(text).value == TransparentHugepages(mode)


def test_limits_of_bash():
    reading = parse_ulimit(recording("ulimit_bash.txt"))
    assert reading.state == "ok"
    assert reading.value == Limits(
        (
            Limit("rttime", "us", "unlimited"),
            Limit("core", "blocks", 0),
            Limit("data", "bytes", "unlimited"),
            Limit("nice", "count", 0),
            Limit("fsize", "blocks", "unlimited"),
            Limit("sigpending", "count", 96_365),
            Limit("memlock", "bytes", 8 * 2**20),
            Limit("rss", "bytes", "unlimited"),
            Limit("nofile", "count", 20_000),
            Limit("pipe", "bytes", 4_096),
            Limit("msgqueue", "bytes", 819_200),
            Limit("rtprio", "count", 0),
            Limit("stack", "bytes", 8 * 2**20),
            Limit("cpu", "s", "unlimited"),
            Limit("nproc", "count", 96_365),
            Limit("as", "bytes", "unlimited"),
            Limit("locks", "count", "unlimited"),
        )
    )


@pytest.mark.parametrize("shell", ["bash", "dash", "busybox"])
def test_every_shell_names_the_same_limits(shell):
    value = parse_ulimit(recording(f"ulimit_{shell}.txt")).value
    assert value is not None
    assert soft_limit(value, "nofile") == 20_000
    assert soft_limit(value, "memlock") == 8 * 2**20
    assert soft_limit(value, "msgqueue") == (None if shell == "dash" else 819_200)


def test_limits_of_zsh():
    text = "-t: cpu time (seconds)              unlimited\n-l: locked-in-memory size (kbytes)  64\n"
    assert parse_ulimit(text).value == Limits(
        (Limit("cpu", "s", "unlimited"), Limit("memlock", "bytes", 65_536))
    )


def test_limits_of_a_process_are_soft_and_hard():
    value = parse_proc_limits(recording("proc_limits.txt")).value
    assert value is not None and len(value.limits) == 16
    named = {limit.name: limit for limit in value.limits}
    assert named["stack"] == Limit("stack", "bytes", 8 * 2**20, "unlimited")
    assert named["nofile"] == Limit("nofile", "count", 20_000, 20_000)
    assert named["nice"] == Limit("nice", "count", 0, 0)
    assert named["rttime"] == Limit("rttime", "us", "unlimited", "unlimited")


SYSCTLS = Sysctls(
    numa_balancing=0,
    local_ports=PortRange(32_768, 60_999),
    reserved_ports=(PortRange(60_000, 60_015), PortRange(16_666, 16_666)),
    values={
        "kernel.numa_balancing": "0",
        "net.ipv4.ip_local_port_range": "32768\t60999",
        "net.ipv4.ip_local_reserved_ports": "60000-60015,16666",
    },
)


@pytest.mark.parametrize(
    "text",
    [
        "kernel.numa_balancing = 0\nnet.ipv4.ip_local_port_range = 32768\t60999\n"
        "net.ipv4.ip_local_reserved_ports = 60000-60015,16666\n",
        "/proc/sys/kernel/numa_balancing:0\n"
        "/proc/sys/net/ipv4/ip_local_port_range:32768\t60999\n"
        "/proc/sys/net/ipv4/ip_local_reserved_ports:60000-60015,16666\n",
    ],
)
def test_kernel_parameters_are_read_from_sysctl_or_its_files(text):
    assert parse_sysctl(text).value == SYSCTLS


def test_a_parameter_that_a_kernel_has_not_is_not_known():
    reading = parse_sysctl(
        "grep: /proc/sys/kernel/numa_balancing: No such file or directory\n"
        "/proc/sys/net/ipv4/ip_local_reserved_ports:\n"
    )
    assert reading.state == "ok" and reading.value is not None
    assert (reading.value.numa_balancing, reading.value.local_ports) == (None, None)
    assert reading.value.reserved_ports == ()


def test_a_parameter_with_another_form_is_kept_and_not_guessed():
    value = parse_sysctl("net.ipv4.ip_local_port_range = 1 2 3\n").value
    assert value is not None and value.local_ports is None
    assert value.values == {"net.ipv4.ip_local_port_range": "1 2 3"}


def test_file_systems_are_read():
    reading = parse_df(recording("df.txt"))
    assert reading.state == "ok"
    assert reading.value == Filesystems(
        (
            Filesystem(
                "/dev/vda", "/", 264_212_084 * 1024, 41_613_504 * 1024, 64_777_408 * 1024, 40
            ),
            Filesystem("tmpfs", "/dev/shm", 24_684_096 * 1024, 24 * 1024, 24_684_072 * 1024, 1),
        )
    )


def test_a_long_device_may_stand_alone_on_its_line():
    value = parse_df(recording("df_busybox_wrapped.txt")).value
    assert value is not None and len(value.filesystems) == 6
    assert value.filesystems[3] == Filesystem(
        "/dev/mapper/very-long-volume--group-name", "/data", 4096, 0, 4096, 0
    )


def test_df_speaks_chinese():
    value = parse_df(recording("df_chinese.txt")).value
    assert value is not None
    assert value.filesystems[4] == Filesystem(
        "/dev/vda1", "/", 51_539_404 * 1024, 4_760_728 * 1024, 44_581_432 * 1024, 10
    )


def test_df_for_people_has_units_and_types_and_blanks():
    text = """\
Filesystem     Type     Size  Used Avail Use% Mounted on
/dev/sda1      ext4     1.5T  1.0T  512G  67% /
//nas/my share cifs      10G  1.0G  9.0G  10% /mnt/my share
proc           proc        0     0     0    - /proc
df: /nope: No such file or directory
"""
    assert parse_df(text).value == Filesystems(
        (
            Filesystem("/dev/sda1", "/", 3 * 2**39, 2**40, 2**39, 67, "ext4"),
            Filesystem("//nas/my share", "/mnt/my share", 10 * 2**30, 2**30, 9 * 2**30, 10, "cifs"),
            Filesystem("proc", "/proc", 0, 0, 0, None, "proc"),
        ),
        missing=("/nope",),
    )


def test_inodes_are_not_taken_for_bytes():
    text = "Filesystem      Inodes  IUsed IFree IUse% Mounted on\n/dev/sda1  100 50 50 50% /\n"
    assert parse_df(text).value is None


def test_a_word_before_a_whole_row_is_no_device():
    reading = parse_df("Filesystem 1024-blocks Used\nwhat\n/dev/sda 100 50 50 50% /\n")
    assert reading.unread == ("what",)
    assert reading.value is not None and reading.value.filesystems[0].device == "/dev/sda"


def test_a_row_cut_in_the_middle_is_left_over():
    text = recording("df.txt")
    reading = parse_df(text[: text.index("24684072")])
    assert reading.value is not None and len(reading.value.filesystems) == 1
    assert reading.state == "partial" and reading.unread[0].startswith("tmpfs")


def test_the_commands_answer_on_this_machine():
    host = LocalHost()
    assert parse_df(host.run(df_command("/", "/dev/shm")).stdout).state == "ok"
    for commands, parsers in (
        (limits.COMMANDS, {output.name: output.parse for output in limits.OUTPUTS}),
        (memory.COMMANDS, {output.name: output.parse for output in memory.OUTPUTS}),
        (processor.COMMANDS, {output.name: output.parse for output in processor.OUTPUTS}),
    ):
        for name, argv in commands.items():
            # This machine may have no governor; everything else it has.
            states = ("ok", "absent") if name == "cpu-governor" else ("ok",)
            assert parsers[name](host.run(argv).stdout).state in states, name
    assert {output.name for output in filesystems.OUTPUTS} == {"df"}
