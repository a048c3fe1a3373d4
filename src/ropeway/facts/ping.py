"""What `ping` over Ethernet says; over RoCE it is hccn_tool that pings."""

import re
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading, ToolError
from ropeway.facts.printed import decimal, printed, refusal, seen, whole


@dataclass(frozen=True)
class Ping:
    """Packets there and back.

    loss_percent  as printed; where the end is missing, None
    errors        answers that say "unreachable" and the like
    problems      those answers, each once: `Destination Host Unreachable`
    rtt_*_ms      there and back; None when nothing came back
    """

    target: str | None
    address: str | None
    transmitted: int | None
    received: int | None
    loss_percent: float | None
    duplicates: int = 0
    errors: int = 0
    problems: tuple[str, ...] = ()
    rtt_min_ms: float | None = None
    rtt_avg_ms: float | None = None
    rtt_max_ms: float | None = None


def ping_command(address: str, count: int = 2, limit_s: int = 3) -> tuple[str, ...]:
    """Both iputils and busybox know these flags; -w ends it whatever happens."""
    return ("ping", "-c", str(count), "-w", str(limit_s), address)


def parse_ping(text: str) -> Reading[Ping]:
    """Read `ping` of iputils or busybox, whether anything came back or not.

    A name that does not resolve, and a network without a way there, are errors of the tool.
    """
    out = printed(text, "ping")
    head: tuple[str, str] | None = None
    counts: re.Match[str] | None = None
    times: re.Match[str] | None = None
    problems: dict[str, None] = {}
    unread = []
    for line in out.lines:
        start, count, round_trip = _START.match(line), _COUNTS.match(line), _TIMES.match(line)
        problem = _PROBLEM.search(line)
        if start:
            head = (start[1].partition("(")[0], start[2])
        elif count:
            counts = count
        elif round_trip:
            times = round_trip
        elif problem:
            problems[problem[1]] = None
        elif not _PASSED_OVER.match(line):
            unread.append(line)
    if head is None and counts is None:
        return _refused(text)
    value = Ping(
        target=head[0] if head else None,
        address=head[1] if head else None,
        transmitted=whole(counts[1]) if counts else None,
        received=whole(counts[2]) if counts else None,
        loss_percent=decimal(counts[4]) if counts else None,
        duplicates=_extra(counts, "duplicates"),
        errors=_extra(counts, "errors"),
        problems=tuple(problems),
        rtt_min_ms=decimal(times[1]) if times else None,
        rtt_avg_ms=decimal(times[2]) if times else None,
        rtt_max_ms=decimal(times[3]) if times else None,
    )
    return Reading.of(value, tuple(unread), cut=out.cut or counts is None)


def _refused(text: str) -> Reading[Ping]:
    for line in printed(text, "ping").lines:
        if _NO_NAME.search(line) or _NO_WAY.search(line):
            return Reading.failed(ToolError("failed", line.strip()[:200]), text)
    return refusal(text)


def _extra(counts: re.Match[str] | None, name: str) -> int:
    """`+1 errors, ` between the counts and the loss."""
    found = re.search(rf"\+([0-9]{{1,9}}) {name}", counts[3]) if counts else None
    return int(found[1]) if found else 0


_START = re.compile(r"\s*PING (\S{1,255}?) ?\(([\w.:%]{2,80})\)")
_COUNTS = re.compile(
    r"\s*([0-9]{1,9}) packets transmitted, ([0-9]{1,9}) (?:packets )?received,"
    r"((?: \+[0-9]{1,9} [a-z]{1,20},){0,3}) ([0-9]{1,3}(?:\.[0-9]{1,6})?)% packet loss"
)
_TIMES = re.compile(
    r"\s*(?:rtt|round-trip) min/avg/max(?:/mdev)? = "
    r"([0-9.]{1,12})/([0-9.]{1,12})/([0-9.]{1,12})(?:/[0-9.]{1,12})? ms"
)
_PROBLEM = re.compile(
    r"((?:Destination (?:Host|Net|Port|Protocol) (?:Unreachable|Unknown|Prohibited)"
    r"|Packet filtered|Time to live exceeded|Redirect (?:Host|Network)|Frag needed)\b)"
)
_PASSED_OVER = re.compile(
    r"\s*(?:[0-9]{1,6} bytes from |--- |\^C|no answer yet|pipe [0-9]|From \S{1,100} icmp_seq)"
)
_NO_NAME = re.compile(
    r"unknown host|bad address|name or service not known|temporary failure in name resolution"
    r"|no address associated|未知的名称或服务",
    re.IGNORECASE,
)
_NO_WAY = re.compile(r"network is unreachable|no route to host|invalid argument", re.IGNORECASE)

_PING_LINE = re.compile(r"^[> \t]*PING \S+ ?\(", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "ping",
        "ping -c 2 -w 3 ADDRESS",
        parse_ping,
        lambda text: seen(text, 0.97, _PING_LINE),
    ),
)
