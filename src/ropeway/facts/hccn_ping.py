"""`hccn_tool -ping`, `-ub_ping`, `-hccs_ping`, `-route` and `-tls`.

Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_product_ext/ds_net_ext.c` and `tool_cmd.c`,
`hccn_tool/tool_tls.c`, `hccn/ascend950/hccn_product_ext/tool_product.c`, and recordings.
"""

import re
from dataclasses import dataclass

from ropeway.facts.base import Reading, ToolError
from ropeway.facts.captures import is_rule, read_capture
from ropeway.facts.complaints import Leftovers, conclude_records
from ropeway.facts.labelled import Records, device_tag

_PING = re.compile(
    r"device (\d{1,4})(?: +dev +(?!EID\b)\S+)?(?: +dev)? +(?:PING6?|EID) +(\S+)(?: +to +(\S+))?",
    re.I,
)
# `seq=O` with a letter stands in Huawei's own documents.
_REPLY = re.compile(
    r"recv seq ?[=:]? ?(\d{1,9}|O)\b,? *time ?[=:] ?(\d{1,12}(?:\.\d{1,9})?) ?(ms|us)\b"
)
_NO_REPLY = re.compile(r"(recv time ?out|pkt send fail),? *seq ?[=:]? ?(\d{1,9}|O)\b", re.I)
_PACKET = re.compile(r"This (?:pkt|packet)\b.*(success|fail|not start)", re.I)
_SUMMARY = re.compile(
    r"(\d{1,9}) packets transmitted, *(\d{1,9}) received, *(\d{1,9}(?:\.\d{1,9})?)% packets? loss"
)
_TIMES = re.compile(
    r"(max|min|average|TP95) time:? (\d{1,12}(?:\.\d{1,9})?) ?(ms|us)\b", re.I | re.A
)
_TARGET = re.compile(r"\b(?:address|-dst_eid) +(\S+)")
_TROUBLE = re.compile(r"Message too long|Destination \w+ Unreachable|Network is unreachable", re.I)
_DONE = "Cmd executed successfully!"


@dataclass(frozen=True)
class PingReply:
    """One packet; time_ms is None when no answer came, and `result` says why."""

    seq: int
    time_ms: float | None
    result: str = "received"


@dataclass(frozen=True)
class HccnPing:
    """A ping from one NPU. Loss is taken from the counts; the printed figure stands beside it.

    target        the address that was asked for, from the header or the echoed command
    loss_percent  of transmitted and received; None when nothing was transmitted
    messages      `Message too long`, `Destination Host Unreachable`
    """

    device: int | None = None
    target: str | None = None
    source: str | None = None
    transmitted: int | None = None
    received: int | None = None
    loss_percent: float | None = None
    printed_loss_percent: float | None = None
    replies: tuple[PingReply, ...] = ()
    max_ms: float | None = None
    min_ms: float | None = None
    average_ms: float | None = None
    tp95_ms: float | None = None
    messages: tuple[str, ...] = ()
    error: ToolError | None = None


def parse_ping(text: str) -> Reading[tuple[HccnPing, ...]]:
    """One record a ping; those without a summary were cut off."""
    capture, leftovers = read_capture(text), Leftovers()
    records = Records(HccnPing)
    for block in capture.blocks:
        records.end()
        asked = _TARGET.search(block.command or "")
        target = asked[1] if asked and "$" not in asked[1] else None
        records.context(device=block.device, target=target)
        failed = False
        for line in block.lines:
            packet = _PACKET.search(line)
            if packet:
                failed = packet[1].lower() != "success"
            elif not _ping_line(line, records, failed) and not is_rule(line) and _DONE not in line:
                error = leftovers.add(line)
                if error is not None:
                    leftovers.errors.pop()
                    records.add(error=error)
        records.end()
    cut = any(record.transmitted is None and record.error is None for record in records.done)
    return conclude_records(text, records.done, leftovers, cut=capture.elided or cut)


def _ping_line(line: str, records: Records[HccnPing], failed: bool) -> bool:
    header, reply, lost = _PING.search(line), _REPLY.search(line), _NO_REPLY.search(line)
    summary, times = _SUMMARY.search(line), _TIMES.match(line.strip())
    if (header or reply or lost) and records.has("transmitted"):
        records.end()  # another ping
    if header:
        records.end()
        records.context(device=int(header[1]))
        source, target = (header[2], header[3]) if header[3] else (None, header[2])
        records.put("target", target)
        records.put("source", source)
    elif reply:
        time = None if failed else _milliseconds(reply[2], reply[3])
        answer = PingReply(_seq(reply[1]), time, "failed" if failed else "received")
        records.extend("replies", (answer,))
    elif lost:
        why = "timeout" if "out" in lost[1].lower() else "not sent"
        records.extend("replies", (PingReply(_seq(lost[2]), None, why),))
    elif summary:
        sent, received = int(summary[1]), int(summary[2])
        records.put("transmitted", sent)
        records.put("received", received)
        records.put("loss_percent", round(100 * (sent - received) / sent, 2) if sent else None)
        records.put("printed_loss_percent", float(summary[3]))
    elif times and records.open:
        records.put(f"{times[1].lower()}_ms", _milliseconds(times[2], times[3]))
    elif _TROUBLE.search(line):
        records.extend("messages", (line.strip(),))
    else:
        return False
    return True


