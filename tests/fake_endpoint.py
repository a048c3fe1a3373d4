"""The fake endpoint in a thread of the test."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ropeway.sim.endpoint import Behaviour, FakeEndpoint, start


@contextmanager
def running(behaviour: Behaviour) -> Iterator[FakeEndpoint]:
    """Serve on a free port of 127.0.0.1; the result's `url` ends in /v1."""
    fake = FakeEndpoint(behaviour)
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(start(fake, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()
