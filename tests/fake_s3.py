"""As much of S3 as pyarrow uses for files: objects in memory, uploads in parts, lists."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_XML = '<?xml version="1.0" encoding="UTF-8"?>'


class FakeS3:
    """objects: `bucket/key` → bytes; uploads: not complete yet.

    denied: takes nothing; closed: begins no upload either.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.denied = self.closed = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: FakeS3

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: str = "", **headers: str) -> None:
        data = f"{_XML}{body}".encode() if body else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.pop("Length", str(len(data))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        return unquote(url.path).strip("/"), parse_qs(url.query, keep_blank_values=True)

    def _body(self) -> bytes:
        """Return what is sent, out of the chunks of HTTP and of those that S3 has in them."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") != "aws-chunked":
            return body
        whole = b""
        while (match := re.match(rb"([0-9a-fA-F]+)[^\r]*\r\n", body)) and int(match[1], 16):
            size = int(match[1], 16)
            whole, body = whole + body[match.end() :][:size], body[match.end() + size + 2 :]
        return whole

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        data = self.store.objects.get(key)
        if data is None and "/" in key:
            self._answer(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.send_header("Last-Modified", "Tue, 01 Dec 2026 00:00:00 GMT")
        self.end_headers()

    def do_GET(self) -> None:
        key, query = self._asked()
        if "list-type" in query:
            prefix = query.get("prefix", [""])[0]
            found = [
                f"<Contents><Key>{name.partition('/')[2]}</Key><Size>{len(data)}</Size>"
                "<LastModified>2026-12-01T00:00:00.789Z</LastModified></Contents>"
                for name, data in sorted(self.store.objects.items())
                if name.startswith(f"{key}/{prefix}")
            ]
            self._answer(
                200,
                f"<ListBucketResult><Name>{key}</Name><KeyCount>{len(found)}</KeyCount>"
                f"<IsTruncated>false</IsTruncated>{''.join(found)}</ListBucketResult>",
            )
            return
        data = self.store.objects.get(key)
        if data is None:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
            return
        first, last = 0, len(data) - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2]), last)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def do_POST(self) -> None:
        key, query = self._asked()
        body = self._body()
        if "uploads" in query and self.store.closed:
            self._answer(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        elif "uploads" in query:
            name = f"u{len(self.store.uploads)}"
            self.store.uploads[name] = {}
            self._answer(
                200,
                f"<InitiateMultipartUploadResult><Key>{key}</Key><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>",
            )
        elif "uploadId" in query:
            parts = self.store.uploads.pop(query["uploadId"][0])
            self.store.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self._answer(
                200,
                f"<CompleteMultipartUploadResult><Key>{key}</Key><ETag>e</ETag>"
                "</CompleteMultipartUploadResult>",
            )
        elif "delete" in query:
            for name in re.findall(rb"<Key>(.*?)</Key>", body):
                self.store.objects.pop(f"{key}/{name.decode()}", None)
            self._answer(200, "<DeleteResult></DeleteResult>")

    def do_PUT(self) -> None:
        key, query = self._asked()
        body = self._body()
        if self.store.denied:
            self._answer(403, "<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
            return
        if "uploadId" in query:
            part = int(query["partNumber"][0])
            self.store.uploads[query["uploadId"][0]][part] = body
        elif "/" in key:
            self.store.objects[key] = body
        self._answer(200, ETag="e")

    def do_DELETE(self) -> None:
        key, query = self._asked()
        if "uploadId" in query:
            self.store.uploads.pop(query["uploadId"][0], None)
        else:
            self.store.objects.pop(key, None)
        self._answer(204)


@contextmanager
def fake_s3() -> Iterator[tuple[str, FakeS3]]:
    """A store at 127.0.0.1; yields the query of its URLs, and itself."""
    store = FakeS3()
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            port = server.server_address[1]
            yield f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1", store
        finally:
            server.shutdown()
            thread.join()
