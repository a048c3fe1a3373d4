"""Interfaces, routes, names, ports and pings of a host, from the texts that its commands print."""

import dataclasses
from pathlib import Path

import pytest

from ropeway.facts import names, network, ports
from ropeway.facts.base import ToolError
from ropeway.facts.names import Hosts, HostsEntry, OwnName, Resolver, is_loopback, resolve
from ropeway.facts.network import (
    Address,
    Interface,
    Interfaces,
    LinkSpeed,
    LinkSpeeds,
    Route,
    Routes,
    default_route,
    parse_ifconfig,
    parse_ip_addr,
    parse_ip_route,
    parse_link_speed,
    route_command,
)
from ropeway.facts.ping import Ping, parse_ping, ping_command
from ropeway.facts.ports import (
    Listener,
    Listeners,
    Program,
    parse_netstat,
    parse_proc_net_tcp,
    parse_ss,
)
from ropeway.hosts.local import LocalHost

RECORDINGS = Path(__file__).parent / "recordings"


def recording(name: str) -> str:
    return (RECORDINGS / name).read_text(encoding="utf-8")


LOOPBACK = Interface(
    name="lo",
    state="UNKNOWN",
    up=True,
    running=True,
    mtu=65_536,
    kind="loopback",
    mac=None,
    addresses=(Address("127.0.0.1", 8, "host"), Address("::1", 128, "host")),
)
UNUSED = Interface("ifb0", "DOWN", False, False, 1500, "ether", "ee:2a:fa:be:3f:97", ())
ETHERNET = Interface(
    name="eth0",
    state="UP",
    up=True,
    running=True,
    mtu=1400,
    kind="ether",
    mac="02:00:5e:00:53:01",
    addresses=(
        Address("192.0.2.2", 24, "global"),
        Address("fd00::2", 64, "global"),
        Address("fe80::5eff:fe00:5301", 64, "link"),
    ),
)
ALL = Interfaces(
    (LOOPBACK, UNUSED, dataclasses.replace(UNUSED, name="ifb1", mac="6a:21:4d:75:b7:47"), ETHERNET)
)


@pytest.mark.parametrize("form", ["", "_json"])
def test_interfaces_are_read(form):
    reading = parse_ip_addr(recording(f"ip_addr{form}.txt"))
    assert (reading.state, reading.value) == ("ok", ALL)


def test_busybox_prints_no_state():
    assert parse_ip_addr(recording("ip_addr_busybox.txt")).value == Interfaces(
        tuple(dataclasses.replace(interface, state=None) for interface in ALL.interfaces)
    )


@pytest.mark.parametrize("form", ["", "_busybox"])
def test_ifconfig_of_two_ages_says_the_same(form):
    reading = parse_ifconfig(recording(f"ifconfig{form}.txt"))
    assert reading.state == "ok" and reading.value is not None
    ethernet, unused, _, loopback = reading.value.interfaces
    assert ethernet == dataclasses.replace(
        ETHERNET,
        state=None,
        addresses=(
            Address("192.0.2.2", 24),
            Address("fe80::5eff:fe00:5301", 64),
            Address("fd00::2", 64),
        ),
    )
    assert unused == dataclasses.replace(UNUSED, state=None)
    assert (loopback.kind, loopback.addresses[0]) == ("loopback", Address("127.0.0.1", 8))


def test_a_port_of_a_bond_and_a_vlan_are_interfaces():
    text = """\
2: enp189s0f0: <BROADCAST,MULTICAST,SLAVE,UP,LOWER_UP> mtu 1500 qdisc mq master bond0 state UP
    link/ether 02:00:5e:00:53:0a brd ff:ff:ff:ff:ff:ff
7: bond0.100@bond0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP
    link/ether 02:00:5e:00:53:0b brd ff:ff:ff:ff:ff:ff
    altname vlan100
    inet 10.20.0.5/24 brd 10.20.0.255 scope global secondary bond0.100
9: ib0: <BROADCAST,MULTICAST> mtu 2044 qdisc mq state DOWN
    link/infiniband 00:00:00:67:fe:80 brd 00:ff
"""
    reading = parse_ip_addr(text)
    assert reading.state == "ok" and reading.value is not None
    assert [interface.name for interface in reading.value.interfaces] == [
        "enp189s0f0",
        "bond0.100",
        "ib0",
    ]
    assert reading.value.interfaces[1].addresses == (Address("10.20.0.5", 24, "global"),)
    assert (reading.value.interfaces[2].kind, reading.value.interfaces[2].mac) == (
        "infiniband",
        None,
    )


def test_lines_cut_off_at_the_end_are_kept():
    text = recording("ip_addr.txt")
    reading = parse_ip_addr(text[: text.index("0.2.2/24 brd")])
    assert reading.state == "partial" and reading.value is not None
    assert reading.value.interfaces[3].addresses == ()
    assert reading.unread == ("    inet 192.",)


