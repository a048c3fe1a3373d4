"""`ropeway batch` beside `vllm run-batch` and Ray Data LLM: the same engine, prompts and settings.

Three loads: prompts that have nothing in common, with answers of one length and of many, and
questions about 64 prefixes of 700 tokens, in a shuffled order and with a KV cache that holds half
of the prefixes. Each runner gets an engine that
has just started, and they take turns. What is timed leaves out what each takes to start, which is
printed besides (`with its start`: from nothing to the end, engine included):

    ropeway      from when rows can be sent until its output is whole
    run-batch    from "Reading batch from" in its log until its output is whole
    Ray Data     from the first request at its engine until its output is whole

run-batch and Ray Data start their engine with the flags and variables that `ropeway up` gave to its
own. By default its arithmetic takes all cores, as if the chip were the host's own processor: what
the server of HTTP and the runner take of it makes each step longer. `--threads` leaves them some,
as a chip does. Ray Data needs pandas. Half an hour:

    python benchmarks/batch_engine.py
    python benchmarks/batch_engine.py --rounds 1 --runners ropeway run-batch --loads shared
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from running import NAME, ROPEWAY, conditions, service, write_engine_spec

from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.launch.local.steps import RECORD, from_record, scratch_of

HERE = Path(__file__).parent
# Words that the model's tokenizer has whole, with the blank before them.
_NOUNS = (
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work government"
    " number night point home water room mother area money story fact month lot right study book"
    " eye job word business issue side kind head house service friend father power hour game line"
    " end member law car city community name president team minute idea body information back"
    " parent face others level office door health person art war history party result change"
    " morning reason research girl guy moment air teacher force education"
)
WORDS = _NOUNS.split()
# Flags of a server, which an engine by itself has not.
_SERVERS = ("--served-model-name", "--host", "--port", "--disable-uvicorn-access-log",
            "--enable-prompt-tokens-details", "--model")  # fmt: skip
_HIT_RATE = re.compile(r"Prefix cache hit rate: ([0-9.]+)%")
RUN_BATCH = """\
import asyncio
from vllm.entrypoints.launchers import run_batch
asyncio.run(run_batch.main(run_batch.parse_args()))
"""


@dataclass(frozen=True)
class Load:
    """What is asked: `prompts` makes the texts of one round, and `answer` says how many tokens each
    gets, at least and at most.
    """

    what: str
    kv_cache: str
    answer: tuple[int, int]
    prompts: Callable[[random.Random], list[str]]


@dataclass(frozen=True)
class Run:
    """What came of one run. `hits`: share of the prompts' tokens that were in the prefix cache."""

    seconds: float
    rows: int
    prompt: int
    answer: int
    hits: float
    whole_s: float

    @property
    def rate(self) -> float:
        """Tokens of answers per second."""
        return self.answer / self.seconds


def words(lots: random.Random, count: int) -> str:
    """Return a text of so many words, each of them one token."""
    return " ".join(lots.choices(WORDS, k=count))


def distinct(lots: random.Random, rows: int) -> list[str]:
    """Return prompts that share nothing."""
    return [words(lots, lots.randint(40, 100)) for _ in range(rows)]


def shared(lots: random.Random, questions: int) -> list[str]:
    """Return questions about 64 prefixes, shuffled."""
    prompts = [
        f"{prefix} {words(lots, 16)}"
        for prefix in [words(lots, 700) for _ in range(64)]
        for _ in range(questions)
    ]
    lots.shuffle(prompts)
    return prompts


def loads(args: argparse.Namespace) -> dict[str, Load]:
    """Return the loads, in the sizes asked for."""
    return {
        "distinct": Load(
            f"{args.rows} distinct prompts of 40 to 100 words, 64 tokens each", "1GiB", (64, 64),
            lambda lots: distinct(lots, args.rows),
        ),
        "varied": Load(
            f"{args.rows} distinct prompts of 40 to 100 words, 8 to 120 tokens each", "1GiB",
            (8, 120), lambda lots: distinct(lots, args.rows),
        ),
        "shared": Load(
            f"{args.questions} questions about each of 64 prefixes of 700 tokens, 32 tokens each",
            "512MiB", (32, 32), lambda lots: shared(lots, args.questions),
        ),
    }  # fmt: skip


