"""hccn_tool: one record an NPU, whatever people paste; and /etc/hccn.conf."""

from typing import Any

import pytest

from facts_recordings import expected_of, recorded, shown, text_of
from ropeway.facts.base import Reading, ToolError
from ropeway.facts.catalogue import BY_NAME
from ropeway.facts.hccn import HccnPart, parse_multi, query_of
from ropeway.facts.hccn_details import (
    OPTICAL,
    HccnLinkStat,
    HccnStat,
    LinkChange,
    parse_hw_stats,
    parse_link_stat,
    parse_lldp,
    parse_stat,
    parse_status,
)
from ropeway.facts.hccn_ping import (
    HccnPing,
    HccnTls,
    PingReply,
    Route,
    TlsCertificate,
    parse_ping,
    parse_route,
    parse_tls,
)
from ropeway.facts.hccn_ports import (
    FecPort,
    HccnFec,
    HccnSpeed,
    SpeedPort,
    parse_fec,
    parse_speed,
)
from ropeway.facts.hccn_records import (
    GATEWAY,
    IP,
    LINK,
    MTU,
    NETDETECT,
    OTHER,
    HccnConf,
    HccnGateway,
    HccnIp,
    HccnLink,
    HccnMtu,
    HccnNetdetect,
    HccnOther,
    parse_hccn_conf,
)

NOT_SET = "Get ipconf failed, because no ip was preset there!"
BUSY = "hccn_tool is busy, please try again."


def value_of(reading: Reading[Any]) -> Any:
    assert reading.state == "ok", reading
    return reading.value


@pytest.mark.parametrize("name", recorded("hccn"))
def test_a_recording_says_what_a_reader_sees(name: str) -> None:
    expected = expected_of(name)
    output = BY_NAME[expected["output"]]
    assert shown(output, output.parse(text_of(name))) == expected


# Which NPU


def test_an_echoed_command_names_the_npu() -> None:
    text = """\
root@a:~# hccn_tool -i 3 -ip -g
ipaddr:10.0.0.3
netmask:255.255.255.0
root@a:~# hccn_tool -i 11 -ip -g
ipaddr:10.0.0.11
netmask:255.255.255.0
root@a:~#
"""
    assert value_of(IP.read(text)) == (
        HccnIp(3, "10.0.0.3", "255.255.255.0"),
        HccnIp(11, "10.0.0.11", "255.255.255.0"),
    )


def test_a_heading_names_the_npu() -> None:
    text = "===== NPU 0 =====\nlink status: UP\n--- device 1:\nlink status: DOWN\n"
    assert value_of(LINK.read(text)) == (HccnLink(0, "UP"), HccnLink(1, "DOWN"))


def test_npus_that_nothing_names_are_not_counted_out() -> None:
    text = "for i in {0..7}; do hccn_tool -i $i -link -g; done\nlink status: UP\nlink status: UP\n"
    assert value_of(LINK.read(text)) == (HccnLink(None, "UP"), HccnLink(None, "UP"))


# Complaints


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (NOT_SET, "not-configured"),
        ("Get ip failed, because no ip was preset there!", "not-configured"),
        ("Get gateway failed, because no gateway was preset there!", "not-configured"),
        (BUSY, "busy"),
        ("I2c is busy. Please try again.", "busy"),
        ("permission denied: pls check this cmd run permission.", "denied"),
        ("The device is not exist!", "no-device"),
        ("Get invalid device id.", "no-device"),
        ("The command is not supported on this product.", "unsupported"),
        ("Get unknown option!", "unsupported"),
        ("The cmd line execute timeout!", "timeout"),
        ("Control link unreachable.", "no-driver"),
        ("Command execute failed!", "failed"),
        ("Cmd execute failed!", "failed"),
        ("Execute failed: Link status is down.", "failed"),
        ("The total count of input parameters is wrong!", "failed"),
    ],
)
def test_a_complaint_in_place_of_an_answer_has_its_kind(text: str, kind: str) -> None:
    reading = IP.read(text + "\n")
    assert reading.state == "error"
    assert reading.error is not None
    assert (reading.error.kind, reading.error.message) == (kind, text)


