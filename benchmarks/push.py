"""How long `ropeway model push` takes for N hosts, against one copy over the same link.

    python benchmarks/push.py --hosts 2 4 8 --files 24 --file-mb 17 --mbit 32

Hosts are network namespaces on this machine with an sshd each (tests/two_hosts.py); `tc tbf` limits
what each sends and what each receives. They all share this machine's cores, so the link must be
slow enough to be the bottleneck; the end of each line says how busy the cores were.

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

from ropeway.weights.commands import send_argv, staging_folder
from ropeway.weights.dry_run import forecast
from ropeway.weights.plan import plan_push
from ropeway.weights.push import push
from ropeway.weights.survey import survey_host
from ropeway.weights.trust import authorize, generate_key, revoke
from test_weights_push import furnish, rsync
from two_hosts import TwoHosts

ROOT = "/data/model"
_MAKE = """
mkdir -p "$1" && cd "$1" && echo "{}" >config.json || exit
for shard in $(seq -w $2); do head -c $3 /dev/urandom >model-$shard.safetensors; done
"""


def busy_seconds() -> float:
    """Return the CPU seconds that this machine has spent on work since it was booted."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that some work takes, and how busy all cores were meanwhile."""
    began, busy = time.monotonic(), busy_seconds()
    work()
    seconds = time.monotonic() - began
    return seconds, (busy_seconds() - busy) / seconds / (os.cpu_count() or 1)


def one_copy(hosts: TwoHosts) -> tuple[float, float]:
    """Measure one rsync of the whole folder from the first host to the second; remove the copy."""
    plan = plan_push(survey_host(hosts[0].ssh, ROOT), [survey_host(hosts[1].ssh, ROOT)])
    number = "0" * 16
    keys = {peer.name: generate_key(number, peer) for peer in plan.peers}
    try:
        hosts[1].run("mkdir", "-p", staging_folder(ROOT))
        for peer in plan.peers:
            authorize(number, plan, peer, keys)
        names = [file.name for piece in plan.pieces for file in piece.files]
        argv = send_argv(number, [f"{ROOT}/./{name}" for name in names], plan.destination("npu1"))
        return timed(lambda: hosts[0].ssh.run(argv, timeout=7200).check("rsync", where="npu0"))
    finally:
        revoke(number, plan.remote)
        hosts[1].run("rm", "-rf", ROOT)


def to_all(hosts: TwoHosts) -> tuple[float, float, float]:
    """Measure a push to all others: seconds, how busy the cores were, the forecast in copies."""
    peers = [survey_host(node.ssh, ROOT) for node in hosts]
    plan = plan_push(peers[0], peers[1:])

    def work() -> None:
        pushed = push(plan, who="the benchmark", on_fault=print)
        assert not pushed.errors, pushed

    return (*timed(work), forecast(plan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--file-mb", type=int, default=17, help="above 16: each is sent alone")
    parser.add_argument("--mbit", type=int, default=32)
    options = parser.parse_args()
    program = rsync()
    assert program is not None, "no rsync: scripts/get-docker .venv/docker"
    size = options.files * options.file_mb * 10**6
    print(
        f"{options.files} × {options.file_mb} MB = {size / 1e6:.0f} MB,"
        f" {options.mbit} Mbit/s each way:"
    )
    print(f"  at the link's rate one copy takes {size * 8 / options.mbit / 1e6:.1f} s", flush=True)
    for count in options.hosts:
        bandwidth = options.mbit * 10**6 // 8
        with TwoHosts(count, npus=0, docker=False, bandwidth=bandwidth) as hosts:
            for node in hosts:
                furnish(node, program)
            shards = (str(options.files), str(options.file_mb * 10**6))
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
