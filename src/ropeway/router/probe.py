"""Asks silent replicas for one token, and ends requests that would wait forever.

A server may answer `/health` while its engine is dead or stuck; a token is proof.
"""

import asyncio
import json
import logging
import re
from dataclasses import dataclass

import aiohttp

from ropeway.router import events
from ropeway.router.replicas import Pool, Replica, overdue, waiting
from ropeway.router.request import CHAT, TEXT, readable
from ropeway.router.upstream import CannotConnect, Upstreams, read

log = logging.getLogger("ropeway.router")

TICK_S = 0.1
# vLLM requires the first; an answer that is compressed could not be read.
JSON = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
# vLLM's counters of tokens, in all versions of its V1 engine; an engine that embeds only reads.
_COUNTER = re.compile(rb"^vllm:(?:generation|prompt)_tokens_total.* (\S+)[ \t\r]*$", re.MULTILINE)
# More than a replica says to any of our questions; vLLM's metrics are some hundred kilobytes.
_ANSWER_BYTES = 4 * 2**20
# Its answer of one token has some hundred bytes; what is more is not read.
_TOKEN_BYTES = 2**16
# How releases of vLLM say that the model is not for a path; and the paths of models that embed,
# score, classify or rate, each with a question.
_NOT_SERVED = (400, 404, 405, 501)
_OTHERWISE: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/embeddings", {"input": "1"}),
    ("/rerank", {"query": "1", "documents": ["1"]}),
    ("/classify", {"input": "1"}),
    ("/pooling", {"input": "1"}),
)
# A good answer at these is proof; at `/tokenize` no engine is asked.
ENGINE_PATHS = frozenset((CHAT, TEXT, *(path for path, _ in _OTHERWISE)))
# Between two readings of the counter: many steps of any engine that generates.
_COUNTER_S = 2.0


@dataclass
class Watch:
    """Watches all replicas while `run` runs. `key`: the header with it, if there is one."""

    model: str
    pool: Pool
    upstreams: Upstreams
    key: dict[str, str]

    async def run(self) -> None:
        """Watch until cancelled. Probes run concurrently, so that none waits for a dead replica."""
        async with asyncio.TaskGroup() as probes:
            while True:
                self.pool.note_tokens()
                now = self.pool.clock()
                for replica in self.pool:
                    for attempt in overdue(replica, now):
                        attempt.end(f"it generated nothing for {attempt.patience:g} s")
                    if replica.breaker.probe_at <= now:
                        self.pool.begin_probe(replica)
                        probes.create_task(self._probe(replica))
                await asyncio.sleep(TICK_S)

    async def _probe(self, replica: Replica) -> None:
        """Probe a replica. Whatever it answers ends neither this task nor the watch over others."""
        try:
            await self._judge(replica)
        except Exception as error:
            log.exception("the probe of %s failed", replica.name)
            self.pool.probe_failed(replica, f"probe: {error or type(error).__name__}")

    async def _judge(self, replica: Replica) -> None:
        began = self.pool.clock()
        try:
            async with asyncio.timeout(self.pool.limits.probe_timeout_s):
                await self._ask_for_token(replica)
        except TimeoutError:
            if replica.last_token > began or await self._generates(replica):
                self.pool.probe_queued(replica)
                return
            why = f"no token within {self.pool.limits.probe_timeout_s:g} s"
            self.pool.probe_failed(replica, why)
            for attempt in waiting(replica):
                attempt.end(f"its replica hangs: {why}")
        except CannotConnect as error:
            if error.ours:
                self.pool.probe_unsent(replica, f"probe: {error}")
            else:
                self.pool.probe_failed(replica, f"probe: {error}", refused=True)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self.pool.probe_failed(replica, f"probe: {error or type(error).__name__}")
        else:
            self.pool.probe_succeeded(replica)

    async def _ask_for_token(self, replica: Replica) -> None:
        """Make the replica generate one token. Raises what aiohttp raises, and ValueError."""
        body = {"prompt": "Hi", "max_tokens": 1, "temperature": 0, "stream": True}
        status, content = await self._post(replica, TEXT, body)
        if status in _NOT_SERVED and await self._answers_otherwise(replica):
            return
        if status != 200:
            raise ValueError(f"HTTP {status}: {content[:200].decode(errors='replace')}")
        if len(content) > _TOKEN_BYTES:
            raise ValueError(f"more than {_TOKEN_BYTES:,} bytes for one token")
        if failure := events.broken(content):
            raise ValueError(failure.message)
        if not any(events.choices(events.payload(event) or {}) for event in events.each(content)):
            raise ValueError(f"no token in {content[:200].decode(errors='replace')!r}")

    async def _answers_otherwise(self, replica: Replica) -> bool:
        """Return whether it gives what a model gives that generates nothing."""
        for path, body in _OTHERWISE:
            status, _ = await self._post(replica, path, body)
            if status == 200:
                return True
        return False

    async def _post(
        self, replica: Replica, path: str, body: dict[str, object]
    ) -> tuple[int, bytes]:
        headers = self.key | JSON
        encoded = json.dumps({"model": self.model, **body}).encode()
        async with self.upstreams.request(replica.url, "POST", path, headers, encoded) as answer:
            return answer.status, await read(answer, _ANSWER_BYTES)

    async def _generates(self, replica: Replica) -> bool:
        """Return whether it generates for others: then our probe is queued, and nothing hangs."""
        before = await self._generated(replica)
        if before is None:
            return False
        await asyncio.sleep(_COUNTER_S)
        after = await self._generated(replica)
        return after is not None and after > before

    async def _generated(self, replica: Replica) -> float | None:
        try:
            async with asyncio.timeout(_COUNTER_S):
                async with self.upstreams.request(
                    replica.url, "GET", "/metrics", JSON, b""
                ) as answer:
                    found = _COUNTER.findall(await read(answer, _ANSWER_BYTES))
                    return sum(map(float, found))
        except (CannotConnect, aiohttp.ClientError, OSError, ValueError):
            return None


async def count_tokens(
    upstreams: Upstreams,
    replica: Replica,
    model: object,
    text: str,
    headers: dict[str, str],
) -> int | None:
    """Count the tokens of a text with a replica's `/tokenize`; None when it has none."""
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    encoded = json.dumps(body).encode()
    try:
        async with asyncio.timeout(_COUNTER_S):
            async with upstreams.request(
                replica.url, "POST", "/tokenize", headers | JSON, encoded
            ) as answer:
                counted = await read(answer, _ANSWER_BYTES)
                parsed = json.loads(counted) if readable(counted) else None
    except (CannotConnect, aiohttp.ClientError, OSError, ValueError, RecursionError):
        return None
    count = parsed.get("count") if isinstance(parsed, dict) else None
    plausible = isinstance(count, int) and 0 < count <= len(text.encode(errors="replace"))
    return count if plausible else None
