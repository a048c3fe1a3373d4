"""benchmarks/raw_http.py, whose client must neither hang nor miscount."""

import asyncio
import subprocess
import sys

import pytest
import raw_http

import virtual_time
from router_raw import Raw

ANSWER = raw_http._HEAD + raw_http._TOKEN + raw_http._LAST + raw_http._DONE


class Written(asyncio.Transport):
    """A transport that takes everything."""

    def write(self, data: bytes) -> None:
        pass


def test_an_answer_is_counted_and_ends_wherever_its_packets_do() -> None:
    async def scene() -> None:
        for at in range(1, len(ANSWER)):
            client = raw_http._Client(b"", each=3)
            client.connection_made(Written())
            for packet in (ANSWER[:at], ANSWER[at:], ANSWER):
                client.data_received(packet)
            assert [answer.events for answer in client.answers] == [3, 3], at

    asyncio.run(scene())


def test_an_answer_without_an_end_is_not_waited_for_for_ever() -> None:
    async def scene() -> None:
        async with Raw(raw_http._HEAD, hangs=True).served() as url:
            with pytest.raises(TimeoutError):
                await raw_http.streams(url, 2, 1, 1)

    virtual_time.run(scene())


def test_requests_beyond_the_slots_wait_for_one() -> None:
    flags = ("--slots", "2", "--ttft", "0.05", "--tpot", "0.05")
    argv = (sys.executable, raw_http.__file__, *flags)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        try:
            url = child.stdout.readline().strip()
            answers = asyncio.run(raw_http.streams(url, clients=5, each=1, tokens=2))
        finally:
            child.kill()
    firsts = sorted(answer.first_s for (answer,) in answers)
    waited = [0.05, 0.05, 0.15, 0.15, 0.25]
    # Those that wait have been sent a few milliseconds after those that hold the slots.
    assert all(first > least - 0.04 for first, least in zip(firsts, waited, strict=True))
