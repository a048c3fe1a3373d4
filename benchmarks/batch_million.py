"""A million rows through `ropeway batch`, journal and all: rows/s, memory, and what a kill costs.

A fake endpoint answers at once, on the same cores. Beside it a loop of bare aiohttp sends the same
bodies and keeps nothing, in the same run: what the machine can do at all. Then the job is begun
anew, killed (-9) when nine tenths are done, and resumed: how long until it sends again?

    python benchmarks/batch_million.py                    # a quarter of an hour
    python benchmarks/batch_million.py --rows 10000000 --no-loop --no-kill
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from running import ROPEWAY, conditions

HERE = Path(__file__).parent
_IN_FLIGHT = 256
_PATIENCE_S = 3600.0


def write_input(path: Path, rows: int) -> None:
    """Requests of OpenAI's batches, each with a text of its own of some 200 bytes."""
    text = "The lift goes up the hill and comes down every day. " * 3
    with path.open("w") as file:
        for number in range(rows):
            file.write(
                f'{{"custom_id":"r{number}","method":"POST","url":"/v1/chat/completions","body":'
                f'{{"model":"fake","messages":[{{"role":"user","content":"{number} {text}"}}],'
                '"max_tokens":64}}\n'
            )


@contextmanager
def endpoint() -> Iterator[str]:
    """An endpoint that answers at once; yields its URL."""
    argv = [sys.executable, str(HERE / "batch_endpoint.py"), "--at-once", "100000"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()
        if child.stdout:
            child.stdout.close()


async def loop(url: str, source: Path, rows: int) -> float:
    """Return the rows/s of bare aiohttp, which reads each answer and keeps none."""
    lines = iter(source.open("rb"))
    began = time.monotonic()
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(count: int) -> None:
            for _ in range(count):
                body = next(lines).partition(b'"body":')[2].rstrip()[:-1]
                async with session.post(
                    f"{url}/chat/completions", data=body, headers=headers
                ) as answer:
                    await answer.read()

        await asyncio.gather(*(client(rows // _IN_FLIGHT) for _ in range(_IN_FLIGHT)))
    return rows // _IN_FLIGHT * _IN_FLIGHT / (time.monotonic() - began)


def resident(pid: int) -> int:
    """Return the resident memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1000


class Watched:
    """A job that runs, and what it tells of itself on stderr."""

    def __init__(self, argv: list[str]) -> None:
        self.began = time.monotonic()
        self.child = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def events(self) -> Iterator[dict[str, object]]:
        """Yield each event as it comes."""
        assert self.child.stderr is not None
        for line in self.child.stderr:
            if line.startswith("{"):
                yield json.loads(line)

    def end(self) -> dict[str, object]:
        """Return the document at the end."""
        said, _ = self.child.communicate(timeout=_PATIENCE_S)
        return json.loads(said) if said.strip() else {}


def job(source: Path, output: Path, url: str) -> list[str]:
    """Return the command."""
    argv = [ROPEWAY, "batch", str(source), "-o", str(output), "--url", url, "--json"]
    return [*argv, "--in-flight", str(_IN_FLIGHT)]


def measure(source: Path, folder: Path, url: str, rows: int) -> None:
    """Run the job to its end; print its rate, and its memory at each tenth."""
    run = Watched(job(source, folder / "out.jsonl", url))
    first_s, sizes, last = 0.0, [], 0
    for event in run.events():
        done = int(str(event["finished"]))
        first_s = first_s or time.monotonic() - run.began
        if done * 10 // rows > last:
            last = done * 10 // rows
            sizes.append(f"{last * 10}% {resident(run.child.pid)}")
    document = run.end()
    took = time.monotonic() - run.began
    sent_s = float(str(document["duration_s"]))
    print(
        f"ropeway batch: {rows / sent_s:,.0f} rows/s while it sends ({sent_s:,.0f} s); in all "
        f"{took:,.0f} s, of which {first_s:,.0f} s before the first row and "
        f"{max(0.0, took - first_s - sent_s):,.0f} s to write the output\n"
        f"resident, MB: {', '.join(sizes)}\noutcomes: {document['outcomes']}",
        flush=True,
    )


def kill_and_resume(source: Path, folder: Path, url: str, rows: int) -> None:
    """Kill the job at nine tenths, and print how long the next run takes to send."""
    argv = job(source, folder / "killed.jsonl", url)
    run = Watched(argv)
    for event in run.events():
        if int(str(event["finished"])) >= rows * 0.9:
            run.child.send_signal(signal.SIGKILL)
            break
    run.child.communicate()
    run = Watched(argv)
    before = None
    for event in run.events():
        done = int(str(event["finished"]))
        if before is None:
            before = done
        if done > before or int(str(event["in_flight"])):
            print(f"after kill -9 at {before:,} rows it sends again within "
                  f"{time.monotonic() - run.began:.1f} s", flush=True)  # fmt: skip
            break
    for _ in run.events():
        pass
    print(f"outcomes: {run.end()['outcomes']}", flush=True)


def main() -> int:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--no-loop", action="store_true", help="without bare aiohttp")
    parser.add_argument("--no-kill", action="store_true", help="without kill and resume")
    parser.add_argument("--folder", type=Path, help="where the files are made")
    args = parser.parse_args()
    print(f"{args.rows:,} rows, {_IN_FLIGHT} in flight; {conditions()}\n", flush=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch, endpoint() as url:
        folder = Path(scratch)
        source = folder / "in.jsonl"
        write_input(source, args.rows)
        if not args.no_loop:
            part = min(args.rows, 200_000)
            print(f"bare aiohttp: {asyncio.run(loop(url, source, part)):,.0f} rows/s", flush=True)
        measure(source, folder, url, args.rows)
        checked = subprocess.run(
            [sys.executable, str(HERE / "batch_check.py"), str(source), str(folder / "out.jsonl"),
             str(folder / "out.errors.jsonl")], check=False,
        )  # fmt: skip
        os.truncate(folder / "out.jsonl", 0)
        if not args.no_kill:
            kill_and_resume(source, folder, url, args.rows)
    return checked.returncode


if __name__ == "__main__":
    sys.exit(main())
