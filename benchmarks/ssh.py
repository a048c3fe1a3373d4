"""What SSH costs, on loopback: a connection, a command, and one script on many hosts at once.

Every host is an sshd of its own (tests/sshd.py). The fleet is compared with plain `ssh` under
`xargs -P` with the same script, which is what one would type. Both ends run on this machine, so the
times include the servers' work, most of which is the key exchange:

    python benchmarks/ssh.py --hosts 64
"""

import argparse
import contextlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

from running import conditions

from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import PARALLEL, run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.spec.cluster import Cluster, RemoteHost

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sshds import many

from sshd import USER, why_not

# About as much as a survey of a host asks: files of /proc, a few small programs, 100 lines back.
SCRIPT = b"""
uname -a; cat /etc/os-release /proc/meminfo /proc/loadavg; nproc; df -P; date +%s; id
ulimit -a; cat /proc/net/dev; ls /dev | head -n 50
"""


@dataclass
class Cost:
    """Wall seconds, and CPU seconds of our children: ssh alone, not the servers."""

    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.wall_s:6.2f} s, {self.cpu_s:6.2f} s CPU in ssh"


@dataclass
class Memory:
    """Memory of our `ssh` processes: between commands, and the maximum during some."""

    idle_bytes: int = 0
    processes: int = 0
    pss_bytes: int = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=PARALLEL)
    options = parser.parse_args()
    if reason := why_not():
        sys.exit(reason)
    print(f"{options.hosts} hosts, {options.parallel} at once; {conditions()}\n", flush=True)
    with (
        tempfile.TemporaryDirectory() as name,
        many(Path(name), options.hosts) as (config, names),
    ):
        remote = tuple(RemoteHost(address=name, npus=8, user=USER) for name in names)
        cluster = Cluster(hosts=remote)
        one_host(cluster, config)
        plain = by_hand(config, names, options.parallel)
        fleet(cluster, config, options.parallel, plain)


def one_host(cluster: Cluster, config: Path) -> None:
    """Measure a connection and a command, one after the other."""
    with connected(cluster, ssh_config=str(config)) as hosts:
        host = hosts[0]
        first, later, alone = [], [], []
        for _ in range(5):
            first.append(measured(lambda: host.run(("true",))))
            later += [measured(lambda: host.run(("true",))) for _ in range(10)]
            assert isinstance(host, SshHost)
            host.close()
        for _ in range(5):
            argv = ("ssh", "-F", str(config), "-l", USER, host.address, "true")
            alone.append(measured(lambda argv=argv: subprocess.run(argv, check=True)))  # type: ignore[misc]
    print("one host, medians")
    for label, costs in (
        ("first command, with the connection", first),
        ("next command", later),
        ("plain ssh", alone),
    ):
        wall = statistics.median(cost.wall_s for cost in costs) * 1e3
        cpu = statistics.median(cost.cpu_s for cost in costs) * 1e3
        print(f"  {label:36} {wall:6.0f} ms, {cpu:4.0f} ms CPU in ssh", flush=True)


def by_hand(config: Path, names: Sequence[str], parallel: int) -> Cost:
    """Measure `xargs -P … ssh HOST sh -s <script`."""
    with tempfile.NamedTemporaryFile() as script:
        script.write(SCRIPT)
        script.flush()
        line = f"ssh -F {config} -l {USER} {{}} sh -s <{script.name} >/dev/null"
        argv = ("xargs", "-P", str(parallel), "-I{}", "sh", "-c", line)
        words = "\n".join(names).encode()
        return measured(lambda: subprocess.run(argv, input=words, check=True))


def fleet(cluster: Cluster, config: Path, parallel: int, plain: Cost) -> None:
    """Measure the same script through the fleet: with the connections, and again over them."""

    def ask(host: Host) -> int:
        return len(host.run(("sh", "-s"), stdin=SCRIPT).check("failed", where=host.name).stdout)

    def once() -> None:
        outcomes = run_on_all(hosts, ask, parallel=parallel)
        assert all(outcome.ok for outcome in outcomes), [one.error for one in outcomes]

    print(f"\none script on all of them, {parallel} at once")
    print(f"  {'xargs -P and plain ssh':36} {plain}", flush=True)
    with connected(cluster, ssh_config=str(config)) as hosts:
        first = measured(once)
        later = measured(once)
        with watched(hosts) as memory:
            run_on_all(hosts, lambda host: host.run(("sleep", "1")), parallel=parallel)
        began = time.monotonic()
    closed = time.monotonic() - began
    print(f"  {'fleet, with the connections':36} {first}")
    print(f"  {'fleet, over the connections':36} {later}")
    print(f"  {'end of the connections':36} {closed:6.2f} s")
    print(f"\nwith the connections {plain.wall_s / first.wall_s:.2f} times as fast as plain ssh,"
          f" over them {plain.wall_s / later.wall_s:.1f} times")  # fmt: skip
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    idle = memory.idle_bytes / len(hosts)
    print(f"memory: {own / 1e6:.0f} MB here; ssh (PSS): {idle / 1e6:.1f} MB a host when idle,"
          f" {memory.pss_bytes / 1e6:.0f} MB in {memory.processes} processes"
          f" while {min(parallel, len(hosts))} run")  # fmt: skip


def measured(action: Callable[[], object]) -> Cost:
    """Return what an action costs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    action()
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu)


@contextmanager
def watched(hosts: Sequence[Host]) -> Iterator[Memory]:
    """Sample the memory of the ssh processes of these hosts during the block."""
    assert isinstance(hosts[0], SshHost)
    folder = str(Path(hosts[0].socket).parent)
    memory, stop = Memory(), Event()
    memory.idle_bytes = sum(map(pss_bytes, ssh_processes(folder)))

    def look() -> None:
        while not stop.wait(0.05):
            sizes = [pss_bytes(pid) for pid in ssh_processes(folder)]
            if sum(sizes) > memory.pss_bytes:
                memory.processes, memory.pss_bytes = len(sizes), sum(sizes)

    thread = Thread(target=look)
    thread.start()
    yield memory
    stop.set()
    thread.join()


def ssh_processes(folder: str) -> list[int]:
    """Return the ssh processes that use a control socket in this folder."""
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and folder in (entry / "cmdline").read_text():
                pids.append(int(entry.name))
    return pids


def pss_bytes(pid: int) -> int:
    """Return a process's memory, with its share of shared pages; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    size = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return int(size[1]) * 1024 if size else 0


if __name__ == "__main__":
    main()