@pytest.mark.parametrize("form", ["", "_json"])
def test_routes_are_read(form):
    reading = parse_ip_route(recording(f"ip_route{form}.txt"))
    assert reading.state == "ok"
    assert reading.value == Routes(
        (
            Route("default", "192.0.2.1", "eth0", None),
            Route("192.0.2.0/24", None, "eth0", "192.0.2.2"),
        )
    )


def test_the_way_to_an_address_names_the_interface():
    assert parse_ip_route(recording("ip_route_get.txt")).value == Routes(
        (Route("127.0.0.2", None, "lo", "127.0.0.1", type="local"),)
    )
    text = "10.0.0.9 via 10.1.0.1 dev enp1s0 src 10.1.0.4 uid 0 \n    cache \n"
    assert parse_ip_route(text).value == Routes(
        (Route("10.0.0.9", "10.1.0.1", "enp1s0", "10.1.0.4"),)
    )


def test_no_way_is_an_error():
    reading = parse_ip_route("RTNETLINK answers: Network is unreachable\n")
    assert reading.error == ToolError("failed", "RTNETLINK answers: Network is unreachable")


def test_the_default_route_with_the_least_metric_is_taken():
    text = "default via 10.0.0.1 dev a metric 200\ndefault via 10.1.0.1 dev b metric 100\n"
    value = parse_ip_route(text).value
    assert value is not None
    assert default_route(value) == Route("default", "10.1.0.1", "b", None, 100)
    assert default_route(Routes(())) is None


def test_speeds_come_from_sys_or_ethtool():
    text = """\
/sys/class/net/enp1s0/speed:25000
/sys/class/net/eth0/speed:-1
grep: /sys/class/net/lo/speed: Invalid argument
/sys/class/net/enp1s0/operstate:up
/sys/class/net/eth0/operstate:up
/sys/class/net/lo/operstate:unknown
"""
    reading = parse_link_speed(text)
    assert reading.state == "ok"
    assert reading.value == LinkSpeeds(
        (
            LinkSpeed("enp1s0", 25_000, state="up"),
            LinkSpeed("eth0", None, state="up"),
            LinkSpeed("lo", None, state="unknown"),
        )
    )
    assert parse_link_speed(recording("ethtool.txt")).value == LinkSpeeds(
        (LinkSpeed("eth0", None, link_detected=True, auto_negotiation=False),)
    )
    text = "Settings for enp1s0:\n\tSpeed: 100000Mb/s\n\tDuplex: Full\n\tLink detected: no\n"
    assert parse_link_speed(text).value == LinkSpeeds(
        (LinkSpeed("enp1s0", 100_000, "Full", link_detected=False),)
    )


def test_listeners_have_their_programs():
    reading = parse_ss(recording("ss.txt"))
    assert reading.state == "ok" and reading.value is not None
    assert len(reading.value.listeners) == 19
    assert reading.value.listeners[:2] == (
        Listener("127.0.0.2", 52_365, (Program("ray::DashboardA", 12_402),)),
        Listener("0.0.0.0", 2024),
    )
    ray = [each for each in reading.value.listeners if each.port == 6379]
    assert ray == [Listener("*", 6379, (Program("gcs_server", 12_290),))]
    assert reading.value.listeners[-1].address == "::ffff:127.0.0.1"


def test_ss_may_have_no_header_and_several_programs():
    text = 'LISTEN 0 5 [::1]:631 [::]:* users:(("a",pid=1,fd=3),("b",pid=2,fd=4))\n'
    assert parse_ss(text).value == Listeners(
        (Listener("::1", 631, (Program("a", 1), Program("b", 2))),)
    )


def test_a_host_where_nobody_listens():
    header = "State  Recv-Q Send-Q  Local Address:Port  Peer Address:Port  Process\n"
    assert parse_ss(header).value == Listeners(())
    assert parse_ss(header + "ESTAB 0 0 10.0.0.1:22 10.0.0.2:5000\n").value == Listeners(())


def test_netstat_is_read_too():
    text = """\
Active Internet connections (only servers)
Proto Recv-Q Send-Q Local Address           Foreign Address         State       PID/Program name
tcp        0      0 0.0.0.0:22              0.0.0.0:*               LISTEN      1021/sshd: /usr/sbi
tcp        0      0 10.0.0.1:22             10.0.0.2:5000           ESTABLISHED 77/sshd
tcp6       0      0 :::8000                 :::*                    LISTEN      -
"""
    reading = parse_netstat(text)
    assert reading.state == "ok"
    assert reading.value == Listeners(
        (
            Listener("0.0.0.0", 22, (Program("sshd: /usr/sbi", 1021),)),
            Listener("::", 8000),
        )
    )


def test_the_kernels_table_is_in_hexadecimal():
    text = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 5821 1
   2: 0100007F:1F40 0100007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 5824 1
  sl  local_address                         remote_address                        st tx_queue
   0: 0000000000000000FFFF00000200007F:2711 00000000000000000000000000000000:0000 0A 00000000:0
   1: B80D0120000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:0
