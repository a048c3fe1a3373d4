"""Where an HTTP/1.1 response ends, told from its bytes as they come, and what its body is.

`Response.take` is called for each read of a stream, many thousand times a second, so it looks
closely only at what may be the end. `Body` reads the same bytes when there is time.
"""

import re

from ropeway.phrases import phrase

_HEAD_END = b"\r\n\r\n"
# As much as vLLM's server and the proxies before it write.
_LONGEST_HEAD = 2**16
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LONGEST_SIZE = 4096
_NO_BODY = frozenset({204, 304})


class Malformed(ValueError):
    """What came is not HTTP; the argument says why."""


class Chunks:
    """A body in chunks (RFC 9112, section 7.1), taken out of its frame piece by piece."""

    __slots__ = ("_left", "_rest", "_trailer", "ended")

    def __init__(self) -> None:
        self._rest = b""
        self._left = 0  # of the chunk that has begun, its line end included
        self._trailer = False
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body that these bytes bring. Raises Malformed."""
        rest, at, parts = (self._rest + data if self._rest else data), 0, []
        end = len(rest)
        while not self.ended:
            if self._left:
                taken = min(self._left, end - at)
                # The last two bytes of a chunk are its line end.
                parts.append(rest[at : at + max(0, min(taken, self._left - 2))])
                self._left -= taken
                at += taken
                if self._left:
                    break
            elif self._trailer:
                line = rest.find(b"\r\n", at)
                if line < 0:
                    break
                self.ended = line == at
                at = line + 2
            else:
                size = _SIZE.match(rest, at)
                if size is None:
                    if end - at > _LONGEST_SIZE or b"\r\n" in rest[at:]:
                        raise Malformed(phrase("a chunk of the answer has no size"))
                    break
                at, length = size.end(), int(size[1], 16)
                self._left, self._trailer = (length + 2 if length else 0), not length
        self._rest = rest[at:]
        return b"".join(parts)


class Response:
    """One response.

    status   0 before the head is whole
    headers  with names in small letters
    close    whether the connection cannot be used again
    """

    __slots__ = ("_chunks", "_head", "_held", "_left", "_tail", "close", "headers", "status")

    def __init__(self) -> None:
        self.status = 0
        self.close = False
        self.headers: dict[bytes, bytes] = {}
        self._head = b""
        self._left = -1  # of a body of known length; -1 where it is not known
        self._chunks: Chunks | None = None
        self._held: list[bytes] = []  # of a body in chunks, what was not looked at
        self._tail = b""

    def take(self, data: bytes) -> bool:
        """Return whether the response ends with these bytes. Raises Malformed."""
        if not self.status:
            self._head += data
            if not self._begin():
                return False
            data, self._head = self._head, b""
        if self._chunks is not None:
            held = self._held
            held.append(data)
            tail = self._tail = data[-4:] if len(data) > 3 else (self._tail + data)[-4:]
            if tail != _HEAD_END:
                return False
            self._chunks.feed(b"".join(held))
            held.clear()
            return self._chunks.ended
        if self._left >= 0:
            self._left -= len(data)
            if self._left < 0:
                raise Malformed(phrase("the answer is longer than it says"))
            return not self._left
        return False

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return bool(self.status or self._head)

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return self._chunks is not None

    def at_close(self) -> bool:
        """Return whether the response was whole when the server closed the connection."""
        self.close = True
        return bool(self.status) and self._chunks is None and self._left < 0

    def _begin(self) -> bool:
        """Read the head, once it is whole; what follows it stays in `_head`."""
        while (end := self._head.find(_HEAD_END)) >= 0:
            head, self._head = self._head[: end + 2], self._head[end + 4 :]
            match = _STATUS.match(head)
            if match is None:
                raise Malformed(phrase("what answers does not speak HTTP"))
            status = int(match[1])
            if status < 200:  # a greeting before the response
                continue
            self._read_fields(head[match.end() :], status, old=head.startswith(b"HTTP/1.0"))
            return True
        if len(self._head) > _LONGEST_HEAD or not b"HTTP/1.".startswith(self._head[:7]):
            raise Malformed(phrase("what answers does not speak HTTP"))
        return False

    def _read_fields(self, lines: bytes, status: int, *, old: bool) -> None:
        fields: dict[bytes, bytes] = {}
        for line in lines.split(b"\r\n"):
            name, found, value = line.partition(b":")
            if found:
                fields[name.strip().lower()] = value.strip()
        connection = fields.get(b"connection", b"").lower()
        self.status, self.headers = status, fields
        self.close = connection == b"close" or (old and connection != b"keep-alive")
        length = fields.get(b"content-length")
        if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
            self._chunks = Chunks()
        elif status in _NO_BODY:
            self._left = 0
        elif length is not None:
            if not length.isdigit() or len(length) > 18:
                raise Malformed(phrase("the length of the answer is no number"))
            self._left = int(length)


class Body:
    """The body of a response, taken out of its frame in a second reading of the same bytes."""

    __slots__ = ("_chunks", "_head", "_response")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._head: bytes | None = b""
        self._chunks: Chunks | None = None

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body in these bytes, which the response has taken."""
        if self._head is not None:
            self._head = _without_greetings(self._head + data)
            if not self._response.status or _HEAD_END not in self._head:
                return b""
            data, self._head = self._head.partition(_HEAD_END)[2], None
            self._chunks = Chunks() if self._response.chunked else None
        return data if self._chunks is None else self._chunks.feed(data)


def _without_greetings(head: bytes) -> bytes:
    """Return what follows responses that only announce one (100 to 199)."""
    while (match := _STATUS.match(head)) and match[1] < b"200" and _HEAD_END in head:
        head = head.partition(_HEAD_END)[2]
    return head