def test_a_complaint_among_answers_belongs_to_its_npu() -> None:
    text = f"NPU 0:\nipaddr:10.0.0.1\nnetmask:255.255.255.0\nNPU 1:\n{NOT_SET}\n"
    assert value_of(IP.read(text)) == (
        HccnIp(0, "10.0.0.1", "255.255.255.0"),
        HccnIp(1, error=ToolError("not-configured", NOT_SET)),
    )


def test_a_loop_of_complaints_is_an_error_with_a_record_an_npu() -> None:
    reading = IP.read(f"NPU 0:\n{NOT_SET}\nNPU 1:\n{BUSY}\n")
    assert reading.state == "error"
    assert reading.error == ToolError("busy", BUSY)
    assert reading.value is not None
    assert [(ip.device, ip.error.kind if ip.error else None) for ip in reading.value] == [
        (0, "not-configured"),
        (1, "busy"),
    ]


def test_the_usage_below_a_complaint_adds_nothing() -> None:
    usage = "[ hccn_tool -i devid -ip ] needs the following parameters:\n   [-s] : set ip cfg\n"
    reading = IP.read(f"Get unknown option!\n{usage}")
    assert reading.error == ToolError("unsupported", "Get unknown option!")
    assert reading.unread == ()


def test_a_tool_that_is_not_there_is_absent() -> None:
    assert LINK.read("bash: hccn_tool: command not found").state == "absent"


# A few labelled lines


def test_labels_differ_between_versions() -> None:
    assert value_of(NETDETECT.read("netdetect addr: 10.0.0.1\nnetdetect address: 10.0.0.2\n")) == (
        HccnNetdetect(address="10.0.0.1"),
        HccnNetdetect(address="10.0.0.2"),
    )
    both = "default gateway:10.0.0.1, Iface:eth0\ngateway:fe80::1\n"
    assert value_of(GATEWAY.read(both)) == (
        HccnGateway(gateway="10.0.0.1", interface="eth0"),
        HccnGateway(gateway="fe80::1"),
    )
    ipv6 = "ipv6_address:2001:db8::1\nprefix_length:64\n"
    assert value_of(IP.read(ipv6)) == (HccnIp(ipv6_address="2001:db8::1", prefix_length=64),)


@pytest.mark.parametrize("text", ["ipaddr:\n", "ipaddr:nowhere\n", "netmask:a b\n"])
def test_what_is_no_address_is_none(text: str) -> None:
    assert IP.read(text).state == "unknown"


def test_other_queries_keep_their_labels() -> None:
    assert value_of(MTU.read("mtu:4500\n")) == (HccnMtu(mtu=4500),)
    text = "Bandwidth TX:   12.34 MB/sec\nBandwidth RX:    0.00 MB/sec\n"
    values = {"Bandwidth TX": "12.34 MB/sec", "Bandwidth RX": "0.00 MB/sec"}
    assert value_of(OTHER.read(text)) == (HccnOther(values=values),)


# Ping


@pytest.mark.parametrize(
    ("summary", "loss"),
    [
        ("3 packets transmitted, 3 received, 0.00% packet loss", 0.0),
        ("3 packets transmitted, 0 received, 100.00% packet loss", 100.0),
        ("3 packets transmitted, 2 received, 33.33% packet loss", 33.33),
        ("1000 packets transmitted, 999 received, 0.10% packet loss", 0.1),
        ("0 packets transmitted, 0 received, 0.00% packet loss", None),
    ],
)
def test_loss_is_counted_and_not_matched(summary: str, loss: float | None) -> None:
    (ping,) = value_of(parse_ping(f"device 0 PING 10.0.0.2\n{summary}\n"))
    assert ping.loss_percent == loss


