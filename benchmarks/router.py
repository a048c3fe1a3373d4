"""One endpoint over two replicas: nothing in front, nginx, vllm-router, and Ropeway's own router.

Three questions in one run: what does each add to a request, how much can it carry, and what do
clients see when a replica is killed or hangs? The first two use endpoints of known speed
(`fake_endpoint.py`), the last replicas whose answers can be continued
(`tests/router_backends.py`). Ropeway needs neither nginx nor vllm-router: install them anywhere. It
takes five minutes:

    python benchmarks/router.py --nginx /usr/sbin/nginx --vllm-router VENV/bin/vllm-router
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import raw_http
from running import conditions

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from router_backends import ANSWER, MODEL, TEXT

ENDPOINT = Path(__file__).with_name("fake_endpoint.py")
BACKENDS = Path(__file__).parent.parent / "tests" / "router_backends.py"
RAW = Path(__file__).with_name("raw_http.py")
CLIENTS = 256
PACED_EACH = 12
ROUNDS = 5
MANY = 200_000
# A request that takes longer counts as hanging: ten times what an answer takes.
PATIENCE_S = 15.0
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream replicas {{ least_conn; {servers} keepalive 512; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://replicas; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_connect_timeout 3s; proxy_read_timeout 60s;
      proxy_next_upstream error timeout http_500 http_502 http_503 non_idempotent;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Front:
    """A program in front of the replicas. `program` is empty for Ropeway's and for none."""

    name: str
    program: str = ""


@dataclass(frozen=True)
class Reply:
    """One answer: seconds to its first byte and to its end, and how it ended."""

    first_s: float
    whole_s: float
    fate: str


