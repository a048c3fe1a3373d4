"""What a host says about itself, from the texts that its commands print."""

import sys
from pathlib import Path

import pytest

from ropeway.errors import HostError
from ropeway.facts.system import (
    COMMANDS,
    Clock,
    Identity,
    Kernel,
    OsRelease,
    Uptime,
    gather,
    parse_cores,
    parse_date,
    parse_disk,
    parse_id,
    parse_memory,
    parse_os_release,
    parse_packages,
    parse_ports,
    parse_uname,
    parse_uptime,
)
from ropeway.hosts.base import Result
from ropeway.hosts.local import LocalHost

RECORDINGS = Path(__file__).parent / "recordings"

MEMINFO = """\
MemTotal:       24073628 kB
MemFree:         1180340 kB
MemAvailable:   19844756 kB
Buffers:          180964 kB
SwapCached:            0 kB
HugePages_Total:       0
"""
# 127.0.0.1:8000 and 0.0.0.0:22 listen; 8000 is also talked to from 54321 (state 01).
TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5821 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1093 1
   2: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 5824 1
   3: 0200007F:D431 0100007F:1F40 06 00000000:00000000 03:00000A3C 00000000     0        0 0 3
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:1A0B 00000000000000000000000000000000:0000 0A 00000000:0
   1: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 01 00000000:0
"""
DF = """\
Filesystem     1024-blocks     Used Available Capacity Mounted on
/dev/vda1        103081248 41833604  56978312      43% /
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MEMINFO, 19_844_756 * 1024),
        ("", None),
        ("MemTotal:       24073628 kB\n", None),  # before Linux 3.14
        ("MemAvailable:\n", None),
        ("cat: /proc/meminfo: No such file or directory\n", None),
    ],
)
def test_memory_is_what_can_be_had_in_bytes(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize(("text", "expected"), [("192\n", 192), ("", 1), ("nproc: error\n", 1)])
def test_cores_are_one_when_nobody_knows(text, expected):
    assert parse_cores(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DF, 56_978_312 * 1024),
        (DF.replace(" /\n", " /mnt/a disk\n"), 56_978_312 * 1024),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on\n", None),
        ("Filesystem 1024-blocks Used Available Capacity Mounted on\nproc 0 0 - - /proc\n", None),
        ("", None),
    ],
)
def test_disk_is_what_is_free_in_bytes(text, expected):
    assert parse_disk(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TCP, {8000, 22}),
        (TCP + TCP6, {8000, 22, 6667}),
        (TCP.splitlines()[0] + "\n", set()),
        ("", set()),
        ("a b:zz c 0A\n", set()),
    ],
)
def test_ports_are_those_listened_on(text, expected):
    assert parse_ports(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"ray": "2.60.0", "torch": "2.12.0+cpu"}\n', {"ray": "2.60.0", "torch": "2.12.0+cpu"}),
        ("{}\n", {}),
        ("[]\n", {}),
        ("null\n", {}),
        ("", {}),
        ("Traceback (most recent call last):\n", {}),
    ],
)
def test_packages_are_none_when_python_does_not_answer(text, expected):
    assert parse_packages(text) == expected


def test_this_machine_answers():
    facts = gather(LocalHost(), sys.executable, "/tmp")
    assert facts.cores >= 1
    assert facts.memory_bytes is not None and facts.memory_bytes > 10**7
    assert facts.disk_bytes is not None


class EmptyHost(LocalHost):
    """A host that has none of the programs."""

    def run(self, argv, **_) -> Result:
        raise HostError(f"cannot run `{argv[0]}`: no such file or directory", where=self.name)


def test_a_host_without_the_programs_is_no_crash():
    facts = gather(EmptyHost(), "/no/python", "/tmp")
    assert (facts.cores, facts.memory_bytes, facts.disk_bytes) == (1, None, None)
    assert (facts.ports, facts.packages) == (frozenset(), {})


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


def test_the_system_is_known_by_its_release_file():
    openeuler = parse_os_release(recording("os_release_openeuler.txt"))
    assert openeuler.state == "ok"
    assert openeuler.value == OsRelease(
        id="openEuler",
        name="openEuler",
        version_id="22.03",
        version="22.03 (LTS-SP1)",
        pretty_name="openEuler 22.03 (LTS-SP1)",
    )
    kylin = parse_os_release(recording("os_release_kylin.txt")).value
    assert kylin is not None
    assert (kylin.id, kylin.version_id, kylin.version) == ("kylin", "V10", "V10 (Tercel)")


def test_quotes_comments_and_kin_are_understood():
    text = "# made by hand\nNAME='Ubuntu'\nID=ubuntu\nID_LIKE=\"debian linux\"\nVERSION_ID=22.04\n"
    reading = parse_os_release(text)
    assert reading.state == "ok"
    assert reading.value == OsRelease(
        id="ubuntu",
        name="Ubuntu",
        version_id="22.04",
        version=None,
        pretty_name=None,
        id_like=("debian", "linux"),
    )