def write_requests(path: Path, prompts: Iterable[str], tokens: Iterable[int]) -> None:
    """Write requests of OpenAI's Batch API, with the tokens that each answer has."""
    with path.open("w") as file:
        for number, (prompt, answer) in enumerate(zip(prompts, tokens, strict=True)):
            body = {
                "model": "m", "messages": [{"role": "user", "content": prompt}],
                "max_tokens": answer, "temperature": 0.0, "ignore_eos": True,
            }  # fmt: skip
            row = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions"}
            file.write(json.dumps({**row, "body": body}) + "\n")


def counted(output: Path, seconds: float, whole_s: float) -> Run:
    """Return what an output of OpenAI's Batch API says."""
    lines = map(json.loads, output.read_text().splitlines())
    usages = [line["response"]["body"]["usage"] for line in lines]
    prompt = sum(usage["prompt_tokens"] for usage in usages)
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    answer = sum(usage["completion_tokens"] for usage in usages)
    return Run(seconds, len(usages), prompt, answer, cached / prompt, whole_s)


def with_ropeway(folder: Path, source: Path) -> tuple[Run, CpuReplica]:
    """Answer it with `ropeway batch`; also return the engine as it was started."""
    began = time.time()
    with service(folder):
        record = Path(scratch_of(NAME, os.getuid())) / RECORD
        engine = from_record(record.read_text(), "record")
        argv = [ROPEWAY, "batch", str(source), "-o", "ropeway.jsonl", "--json"]
        lines = watched(argv, folder, dict(os.environ))
    # The first event says for how long rows were being sent when it was written.
    when, event = next((when, line) for when, line in lines if line.startswith('{"event"'))
    ready = when - json.loads(event)["elapsed_s"]
    output = folder / "ropeway.jsonl"
    return counted(output, output.stat().st_mtime - ready, time.time() - began), engine