def main() -> None:
    """Measure every front that is there, and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nginx", default="", help="the program; skipped by default")
    parser.add_argument("--vllm-router", default="", help="the program; skipped by default")
    parser.add_argument("--only", choices=("paced", "latency", "memory"), help="one table of these")
    args = parser.parse_args()
    # Ends what was started, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    fronts = [Front("none")]
    fronts += [Front("nginx", args.nginx)] if args.nginx else []
    fronts += [Front("vllm-router", args.vllm_router)] if args.vllm_router else []
    fronts += [Front("ropeway.router")]
    print(f"two replicas; {conditions()}; medians of {ROUNDS} rounds, taken in turn\n")
    tables = {"latency": latency, "throughput": throughput, "paced": paced, "flow": flow}
    tables |= {"faults": lambda fronts: faults(fronts[1:]), "memory": memory}
    for name, table in tables.items():
        # Memory takes minutes by itself, so it is only measured when asked for.
        if args.only == name or (args.only is None and name != "memory"):
            table(fronts)


def latency(fronts: list[Front]) -> None:
    """One client, one request after the other: what is added to the first byte and to the whole."""
    replies: dict[str, list[Reply]] = {front.name: [] for front in fronts}
    with endpoints() as urls, all_of(fronts, urls) as reached:
        for _ in range(ROUNDS):
            for name, url in reached.items():
                replies[name] += asyncio.run(load(url, clients=1, each=60, tokens=8))[10:]
    print("one client, 8 tokens an answer\n")
    print(f"{'in front':<16}{'first byte':>12}{'added':>10}{'whole':>10}{'added':>10}")
    base = _medians(replies["none"])
    for name, answers in replies.items():
        first, whole = _medians(answers)
        print(
            f"{name:<16}{first:>9.2f} ms{first - base[0]:>7.2f} ms{whole:>7.2f} ms"
            f"{whole - base[1]:>7.2f} ms"
        )
    print()


def throughput(fronts: list[Front]) -> None:
    """The most short answers that 256 clients can get."""
    rates: dict[str, list[float]] = {front.name: [] for front in fronts}
    spent: dict[str, list[float]] = {front.name: [] for front in fronts}
    with endpoints() as urls, all_of(fronts, urls) as reached:
        for _ in range(ROUNDS):
            for name, url in reached.items():
                before, began = _cpu_s(name), time.monotonic()
                answers = asyncio.run(load(url, clients=CLIENTS, each=3, tokens=8))
                assert {each.fate for each in answers} == {"whole"}, name
                rates[name].append(len(answers) / (time.monotonic() - began))
                spent[name].append((_cpu_s(name) - before) / len(answers) * 1e3)
    print(f"{CLIENTS} clients, 8 tokens an answer, as fast as possible\n")
    print(f"{'in front':<16}{'requests/s':>12}{'range':>14}{'its CPU/request':>18}")
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        cpu = f"{statistics.median(spent[name]):.2f} ms"
        print(f"{name:<16}{statistics.median(values):>12.0f}{spread:>14}{cpu:>18}")
    print()


def paced(fronts: list[Front]) -> None:
    """256 streams of 64 tokens, one in 8 ms: what is left of the requests/s of nothing in front?"""
    rates: dict[str, list[float]] = {front.name: [] for front in fronts}
    spent: dict[str, list[float]] = {front.name: [] for front in fronts}
    # Of the first request of each client, which all come at once, and of those after it.
    first_s: dict[str, tuple[list[float], list[float]]] = {it.name: ([], []) for it in fronts}
    argv = [sys.executable, str(RAW), "--tpot", "0.008"]
    with (
        process(argv, prints_url=True) as (_, one),
        process(argv, prints_url=True) as (_, other),
        all_of(fronts, [one, other]) as reached,
    ):
        for _ in range(ROUNDS):
            for name, url in reached.items():
                before, began = _cpu_s(name), time.monotonic()
                rows = asyncio.run(raw_http.streams(url, CLIENTS, PACED_EACH, 64))
                took = time.monotonic() - began
                # 64 tokens and the mark of the end.
                events = [[each.events for each in row] for row in rows]
                assert events == [[65] * PACED_EACH] * CLIENTS, name
                count = CLIENTS * PACED_EACH
                rates[name].append(count / took)
                spent[name].append((_cpu_s(name) - before) / count * 1e3)
                first_s[name][0].extend(row[0].first_s for row in rows)
                first_s[name][1].extend(each.first_s for row in rows for each in row[1:])
    load_now = os.getloadavg()[0]
    print(
        f"{CLIENTS} streams of 64 tokens, one token in 8 ms, {PACED_EACH} requests each (load "
        f"average {load_now:.1f}); the first token is due at once\n"
    )
    print(
        f"{'in front':<16}{'requests/s':>12}{'range':>14}{'of none':>10}{'its CPU/request':>18}"
        f"{'first token, 1st wave':>24}{'later waves':>14}"
    )
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        share = statistics.median(
            value / base for value, base in zip(values, rates["none"], strict=True)
        )
        cpu = f"{statistics.median(spent[name]):.2f} ms"
        once, later = (f"{statistics.median(times) * 1e3:.1f} ms" for times in first_s[name])
        print(
            f"{name:<16}{statistics.median(values):>12.0f}{spread:>14}{share:>10.3f}{cpu:>18}"
            f"{once:>24}{later:>14}"
        )
    print()


def memory(fronts: list[Front]) -> None:
    """200,000 requests: does what is in front grow?"""
    print(f"{MANY:,} requests of 8 tokens from {CLIENTS} clients\n")
    for front in fronts[1:]:
        with endpoints() as urls, all_of([front], urls) as reached:
            for turn in range(1, 6):
                each = MANY // 5 // CLIENTS
                answers = asyncio.run(
                    load(reached[front.name], clients=CLIENTS, each=each, tokens=8)
                )
                status = Path(f"/proc/{_PIDS[front.name]}/status").read_text()
                size = int(status.partition("VmRSS:")[2].split()[0]) // 1024
                print(f"{front.name} {turn}/5: {_fates(answers)}, {size} MB resident", flush=True)
    print()


def flow(fronts: list[Front]) -> None:
    """256 streams at a steady pace: does each token pass at once, and what does it cost?"""
    print(f"{CLIENTS} streams of 64 tokens, one token in 50 ms: 5,120 tokens/s in all\n")
    print(f"{'in front':<16}{'whole answer':>14}{'added':>10}{'its CPU':>10}{'a token':>10}")
    base = 0.0
    with endpoints(ttft=0.5, tpot=0.05) as urls, all_of(fronts, urls) as reached:
        for name, url in reached.items():
            before, began = _cpu_s(name), time.monotonic()
            answers = asyncio.run(load(url, clients=CLIENTS, each=2, tokens=64))
            cpu, took = _cpu_s(name) - before, time.monotonic() - began
            whole = statistics.median(each.whole_s for each in answers) * 1000
            base = base or whole
            print(
                f"{name:<16}{whole:>11.0f} ms{whole - base:>7.0f} ms{cpu / took:>10.0%}"
                f"{cpu / len(answers) / 64 * 1e6:>7.0f} µs"
            )
    print()


def faults(fronts: list[Front]) -> None:
    """Send 32 requests over two replicas, one of which is killed or stopped while they run."""
    rows = (
        ("killed while streaming", signal.SIGKILL, True),
        ("killed before the first byte", signal.SIGKILL, False),
        ("stopped while streaming", signal.SIGSTOP, True),
        ("stopped before the first byte", signal.SIGSTOP, False),
    )
    print("32 requests over two replicas, one of them killed or stopped half-way; then 32 more\n")
    print(f"{'in front':<16}{'one replica is':<32}{'running requests':<44}{'following requests'}")
    for front in fronts:
        for what, number, streamed in rows:
            running, following = asyncio.run(accident(front, number, streamed))
            print(f"{front.name:<16}{what:<32}{_fates(running):<44}{_fates(following)}", flush=True)


async def accident(
    front: Front, number: signal.Signals, streamed: bool
) -> tuple[list[Reply], list[Reply]]:
    """Return the replies to the running requests, and to those sent a second later."""
    with replicas(0.15) as processes:
        urls = [url for _, url in processes]
        with all_of([front], urls) as reached:
            url = reached[front.name]
            more: dict[str, Any] = {"whole": TEXT, "streamed": streamed}
            running = asyncio.create_task(load(url, clients=32, each=1, tokens=0, **more))
            await asyncio.sleep(0.15 * len(ANSWER) / 2)
            processes[0][0].send_signal(number)
            await asyncio.sleep(1)
            following = await load(url, clients=32, each=1, tokens=0, **more)
            return await running, following


async def load(
    url: str, *, clients: int, each: int, tokens: int, whole: str = "", streamed: bool = True
) -> list[Reply]:
    """Send `each` requests from each client, one after the other."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def client(number: int) -> list[Reply]:
            body: dict[str, Any] = {"model": MODEL, "stream": streamed}
            body |= {"max_tokens": tokens, "ignore_eos": True} if tokens else {}
            prompts = (f"{number} and {turn}: " for turn in range(each))
            return [await _once(session, url, body | {"prompt": it}, whole) for it in prompts]

        rows = await asyncio.gather(*(client(number) for number in range(clients)))
    return [reply for row in rows for reply in row]


