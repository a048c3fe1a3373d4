"""hccn_tool and /etc/hccn.conf: one NPU's answer to each query."""

import pytest

from ropeway.facts.ascend import hccn
from ropeway.facts.ascend.hccn import Address, Optical, Vnic
from ropeway.facts.question import Parsed, ToolError

NOT_SET = "Get ipconf failed, because no ip was preset there!"


def value_of(parsed: Parsed[object]) -> object:
    assert (parsed.state, parsed.unparsed) == ("ok", ())
    return parsed.value


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (NOT_SET, "not-configured"),
        ("Get gateway failed, because no gateway was preset there!", "not-configured"),
        ("hccn_tool is busy, please try again.", "busy"),
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
def test_a_complaint_in_place_of_an_answer_has_its_kind(text, kind):
    for question in (hccn.IP, hccn.LINK, hccn.TLS, hccn.OPTICAL, hccn.STAT, hccn.LINK_STAT):
        parsed = question.parse(text + "\n")
        assert parsed == Parsed.failed(ToolError(kind, text), text + "\n"), question.key


def test_the_usage_below_a_complaint_adds_nothing():
    usage = "[ hccn_tool -i devid -ip ] needs the following parameters:\n   [-s] : set ip cfg\n"
    parsed = hccn.parse_ip(f"Get unknown option!\n{usage}")
    assert (parsed.error, parsed.unparsed) == (ToolError("unsupported", "Get unknown option!"), ())


def test_a_tool_that_is_not_there_is_absent():
    assert hccn.LINK.parse("bash: hccn_tool: command not found").state == "absent"


@pytest.mark.parametrize(
    ("question", "text", "value"),
    [
        (hccn.IP, "ipaddr:10.0.0.3\nnetmask:255.255.0.0\n", Address("10.0.0.3", "255.255.0.0")),
        (hccn.IP, "ipaddr:10.xx.xx.10\n", Address("10.xx.xx.10", None)),
        (hccn.LINK, "link status: DOWN\n", "DOWN"),
        (hccn.NET_HEALTH, "net health status: Receive timeout\n", "Receive timeout"),
        (hccn.NETDETECT, "netdetect addr: 10.0.0.1\n", "10.0.0.1"),
        (hccn.NETDETECT, "netdetect address: 10.0.0.2\n", "10.0.0.2"),
        (hccn.GATEWAY, "default gateway:10.0.0.1, Iface:eth0\n", "10.0.0.1"),
        (hccn.GATEWAY, "gateway:fe80::1\n", "fe80::1"),
        (hccn.VNIC, "vnic link status: UP\nvnic ipaddr: 192.168.2.9\n", Vnic("UP", "192.168.2.9")),
    ],
)
def test_a_labelled_value_is_found(question, text, value):
    assert value_of(question.parse(text)) == value


@pytest.mark.parametrize("text", ["ipaddr:\n", "ipaddr:nowhere\n", "netmask:a b\n"])
def test_what_is_no_address_is_none(text):
    assert hccn.parse_ip(text).state == "unknown"


def test_an_address_that_cannot_be_read_is_told():
    parsed = hccn.parse_ip("ipaddr:nowhere\nnetmask:255.0.0.0\n")
    assert (parsed.state, parsed.value) == ("partial", Address(None, "255.0.0.0"))
    assert "nowhere" in parsed.unparsed[0]


@pytest.mark.parametrize(
    ("summary", "loss"),
    [
        ("3 packets transmitted, 3 received, 0.00% packet loss", 0.0),
        ("3 packets transmitted, 0 received, 100.00% packet loss", 100.0),
        ("3 packets transmitted, 0 received, 0.00% packet loss", 100.0),
        ("1000 packets transmitted, 999 received, 0.10% packet loss", 0.1),
        ("0 packets transmitted, 0 received, 0.00% packet loss", None),
    ],
)
def test_loss_is_counted_and_not_matched(summary, loss):
    assert hccn.parse_ping(f"device 0 PING 10.0.0.2\n{summary}\n").value == loss


def test_a_ping_without_counts_was_cut():
    assert hccn.parse_ping("device 0 PING 10.0.0.2\nrecv time out seq=0\n").state == "unknown"
    assert hccn.parse_ping("Command execute failed!\n").state == "error"


