"""Which replica gets a request: the one whose prefix cache is warm for it, unless it is busier.

A prompt's beginning is known by a chain of hashes, one for each further block of text; the index
remembers which replicas have read which beginning. Load is counted in tokens that are still to be
computed, since one request may be a hundred times another.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ropeway.router.config import Limits

# The engine's cache works in blocks of 128 tokens on Ascend (vLLM-Ascend's platform.py forces it
# with prefix caching), at some 4 bytes of UTF-8 a token: less text than this is never cached.
BLOCK_BYTES = 512
# 64 KiB, some 16,000 tokens: beginnings that long are the same or not.
MAX_BLOCKS = 128
BYTES_PER_TOKEN = 4

Chain = tuple[bytes, ...]


@dataclass(frozen=True)
class Load:
    """A replica that may be chosen: tokens it still has to compute, requests it ever got."""

    name: str
    tokens: int
    requests: int


def chain(prompt: bytes, salt: bytes = b"") -> Chain:
    """The hashes of every beginning of a prompt, whole blocks only, shortest first.

    `salt` is what besides the text makes caches differ: the model (an adapter has its own).
    """
    running = hashlib.blake2b(salt, digest_size=8)
    found = []
    for at in range(0, min(len(prompt) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES, BLOCK_BYTES):
        running.update(prompt[at : at + BLOCK_BYTES])
        found.append(running.digest())
    return tuple(found)


class PrefixIndex:
    """Which replicas have read which beginnings; the oldest beginnings are forgotten."""

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._readers: OrderedDict[bytes, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def record(self, beginning: Chain, name: str) -> None:
        """That replica now reads this prompt."""
        for block in beginning:
            self._readers.setdefault(block, set()).add(name)
            self._readers.move_to_end(block)
        while len(self._readers) > self._capacity:
            self._readers.popitem(last=False)

    def warm(self, beginning: Chain, among: Collection[str]) -> set[str]:
        """Those of `among` that have read most of this prompt; empty when none read a block."""
        for block in reversed(beginning):
            if found := self._readers.get(block, set()).intersection(among):
                return found
        return set()

    def forget(self, name: str) -> None:
        """That replica has lost its cache."""
        for block in list(self._readers):
            self._readers[block].discard(name)
            if not self._readers[block]:
                del self._readers[block]


def choose(loads: Sequence[Load], warm: Collection[str], limits: Limits) -> str | None:
    """The replica's name; None when there is none.

    Affinity ends when its replica has more outstanding tokens than both `affinity_ratio` times the
    least and `affinity_slack_tokens` above it: waiting there would cost more than reading again.
    """
    if not loads:
        return None
    idlest = _least(loads)
    familiar = [load for load in loads if load.name in warm]
    if not familiar:
        return idlest.name
    favourite = _least(familiar)
    bound = max(idlest.tokens * limits.affinity_ratio, idlest.tokens + limits.affinity_slack_tokens)
    return favourite.name if favourite.tokens <= bound else idlest.name


def _least(loads: Iterable[Load]) -> Load:
    # Among equals, as when all are idle, the one that got fewest takes its turn.
    return min(loads, key=lambda load: (load.tokens, load.requests))