async def _once(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], whole: str
) -> Reply:
    began, first, content = time.monotonic(), 0.0, bytearray()
    fate = ""
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with session.post(f"{url}/v1/completions", json=body) as answer:
                fate = "" if answer.status == 200 else f"HTTP {answer.status}"
                while piece := await answer.content.readany():
                    first = first or time.monotonic()
                    content += piece
    except TimeoutError:
        fate = "hung"
    except aiohttp.ClientError:
        fate = "cut"
    ended = time.monotonic()
    return Reply(first - began, ended - began, fate or _fate(bytes(content), body, whole))


def _fate(content: bytes, body: dict[str, Any], whole: str) -> str:
    if not body["stream"]:
        return "whole" if json.loads(content)["choices"][0]["text"] == whole else "wrong"
    rows = [row[6:] for row in content.split(b"\n\n") if row.startswith(b"data: {")]
    chunks = [json.loads(row) for row in rows]
    if any("error" in chunk for chunk in chunks):
        return "error event"
    if not content.endswith(b"data: [DONE]\n\n"):
        return "cut"
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    return "whole" if whole in ("", text) else "wrong"


def _fates(answers: list[Reply]) -> str:
    counts = dict.fromkeys(sorted({each.fate for each in answers}, reverse=True), 0)
    for each in answers:
        counts[each.fate] += 1
    slowest = max(each.whole_s for each in answers)
    return ", ".join(f"{count} {fate}" for fate, count in counts.items()) + f" in {slowest:.1f} s"


def _medians(answers: list[Reply]) -> tuple[float, float]:
    return (
        statistics.median(each.first_s for each in answers) * 1000,
        statistics.median(each.whole_s for each in answers) * 1000,
    )