def test_a_printed_loss_that_contradicts_the_counts_stands_beside_them() -> None:
    (ping,) = value_of(parse_ping("3 packets transmitted, 0 received, 0.00% packet loss\n"))
    assert (ping.loss_percent, ping.printed_loss_percent) == (100.0, 0.0)


def test_pings_follow_each_other() -> None:
    text = """\
device 0 PING 10.0.0.1
recv seq=0,time=1.418000ms
recv time out seq=1
2 packets transmitted, 1 received, 50.00% packet loss
device 0 PING 10.0.0.2
From 10.0.0.9 Destination Host Unreachable
1 packets transmitted, 0 received, 100.00% packet loss
"""
    assert value_of(parse_ping(text)) == (
        HccnPing(
            device=0,
            target="10.0.0.1",
            transmitted=2,
            received=1,
            loss_percent=50.0,
            printed_loss_percent=50.0,
            replies=(PingReply(0, 1.418), PingReply(1, None, "timeout")),
        ),
        HccnPing(
            device=0,
            target="10.0.0.2",
            transmitted=1,
            received=0,
            loss_percent=100.0,
            printed_loss_percent=100.0,
            messages=("From 10.0.0.9 Destination Host Unreachable",),
        ),
    )


def test_a_ping_without_a_header_takes_its_target_from_the_command() -> None:
    text = "# hccn_tool -i 5 -ping -g address 10.0.0.7\nrecv seq=O,time=97.0us\n"
    reading = parse_ping(text)
    assert reading.state == "partial"  # its summary is missing
    replies = (PingReply(0, 0.097),)
    assert reading.value == (HccnPing(device=5, target="10.0.0.7", replies=replies),)


def test_a_ping_over_hccs_tells_of_each_packet_before_its_time() -> None:
    text = """\
device 0 PING 192.168.2.198

This pkt ping success!
recv seq 0, time = 12.345us, L1 plane check result = 0x0

This pkt send fail!
recv seq 1, time = 0.000us, L1 plane check result = 0x0

2 packets transmitted, 1 received, 50.00% packets loss
max time 12.345us
"""
    (ping,) = value_of(parse_ping(text))
    assert ping.replies == (PingReply(0, 0.012345), PingReply(1, None, "failed"))
    assert (ping.loss_percent, ping.max_ms) == (50.0, 0.012345)


# TLS


def test_certificates_belong_to_their_npu() -> None:
    text = """\
dev_id:0, tls switch[0](0:disable, 1:enable), tls preconfigured[0](0:non-preset, 1:preset), \
tls alarm time threshold[60]days
dev_id:0, [pub cert] info:
\t subject[/C=CN/O=x]
\t issuer[/C=CN/O=y]
\t start_time[Sat Jan 31 03:10:27 2026 GMT]
\t end_time[Wed Jun 18 03:10:27 2053 GMT]
\t tls expiration status[2](0:normal, 1:near expiration, 2:has expired)
device 1, tls switch[1](0:disable, 1:enable), tls preconfigured[1](0:non-preset, 1:preset)
"""
    certificate = TlsCertificate(
        name="pub cert",
        subject="/C=CN/O=x",
        issuer="/C=CN/O=y",
        start="Sat Jan 31 03:10:27 2026 GMT",
        end="Wed Jun 18 03:10:27 2053 GMT",
        expiration=2,
    )
    assert value_of(parse_tls(text)) == (
        HccnTls(0, False, False, 60, (certificate,)),
        HccnTls(1, True, True),
    )


# The port


def test_an_optical_module_has_a_value_a_lane() -> None:
    text = """\
optical info:
present              : present
temperature          : 45 C
vendor name          :
Tx Power0            : 0.9876 mW
Tx Power1            : NA
Host SNR Lane0       : 24.1250 dB
Host SNR Lane1       : not supported
Rx Los Flag          : 0xff
"""
    (optical,) = value_of(OPTICAL.read(text * 1))
    assert (optical.present, optical.temperature_c, optical.vendor_name) == (True, 45.0, None)
    assert (optical.tx_power_mw, optical.host_snr_db) == ((0.9876, None), (24.125, None))
    assert optical.rx_los == 255
    assert len(value_of(OPTICAL.read(text * 2))) == 2


