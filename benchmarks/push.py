"""How long `ropeway model push` takes for N hosts, against one copy over the same link.

    python benchmarks/push.py --hosts 2 4 8 --files 24 --file-mb 17 --mbit 32

Hosts are network namespaces on this machine with an sshd each (tests/two_hosts.py); `tc tbf` limits
what each sends and what each receives. All of them share this machine's cores, so the link must be
slow enough to be what limits: at the end of each line stands how busy the cores were.

One copy is one run of rsync for all files, over one connection, with the same cipher. Needs root,
and rsync and sshd (`scripts/get-docker`, `scripts/get-sshd`).
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from ropeway.weights.commands import send_argv, stage_of
from ropeway.weights.dry_run import forecast
from ropeway.weights.errand import errand
from ropeway.weights.push import push
from ropeway.weights.survey import look
from ropeway.weights.trust import admit, lend, take_back
from test_model_push import furnish, rsync
from two_hosts import TwoHosts

ROOT = "/data/model"
_MAKE = """
mkdir -p "$1" && cd "$1" && echo "{}" >config.json || exit
for shard in $(seq -w $2); do head -c $3 /dev/urandom >model-$shard.safetensors; done
"""


def busy_seconds() -> float:
    """CPU seconds of this machine that were not idle, so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and the share of all cores that was busy meanwhile."""
    began, busy = time.monotonic(), busy_seconds()
    work()
    seconds = time.monotonic() - began
    return seconds, (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)


def one_copy(hosts: TwoHosts) -> tuple[float, float]:
    """rsync of the whole folder from the first host to the second, and away with it again."""
    task = errand(look(hosts[0].ssh, ROOT), [look(hosts[1].ssh, ROOT)])
    number = "0" * 16
    lent = {site.name: lend(number, site) for site in task.sites}
    try:
        hosts[1].run("mkdir", "-p", stage_of(ROOT))
        for site in task.sites:
            admit(number, task, site, lent)
        names = [file.name for piece in task.pieces for file in piece.files]
        argv = send_argv(number, [f"{ROOT}/./{name}" for name in names], task.peer("npu1"))
        return timed(lambda: hosts[0].ssh.run(argv, timeout=7200).check("rsync", where="npu0"))
    finally:
        take_back(number, task.remote)
        hosts[1].run("rm", "-rf", ROOT)


def to_all(hosts: TwoHosts) -> tuple[float, float, float]:
    """A push to all others: seconds, share of the cores, the schedule's own forecast in copies."""
    sites = [look(node.ssh, ROOT) for node in hosts]
    task = errand(sites[0], sites[1:])

    def work() -> None:
        pushed = push(task, who="the benchmark", on_fault=print)
        assert pushed.ok, pushed

    return (*timed(work), forecast(task))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--file-mb", type=int, default=17, help="above 16: each is sent alone")
    parser.add_argument("--mbit", type=int, default=32)
    given = parser.parse_args()
    program = rsync()
    assert program is not None, "no rsync: scripts/get-docker .venv/docker"
    size = given.files * given.file_mb * 10**6
    print(
        f"{given.files} × {given.file_mb} MB = {size / 1e6:.0f} MB, {given.mbit} Mbit/s each way:"
    )
    print(f"  at the link's rate one copy takes {size * 8 / given.mbit / 1e6:.1f} s", flush=True)
    for count in given.hosts:
        bandwidth = given.mbit * 10**6 // 8
        with TwoHosts(count, npus=0, docker=False, bandwidth=bandwidth) as hosts:
            for node in hosts:
                furnish(node, program)
            shards = (str(given.files), str(given.file_mb * 10**6))
            hosts[0].run("sh", "-c", _MAKE, "sh", ROOT, *shards)
            copy, busy = one_copy(hosts)
            print(f"  {count} hosts: one copy {copy:6.1f} s ({busy:.0%} of the cores)", flush=True)
            seconds, busy, copies = to_all(hosts)
            print(
                f"  {count} hosts: push     {seconds:6.1f} s ({busy:.0%} of the cores)  "
                f"{seconds / copy:.2f} × one copy; the schedule alone {copies:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
