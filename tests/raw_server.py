"""A server that answers with any bytes, head included: what no proper server would send."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Iterable[bytes]


class RawServer(ThreadingHTTPServer):
    """`answer` gets the path of a request and returns the bytes to send; then the connection ends.

    paths  of the requests so far
    heads  what they had in their heads
    """

    daemon_threads = True

    def __init__(self, answer: Callable[[str], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.paths: list[str] = []
        self.heads: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: RawServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.paths.append(self.path)
        self.server.heads.append(dict(self.headers))
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has left
            for piece in self.server.answer(self.path):
                self.wfile.write(piece)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def raw_server(answer: Callable[[str], Answer]) -> Iterator[RawServer]:
    with RawServer(answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def head(status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    """The head of an answer that goes on until the connection ends; `_` in a name is a `-`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


def document(data: Any, **headers: str) -> Answer:
    text = data if isinstance(data, str) else json.dumps(data)
    return (head(**headers), text.encode(errors="surrogatepass"))


def events(*data: Any) -> Answer:
    """A stream with these events, and its mark of the end."""
    texts = [one if isinstance(one, str) else json.dumps(one) for one in data]
    lines = "".join(f"data: {text}\n\n" for text in (*texts, "[DONE]"))
    return (head(kind="text/event-stream"), lines.encode(errors="surrogatepass"))
