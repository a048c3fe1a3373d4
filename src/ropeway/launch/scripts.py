"""What runs in a container, as a shell script that can be read and run by hand.

The script lies on the host, beside the programs that it calls, in the service's folder; the
container sees that folder at /run/ropeway. Everything a restart needs is in it, so that the
container engine alone brings the service back after a crash or a reboot.
"""

import shlex
from collections.abc import Sequence

from ropeway.engines.base import Replica
from ropeway.hosts.base import shell_block
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
# first process and reaps what Ray leaves. The braces matter: between two commands of a script bash
# forgets a child that a signal has killed, and `wait -n` would never hear of it.
TOGETHER = """\
{{
{engine} &
engine=$!
{watch} &
watch=$!
trap 'kill -TERM $engine $watch 2>/dev/null' TERM INT
wait -n $engine $watch
}}
code=$?
kill -TERM $engine $watch 2>/dev/null
for second in {{1..20}}; do
  kill -0 $engine $watch 2>/dev/null || break
  sleep 1
done
kill -KILL $engine $watch 2>/dev/null
exit $code
"""


def container_script(replica: Replica, node_rank: int, *, secrets: str | None) -> str:
    """Return the script of a replica's node. `secrets` names its secrets file."""
    if node_rank == 0:
        body = _head(replica)
    elif replica.uses_ray:
        body = _ray_worker(replica, node_rank)
    else:
        body = _follower(replica, node_rank)
    source = f". {FOLDER}/{secrets}\n" if secrets else ""
    return _HEADER + source + body


def router_script(name: str, *, secrets: str | None) -> str:
    """Return the script of the router, whose files begin with `name`."""
    source = f". {FOLDER}/{secrets}\n" if secrets else ""
    run = shlex.join(("python3", f"{FOLDER}/{name}.pyz", f"{FOLDER}/{name}.json"))
    return f"#!/bin/bash\n{source}exec {run}\n"


def _head(replica: Replica) -> str:
    head = replica.nodes[0]
    seconds = str(replica.serve.start_timeout)
    before = ""
    if replica.uses_ray:
        npus = sum(node.npus for node in replica.nodes)
        nodes = _program("nodes", str(len(replica.nodes)), str(npus), seconds)
        before = f"{_twice(replica.ray_start_argv(head))} || exit\n{nodes} || exit\n"
    url = api_url(replica.address, replica.port)
    watch = _program("watch", "on", url, replica.served_name, str(WATCH_SECONDS), seconds)
    return before + TOGETHER.format(engine=shell_block(replica.serve_argv(head)), watch=watch)


def _ray_worker(replica: Replica, node_rank: int) -> str:
    """Join the head's Ray, and end when it has gone: a head that comes back is another Ray."""
    head, port = replica.nodes[0].address, str(replica.ports.ray)
    seconds = str(replica.serve.start_timeout)
    engine = _twice((*replica.ray_start_argv(replica.nodes[node_rank]), "--block"))
    watch = _program("peer", "gone", head, port, seconds)
    before = f"{_program('peer', 'open', head, port, seconds)} || exit\n"
    return before + TOGETHER.format(engine=engine, watch=watch)


def _follower(replica: Replica, node_rank: int) -> str:
    """Run the part of vLLM that has no API, and watch the head's port where the two meet."""
    head, port = replica.nodes[0].address, str(meeting_port(replica))
    engine = shell_block(replica.serve_argv(replica.nodes[node_rank]))
    watch = _program("peer", "gone", head, port, str(replica.serve.start_timeout))
    return TOGETHER.format(engine=engine, watch=watch)


def meeting_port(replica: Replica) -> int:
    """Return the head's port at which followers of vLLM's own multi-host modes find it."""
    return replica.ports.data_parallel if replica.layout.data > 1 else replica.ports.master


def _twice(argv: Sequence[str]) -> str:
    """Try a command of Ray twice: it gives its raylet 30 s, too little beside a loading image."""
    line = shlex.join(argv)
    return f"{{ {line} || {{ ray stop --force; {line}; }}; }}"


def _program(name: str, *args: str) -> str:
    return shlex.join(("python3", f"{FOLDER}/{name}.py", *args))
