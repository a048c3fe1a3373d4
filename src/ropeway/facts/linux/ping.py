"""The second round of questions: the host's clock, and pings over Ethernet.

Over RoCE it is hccn_tool that pings: see `ascend/hccn.py`.
"""

import re
from dataclasses import replace

from ropeway.facts.complaints import first_line, to_parsed
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import decimal, plain_lines

# Seconds since 1970. Busybox prints `%N`, or nothing after the point.
_EPOCH = r"([0-9]{9,11})(?:\.([0-9]{1,9})?(?:%?N)?)?"
CLOCK = Question(
    "date",
    ("date", "+%s.%N"),
    first_line(_EPOCH, lambda line: float(f"{line[1]}.{line[2] or 0}")),
)


def parse_ping(text: str) -> Parsed[float]:
    """Return the percentage of packets lost, as `ping` of iputils or busybox prints it."""
    match = _LOSS.search(text)
    loss = decimal(match[1]) if match else None
    if loss is not None:
        return Parsed("ok", loss)
    return to_parsed(text, None, [line for line in plain_lines(text) if not _PACKET.match(line)])


_LOSS = re.compile(
    r"[0-9]{1,9} packets transmitted, [0-9]{1,9} (?:packets )?received,"
    r"(?: \+[0-9]{1,9} [a-z]{1,20},){0,3} ([0-9]{1,3}(?:\.[0-9]{1,6})?)% packet loss"
)
_PACKET = re.compile(r"\s*(?:[0-9]{1,6} bytes from |--- |From \S|PING )")


# Both iputils and busybox know these flags; `-w` ends it in any case.
PING = Question("ping", ("ping", "-c", "2", "-w", "3"), parse_ping)


def to(address: str) -> Question[float]:
    """Return the ping of one address; its answer has the address after the key."""
    return replace(PING.about(address), key=f"{PING.key}::{address}")
