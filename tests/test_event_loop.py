"""The event loop for many requests: uvloop where it is, asyncio's own where it is not."""

import asyncio
import sys

import pytest

from ropeway.endpoint import event_loop


async def _kind() -> str:
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_work_runs_on_uvloop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert event_loop.run(_kind()) == "uvloop"


def test_work_runs_without_uvloop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)  # which makes its import fail
    assert event_loop.run(_kind()) == "asyncio"