# --- processes -----------------------------------------------------------------------------------

_PIDS: dict[str, int] = {}


@contextlib.contextmanager
def process(
    argv: list[str], *, name: str = "", prints_url: bool = False
) -> Iterator[tuple[Any, str]]:
    """A process, and the URL that it prints, if it does."""
    pipe = subprocess.PIPE if prints_url else subprocess.DEVNULL
    child = subprocess.Popen(
        argv, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    _PIDS[name] = child.pid
    try:
        yield child, child.stdout.readline().strip() if child.stdout else ""
    finally:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()


@contextlib.contextmanager
def endpoints(ttft: float = 0.0, tpot: float = 0.0) -> Iterator[list[str]]:
    """Two endpoints of this speed."""
    argv = [sys.executable, str(ENDPOINT), "--port", "0", "--capacity", "2048"]
    argv += ["--ttft", str(ttft), "--tpot", str(tpot)]
    with process(argv, prints_url=True) as (_, one), process(argv, prints_url=True) as (_, other):
        yield [url.removesuffix("/v1") for url in (one, other)]


@contextlib.contextmanager
def replicas(tpot: float) -> Iterator[list[tuple[Any, str]]]:
    """Two replicas that can be continued, with their processes."""
    argv = [sys.executable, str(BACKENDS), "0", str(tpot)]
    with process(argv, prints_url=True) as one, process(argv, prints_url=True) as other:
        yield [one, other]


@contextlib.contextmanager
def all_of(fronts: list[Front], urls: list[str]) -> Iterator[dict[str, str]]:
    """Name → URL of each front, started and ready."""
    with contextlib.ExitStack() as stack:
        urls_by_name = {}
        for front in fronts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            urls_by_name[front.name] = urls[0]
            if front.name != "none":
                port = _free_port()
                argv = _argv(front, urls, port, folder)
                stack.enter_context(process(argv, name=front.name))
                urls_by_name[front.name] = f"http://127.0.0.1:{port}"
            _wait(urls_by_name[front.name])
        yield urls_by_name


def _argv(front: Front, urls: list[str], port: int, folder: Path) -> list[str]:
    if front.name == "nginx":
        servers = " ".join(
            f"server {url.removeprefix('http://')} max_fails=3 fail_timeout=10s;" for url in urls
        )
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, port=port, servers=servers))
        return [front.program, "-p", str(folder), "-c", str(config)]
    if front.name == "vllm-router":
        argv = [front.program, "--host", "127.0.0.1", "--port", str(port), "--policy"]
        argv += ["round_robin", "--prometheus-port", str(_free_port())]
        return [*argv, "--health-check-interval-secs", "5", "--worker-urls", *urls]
    config = folder / "router.json"
    backends = [{"name": f"r{number}", "url": url} for number, url in enumerate(urls)]
    listen = {"host": "127.0.0.1", "port": port}
    # The faults are over in a quarter of a minute: a replica that hangs must be found in less.
    limits = {"probe_period_s": 2, "probe_timeout_s": 3}
    about = {"listen": listen, "model": MODEL, "backends": backends, "limits": limits}
    config.write_text(json.dumps(about))
    return [sys.executable, "-m", "ropeway.router", str(config)]


def _wait(url: str) -> None:
    """Wait until two requests were answered completely, one by each replica."""
    end = time.monotonic() + 60
    whole = 0
    while whole < 2:
        if time.monotonic() > end:
            sys.exit(f"error: {url} does not answer")
        whole += _probe(url)
        time.sleep(0.2)


def _probe(url: str) -> bool:
    body = json.dumps({"model": MODEL, "prompt": "p", "stream": True, "max_tokens": 1}).encode()
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.settimeout(5)
            connection.sendall(head.encode() + body)
            content = b""
            while piece := connection.recv(65536):
                content += piece
    except OSError:
        return False
    return b" 200 " in content[:20] and b"[DONE]" in content


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _cpu_s(name: str) -> float:
    """CPU seconds of a front and its children so far (fields 14 and 15 of proc(5) stat)."""
    if name not in _PIDS:
        return 0.0
    ticks, session = 0, os.getsid(_PIDS[name])
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
