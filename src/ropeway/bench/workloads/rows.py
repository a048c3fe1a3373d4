"""The user's own prompts, drawn in a random order."""

import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ropeway.bench.load_test import LoadTest
from ropeway.bench.workloads.spool import Spool, drawn
from ropeway.bench.workloads.talks import OneQuestion


@dataclass(frozen=True)
class OwnPrompts:
    """Requests of a spool. Each measurement goes on where the one before it (`fresh`) has ended.

    warm_up  send those that are sent first, as fast as answers come
    """

    model: str
    load: LoadTest
    spool: Spool
    warm_up: bool = False

    def talks(self, index: int, count: int) -> Iterator[OneQuestion]:
        """Yield the talks of the `index`-th of `count` processes."""
        rows = drawn(len(self.spool), self.load.seed, self._begin())
        every = zip(self.load.dues(warm_up=self.warm_up), rows, strict=False)
        model = json.dumps(self.model).encode()
        handle = os.open(Path(self.spool.path), os.O_RDONLY)
        try:
            for (_, due), row in itertools.islice(every, index, None, count):
                yield OneQuestion(self.spool.request(handle, row, model), due)
        finally:
            os.close(handle)

    def _begin(self) -> int:
        """Return the place of the first row in their order.

        How many a measurement of some duration will send is not known, so each begins an order of
        its own.
        """
        load = self.load
        each = load.warmup + (load.total() or len(self.spool))
        return load.fresh * each + (0 if self.warm_up else load.warmup)
