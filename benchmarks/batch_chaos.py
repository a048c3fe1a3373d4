"""Batch jobs whose processes, servers, files, disks and clocks fail: is each row committed once?

Each run is a job of its own, with two fake endpoints that fail in every way they can and are
started anew when they die. The job is killed (-9) at random moments; between its lives the end of
its journal is torn, its disk is full, its clock jumps. It is resumed until it ends by itself, and
then `batch_check.py`, which knows nothing of Ropeway, reads the files. A run that fails keeps its
folder, and its number repeats what was decided by lot:

    python benchmarks/batch_chaos.py --runs 200
    python benchmarks/batch_chaos.py --runs 1 --first 17

Full disks need the right to mount a tmpfs, and are left out without it.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from running import ROPEWAY, conditions

HERE = Path(__file__).parent
ENDPOINT, CHECK = HERE / "batch_endpoint.py", HERE / "batch_check.py"
ROWS = 5000
# A job that has not ended within this, all its lives together, hangs.
PATIENCE_S = 300.0
_MOST_LIVES = 60
_ROW_BYTES = 550  # of an answer with its record
# Read by every Python that has this folder on its path: the wall clock jumps, as laptops' do.
_JUMPS = """
import random, time
_true, _lots, _off, _due = time.time, random.Random(), 0.0, 0.0
def _jumping():
    global _off, _due
    now = _true()
    if now >= _due:
        _due, _off = now + _lots.uniform(0.2, 2.0), _lots.choice((0, 0, 3600, -3600, 1e6, -1e6))
    return now + _off
time.time = _jumping
"""


@dataclass
class Told:
    """What happened in a run."""

    lives: int = 0
    kills: int = 0
    torn: int = 0
    full: int = 0
    jumps: int = 0
    deaths: int = 0
    again: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Servers:
    """Two endpoints at ports of their own, which come back when they have died."""

    def __init__(self, lots: random.Random, told: Told) -> None:
        self._lots, self._told = lots, told
        self._ended = threading.Event()
        self._children: list[subprocess.Popen[str]] = []
        self._threads: list[threading.Thread] = []
        self.urls: list[str] = []

    def __enter__(self) -> "Servers":
        for number in range(2):
            child = self._start(0)
            self._children.append(child)
            assert child.stdout is not None
            self.urls.append(child.stdout.readline().strip())
            thread = threading.Thread(target=self._keep, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for child in self._children:
            child.kill()
            child.wait()
            if child.stdout:
                child.stdout.close()

    def _start(self, port: int) -> subprocess.Popen[str]:
        shares = {
            "errors": self._lots.choice((0, 0.01, 0.1)),
            "resets": self._lots.choice((0, 0.01, 0.05)),
            "cuts": self._lots.choice((0, 0.01, 0.05)),
            "silences": self._lots.choice((0, 0, 0.001)),
            "limited": self._lots.choice((0, 0.01, 0.05)),
            "refused": self._lots.choice((0, 0.01)),
            "length": self._lots.choice((0, 0.03)),
        }
        argv = [sys.executable, str(ENDPOINT), "--port", str(port)]
        argv += ["--seconds", str(self._lots.choice((0.0, 0.01, 0.1)))]
        argv += ["--seed", str(self._lots.randrange(2**31))]
        if self._lots.random() < 0.5:
            argv += ["--die-after", str(self._lots.randrange(200, 4000))]
        for name, share in shares.items():
            argv += [f"--{name}", str(share)]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def _keep(self, number: int) -> None:
        while not self._ended.wait(0.05):
            child = self._children[number]
            if child.poll() is not None:
                self._told.deaths += 1
                self._ended.wait(random.uniform(0.1, 1.5))
                port = int(self.urls[number].rsplit(":", 1)[1].partition("/")[0])
                if child.stdout:
                    child.stdout.close()
                self._children[number] = self._start(port)


def write_input(path: Path, rows: int, lots: random.Random) -> None:
    """Requests of OpenAI's batches, no two with the same body."""
    words = ["上山", "cable", "naïve", "🚡", "\\u4e2d", "{}", "tab\\t", "x" * 40]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = " ".join(lots.choices(words, k=lots.randrange(1, 12)))
            body = (
                f'{{"model": "fake",  "messages": [{{"role":"user","content":"{number} {text}"}}]}}'
            )
            file.write(
                f'{{"custom_id": "r{number}", "method": "POST", '
                f'"url": "/v1/chat/completions", "body": {body}}}\n'
            )


