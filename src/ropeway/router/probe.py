"""Asks silent replicas for one token, and ends requests that would wait forever.

A server may answer `/health` while its engine is dead or stuck; a token is proof.
"""

import asyncio
import json
from dataclasses import dataclass

import aiohttp

from ropeway.router import events
from ropeway.router.replicas import Pool, Replica, overdue, waiting
from ropeway.router.request import TEXT

TICK_S = 0.1
# Our session adds no headers, since those of clients pass unchanged; vLLM requires this one.
JSON = {"Content-Type": "application/json"}
# vLLM's counter of generated tokens, in all versions of its V1 engine.
_COUNTER = "vllm:generation_tokens_total"
# Between two readings of the counter: many steps of any engine that generates.
_COUNTER_S = 2.0


@dataclass
class Watch:
    """Watches all replicas while `run` runs. `key`: the header with it, if there is one."""

    model: str
    pool: Pool
    session: aiohttp.ClientSession
    key: dict[str, str]

    async def run(self) -> None:
        """Watch until cancelled. Probes run concurrently, so that none waits for a dead replica."""
        async with asyncio.TaskGroup() as probes:
            while True:
                self.pool.note_tokens()
                now = self.pool.clock()
                for replica in self.pool:
                    for attempt in overdue(replica, now):
                        attempt.end(f"nothing came for {attempt.patience:g} s")
                    if replica.breaker.probe_at <= now:
                        self.pool.begin_probe(replica)
                        probes.create_task(self._probe(replica))
                await asyncio.sleep(TICK_S)

    async def _probe(self, replica: Replica) -> None:
        began = self.pool.clock()
        try:
            async with asyncio.timeout(self.pool.limits.probe_timeout_s):
                await self._token(replica)
        except TimeoutError:
            if replica.last_token > began or await self._generates(replica):
                self.pool.probe_queued(replica)
                return
            why = f"no token within {self.pool.limits.probe_timeout_s:g} s"
            self.pool.probe_failed(replica, why)
            for attempt in waiting(replica):
                attempt.end(f"its replica hangs: {why}")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            why = f"probe: {error or type(error).__name__}"
            self.pool.probe_failed(replica, why, refused=refused)
        else:
            self.pool.probe_succeeded(replica)

    async def _token(self, replica: Replica) -> None:
        """Make the replica generate one token. Raises what aiohttp raises, and ValueError."""
        body = {"model": self.model, "prompt": "Hi", "max_tokens": 1, "temperature": 0}
        async with self.session.post(
            replica.url + TEXT, json={**body, "stream": True}, headers=self.key | JSON
        ) as answer:
            content = await answer.read()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {content[:200].decode(errors='replace')}")
        if failure := events.broken(content):
            raise ValueError(failure.message)
        if not any((events.payload(event) or {}).get("choices") for event in events.each(content)):
            raise ValueError(f"no token in {content[:200].decode(errors='replace')!r}")

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
                async with self.session.get(replica.url + "/metrics") as answer:
                    text = await answer.text(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        rows = [line.split() for line in text.splitlines() if line.startswith(_COUNTER)]
        try:
            return sum(float(row[-1]) for row in rows)
        except ValueError:
            return None


async def count_tokens(
    session: aiohttp.ClientSession,
    replica: Replica,
    model: object,
    text: str,
    headers: dict[str, str],
) -> int | None:
    """Count the tokens of a text with a replica's `/tokenize`; None when it has none."""
    body = {"model": model, "prompt": text, "add_special_tokens": False}
    try:
        async with asyncio.timeout(_COUNTER_S):
            async with session.post(
                replica.url + "/tokenize", json=body, headers=headers | JSON
            ) as answer:
                parsed = json.loads(await answer.read())
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    count = parsed.get("count") if isinstance(parsed, dict) else None
    return count if isinstance(count, int) else None