def environment(engine: CpuReplica, folder: Path) -> dict[str, str]:
    """Return the variables of another engine like this one."""
    own = {"VLLM_RPC_BASE_PATH": str(folder), "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **engine.environment(engine.head), **own}


def watched(argv: list[str], folder: Path, env: dict[str, str]) -> list[tuple[float, str]]:
    """Run a command; return its lines and when they came. Raises SystemExit when it fails."""
    with subprocess.Popen(
        argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as child:
        assert child.stdout is not None
        lines = [(time.time(), line) for line in child.stdout]
        if child.wait():
            sys.exit("".join(line for _, line in lines[-60:]))
    return lines


def with_run_batch(engine: CpuReplica, folder: Path, source: Path) -> Run:
    """Answer it with `vllm run-batch`.

    Not with the command `vllm`, which asks for the version of a distribution of that name, and here
    it is `vllm-cpu`.
    """
    began = time.time()
    flags = list(engine.serve_argv(engine.head)[3:])
    for flag in ("--host", "--port"):
        del flags[(at := flags.index(flag)) : at + 2]
    flags.remove("--disable-uvicorn-access-log")
    output = folder / "run-batch.jsonl"
    argv = [
        engine.python, "-c", RUN_BATCH,
        "-i", str(source), "-o", str(output), *flags,
    ]  # fmt: skip
    lines = watched(argv, folder, environment(engine, folder))
    ready = next(when for when, line in lines if "Reading batch from" in line)
    return counted(output, output.stat().st_mtime - ready, time.time() - began)


def engine_arguments(engine: CpuReplica) -> dict[str, object]:
    """Return the engine's flags as arguments of `AsyncEngineArgs`."""
    flags = list(engine.serve_argv(engine.head)[3:])
    arguments: dict[str, object] = {}
    while flags:
        flag = flags.pop(0)
        value = flags.pop(0) if flags and not flags[0].startswith("--") else True
        if flag not in _SERVERS:
            number = isinstance(value, str) and value.isdecimal()
            arguments[flag[2:].replace("-", "_")] = int(value) if number else value
    return arguments


def with_ray(engine: CpuReplica, folder: Path, source: Path) -> Run:
    """Answer it with Ray Data LLM."""
    began = time.time()
    arguments = json.dumps(engine_arguments(engine))
    argv = [
        engine.python, str(HERE / "ray_data.py"), str(source), str(folder / "ray"), engine.model,
        arguments,
    ]  # fmt: skip
    env = {**environment(engine, folder), "RAY_worker_niceness": "0", "RAY_DEDUP_LOGS": "0"}
    with tempfile.TemporaryDirectory(prefix="rd") as short:  # Ray's sockets are below it
        lines = watched(argv, folder, {**env, "TMPDIR": short, "RAY_TMPDIR": short})
    said = json.loads(next(line for _, line in reversed(lines) if line.startswith('{"seconds"')))
    rates = [float(found[1]) for _, line in lines if (found := _HIT_RATE.search(line))]
    return Run(
        said["seconds"], said["rows"], said["prompt_tokens"], said["completion_tokens"],
        rates[-1] / 100 if rates else float("nan"), time.time() - began,
    )  # fmt: skip


def round_of(load: Load, seed: int, runners: list[str], threads: int | None) -> dict[str, Run]:
    """Let each runner answer the same prompts, and check that they have."""
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = folder / "requests.jsonl"
        lots = random.Random(seed)
        prompts = load.prompts(lots)
        answers = [lots.randint(*load.answer) for _ in prompts]
        write_requests(source, prompts, answers)
        write_engine_spec(folder, load.kv_cache, threads)
        runs["ropeway"], engine = with_ropeway(folder, source)
        tell("ropeway", runs["ropeway"])
        others = {"run-batch": with_run_batch, "Ray Data": with_ray}
        for runner in runners:
            if runner in others:
                runs[runner] = others[runner](engine, folder, source)
                tell(runner, runs[runner])
    for runner, run in runs.items():
        if (run.rows, run.answer) != (len(prompts), sum(answers)):
            sys.exit(f"{runner} gave {run.rows} answers with {run.answer} tokens")
        if run.prompt != runs["ropeway"].prompt:
            sys.exit(f"{runner} had other prompts: {run.prompt} tokens")
    return runs


def tell(runner: str, run: Run) -> None:
    """Print a run."""
    print(
        f"  {runner:<9} {run.rate:7.1f} tok/s  {run.seconds:6.1f} s, with its start"
        f" {run.whole_s:6.1f} s  {run.prompt / run.rows:5.0f} tokens a prompt, of which cached"
        f" {run.hits:.0%}",
        flush=True,
    )


def table(rounds: list[dict[str, Run]]) -> str:
    """Return medians, and how many times as many tokens/s ropeway gave, in each round."""
    lines = ["| runner | tokens/s | seconds | cached | ropeway is |", "|---|---:|---:|---:|---:|"]
    for runner in rounds[0]:
        runs = [each[runner] for each in rounds]
        ratios = [each["ropeway"].rate / each[runner].rate for each in rounds]
        times = f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})"
        rate, seconds, hits = (
            statistics.median(getattr(run, name) for run in runs)
            for name in ("rate", "seconds", "hits")
        )
        times = "" if runner == "ropeway" else times
        lines.append(f"| {runner} | {rate:.0f} | {seconds:.1f} | {hits:.0%} | {times} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=256, help="distinct prompts")
    parser.add_argument("--questions", type=int, default=3, help="about each of 64 prefixes")
    parser.add_argument("--loads", nargs="*", default=["distinct", "varied", "shared"])
    parser.add_argument("--runners", nargs="*", default=["ropeway", "run-batch", "Ray Data"])
    parser.add_argument("--threads", type=int, help="of the engine's arithmetic")
    args = parser.parse_args()
    print(conditions(), flush=True)
    for name in args.loads:
        load = loads(args)[name]
        print(f"\n{load.what}; KV cache {load.kv_cache}", flush=True)
        rounds = []
        for number in range(args.rounds):
            print(f" round {number + 1}", flush=True)
            rounds.append(round_of(load, number, args.runners, args.threads))
        print(f"\n{table(rounds)}", flush=True)


if __name__ == "__main__":
    main()