def test_a_value_in_another_unit_is_unread() -> None:
    reading = OPTICAL.read("present : present\nTx Power0 : -3.2 dBm\n")
    assert reading.state == "partial"
    assert reading.unread == ("Tx Power0 : -3.2 dBm",)


def test_counters_come_again_for_the_next_npu() -> None:
    text = "packet statistics:\nmac_rx_bad_pkt_num:0\nport_id: 4\n"
    counters = {"mac_rx_bad_pkt_num": 0, "port_id": 4}
    assert value_of(parse_stat(text * 2)) == (HccnStat(counters=counters),) * 2
    filtered = "roce_rx_err_pkt_num:1\nroce_rx_err_pkt_num:2\n"
    assert [stat.counters for stat in value_of(parse_stat(filtered))] == [
        {"roce_rx_err_pkt_num": 1},
        {"roce_rx_err_pkt_num": 2},
    ]
    tagged = "[devid 0] pd_alloc: 1\n[devid 1] pd_alloc: 2\n"
    assert [stat.device for stat in value_of(parse_hw_stats(tagged))] == [0, 1]


def test_a_950_draws_its_link_changes_as_a_table() -> None:
    text = """\
link up count :    1
link down count :  1
+-----+------+------+-------------+-------------------------+
| NPU | UDie | Port | Link_Status | Time_Stamp              |
|  0  |  0   |  4   |  LINK_UP    | Mon Feb 9 21:45:51 2026 |
|  0  |  0   |  4   |  LINK_DOWN  | Mon Feb 9 21:45:47 2026 |
"""
    changes = (
        LinkChange("Mon Feb 9 21:45:51 2026", "UP", 0, 4),
        LinkChange("Mon Feb 9 21:45:47 2026", "DOWN", 0, 4),
    )
    expected = HccnLinkStat(link_up_count=1, link_down_count=1, changes=changes)
    assert value_of(parse_link_stat(text)) == (expected,)


def test_a_950_draws_speed_and_error_correction_as_tables() -> None:
    speed = """\
| NPU | UDie | Port | Speed   | Cap | Width | Status    |
| 0   | 0    | 4    | 400 G   | X4  | X4    | normal    |
"""
    fec = """\
| NPU | UDie | Port | rs_mode | auto_change_mode | itlv_mode  |
| 0   | 0    | 4    | 128 T4  | Static           | Interweave |
"""
    port = SpeedPort(0, 4, 400.0, "X4", "X4", "normal")
    assert value_of(parse_speed(speed)) == (HccnSpeed(ports=(port,)),)
    assert value_of(parse_fec(fec)) == (
        HccnFec(ports=(FecPort(0, 4, "128 T4", "Static", "Interweave"),)),
    )


def test_a_speed_that_is_not_known_is_none() -> None:
    assert value_of(parse_speed("Speed: 200000 Mb/s\nSpeed: Unknown!\n")) == (
        HccnSpeed(speed_mbps=200_000),
        HccnSpeed(),
    )


def test_a_neighbour_may_say_a_thing_twice() -> None:
    text = """\
Chassis ID TLV
\tMAC: 3c:c7:86:01:02:03
Port ID TLV
\tIfname: 400GE1/1/20:2
Unidentified Org Specific TLV
\tOUI: 0x00e0fc
Time to Live TLV
\t121
Unidentified Org Specific TLV
\tOUI: 0x0080c2
End of LLDPDU TLV
"""
    (neighbour,) = value_of(parse_lldp(text))
    assert (neighbour.chassis_id, neighbour.port_id) == ("3c:c7:86:01:02:03", "400GE1/1/20:2")
    assert neighbour.ttl_s == 121
    assert neighbour.tlvs["Unidentified Org Specific"] == ("OUI: 0x00e0fc", "OUI: 0x0080c2")


