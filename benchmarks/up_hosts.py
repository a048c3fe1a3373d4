"""`ropeway up` on 2 and on 64 virtual hosts, in turn: the bar is at most twice the time.

    python benchmarks/up_hosts.py
    python benchmarks/up_hosts.py --turns 1 --hosts 2 256 --start 20 --latency 0.05
    python benchmarks/up_hosts.py --replicas

The hosts live in this process, and all of `up` runs as it is typed: lock, facts, checks, image,
files, containers, the wait for the first token, audit. Each command takes `--latency` there and
back, and the engine `--start` from the moment when all of its hosts have met. One engine lies over
all hosts (DP × TP8 with Ray); with `--replicas` each host has an engine of its own, and a router
stands before them. What is not in it: the network's own limits, and a daemon under load.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median

from running import conditions

from ropeway.cli.call import Call
from ropeway.cli.main import exit_code
from ropeway.launch.labels import look
from ropeway.launch.running import take_down
from ropeway.sim.launching import Rehearsal, rehearsal_spec
from ropeway.sim.machine import parse_fleet, sound_fleet
from ropeway.sim.virtual_engine import Pace
from ropeway.spec.model import Spec, dump_spec

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from rehearsed import remains

BAR = 2.0


def main() -> None:
    """Measure in turn; exit code 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--hosts", type=int, nargs=2, default=(2, 64))
    parser.add_argument("--start", type=float, default=20.0, help="seconds of the engine's start")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds of each command")
    parser.add_argument("--replicas", action="store_true")
    options = parser.parse_args()
    os.environ["ROPEWAY_BENCHMARK_KEY"] = "of-the-endpoint"  # engines on several hosts want one
    pace = Pace(latency=options.latency, begin=0.5, join=0.5, start=options.start)
    print(f"{conditions()}\n{options.start:g} s of start, {options.latency * 1000:g} ms a command")
    up(2, Pace(), replicas=options.replicas)  # imports what `up` needs
    seconds: dict[int, list[float]] = {count: [] for count in options.hosts}
    for turn in range(options.turns):
        for count in options.hosts:
            took, commands, cpu = up(count, pace, replicas=options.replicas)
            seconds[count].append(took)
            print(
                f"turn {turn + 1}: {count:4} hosts {took:6.1f} s, {commands:5} commands, "
                f"{cpu:4.1f} s of CPU",
                flush=True,
            )
    few, many = (median(seconds[count]) for count in options.hosts)
    print(f"median: {few:.1f} s and {many:.1f} s, {many / few:.2f} times as long (bar: {BAR:g})")
    sys.exit(many > BAR * few)


def up(count: int, pace: Pace, *, replicas: bool) -> tuple[float, int, float]:
    """Seconds that `up` takes, its commands, and its seconds of CPU. It is taken down after."""
    fleet = sound_fleet(*parse_fleet(f"{count}x8-910B4"))
    virtual = Rehearsal(fleet, pace)
    spec = with_engines(rehearsal_spec(fleet), count, apart=replicas)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("ropeway.yaml").write_text(dump_spec(spec))
        began, cpu = time.monotonic(), time.process_time()
        with redirect_stdout(StringIO()):
            code = exit_code(["up", "--quiet"], call=Call(connect=virtual.connected))
        took, cpu = time.monotonic() - began, time.process_time() - cpu
        os.chdir("/")
    if code:
        sys.exit(f"up on {count} hosts: exit code {code}")
    commands = len(virtual.commands)
    with virtual.connected(spec.cluster) as every:
        assert take_down(look(every, "docker", spec.name)) == count + replicas
    assert remains(virtual) == []
    return took, commands, cpu


def with_engines(spec: Spec, count: int, *, apart: bool) -> Spec:
    """The spec with one engine over all hosts, or with an engine on each.

    Stages, as the experts of this model cannot be split over 512 NPUs.
    """
    serve = {**spec.serve.model_dump(mode="json"), "layout": f"TP16xPP{count // 2}"}
    if apart:
        serve |= {"layout": "TP8", "replicas": count, "backend": None}
        serve |= {"api_key_env": "ROPEWAY_BENCHMARK_KEY"}
    return Spec.model_validate({**spec.as_json(), "serve": serve})


if __name__ == "__main__":
    main()