def _milliseconds(value: str, unit: str) -> float:
    return float(value) if unit.lower() == "ms" else round(float(value) / 1000, 6)


def _seq(printed: str) -> int:
    return int(printed.replace("O", "0"))


@dataclass(frozen=True)
class Route:
    """A row of the routing table; `default` and `*` as they are printed."""

    destination: str
    gateway: str
    netmask: str | None
    flags: str
    metric: int | None
    ref: int | None
    use: int | None
    interface: str


@dataclass(frozen=True)
class HccnRoutes:
    """`-route`: the routing table of one NPU."""

    device: int | None = None
    routes: tuple[Route, ...] = ()
    error: ToolError | None = None


def parse_route(text: str) -> Reading[tuple[HccnRoutes, ...]]:
    """One record a table; rows have 8 columns, 7 with IPv6."""
    capture, leftovers = read_capture(text), Leftovers()
    records = Records(HccnRoutes)
    for block in capture.blocks:
        records.end()
        records.context(device=block.device)
        for line in block.lines:
            words = line.split()
            if line.strip().lower().rstrip(":").endswith("routing table"):
                if records.get("routes") != ():
                    records.end()
                    records.put("routes", ())
            elif words[:1] == ["Destination"]:
                if records.get("routes"):
                    records.end()
                records.extend("routes", ())
            elif (route := _route(words)) is not None:
                records.extend("routes", (route,))
            elif not is_rule(line) and (error := leftovers.add(line)) is not None:
                leftovers.errors.pop()
                records.add(error=error)
        records.end()
    return conclude_records(text, records.done, leftovers, cut=capture.elided)


def _route(words: list[str]) -> Route | None:
    numbers = words[-4:-1]
    if len(words) not in (7, 8) or not all(n.isdecimal() and len(n) < 12 for n in numbers):
        return None
    metric, ref, use = map(int, numbers)
    netmask = words[2] if len(words) == 8 else None
    return Route(words[0], words[1], netmask, words[-5], metric, ref, use, words[-1])


_TLS_LINE = re.compile(r"(?:dev_id:|device |host)[ ]?(\d{1,4})?, *(.*)$", re.I)
_BRACKETS = re.compile(r"([A-Za-z][A-Za-z _]{0,60}?) ?\[([^\]]{0,2000})\]")
_CERTIFICATE = re.compile(r"\[([^\]]{1,60})\] info:?")


@dataclass(frozen=True)
class TlsCertificate:
    """expiration: 0 normal, 1 near, 2 expired."""

    name: str
    subject: str | None = None
    issuer: str | None = None
    start: str | None = None
    end: str | None = None
    expiration: int | None = None


@dataclass(frozen=True)
class HccnTls:
    """`-tls`: whether an NPU's links use TLS; all NPUs of a cluster must agree."""

    device: int | None = None
    enabled: bool | None = None
    preconfigured: bool | None = None
    alarm_days: int | None = None
    certificates: tuple[TlsCertificate, ...] = ()
    error: ToolError | None = None


def parse_tls(text: str) -> Reading[tuple[HccnTls, ...]]:
    """One record an NPU: the `tls switch` line, and its certificates where they are shown."""
    capture, leftovers = read_capture(text), Leftovers()
    records = Records(HccnTls)
    for block in capture.blocks:
        records.end()
        records.context(device=block.device)
        certificate: dict[str, str] = {}
        for line in [*block.lines, ""]:
            head = _TLS_LINE.match(device_tag(line.strip())[1])
            titled = _CERTIFICATE.match(head[2]) if head else None
            values = {name.strip(): value for name, value in _BRACKETS.findall(line)}
            if certificate and (head or not line):
                records.extend("certificates", (_certificate(certificate),))
                certificate = {}
            if head and head[1]:
                records.context(device=int(head[1]))
            if titled:
                certificate = {"name": titled[1]}
            elif head and _switch(values, records):
                continue
            elif certificate and values:
                certificate.update(values)
            elif not is_rule(line) and (error := leftovers.add(line)) is not None:
                leftovers.errors.pop()
                records.add(error=error)
        records.end()
    return conclude_records(text, records.done, leftovers, cut=capture.elided)


def _switch(values: dict[str, str], records: Records[HccnTls]) -> bool:
    known = {"tls switch": "enabled", "tls preconfigured": "preconfigured"}
    found = False
    for name, field in known.items():
        if values.get(name) in ("0", "1"):
            records.put(field, values[name] == "1")
            found = True
    days = values.get("tls alarm time threshold", "")
    if days.isdecimal() and len(days) < 6:
        records.put("alarm_days", int(days))
    return found


def _certificate(values: dict[str, str]) -> TlsCertificate:
    status = values.get("tls expiration status", "")
    return TlsCertificate(
        name=values["name"],
        subject=values.get("subject"),
        issuer=values.get("issuer"),
        start=values.get("start_time"),
        end=values.get("end_time"),
        expiration=int(status) if status in ("0", "1", "2") else None,
    )
