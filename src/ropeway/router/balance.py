"""Which replica gets a request: the one whose prefix cache is warm for it, unless it is busier.

A prefix is a chain of hashes, one for each further block of the prompt's text; the index remembers
which replicas have read which prefix. Load is counted in tokens that are still to be computed,
since one request may be a hundred times as large as another.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ropeway.router.config import Limits

# The engine's cache works in blocks of 128 tokens on Ascend (vLLM-Ascend's platform.py forces it
# with prefix caching), at some 4 bytes of UTF-8 a token: less text than this is never cached.
BLOCK_BYTES = 512
# 64 KiB, some 16,000 tokens: prompts that agree so far are the same for our purpose.
MAX_BLOCKS = 128
BYTES_PER_TOKEN = 4

Chain = tuple[bytes, ...]


@dataclass(frozen=True)
class Load:
    """A candidate: the tokens it still has to compute, and the requests it has ever received."""

    name: str
    tokens: int
    requests: int


def chain(prompt: bytes, salt: bytes = b"") -> Chain:
    """Return the hashes of all prefixes of a prompt, in whole blocks, shortest first.

    `salt` stands for what else makes caches differ, such as the model (an adapter has its own).
    """
    running = hashlib.blake2b(salt, digest_size=8)
    hashes = []
    for at in range(0, min(len(prompt) // BLOCK_BYTES, MAX_BLOCKS) * BLOCK_BYTES, BLOCK_BYTES):
        running.update(prompt[at : at + BLOCK_BYTES])
        hashes.append(running.digest())
    return tuple(hashes)


class PrefixIndex:
    """Which replicas have read which prefixes; the oldest are forgotten."""

    def __init__(self, capacity: int = 65536) -> None:
        self._capacity = capacity
        self._readers: OrderedDict[bytes, set[str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._readers)

    def record(self, prefix: Chain, name: str) -> None:
        """Note that a replica reads this prompt."""
        for block in prefix:
            self._readers.setdefault(block, set()).add(name)
            self._readers.move_to_end(block)
        while len(self._readers) > self._capacity:
            self._readers.popitem(last=False)

    def warm(self, prefix: Chain, among: Collection[str]) -> set[str]:
        """Return those of `among` that have read most of this prompt; none if none read a block."""
        for block in reversed(prefix):
            if readers := self._readers.get(block, set()).intersection(among):
                return readers
        return set()

    def forget(self, name: str) -> None:
        """Note that a replica has lost its cache."""
        for block in list(self._readers):
            self._readers[block].discard(name)
            if not self._readers[block]:
                del self._readers[block]


def choose(loads: Sequence[Load], warm: Collection[str], limits: Limits) -> str | None:
    """Return the name of a replica; None when there is none.

    Affinity ends when its replica has more outstanding tokens than both `affinity_ratio` times the
    least and `affinity_slack_tokens` above it: waiting would cost more than reading again.
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
    # Among equals, as when all are idle, the one with the fewest requests takes its turn.
    return min(loads, key=lambda load: (load.tokens, load.requests))
