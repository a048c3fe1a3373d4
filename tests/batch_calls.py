"""Calls of `ropeway batch`, against an endpoint that speaks HTTP."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batch_endpoint import BatchEndpoint

from json_documents import read_document
from ropeway.cli.main import exit_code

BODY = '{"model": "fake",  "messages":[{"role":"user","content":"say %d"}],"temperature":1.10}'


@contextmanager
def serving(
    kind: type[BatchEndpoint] = BatchEndpoint, **how: Any
) -> Iterator[tuple[str, BatchEndpoint]]:
    """An endpoint in a thread; yields its URL and itself."""
    endpoint, ready, ended = kind(**how), threading.Event(), threading.Event()
    url = ""

    async def serve() -> None:
        nonlocal url
        server = await endpoint.start()
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        while not ended.is_set():
            await asyncio.sleep(0.02)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield url, endpoint
    finally:
        ended.set()
        thread.join()


def requests(path: Path, count: int, first: int = 0) -> list[str]:
    """Write so many requests in OpenAI's form; return their bodies."""
    bodies = [BODY % number for number in range(first, first + count)]
    lines = [
        f'{{"custom_id":"r{number}","method":"POST","url":"/v1/chat/completions","body":{body}}}\n'
        for number, body in enumerate(bodies, first)
    ]
    path.write_text("".join(lines))
    return bodies


def columns(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the document and what was said beside it."""
    capsys.readouterr()
    code = exit_code(["batch", *map(str, args), "--json"])
    out, err = capsys.readouterr()
    document = read_document(out)
    print(document["error"])  # for whoever reads a failure
    return code, document, err


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(path: Path) -> dict[str, str]:
    """What was answered to which row, each of which is there once."""
    rows = [
        (line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"])
        for line in lines(path)
    ]
    assert len(dict(rows)) == len(rows)
    return dict(rows)
