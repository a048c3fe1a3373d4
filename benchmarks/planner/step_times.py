"""Single engine steps: ours beside Huawei's simulator, on the times that both are held against.

The table is made of the regression cases of msmodeling (Ascend/msmodeling, tests/benchmark/models):
`baseline_ms` is what those cases are compared with there, `simulated_ms` what its simulator says.
Nothing of ours was fitted to it.

    python benchmarks/planner/step_times.py step-latency.csv
"""

import argparse
import csv
import statistics
from pathlib import Path

from ropeway.hardware import chip_named
from ropeway.models.known import known
from ropeway.plan.load import Load
from ropeway.plan.machine import ascend, traits
from ropeway.plan.question import Question
from ropeway.plan.step import Batch, stage_costs
from ropeway.spec.model import Layout

# As the table calls them: two speeds of an A3's die, and A2 "376T".
CHIPS = {"560T": "910C-560T", "752T": "910C", "376T": "910B2"}
RELEASE = "0.18.0"  # of the months in which the cases were written, with whole graphs


def main() -> None:
    """Print every case, then the errors of both by phase."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="step-latency.csv, as read from msmodeling")
    table = parser.parse_args().table
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    errors: dict[str, list[tuple[float, float]]] = {"decode": [], "prefill": []}
    print("| case | baseline ms | ours ms | off by | msmodeling | off by |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        baseline, theirs, ours = float(row["baseline_ms"]), float(row["simulated_ms"]), step_ms(row)
        errors[row["phase"]].append((ours / baseline - 1, theirs / baseline - 1))
        name = row["description"].split(", W")[0]
        print(
            f"| {name} | {baseline:.1f} | {ours:.1f} | {ours / baseline - 1:+.0%}"
            f" | {theirs:.1f} | {theirs / baseline - 1:+.0%} |"
        )
    print()
    for phase, pairs in errors.items():
        for who, one in zip(("ours", "msmodeling"), zip(*pairs, strict=True), strict=True):
            sizes = [abs(error) for error in one]
            print(
                f"{phase}, {who}: mean {statistics.mean(sizes):.1%}, "
                f"median {statistics.median(sizes):.1%}, worst {max(sizes):.0%}, {len(sizes)} cases"
            )


def step_ms(row: dict[str, str]) -> float:
    """One forward pass of the slowest stage, without the host's planning between steps.

    Drafts count as tokens; the layers that draft do not.
    """
    data = int(row["dp"])
    layout = Layout(tensor=int(row["tp"]), pipeline=int(row["pp"]), data=data,
                    expert=int(row["ep"]) > 1)  # fmt: skip
    shape = known(f"{row['model']}-{row['dtype_quant'].split('_')[0]}")
    chip = chip_named(next(name for word, name in CHIPS.items() if word in row["hardware"]))
    machine = ascend(chip, traits(RELEASE))
    each, length = int(row["queries"]) / data, int(row["query_len"])
    context = int(row["context_len"])
    if row["phase"] == "decode":
        batch = Batch(each, each * length, 0.0, context, 0.0)
    else:
        batch = Batch(0.0, 0.0, each * length, 0.0, length / 2)
    question = Question(shape, layout, machine, Load(1, 1, clients=1), chip.npus_per_host)
    passes = [stage.times(batch) for stage in stage_costs(question)]
    return max(times.total - times.host for times in passes) * 1e3


if __name__ == "__main__":
    main()
