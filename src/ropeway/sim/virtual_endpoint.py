"""An OpenAI endpoint without a model: it speaks as vLLM does, and says what it is."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from socket import SOMAXCONN
from urllib.parse import urlsplit

from ropeway.endpoint.client import REHEARSAL_OWNER
from ropeway.sim.launching import Rehearsal

_TEXT = (
    "This is a rehearsal on virtual hosts: no model runs here, and these words are made up. "
    "这是虚拟主机上的演练，没有模型在运行，以上文字并非模型生成。"
)
_WORDS = _TEXT.split()
_TOKEN_SECONDS = 0.02
_MOST_TOKENS = 4096


class VirtualEndpoint(ThreadingHTTPServer):
    """Listens on the loopback, on `port` or, if somebody has that, on any other."""

    daemon_threads = True
    request_queue_size = SOMAXCONN  # of 5 more, clients wait for seconds until they may connect

    def __init__(self, rehearsal: Rehearsal, port: int, model: str) -> None:
        self.rehearsal = rehearsal
        self.model = f"{model} (rehearsal)"
        try:
            super().__init__(("127.0.0.1", port), _Request)
        except OSError:
            super().__init__(("127.0.0.1", 0), _Request)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Request(BaseHTTPRequestHandler):
    server: VirtualEndpoint

    def log_message(self, *_: object) -> None:
        """Say nothing: there is nobody to read it."""

    def do_GET(self) -> None:
        """List the only model."""
        if not self.server.rehearsal.serves:
            self._send(503, {"error": {"message": "the rehearsed engine does not run"}})
        elif urlsplit(self.path).path == "/v1/models":
            model = {"id": self.server.model, "object": "model", "owned_by": REHEARSAL_OWNER}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._send(404, {"error": {"message": "a rehearsal answers /v1/models and /v1/chat/…"}})

    def do_POST(self) -> None:
        """Answer, whole or in pieces."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        if not self.server.rehearsal.serves:
            self._send(503, {"error": {"message": "the rehearsed engine does not run"}})
        elif path != "/v1/chat/completions":
            self._send(404, {"error": {"message": f"a rehearsal does not answer {path}"}})
        else:
            try:
                request = json.loads(body)
                words = _answer(request)
            except (ValueError, AttributeError, TypeError):
                self._send(400, {"error": {"message": "the request is no JSON that we can read"}})
                return
            usage = _usage(body, words)
            with suppress(OSError):
                if request.get("stream"):
                    self._stream(words, usage)
                else:
                    message = {"role": "assistant", "content": "".join(words)}
                    choice = {"index": 0, "message": message, "finish_reason": "stop"}
                    self._send(200, {**self._head("chat.completion"), "choices": [choice],
                                     "usage": usage})  # fmt: skip

    def _stream(self, words: list[str], usage: Mapping[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in self._pieces(words, usage):
            self.wfile.write(f"data: {json.dumps(piece)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def _pieces(self, words: list[str], usage: Mapping[str, int]) -> Iterator[dict[str, object]]:
        head = self._head("chat.completion.chunk")
        for word in words:
            time.sleep(_TOKEN_SECONDS)
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            yield {**head, "choices": [choice]}
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {**head, "choices": [], "usage": usage}

    def _head(self, kind: str) -> dict[str, object]:
        now = int(time.time())
        return {"id": "rehearsal", "object": kind, "created": now, "model": self.server.model}

    def _send(self, code: int, document: Mapping[str, object]) -> None:
        content = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _answer(request: Mapping[str, object]) -> list[str]:
    """Return the words of an answer: as many as are asked for, where they have to be so many."""
    most = request.get("max_completion_tokens") or request.get("max_tokens")
    count = min(int(str(most)), _MOST_TOKENS) if most else len(_WORDS)
    if not request.get("ignore_eos"):
        count = min(count, len(_WORDS))
    return [f"{word} " for word in islice(cycle(_WORDS), count)]


def _usage(body: bytes, words: list[str]) -> dict[str, int]:
    prompt = max(1, len(body) // 4)  # about
    count = len(words)
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}