def test_ports_that_were_filtered_out_of_the_neighbours() -> None:
    found = value_of(parse_lldp("\tIfname: 400GE1/1/1\n\tIfname: 400GE1/1/2\n"))
    assert [neighbour.port_id for neighbour in found] == ["400GE1/1/1", "400GE1/1/2"]


def test_a_route_of_ipv6_has_a_column_less() -> None:
    text = """\
Routing table:
Kernel IPv6 routing table
Destination                    Next Hop                   Flag Met Ref Use If
fe80::/64                      ::                         U    256 1     0 eth0
"""
    (found,) = value_of(parse_route(text))
    assert found.routes == (Route("fe80::/64", "::", None, "U", 256, 1, 0, "eth0"),)


def test_a_remark_behind_a_setting_is_not_part_of_it() -> None:
    text = "Netdev status:Settings for eth0:\n\tSpeed: 200000Mb/s  # fast\n\tLink detected: yes\n"
    (status,) = value_of(parse_status(text))
    assert (status.interface, status.speed_mbps, status.link_detected) == ("eth0", 200_000, True)


# The file


def test_the_file_has_a_record_an_npu() -> None:
    text = """\
# written by hand
address_0=10.0.0.1
netmask_0=255.255.255.0
address_1=10.0.0.2
arp_0=-i eth0 -s 10.0.0.9 aa:bb:cc:dd:ee:ff
arp_0=-i eth0 -s 10.0.0.8 aa:bb:cc:dd:ee:00
mtu_1=4500
tls_enable_1=1
IPv6address_1=2001:db8::1
"""
    arp = ("-i eth0 -s 10.0.0.9 aa:bb:cc:dd:ee:ff", "-i eth0 -s 10.0.0.8 aa:bb:cc:dd:ee:00")
    assert value_of(parse_hccn_conf(text)) == (
        HccnConf(0, "10.0.0.1", "255.255.255.0", arp=arp),
        HccnConf(
            1,
            "10.0.0.2",
            mtu=4500,
            tls_enabled=True,
            others={"IPv6address": "2001:db8::1"},
        ),
    )


def test_an_address_that_is_set_twice_is_not_chosen_between() -> None:
    reading = parse_hccn_conf("address_0=10.0.0.1\naddress_0=10.0.0.2\n")
    assert reading.state == "partial"
    assert reading.value == (HccnConf(0, "10.0.0.1"),)
    assert reading.unread == ("address_0=10.0.0.2",)


# Several queries


def test_different_queries_are_parts() -> None:
    text = """\
$ for i in 0 1; do echo "NPU $i:"; hccn_tool -i $i -ip -g; hccn_tool -i $i -link -g; done
NPU 0:
ipaddr:10.0.0.1
netmask:255.255.255.0
link status: UP
NPU 1:
Get ipconf failed, because no ip was preset there!
link status: DOWN
"""
    parts = value_of(parse_multi(text))
    assert [(part.name, part.device, part.reading.state) for part in parts] == [
        ("hccn-ip", 0, "ok"),
        ("hccn-link", 0, "ok"),
        ("hccn-ip", 1, "error"),
        ("hccn-link", 1, "ok"),
    ]
    assert parts[3] == HccnPart("hccn-link", 1, Reading.of((HccnLink(1, "DOWN"),)))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("hccn_tool -i 0 -link -g", "hccn-link"),
        ("/usr/local/Ascend/driver/tools/hccn_tool -g -link_stat -i 0 -u 0 -p 4", "hccn-link-stat"),
        ("hccn_tool -t -ub_ping -i 0 -src_eid ::1 -dst_eid ::2", "hccn-ub-ping"),
        ("for i in {0..7}; do hccn_tool -i $i -net_health -g; done", "hccn-net-health"),
        ("hccn_tool -i 0 -pfc_storm -g", "hccn-other"),
        ("hccn_tool -h", None),
        ("npu-smi info", None),
    ],
)
def test_the_query_of_a_command(command: str, name: str | None) -> None:
    assert query_of(command) == name
