"""Ask an engine for a token: once, or as the watchdog beside it.

    watch.py once URL MODEL SECONDS    0: a token came out; else the reason, on stderr
    watch.py on URL MODEL SECONDS      ends when the engine hangs, with the reason

A process that died needs no watchdog; one that hangs does: ranks that wait for one that is gone, on
another host, do so in silence. So once a token was generated, it asks for one more every SECONDS.
A busy engine may let that wait in line, so it counts as hanging only when, over three such
questions, it has generated nothing for anybody else either (its own counter, in /metrics).
The key comes from VLLM_API_KEY.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import urllib.request
from http.client import HTTPException
from typing import Any

FAILURES = 3
_COUNTER = re.compile(r"^vllm:generation_tokens_total(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE)


def opened(url: str, seconds: float, body: bytes | None = None) -> Any:
    """The answer of a URL of the cluster: asked with the key, and through no proxy."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("VLLM_API_KEY")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, body, headers), timeout=seconds)


def ask(url: str, model: str, seconds: float) -> str:
    """Why no token came; nothing when one did."""
    body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}).encode()
    try:
        with opened(f"{url}/completions", seconds, body) as answer:
            count = json.load(answer)["usage"]["completion_tokens"]
    except (OSError, ValueError, KeyError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return "" if count else "it answers, but generates no token"


def tokens_so_far(url: str) -> float | None:
    """All tokens that it has generated since it started; None when it does not say."""
    try:
        with opened(f"{url.rpartition('/v1')[0]}/metrics", 10) as answer:
            counts = _COUNTER.findall(answer.read().decode(errors="replace"))
    except (OSError, HTTPException):
        return None
    return sum(map(float, counts)) if counts else None


def watch(url: str, model: str, seconds: float) -> str:
    """Returns when the engine hangs, and says why it thinks so."""
    while ask(url, model, seconds):
        time.sleep(1)
    print("ropeway: the first token is there", flush=True)
    failures, before = 0, tokens_so_far(url)
    while True:
        time.sleep(0 if failures else seconds)
        why = ask(url, model, seconds)
        now = tokens_so_far(url)
        failures = failures + 1 if why and (now is None or now == before) else 0
        before = now
        if why:
            print(
                f"ropeway: no token within {seconds:g} s, {failures} of {FAILURES}: {why}",
                flush=True,
            )
            time.sleep(1)  # a connection that is refused takes no time
        if failures == FAILURES:
            return f"ropeway: the engine hangs: no token for {FAILURES} questions, nor for anybody"


if __name__ == "__main__":
    mode, there, name, limit = sys.argv[1:]
    said = ask if mode == "once" else watch
    sys.exit(said(there, name, float(limit)) or 0)
