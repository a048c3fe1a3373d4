"""Ask an engine for a token: once, or as the watchdog beside it.

    watch.py once URL MODEL SECONDS        exit 0 when a token came; else the reason is on stderr
    watch.py on URL MODEL SECONDS START    end when the engine hangs, with the reason

A process that died needs no watchdog, but one that hangs does: ranks wait in silence for one that
is lost on another host. So this waits START seconds for the first token, and after it asks for one
more every SECONDS. A busy engine may queue that request, so it counts as hanging only if, over
three requests, it has read and generated nothing for anybody else either (its own counters, in
/metrics). The key comes from VLLM_API_KEY.

An engine that embeds, scores or classifies generates no token: there an answer of that kind counts.
Which it is the engine says itself, by refusing what it does not serve; so nobody can be wrong.
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
from urllib.error import HTTPError

FAILURES = 3
_COUNTER = re.compile(
    r"^vllm:(?:generation|prompt)_tokens_total(?:\{.*\})? ([0-9.e+]+)$", re.MULTILINE
)
# Path, body, and the key of the answer that is not empty where it worked.
_Question = tuple[str, dict[str, Any], str]
_TOKEN: _Question = (
    "/v1/completions",
    {"prompt": "1", "max_tokens": 1, "temperature": 0},
    "completion_tokens",
)
QUESTIONS: list[_Question] = [
    _TOKEN,
    ("/v1/embeddings", {"input": "1"}, "data"),
    ("/rerank", {"query": "1", "documents": ["1"]}, "results"),
    ("/classify", {"input": "1"}, "data"),
    ("/pooling", {"input": "1"}, "data"),
]
# How releases of vLLM say that the model is not for this path. A wrong key is none of these.
_NOT_SERVED = (400, 404, 405, 501)


def opened(url: str, seconds: float, body: bytes | None = None) -> Any:
    """Return the response of a URL of the cluster, asked with the key, and through no proxy."""
    headers = {"Content-Type": "application/json"}
    key = os.environ.get("VLLM_API_KEY")
    if key:
        headers["Authorization"] = f"Bearer {key}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(urllib.request.Request(url, body, headers), timeout=seconds)


def ask(url: str, model: str, seconds: float) -> str:
    """Ask for one token, or what the model gives instead: return why none came, or nothing.

    The question that was answered becomes the first.
    """
    root, refusal = url.rpartition("/v1")[0], ""
    for question in tuple(QUESTIONS):
        path, asked, proof = question
        body = json.dumps({"model": model, **asked}).encode()
        try:
            with opened(root + path, seconds, body) as answer:
                found = json.load(answer)
                there = found["usage"][proof] if question is _TOKEN else found[proof]
        except HTTPError as error:
            refusal = refusal or f"HTTPError: {error}"
            if error.code not in _NOT_SERVED:
                return f"HTTPError: {error}"
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            RecursionError,
            HTTPException,
        ) as error:
            return f"{type(error).__name__}: {error}"
        else:
            QUESTIONS.remove(question)
            QUESTIONS.insert(0, question)
            return "" if there else f"it answers {path}, but with nothing in it"
    return refusal


def tokens_so_far(url: str) -> float | None:
    """Return how many tokens the engine has read and generated; None when it does not say."""
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
    what = "token" if QUESTIONS[0] is _TOKEN else "answer"
    print(f"ropeway: the first {what} is there", flush=True)
    failures, before = 0, tokens_so_far(url)
    while True:
        time.sleep(0 if failures else seconds)
        reason = ask(url, model, seconds)
        now = tokens_so_far(url)
        failures = failures + 1 if reason and (now is None or now == before) else 0
        before = now
        if reason:
            print(
                f"ropeway: no {what} within {seconds:g} s, {failures} of {FAILURES}: {reason}",
                flush=True,
            )
            time.sleep(1)  # a connection that is refused takes no time
        if failures == FAILURES:
            return f"ropeway: the engine hangs: no {what} in {FAILURES} requests, nor for anybody"


if __name__ == "__main__":
    mode, base_url, name, *limits = sys.argv[1:]
    run = ask if mode == "once" else watch
    sys.exit(run(base_url, name, *map(float, limits)) or 0)