def tear(folder: Path, lots: random.Random) -> bool:
    """Do to the newest segment what a power cut does: cut it, or leave rubbish at its end."""
    segments = sorted(path for path in folder.glob("*") if path.suffix == ".journal")
    if not segments:
        return False
    path = segments[-1]
    size = path.stat().st_size
    if lots.random() < 0.7:
        os.truncate(path, lots.randrange(max(0, size - 4000), size + 1))
    else:
        with path.open("ab") as file:
            file.write(lots.randbytes(lots.randrange(1, 3000)))
    return True


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A tmpfs of so many bytes at `folder`; yields whether it could be mounted."""
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def one_run(number: int, scratch: Path, rows: int = ROWS) -> Told:
    """Run a job through its lives; `faults` says what is wrong in the end."""
    lots, told, began = random.Random(number), Told(), time.monotonic()
    source = scratch / "in.jsonl"
    write_input(source, rows, lots)
    jumps = scratch / "jumps"
    jumps.mkdir()
    (jumps / "sitecustomize.py").write_text(_JUMPS)
    full = lots.random() < 0.3
    size = int(rows * _ROW_BYTES * lots.uniform(0.2, 0.8)) if full else 2**30
    with Servers(lots, told) as servers, small_disk(scratch / "disk", size) as mounted:
        folder = scratch / "disk"
        output, errors = folder / "out.jsonl", folder / "out.errors.jsonl"
        argv = [ROPEWAY, "batch", str(source), "-o", str(output), "--json", "--tries", "30"]
        argv += ["--timeout", "2", "--max-errors", "1"]
        argv += [word for url in servers.urls for word in ("--url", url)]
        ordered = lots.random() < 0.5
        argv += ["--ordered"] if ordered else []
        kills = lots.randrange(6)
        while True:
            told.lives += 1
            if told.lives > _MOST_LIVES or time.monotonic() - began > PATIENCE_S:
                told.faults.append("it does not end")
                return told
            jump = lots.random() < 0.3
            told.jumps += jump
            kill_after = lots.uniform(0.4, 4.0) if told.kills < kills else None
            code, said = _one_life(argv, jumps if jump else None, kill_after)
            if code == -signal.SIGKILL:
                told.kills += 1
                journal = folder / "out.jsonl.journal"
                if journal.is_dir() and lots.random() < 0.5:
                    told.torn += tear(journal, lots)
                continue
            document = json.loads(said) if said.strip() else {}
            if code in (0, 1) and document.get("ended") == "complete" and not document["error"]:
                break
            error = document.get("error") or {}
            if mounted and "no space" in error.get("what", ""):
                told.full += 1
                remount = ["mount", "-o", "remount,size=1g", str(folder)]
                subprocess.run(remount, check=True)
            elif code not in (1, 2) or error.get("kind") not in ("ServerAway", "RopewayError"):
                told.faults.append(f"exit code {code}: {error}")
                return told
        told.again, told.outcomes = document["generated_again"], Counter(document["outcomes"])
        told.faults += _faults(source, output, errors, document, rows, ordered=ordered)
    told.seconds = time.monotonic() - began
    return told


def _one_life(argv: list[str], jumps: Path | None, kill_after: float | None) -> tuple[int, str]:
    """Run the command once; return its exit code and what it printed."""
    path = [str(jumps)] if jumps else []
    path += [os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else []
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    timer = threading.Timer(PATIENCE_S if kill_after is None else kill_after, child.kill)
    timer.start()
    said, _ = child.communicate()
    timer.cancel()
    return child.returncode, said


def _faults(
    source: Path,
    output: Path,
    errors: Path,
    document: dict[str, object],
    rows: int,
    *,
    ordered: bool,
) -> list[str]:
    """Return what is wrong with the files, or with what was said of them."""
    argv = [sys.executable, str(CHECK), str(source), str(output), str(errors)]
    argv += ["--ordered"] if ordered else []
    checked = subprocess.run(argv, capture_output=True, text=True, check=False)
    faults = checked.stderr.splitlines()
    counts = json.loads(checked.stdout)
    outcomes = Counter(document["outcomes"])
    bad = outcomes.total() - outcomes["answered"] - outcomes["cut"]
    said = {"answered": outcomes["answered"], "cut": outcomes["cut"], "errors": bad}
    found = {name: counts.get(name, 0) for name in said}
    if said != found:
        faults.append(f"it says {said}, and the files have {found}")
    if outcomes.total() != rows or document["missing"]:
        faults.append(f"the outcomes do not add up to {rows}: {outcomes}")
    return faults


def main() -> int:
    """Run as often as asked, and say how each run went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    print(f"{args.runs} runs of {args.rows:,} rows; {conditions()}\n", flush=True)
    total, wrong = Told(), 0
    for number in range(args.first, args.first + args.runs):
        scratch = Path(tempfile.mkdtemp(prefix="batch-chaos-"))
        told = one_run(number, scratch, args.rows)
        for name in ("lives", "kills", "torn", "full", "jumps", "deaths", "again", "seconds"):
            setattr(total, name, getattr(total, name) + getattr(told, name))
        total.outcomes += told.outcomes
        verdict = f"wrong, see {scratch}: {told.faults}" if told.faults else "right"
        wrong += bool(told.faults)
        print(
            f"{number}: {told.lives} lives, {told.kills} kills, {told.torn} torn, {told.full} full,"
            f" {told.deaths} servers died, {told.again} again, {told.seconds:.0f} s: {verdict}",
            flush=True,
        )
        if not told.faults:
            shutil.rmtree(scratch)
    print(
        f"\n{args.runs - wrong} of {args.runs} right: {total.lives} lives, {total.kills} kills, "
        f"{total.torn} torn ends, {total.full} full disks, {total.jumps} lives with a jumping "
        f"clock, {total.deaths} deaths of servers, {total.again:,} rows generated again, "
        f"{total.seconds:.0f} s\noutcomes: {dict(total.outcomes)}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