"""
    reading = parse_proc_net_tcp(text)
    assert reading.state == "ok"
    assert reading.value == Listeners(
        (
            Listener("127.0.0.1", 8000),
            Listener("::ffff:127.0.0.2", 10_001),
            Listener("2001:db8::1", 22),
        )
    )


def test_a_ping_has_its_loss_as_a_number():
    reading = parse_ping(recording("ping.txt"))
    assert reading.state == "ok"
    assert reading.value == Ping(
        "127.0.0.1", "127.0.0.1", 3, 3, 0.0, rtt_min_ms=0.042, rtt_avg_ms=0.126, rtt_max_ms=0.294
    )
    assert parse_ping(recording("ping_busybox.txt")).value == Ping(
        "127.0.0.1", "127.0.0.1", 2, 2, 0.0, rtt_min_ms=0.038, rtt_avg_ms=0.067, rtt_max_ms=0.096
    )


def test_a_ping_that_nothing_answers():
    assert parse_ping(recording("ping_unreachable.txt")).value == Ping(
        "10.0.0.3", "10.0.0.3", 1, 0, 100.0, errors=1, problems=("Destination Host Unreachable",)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 packets transmitted, 1 received, 66.6667% packet loss, time 2031ms", 66.6667),
        ("10 packets transmitted, 9 received, +2 duplicates, 10% packet loss, time 1ms", 10.0),
        ("2 packets transmitted, 0 packets received, 100% packet loss", 100.0),
    ],
)
def test_loss_is_never_half_a_number(text, expected):
    value = parse_ping(f"PING n2 (10.0.0.2) 56(84) bytes of data.\n\n{text}\n").value
    assert value is not None and (value.loss_percent, value.target) == (expected, "n2")


def test_a_ping_of_which_the_end_is_missing_has_no_loss():
    text = recording("ping.txt")
    reading = parse_ping(text[: text.index("---")])
    assert reading.state == "partial" and reading.value is not None
    assert reading.value.loss_percent is None and reading.value.target == "127.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "ping: nosuch.invalid: Name or service not known\n",
        "ping: bad address 'nosuch.invalid'\n",
        "ping: unknown host nosuch\n",
        "connect: Network is unreachable\n",
        "ping: connect: Network is unreachable\n",
    ],
)
def test_a_ping_that_cannot_start_is_an_error(text):
    assert parse_ping(text).error == ToolError("failed", text.strip())


def test_a_ping_without_the_right_is_denied():
    error = parse_ping("ping: socket: Operation not permitted\n").error
    assert error is not None and error.kind == "denied"


def test_the_hosts_file_is_read_without_its_comments():
    text = """\
# made by cloud-init
127.0.0.1 localhost
127.0.1.1\tNode1.example node1  # Debian's way
::1       localhost ip6-localhost
10.0.0.2  node2
"""
    reading = names.parse_hosts(text)
    assert reading.state == "ok" and reading.value is not None
    assert reading.value == Hosts(
        (
            HostsEntry("127.0.0.1", ("localhost",)),
            HostsEntry("127.0.1.1", ("Node1.example", "node1")),
            HostsEntry("::1", ("localhost", "ip6-localhost")),
            HostsEntry("10.0.0.2", ("node2",)),
        )
    )
    assert resolve(reading.value, "NODE1") == ("127.0.1.1",)
    ahosts = names.parse_hosts("10.0.0.5      STREAM node5\n10.0.0.5      DGRAM  \n").value
    assert ahosts == Hosts((HostsEntry("10.0.0.5", ("node5",)), HostsEntry("10.0.0.5", ())))
    assert resolve(reading.value, "localhost") == ("127.0.0.1", "::1")
    assert [is_loopback(each) for each in ("127.0.1.1", "::1", "10.0.0.2", "?")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_the_own_name_resolves_or_not():
    text = "hostname: node1\n127.0.1.1       node1\n127.0.1.1 STREAM node1\n127.0.1.1 DGRAM\n"
    assert names.parse_own_name(text).value == OwnName("node1", ("127.0.1.1",))
    assert names.parse_own_name("hostname: node1\n").value == OwnName("node1", ())


def test_nameservers_are_read():
    text = "; by hand\nsearch a.example b.example\nnameserver 10.0.0.53\noptions ndots:2 rotate\n"
    reading = names.parse_resolv_conf(text)
    assert reading.state == "ok"
    assert reading.value == Resolver(
        ("10.0.0.53",), ("a.example", "b.example"), ("ndots:2", "rotate")
    )


def test_the_commands_answer_on_this_machine():
    host = LocalHost()
    for module in (names, network, ports):
        parsers = {output.name: output.parse for output in module.OUTPUTS}
        for name, argv in module.COMMANDS.items():
            if name in ("ip-addr", "ip-route", "ss", "resolv-conf"):
                continue  # not every machine that runs the tests has these
            assert parsers[name](host.run(argv).stdout).state == "ok", name
    assert route_command("10.0.0.9") == ("ip", "route", "get", "10.0.0.9")
    assert ping_command("n2") == ("ping", "-c", "2", "-w", "3", "n2")
