"""Wait until Ray has all hosts with their NPUs: `nodes.py HOSTS NPUS SECONDS`.

Prints what it waits for, and at last, as JSON, each node's address and NPUs. vLLM would wait too,
but for ever, and without saying for whom.
"""

from __future__ import annotations

import json
import logging
import sys
import time

import ray


def alive() -> dict[str, float]:
    """Address → NPUs, of the nodes that are alive."""
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
    while len(found := alive()) < hosts or sum(found.values()) < npus:
        told = f"ropeway: Ray has {len(found)} of {hosts} hosts: {json.dumps(found)}"
        if found != before:
            print(told, flush=True)
            before = found
        if time.monotonic() > deadline:
            sys.exit(f"{told}, after {seconds:g} s")
        time.sleep(1)
    print(f"ropeway: Ray has all hosts: {json.dumps(found)}", flush=True)
