"""Wait until Ray has all hosts with their NPUs: `nodes.py HOSTS NPUS SECONDS`.

Prints what it waits for and, in the end, each node's address and NPUs as JSON. vLLM would wait too,
but forever, and without saying for whom.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import ray


def alive() -> dict[str, float]:
    """Return the nodes that are alive: address → NPUs."""
    return {
        node["NodeManagerAddress"]: node["Resources"].get("NPU", 0)
        for node in ray.nodes()
        if node["Alive"]
    }


if __name__ == "__main__":
    hosts, npus, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    ray.init(address="auto", logging_level=logging.ERROR, log_to_driver=False)
    deadline = time.monotonic() + seconds
    before = None
    while len(nodes := alive()) < hosts or sum(nodes.values()) < npus:
        state = f"ropeway: Ray has {len(nodes)} of {hosts} hosts: {json.dumps(nodes)}"
        if nodes != before:
            print(state, flush=True)
            before = nodes
        if time.monotonic() > deadline:
            sys.exit(f"{state}, after {seconds:g} s")
        time.sleep(1)
    print(f"ropeway: Ray has all hosts: {json.dumps(nodes)}", flush=True)
