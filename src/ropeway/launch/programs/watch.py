"""Ask an engine for a token: once, or as the watchdog beside it.

    watch.py once URL MODEL SECONDS        exit 0 when a token came; else the reason is on stderr
    watch.py on URL MODEL SECONDS START    end when the engine hangs, with the reason

A process that died needs no watchdog, but one that hangs does: ranks wait in silence for one that
is lost on another host. So this waits START seconds for the first token, and after it asks for one
more every SECONDS. A busy engine may queue that request, so it counts as hanging only if, over
three requests, it has generated nothing for anybody else either (its own counter, in /metrics).
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
    """Return the response of a URL of the cluster, asked with the key, and through no proxy."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("VLLM_API_KEY")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, body, headers), timeout=seconds)


def ask(url: str, model: str, seconds: float) -> str:
    """Ask for one token: return why none came, nothing when one did."""
    body = json.dumps({"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}).encode()
    try:
        with opened(f"{url}/completions", seconds, body) as answer:
            count = json.load(answer)["usage"]["completion_tokens"]
    except (OSError, ValueError, KeyError, HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return "" if count else "it answers, but generates no token"


def tokens_so_far(url: str) -> float | None:
    """Return how many tokens the engine has generated; None when it does not say."""
    try:
        with opened(f"{url.rpartition('/v1')[0]}/metrics", 10) as answer:
            counts = _COUNTER.findall(answer.read().decode(errors="replace"))
    except (OSError, HTTPException):
        return None
    return sum(map(float, counts)) if counts else None


def watch(url: str, model: str, seconds: float, start: float) -> str:
    """Wait until the engine hangs, and return how that shows."""
    deadline = time.monotonic() + start
    while reason := ask(url, model, seconds):
        if time.monotonic() > deadline and not tokens_so_far(url):
            return f"ropeway: no first token within {start:g} s: {reason}"
        time.sleep(1)
    print("ropeway: the first token is there", flush=True)
    failures, before = 0, tokens_so_far(url)
    while True:
        time.sleep(0 if failures else seconds)
        reason = ask(url, model, seconds)
        now = tokens_so_far(url)
        failures = failures + 1 if reason and (now is None or now == before) else 0
        before = now
        if reason:
            print(
                f"ropeway: no token within {seconds:g} s, {failures} of {FAILURES}: {reason}",
                flush=True,
            )
            time.sleep(1)  # a connection that is refused takes no time
        if failures == FAILURES:
            return f"ropeway: the engine hangs: no token in {FAILURES} requests, nor for anybody"


if __name__ == "__main__":
    mode, base_url, name, *limits = sys.argv[1:]
    run = ask if mode == "once" else watch
    sys.exit(run(base_url, name, *map(float, limits)) or 0)