def test_a_line_that_is_no_setting_is_kept():
    reading = parse_os_release("NAME=A\nhello there\n")
    assert (reading.state, reading.unread) == ("partial", ("hello there",))


@pytest.mark.parametrize(
    "text",
    [
        "cat: /etc/os-release: No such file or directory\n",
        "sh: 1: uname: not found\n",
        "bash: nproc: command not found\n",
        "cat: /etc/os-release: 没有那个文件或目录\n",
    ],
)
def test_what_is_not_there_is_absent(text):
    assert parse_os_release(text).state == "absent"
    assert parse_uname(text).state == "absent"


def test_what_may_not_be_read_is_an_error():
    reading = parse_os_release("cat: /etc/os-release: Permission denied\n")
    assert reading.state == "error"
    assert reading.error is not None and reading.error.kind == "denied"


@pytest.mark.parametrize("parse", [parse_os_release, parse_uname, parse_date, parse_uptime])
def test_a_text_of_another_kind_is_unknown_and_kept(parse):
    assert (parse("what?").state, parse("what?").text) == ("unknown", "what?")
    assert parse("").state == "unknown"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Linux 5.10.0-60.18.0.50.oe2203.aarch64 aarch64\n",
            Kernel("Linux", "5.10.0-60.18.0.50.oe2203.aarch64", "aarch64"),
        ),
        (
            recording("uname_kylin.txt"),
            Kernel(
                "Linux",
                "4.19.90-52.22.v2207.ky10.aarch64",
                "aarch64",
                hostname="localhost.localdomain",
            ),
        ),
        (
            "Linux n1 6.1.0 #1 SMP Debian 6.1.0-1 (2024-01-01) x86_64 GNU/Linux\n",
            Kernel("Linux", "6.1.0", "x86_64", hostname="n1"),
        ),
    ],
)
def test_the_kernel_and_the_architecture_are_known(text, expected):
    reading = parse_uname(text)
    assert (reading.state, reading.value) == ("ok", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1795491938.123456789\n", 1795491938.123456789),
        ("1795491938\n", 1795491938.0),
        ("1795491938.%N\n", 1795491938.0),  # busybox
        ("1795491938.N\n", 1795491938.0),
        ("$ date +%s.%N\n1795491938.5\n", 1795491938.5),
    ],
)
def test_the_clock_is_read_with_or_without_a_fraction(text, expected):
    assert parse_date(text).value == Clock(expected)


@pytest.mark.parametrize("text", ["Tue Nov 24 03:38:28 UTC 2026\n", "12\n", "1.5e9\n"])
def test_a_date_in_words_is_no_clock(text):
    assert parse_date(text).state == "unknown"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("26896.99 24731.01\n", Uptime(26_896)),
        (
            " 03:38:28 up  7:28,  0 user,  load average: 1.72, 2.17, 1.79\n",
            Uptime(7 * 3600 + 28 * 60, 0, 1.72, 2.17, 1.79),
        ),
        (
            " 10:00:01 up 10 days,  3:04,  2 users,  load average: 0.00, 0.01, 0.05\n",
            Uptime(10 * 86_400 + 3 * 3600 + 4 * 60, 2, 0.0, 0.01, 0.05),
        ),
        (
            " 10:00:01 up 1 day, 23 min,  load average: 4.1, 4.2, 4.3\n",
            Uptime(86_400 + 23 * 60, None, 4.1, 4.2, 4.3),
        ),
    ],
)
def test_the_time_since_the_start_is_in_seconds(text, expected):
    reading = parse_uptime(text)
    assert (reading.state, reading.value) == ("ok", expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0\n", Identity(0, None, ())),
        (
            "uid=0(root) gid=0(root) groups=0(root)\n",
            Identity(0, "root", ("root",)),
        ),
        (
            "uid=1001(ma) gid=1001(ma) groups=1001(ma),999(docker),1000(HwHiAiUser)\n",
            Identity(1001, "ma", ("ma", "docker", "HwHiAiUser")),
        ),
        ("uid=1001 gid=1001\n", Identity(1001, None, ())),
        ("ma : ma docker HwHiAiUser\n", Identity(None, "ma", ("ma", "docker", "HwHiAiUser"))),
    ],
)
def test_user_and_groups_are_known(text, expected):
    assert parse_id(text).value == expected


def test_the_commands_answer_on_this_machine():
    parsers = {
        "os-release": parse_os_release,
        "uname": parse_uname,
        "date": parse_date,
        "uptime": parse_uptime,
        "id": parse_id,
    }
    assert parsers.keys() == COMMANDS.keys()
    for name, argv in COMMANDS.items():
        assert parsers[name](LocalHost().run(argv).stdout).state == "ok", name
