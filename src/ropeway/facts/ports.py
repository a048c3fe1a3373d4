"""Which TCP ports of a host are listened on, and by which programs."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import Printed, printed, refusal, seen, whole

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ss": ("ss", "-ltnp"),
    "proc-net-tcp": ("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null"),
}


@dataclass(frozen=True)
class Program:
    """Who listens; its name is cut by the kernel at 15 characters."""

    name: str
    pid: int | None


@dataclass(frozen=True)
class Listener:
    """One listening socket.

    address   as printed; `0.0.0.0`, `::` or `*` is every address of the host
    programs  empty where the output does not tell (other users' need root)
    """

    address: str
    port: int
    programs: tuple[Program, ...] = ()


@dataclass(frozen=True)
class Listeners:
    """Every TCP socket that listens."""

    listeners: tuple[Listener, ...]


def parse_ss(text: str) -> Reading[Listeners]:
    """Read `ss -ltnp`, with or without its header."""
    return _listeners(text, _ss_row, lambda row: row[0] in ("State", "状态"), "ss")


def parse_netstat(text: str) -> Reading[Listeners]:
    """Read `netstat -ltnp`; connections that are not listening are passed over."""
    return _listeners(
        text, _netstat_row, lambda row: row[0] in ("Active", "Proto", "(Not", "激活"), "netstat"
    )


def parse_proc_net_tcp(text: str) -> Reading[Listeners]:
    """Read /proc/net/tcp and tcp6: `sl local_address rem_address st …`, all in hexadecimal."""
    return _listeners(text, _proc_row, lambda row: row[0] == "sl", "cat")


# A row that listens, a row of another kind, or (None) no row at all.
_Row = Callable[[list[str], str], Listener | bool]


def _listeners(
    text: str, read: _Row, is_header: Callable[[list[str]], bool], program: str
) -> Reading[Listeners]:
    out: Printed = printed(text, program)
    found: list[Listener] = []
    unread: list[str] = []
    known = False
    for line in out.lines:
        words = line.split()
        row = read(words, line)
        if isinstance(row, Listener):
            found.append(row)
        elif not row and not is_header(words):
            unread.append(line)
            continue
        known = True
    if not known:
        return refusal(text)
    return Reading.of(Listeners(tuple(found)), tuple(unread), cut=out.cut)


def _ss_row(words: list[str], line: str) -> Listener | bool:
    """`LISTEN 0 128 127.0.0.1:6379 0.0.0.0:* users:(("gcs_server",pid=12,fd=44))`."""
    if len(words) < 5 or whole(words[1]) is None or not words[0].replace("-", "").isupper():
        return False
    if words[0] != "LISTEN":
        return True
    end = _end(words[3])
    if not end:
        return False
    programs = dict.fromkeys(_PROGRAM.findall(line))
    return Listener(*end, tuple(Program(name, whole(pid)) for name, pid in programs))


def _netstat_row(words: list[str], line: str) -> Listener | bool:
    """`tcp6  0  0 :::22  :::*  LISTEN  1021/sshd: /usr/sbi`."""
    if not words[0].startswith(("tcp", "udp", "unix", "raw")) or len(words) < 5:
        return False
    if "LISTEN" not in words or not words[0].startswith("tcp"):
        return True
    end = _end(words[3])
    if not end:
        return False
    _, _, who = line.partition("LISTEN")
    pid, slash, name = who.strip().partition("/")
    return Listener(*end, (Program(name.strip(), whole(pid)),) if slash and name else ())


def _proc_row(_: list[str], line: str) -> Listener | bool:
    found = _PROC_ROW.match(line)
    if not found:
        return False
    if found[3] != "0A":  # TCP_LISTEN of the kernel's tcp_states.h
        return True
    address = _address(found[1])
    return Listener(address, int(found[2], 16)) if address else False


def _end(text: str) -> tuple[str, int] | None:
    """`127.0.0.1:22`, `[::1]:22`, `:::22`, `*:22`, `127.0.0.53%lo:53` → address and port."""
    address, colon, port_text = text.rpartition(":")
    port = whole(port_text)
    if not colon or port is None or port > 65_535:
        return None
    return address.strip("[]") or "*", port


def _address(digits: str) -> str | None:
    """The kernel prints an address as 32-bit words, each with its bytes the other way round."""
    raw = bytes.fromhex(digits)
    words = [raw[start : start + 4][::-1] for start in range(0, len(raw), 4)]
    packed = b"".join(words)
    if len(packed) not in (4, 16):
        return None
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)


_PROGRAM = re.compile(r'\("((?:[^"\\]|\\.){1,60})",pid=([0-9]{1,10})')
_PROC_ROW = re.compile(
    r"\s*[0-9]+:\s+((?:[0-9A-Fa-f]{8}){1,4}):([0-9A-Fa-f]{4})\s+[0-9A-Fa-f]+:[0-9A-Fa-f]{4}"
    r"\s+([0-9A-F]{2})(?:\s|$)"
)

_SS_LINE = re.compile(
    r"^[> \t]*(?:State +Recv-Q +Send-Q +Local Address|LISTEN +[0-9]+ +[0-9]+ +\S+:[0-9]+ )",
    re.MULTILINE,
)
_NETSTAT_LINE = re.compile(r"^[> \t]*tcp6? +[0-9]+ +[0-9]+ +\S+:[0-9]+ +\S+:\S+ ", re.MULTILINE)
_PROC_LINE = re.compile(r"^[> \t]*sl +local_address +rem", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output("ss", "ss -ltnp", parse_ss, lambda text: seen(text, 0.95, _SS_LINE)),
    Output("netstat", "netstat -ltnp", parse_netstat, lambda text: seen(text, 0.9, _NETSTAT_LINE)),
    Output(
        "proc-net-tcp",
        "cat /proc/net/tcp /proc/net/tcp6",
        parse_proc_net_tcp,
        lambda text: seen(text, 0.95, _PROC_LINE),
    ),
)
