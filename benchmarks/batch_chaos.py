"""Batch jobs whose processes, servers, files, disks and clocks fail: is each row committed once?

Each run is a job of its own, with two fake endpoints that fail in every way they can and are
started anew when they die. The job is killed (-9) at random moments, and is started twice at once;
between its lives the power is cut (what was not put onto the disk is not there), its journal loses
its end, its disk is full, its clock jumps. It is resumed until it ends by itself. Then
`batch_check.py` reads the files, and `batch_said.py` what the endpoints said; neither knows
Ropeway. No row may fail, since each has tries enough; in some runs one, where nothing happens
that may cost a row its try. A run that fails keeps its folder, and its number repeats what was
decided by lot:

    python benchmarks/batch_chaos.py --runs 200
    python benchmarks/batch_chaos.py --runs 1 --first 17

It runs in namespaces of its own, so that its processes and mounts end with it, however that ends.
Full disks need the right to make them, and are left out without it.
"""

import argparse
import gzip
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from batch_said import Losses, disagreements, read_rows, read_said
from running import ROPEWAY, conditions

HERE = Path(__file__).parent
ENDPOINT, CHECK, INSIDE = HERE / "batch_endpoint.py", HERE / "batch_check.py", HERE / "batch_inside"
ROWS = 5000
# A job that has not ended within this, all its lives together, hangs.
PATIENCE_S = 300.0
_MOST_LIVES = 60
_ROW_BYTES = 550  # of an answer with its record
_CAN_MOUNT = "CHAOS_CAN_MOUNT"


class Servers:
    """Two endpoints at ports of their own, which come back when they have died.

    harmless  whether they do nothing that may cost a row a try
    """

    def __init__(self, lots: random.Random, told: Counter[str], said: Path, harmless: bool) -> None:
        self._lots, self._told, self._said, self._harmless = lots, told, said, harmless
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
        choice = self._lots.choice
        flags: dict[str, object] = {
            "port": port,
            "said": self._said,
            "seed": self._lots.randrange(2**31),
            "seconds": choice((0.0, 0.01, 0.1)),
            # Each of them halves what is sent at once, which rises slowly.
            "limited": choice((0, 0, 0.001)),
            "refused": choice((0, 0.01)),
            "length": choice((0, 0.03)),
        }
        if self._lots.random() < 0.5:
            flags["die-after"] = self._lots.randrange(200, 3000)
        if not self._harmless:
            flags |= {
                "errors": choice((0, 0.01, 0.03)),
                "resets": choice((0, 0.01, 0.03)),
                "forgets": choice((0, 0.01, 0.03)),
                "cuts": choice((0, 0.01, 0.03)),
                "silences": choice((0, 0, 0.001)),
            }
            if self._lots.random() < 0.4:
                after, seconds = self._lots.randrange(3000), self._lots.uniform(0.2, 2.0)
                flags["outage"] = f"{after}:{seconds}"
            if self._lots.random() < 0.3:
                flags["idle"] = choice((0.02, 0.1, 0.5))
        argv = [sys.executable, str(ENDPOINT)]
        argv += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    def _keep(self, number: int) -> None:
        while not self._ended.wait(0.05):
            child = self._children[number]
            if child.poll() is not None:
                self._told["deaths"] += 1
                # One that is back at once was away for nobody who only asks whether it is there.
                self._ended.wait(random.uniform(1.0 if self._harmless else 0.1, 1.5))
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


def cut_journal(folder: Path, lots: random.Random) -> bool:
    """Cut the newest segment at any byte: rows that were committed are lost."""
    segments = sorted(path for path in folder.glob("*") if path.suffix == ".journal")
    for path in segments[-1:]:
        os.truncate(path, lots.randrange(path.stat().st_size + 1))
    return bool(segments)


def read_ledger(synced: Path) -> list[list[int]]:
    """Return what was put onto the disk: each time the inode, its bytes, and the milliseconds."""
    lines = synced.read_text().splitlines() if synced.exists() else []
    return [list(map(int, line.split())) for line in lines]


def cut_power(folder: Path, synced: Path, lots: random.Random) -> None:
    """Take from each file what was not put onto the disk: all or some of it, or leave rubbish."""
    sizes = {inode: size for inode, size, _ in read_ledger(synced)}
    for path in folder.rglob("*"):
        found = path.stat()
        safe = min(sizes.get(found.st_ino, 0), found.st_size)
        if path.is_file() and safe < found.st_size:
            takes_all = lots.random() < 0.5
            os.truncate(path, safe if takes_all else lots.randrange(safe, found.st_size + 1))
            if lots.random() < 0.5:
                with path.open("ab") as file:
                    file.write(lots.randbytes(lots.randrange(3000)))