@pytest.mark.parametrize(("switch", "line"), [(0, "dev_id:0, tls switch[0](0:disable, 1:enable), tls preconfigured[0]"), (1, "device 1, tls switch[1](0:disable, 1:enable)")])  # fmt: skip  # noqa: E501
def test_the_tls_switch_stands_before_certificates(switch, line):
    text = f"""\
{line}
dev_id:0, [pub cert] info:
\t subject[/C=CN/O=x]
\t start_time[Sat Jan 31 03:10:27 2026 GMT]
\t tls expiration status[2](0:normal, 1:near expiration, 2:has expired)
"""
    assert value_of(hccn.parse_tls(text)) == switch


OPTICAL = """\
optical info:
present              : present
temperature          : 45 C
vendor name          :
Rx Power0            : 0.9876 mW
Rx Power1            : 0.5 mW
Rx Power2            : NA
Host SNR Lane1       : not supported
RxPower Low Thres    : 0.1445 mW
Rx Los Flag          : 0xff
"""


def test_the_lane_that_receives_least_counts():
    assert value_of(hccn.parse_optical(OPTICAL)) == Optical(True, 0.5, 0.1445, True)
    dark = OPTICAL.replace("0xff", "0x0").replace(": present", ": not present")
    assert value_of(hccn.parse_optical(dark)) == Optical(False, 0.5, 0.1445, False)


def test_a_power_in_another_unit_is_unparsed():
    parsed = hccn.parse_optical("present : present\nRx Power0 : -3.2 dBm\n")
    assert (parsed.state, parsed.value) == ("partial", Optical(True, None, None, None))


def test_counters_have_their_printed_names():
    text = "packet statistics:\nmac_rx_bad_pkt_num:0\nport_id: 4\nroce_rx_err_pkt_num:0x1f\n"
    value = {"mac_rx_bad_pkt_num": 0, "port_id": 4, "roce_rx_err_pkt_num": 31}
    assert value_of(hccn.parse_counters(text)) == value
    assert hccn.parse_counters("colour: 1\n").state == "unknown"


@pytest.mark.parametrize(
    ("counts", "downs"),
    [
        ("link up count :    4\nlink down count :  2\n", 2),
        ("link up count :    4\n", 3),
        ("link up count :    0\n", 0),
        ("", 1),
    ],
)
def test_a_link_went_down_before_each_time_but_the_first_that_it_came_up(counts, downs):
    old = "[devid 0]link change records :\n[devid 0]    Mon Feb 9 21:45:51 2026    LINK UP\n"
    old += "[devid 0]    Mon Feb 9 21:45:47 2026    LINK DOWN\n"
    new = """\
+-----+------+------+-------------+-------------------------+
| NPU | UDie | Port | Link_Status | Time_Stamp              |
|  0  |  0   |  4   |  LINK_UP    | Mon Feb 9 21:45:51 2026 |
|  0  |  0   |  4   |  LINK_DOWN  | Mon Feb 9 21:45:47 2026 |
"""
    assert value_of(hccn.parse_link_downs(counts + old)) == downs
    assert value_of(hccn.parse_link_downs(counts + new)) == downs


def test_the_switch_names_its_port():
    text = """\
Chassis ID TLV
\tMAC: 3c:c7:86:01:02:03
Port ID TLV
\tIfname: 400GE1/1/20:2
System Description TLV
\tHuawei
# 5 ports
End of LLDPDU TLV
"""
    assert value_of(hccn.parse_lldp(text)) == "400GE1/1/20:2"
    assert value_of(hccn.parse_lldp("\tIfname: 400GE1/1/1\n")) == "400GE1/1/1"


def test_the_file_has_an_address_an_npu():
    text = "# written by hand\naddress_0=10.0.0.1\nnetmask_0=255.0.0.0\naddress_1=10.0.0.2\n"
    text += "arp_0=-i eth0 -s 10.0.0.9 aa:bb:cc:dd:ee:ff\nIPv6address_1=2001:db8::1\n"
    assert value_of(hccn.parse_conf(text)) == {0: "10.0.0.1", 1: "10.0.0.2"}


def test_an_address_that_is_set_twice_is_not_chosen_between():
    parsed = hccn.parse_conf("address_0=10.0.0.1\naddress_0=10.0.0.2\n")
    assert (parsed.state, parsed.value) == ("partial", {0: "10.0.0.1"})
    assert parsed.unparsed == ("address_0=10.0.0.2",)
