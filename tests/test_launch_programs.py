"""The programs in containers, run as they are run there: as files, by themselves."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from pooling_engine import ANSWERS, Pooling, running
from ports import free_port
from ropeway.launch.programs import NAMES, program
from router_backends import Engine, Fault

pytestmark = pytest.mark.real_time


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        quick = re.sub(r"time\.sleep\(1\)", "time.sleep(0.05)", program(name))
        quick = quick.replace("_EVERY = 2.0", "_EVERY = 0.5")
        (tmp_path / f"{name}.py").write_text(quick)
    return tmp_path


HANGS = Fault("503")


class BusyEngine(Engine):
    """Generates tokens for somebody else, each time it is asked for its counter."""

    others = 1

    async def _metrics(self, request: web.Request) -> web.Response:
        self.tokens += self.others
        return await super()._metrics(request)


def python(folder: Path, *argv: str, **more: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        (sys.executable, "-S", "-E", str(folder / argv[0]), *argv[1:]),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        **more,  # type: ignore[call-overload]
    )  # fmt: skip


def ended(process: "subprocess.Popen[str]", seconds: float = 20) -> tuple[int, str]:
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


@pytest.mark.parametrize("hangs", [False, True])
def test_once_says_by_its_exit_code_and_its_words_whether_a_token_came(folder, hangs):
    engine = Engine(key="k", fault=HANGS if hangs else Fault())
    with running(engine) as url:
        watch = python(folder, "watch.py", "once", url, "m", "5", env={"VLLM_API_KEY": "k"})
        code, out = ended(watch)
    assert len(engine.bodies) == 1
    assert code == int(hangs)
    assert "503" in out if hangs else out == ""


@pytest.mark.parametrize("status", [400, 404, 501])
@pytest.mark.parametrize("path", ANSWERS)
def test_an_engine_is_ready_when_it_answers_what_its_model_is_for(folder, path, status):
    with running(Pooling(path, ANSWERS[path], status)) as url:
        assert ended(python(folder, "watch.py", "once", url, "m", "5")) == (0, "")


@pytest.mark.parametrize("answer", [{}, {"data": []}, [], None, {"data": None}])
def test_an_empty_answer_is_none(folder, answer):
    with running(Pooling("/v1/embeddings", answer, 404)) as url:
        assert ended(python(folder, "watch.py", "once", url, "m", "5"))[0] == 1


def test_an_engine_that_serves_nothing_is_not_ready_and_the_first_refusal_is_said(folder):
    with running(Pooling("/elsewhere", {}, 404)) as url:
        code, out = ended(python(folder, "watch.py", "once", url, "m", "5"))
    assert code == 1 and "HTTPError: HTTP Error 404" in out


def test_the_watchdog_of_an_embedding_engine_asks_for_vectors_alone_after_the_first(folder):
    engine = Pooling("/v1/embeddings", ANSWERS["/v1/embeddings"], 404)
    with running(engine) as url:
        watch = python(folder, "watch.py", "on", url, "m", "0.2", "60")
        assert watch.stdout.readline() == "ropeway: the first answer is there\n"
        while len(engine.asked) < 5:
            assert watch.poll() is None
        assert engine.asked[2:5] == ["/v1/embeddings"] * 3
        engine.fails = True
        code, out = ended(watch)
    assert code == 1 and "the engine hangs: no answer in 3 requests" in out


def test_the_watchdog_ends_when_the_engine_hangs_and_not_when_it_is_only_busy(folder):
    engine = BusyEngine()
    with running(engine) as url:
        watch = python(folder, "watch.py", "on", url, "m", "0.2", "60")
        assert watch.stdout.readline() == "ropeway: the first token is there\n"
        engine.fault = HANGS
        for _ in range(5):  # more failures than it takes
            assert "0 of 3" in watch.stdout.readline()
        engine.others = 0
        code, out = ended(watch)
    assert code == 1
    assert "3 of 3" in out and "the engine hangs" in out


def test_the_watchdog_waits_for_the_first_token_as_long_as_a_start_may_take(folder):
    engine = Engine(fault=HANGS)
    with running(engine) as url:
        code, out = ended(python(folder, "watch.py", "on", url, "m", "0.2", "0"))
        assert (code, "no first token within 0 s: HTTPError" in out) == (1, True)
        watch = python(folder, "watch.py", "on", url, "m", "0.2", "60")
        while len(engine.bodies) < 4:  # more failures than would end it later
            assert watch.poll() is None
        engine.fault = Fault()
        assert watch.stdout.readline() == "ropeway: the first token is there\n"
        watch.terminate()
        ended(watch)


def test_a_peer_ends_when_the_heads_port_closes(folder):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert ended(python(folder, "peer.py", "open", "127.0.0.1", port, "5")) == (0, "")
        server.accept()[0].close()
        peer = python(folder, "peer.py", "gone", "127.0.0.1", port, "5")
        server.accept()[0].close()
        assert peer.poll() is None
    code, out = ended(peer, 30)
    assert (code, out) == (1, f"ropeway: 127.0.0.1:{port} is closed: the head is gone\n")


def test_a_peer_does_not_wait_for_ever_for_a_port_that_stays_closed(folder):
    port = str(free_port())
    code, out = ended(python(folder, "peer.py", "open", "127.0.0.1", port, "1"))
    assert (code, out) == (1, f"ropeway: 127.0.0.1:{port} did not open within 1 s\n")


def test_the_programs_need_no_package_but_ray_and_no_new_python():
    for name in NAMES:
        text = program(name)
        compile(text, name, "exec")
        assert "from __future__ import annotations" in text
        assert "match " not in text