class Run:
    """A job through all its lives; `faults` says what is wrong."""

    def __init__(self, number: int, scratch: Path, rows: int) -> None:
        self.lots, self.told, self.faults = random.Random(number), Counter[str](), list[str]()
        self.scratch, self.rows = scratch, rows
        self.source, self.folder = scratch / "in.jsonl", scratch / "disk"
        self.said, self.synced = scratch / "said", scratch / "synced"
        self.output, self.errors = self.folder / "out.jsonl", self.folder / "out.errors.jsonl"
        self.losses = Losses()
        self.full = _CAN_MOUNT in os.environ and self.lots.random() < 0.3
        self.harmless = self.lots.random() < 0.3
        self.ordered = self.lots.random() < 0.5

    def run(self) -> None:
        """Begin the job, go on with it until it ends, and look at what it has written."""
        began = time.monotonic()
        source = self._prepare()
        with Servers(self.lots, self.told, self.said, self.harmless) as servers:
            argv = [ROPEWAY, "batch", str(source), "-o", str(self.output), "--json"]
            argv += ["--tries", "1" if self.harmless else "30"]
            argv += ["--timeout", "2", "--max-errors", "1"]
            argv += [word for url in servers.urls for word in ("--url", url)]
            argv += ["--ordered"] if self.ordered else []
            kills = self.lots.randrange(6)
            document = None
            while document is None and not self.faults:
                late = time.monotonic() - began > PATIENCE_S
                if late or self.told["lives"] > _MOST_LIVES:
                    self.faults.append("it does not end")
                    break
                kill = self.told["kills"] < kills
                document = self._live(argv, self.lots.uniform(0.3, 4.0) if kill else PATIENCE_S)
            if document is not None:
                cut_power(self.folder, self.synced, self.lots)
                self._check(document)
        if self.faults and self.full:
            shutil.copytree(self.folder, self.scratch / "kept")
        if self.full:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)
        self.told["seconds"] = round(time.monotonic() - began)

    def _prepare(self) -> Path:
        """Write the input, and make the disk; return the input's path."""
        write_input(self.source, self.rows, self.lots)
        self.folder.mkdir()
        if self.full:
            size = int(self.rows * _ROW_BYTES * self.lots.uniform(0.2, 0.8))
            argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.folder)]
            subprocess.run(argv, check=True)
        if self.lots.random() < 0.5:
            return self.source
        packed = self.scratch / "in.jsonl.gz"
        packed.write_bytes(gzip.compress(self.source.read_bytes(), 1))
        return packed

    def _live(self, argv: list[str], kill_after: float) -> dict[str, Any] | None:
        """Run the job once; return its document when it has ended by itself."""
        self.told["lives"] += 1
        env = self._environment()
        child, turned_away = _start(argv, env), False
        if has_rival := self.lots.random() < 0.2:
            self.told["rivals"] += 1
            time.sleep(self.lots.uniform(0.0, 1.0))
            child, turned_away = self._one_of(child, _start(argv, env))
        killed: list[float] = []

        def kill() -> None:
            killed.append(time.monotonic())
            child.kill()

        timer = threading.Timer(kill_after, kill)
        timer.start()
        said, _ = child.communicate()
        timer.cancel()
        gone = time.monotonic()
        self.losses.ends.append((killed[0] if killed else gone, gone))
        if child.returncode == -signal.SIGKILL:
            self.told["kills"] += 1
            self._damage()
            return None
        document: dict[str, Any] = json.loads(said)
        if document.get("ended") == "complete" and not document["error"]:
            document["code"] = child.returncode
            return document
        error = document["error"] or {}
        if self._is_full(error):
            self.told["full"] += 1
            remount = ["mount", "-o", "remount,size=1g", str(self.folder)]
            subprocess.run(remount, check=True)
        elif has_rival and not turned_away and _is_taken(error, child.returncode):
            self.told["turned away"] += 1
        elif error.get("kind") != "ServerAway":
            self.faults.append(f"exit code {child.returncode}: {error}")
        return None

    def _environment(self) -> dict[str, str]:
        paths = [str(INSIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CHAOS_SYNCED": str(self.synced)}
        if self.lots.random() < 0.3:
            self.told["jumps"] += 1
            env["CHAOS_JUMPS"] = "1"
        return env

    def _one_of(
        self, one: subprocess.Popen[str], other: subprocess.Popen[str]
    ) -> tuple[subprocess.Popen[str], bool]:
        """Return the one of two processes that ends later, and whether the other was refused."""
        while one.poll() is None and other.poll() is None:
            time.sleep(0.02)
        if one.poll() is None:
            one, other = other, one
        said, _ = one.communicate()
        error = json.loads(said)["error"] or {}
        taken = _is_taken(error, one.returncode)
        self.told["turned away"] += taken
        if error and not taken and error["kind"] != "ServerAway" and not self._is_full(error):
            self.faults.append(f"of two one ended with exit code {one.returncode}: {error}")
        return other, taken

    def _is_full(self, error: dict[str, Any]) -> bool:
        return self.full and "no space" in error.get("what", "")

    def _damage(self) -> None:
        """Do to the files what may happen to them when the job's process ends."""
        journal, lot = self.folder / "out.jsonl.journal", self.lots.random()
        if lot < 0.4:
            self.told["cut power"] += 1
            cut_power(self.folder, self.synced, self.lots)
        elif lot < 0.6 and cut_journal(journal, self.lots):
            self.told["cut journals"] += 1
            self.losses.before = time.monotonic()

    def _check(self, document: dict[str, Any]) -> None:
        """Note what is wrong with the files, or with what was said of them."""
        argv = [sys.executable, str(CHECK), str(self.source), str(self.output), str(self.errors)]
        argv += ["--ordered"] if self.ordered else []
        checked = subprocess.run(argv, capture_output=True, text=True, check=False)
        self.faults += checked.stderr.splitlines()
        counts = json.loads(checked.stdout)
        outcomes = Counter[str](document["outcomes"])
        bad = outcomes.total() - outcomes["answered"] - outcomes["cut"]
        said = {"answered": outcomes["answered"], "cut": outcomes["cut"], "errors": bad}
        found = {name: counts.get(name, 0) for name in said}
        if said != found:
            self.faults.append(f"it says {said}, and the files have {found}")
        if outcomes.total() != self.rows or document["missing"]:
            self.faults.append(f"the outcomes do not add up to {self.rows}: {outcomes}")
        if document["code"] != bool(bad):
            self.faults.append(f"exit code {document['code']}, and {bad} rows have no answer")
        if outcomes["failed"]:
            self.faults.append(f"{outcomes['failed']} rows failed")
        self.losses.slowest_s = max((ms for _, _, ms in read_ledger(self.synced)), default=0) / 1000
        rows = read_rows(self.output, self.errors)
        self.faults += disagreements(read_said(self.said), rows, self.losses)
        self.told += outcomes
        self.told["again"] += document["generated_again"]


def _start(argv: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )


def _is_taken(error: dict[str, Any], code: int) -> bool:
    """Whether a job was refused since another process has it."""
    return code == 2 and error.get("what") == "another run is writing to this output"


def one_run(number: int, rows: int) -> Run:
    """Do one run, and say how it went."""
    scratch = Path(tempfile.mkdtemp(prefix="batch-chaos-"))
    run = Run(number, scratch, rows)
    try:
        run.run()
    except Exception as error:  # of the script's own
        run.faults.append(repr(error))
    verdict = f"wrong, see {scratch}: {run.faults}" if run.faults else "right"
    told = ", ".join(f"{count} {name}" for name, count in run.told.items() if count)
    print(f"{number}: {told}: {verdict}", flush=True)
    if not run.faults:
        shutil.rmtree(scratch)
    return run


def go_inside() -> None:
    """Go on in namespaces of our own, which end with us, where that is allowed."""
    for more in ([], ["--map-root-user"]):
        argv = ["unshare", *more, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with tempfile.TemporaryDirectory() as folder:
            mount = [*argv, "mount", "-t", "tmpfs", "tmpfs", folder]
            allowed = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if allowed:
            os.environ[_CAN_MOUNT] = "1"
            os.execvp(argv[0], [*argv, sys.executable, *sys.argv])


def main() -> int:
    """Run as often as asked, and say how each run went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="number of the first run")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    args = parser.parse_args()
    if _CAN_MOUNT not in os.environ and shutil.which("unshare"):
        go_inside()
    began = time.monotonic()
    print(f"{args.runs} runs of {args.rows:,} rows; {conditions()}\n", flush=True)
    with ThreadPoolExecutor(args.jobs) as pool:
        numbers = range(args.first, args.first + args.runs)
        runs = list(pool.map(lambda number: one_run(number, args.rows), numbers))
    total = sum((run.told for run in runs), Counter[str]())
    right = sum(not run.faults for run in runs)
    print(
        f"\n{right} of {args.runs} right in {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{count:,} {name}" for name, count in total.items())
    )
    return 0 if right == args.runs else 1


if __name__ == "__main__":
    sys.exit(main())
