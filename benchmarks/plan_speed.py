"""How long `ropeway plan` takes to choose: 16 NPUs and 4,096, by model.

    python benchmarks/plan_speed.py            # once each, in a fresh process
    python benchmarks/plan_speed.py --repeat 3

Each figure is one `choose` in a fresh process, so that no cache helps; the import is not in it.
Bars: 1 s for 16 NPUs, 10 s for 4,096.
"""

import argparse
import subprocess
import sys
import time

from running import conditions

CLUSTERS = ((2, 8, 1.0), (512, 8, 10.0))
MODELS = ("Qwen3-30B-A3B", "Qwen3-32B", "DeepSeek-V3.1-W8A8", "gpt-oss-120b-W8A8")
AIMS = ("throughput", "latency")

ONE = """
import sys, time
began = time.perf_counter()
from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.choose import choose
from ropeway.plan.load import Load
from ropeway.plan.machine import ascend, traits
from ropeway.spec.cluster import Cluster, RemoteHost
imported = time.perf_counter() - began
name, hosts, npus, aim = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
cluster = Cluster(hosts=tuple(RemoteHost(address=f"h{i}", npus=npus) for i in range(hosts)))
load = Load(1024, 512, clients=16 * hosts * npus)
chip, engine = chip_named("910B3"), traits("0.18.0")
request = PlanRequest(
    shape=known(name), model_name=name, cluster=cluster, traits=engine, load=load,
    chip=chip, machine=ascend(chip, engine), objective=aim,
    tpot_s=0.1 if aim == "latency" else None,
)
began = time.perf_counter()
plan = choose(request)
seconds = time.perf_counter() - began
print(f"{imported} {seconds} {plan.searched} {plan.chosen.layout if plan.chosen else '-'}")
"""


def main() -> None:
    """Measure each; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=1)
    repeat = parser.parse_args().repeat
    print(f"{conditions()}\n")
    print(f"{'model':19} {'NPUs':>5} {'aim':11} {'layouts':>7} {'seconds':>8}  chosen", flush=True)
    missed = False
    for hosts, npus, bar in CLUSTERS:
        for model in MODELS:
            for aim in AIMS:
                seconds, layouts, chosen = best(model, hosts, npus, aim, repeat)
                missed |= seconds > bar
                late = f"  over {bar:g} s" if seconds > bar else ""
                print(
                    f"{model:19} {hosts * npus:5} {aim:11} {layouts:7} {seconds:8.2f}  "
                    f"{chosen}{late}",
                    flush=True,
                )
    sys.exit(missed)


def best(model: str, hosts: int, npus: int, aim: str, repeat: int) -> tuple[float, str, str]:
    """The quickest of `repeat` runs: seconds, layouts looked at, the choice."""
    runs = []
    for _ in range(repeat):
        argv = (sys.executable, "-c", ONE, model, str(hosts), str(npus), aim)
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        _, seconds, layouts, chosen = done.stdout.split()
        runs.append((float(seconds), layouts, chosen))
        time.sleep(0.2)
    return min(runs)


if __name__ == "__main__":
    main()
