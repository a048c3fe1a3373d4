"""What runs in a container, as a shell script that can be read and run by hand.

The script lies on the host, beside the programs that it calls, in the service's folder; the
container sees that folder at /run/ropeway. Everything a restart needs is in it, so that the
container engine alone brings the service back after a crash or a reboot.
"""

from collections.abc import Sequence

from ropeway.engines.base import Replica
from ropeway.hosts.base import Command, shell_block, shell_line
from ropeway.spec.types import api_url

FOLDER = "/run/ropeway"
WATCH_SECONDS = 30

# The images set the environment of CANN for interactive shells only (vllm-ascend #130, #152).
_HEADER = """\
#!/bin/bash
for file in /usr/local/Ascend/ascend-toolkit/set_env.sh /usr/local/Ascend/nnal/atb/set_env.sh; do
  [ ! -r "$file" ] || . "$file"
done
"""
# Whichever ends first ends the other; what is left after 20 s is killed. bash is the container's
# first process and reaps what Ray leaves.
_TOGETHER = """\
trap 'kill -TERM $engine $watch 2>/dev/null' TERM INT
wait -n $engine $watch
code=$?
kill -TERM $engine $watch 2>/dev/null
for second in {1..20}; do
  kill -0 $engine $watch 2>/dev/null || break
  sleep 1
done
kill -KILL $engine $watch 2>/dev/null
exit $code
"""


def script_of(replica: Replica, rank: int, *, secrets: str | None) -> str:
    """Return the script of the replica's host number `rank`. `secrets` names its secrets file."""
    if rank == 0:
        body = _head(replica)
    elif replica.uses_ray:
        body = _ray_worker(replica, rank)
    else:
        body = _follower(replica, rank)
    source = f". {FOLDER}/{secrets}\n" if secrets else ""
    return _HEADER + source + body


def router_script(name: str, *, secrets: str | None) -> str:
    """Return the script of the router, whose files begin with `name`."""
    source = f". {FOLDER}/{secrets}\n" if secrets else ""
    run = _line(("python3", f"{FOLDER}/{name}.pyz", f"{FOLDER}/{name}.json"))
    return f"#!/bin/bash\n{source}exec {run}\n"


def _head(replica: Replica) -> str:
    head = replica.nodes[0]
    seconds = str(replica.serve.start_timeout)
    lines = []
    if replica.uses_ray:
        npus = sum(node.npus for node in replica.nodes)
        lines += [
            _twice(replica.ray_start_argv(head)) + " || exit",
            _program("nodes", str(len(replica.nodes)), str(npus), seconds) + " || exit",
        ]
    lines += [
        _block(replica.serve_argv(head)) + " &",
        "engine=$!",
        _program(
            "watch",
            "on",
            api_url(replica.address, replica.port),
            replica.served_name,
            str(WATCH_SECONDS),
        )
        + " &",
        "watch=$!",
    ]
    return "\n".join(lines) + "\n" + _TOGETHER


def _ray_worker(replica: Replica, rank: int) -> str:
    """Join the head's Ray, and end when it has gone: a head that comes back is another Ray."""
    head, port = replica.nodes[0].address, str(replica.ports.ray)
    seconds = str(replica.serve.start_timeout)
    return "\n".join(
        (
            _program("peer", "open", head, port, seconds) + " || exit",
            _twice((*replica.ray_start_argv(replica.nodes[rank]), "--block")) + " &",
            "engine=$!",
            _program("peer", "gone", head, port, seconds) + " &",
            "watch=$!",
            _TOGETHER,
        )
    )


def _follower(replica: Replica, rank: int) -> str:
    """Run the part of vLLM that has no API, and watch the head's port where the two meet."""
    head, port = replica.nodes[0].address, str(meeting_port(replica))
    return "\n".join(
        (
            _block(replica.serve_argv(replica.nodes[rank])) + " &",
            "engine=$!",
            _program("peer", "gone", head, port, str(replica.serve.start_timeout)) + " &",
            "watch=$!",
            _TOGETHER,
        )
    )


def meeting_port(replica: Replica) -> int:
    """Return the head's port at which followers of vLLM's own multi-host modes find it."""
    return replica.ports.data_parallel if replica.layout.data > 1 else replica.ports.master


def _line(argv: Sequence[str]) -> str:
    return shell_line(Command(tuple(argv)))


def _block(argv: Sequence[str]) -> str:
    return shell_block(Command(tuple(argv)))


def _twice(argv: Sequence[str]) -> str:
    """Try a command of Ray twice: it gives its raylet 30 s, too little beside a loading image."""
    line = _line(argv)
    return f"{{ {line} || {{ ray stop --force; {line}; }}; }}"


def _program(name: str, *args: str) -> str:
    return _line(("python3", f"{FOLDER}/{name}.py", *args))
