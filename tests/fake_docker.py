"""A container engine that is none: `docker` for tests, whose containers are processes here.

    fake_docker.py FOLDER run|ps|inspect|update|logs|stop|rm …

It keeps a file for each container in FOLDER. What a container sees at /run/ropeway is the folder
that is mounted there; what it has at /tmp/ropeway lies in that folder too.
"""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_LOGGED = 'while IFS= read -r line; do printf "%s %s\\n" "$(date -u +%FT%T.%NZ)" "$line"; done'


def main(folder: Path, verb: str, *words: str) -> int:
    """Carry out a command of Docker's; return its exit code."""
    values = dict(itertools.pairwise(words))
    if verb == "run":
        _run(folder, words)
    elif verb == "ps":
        label, _, value = values["--filter"].removeprefix("label=").partition("=")
        for one in _all(folder):
            labels = one["Config"]["Labels"]
            if label in labels and value in ("", labels[label]):
                print(one["Id"])
    elif verb == "inspect":
        found = [one for one in _all(folder) if one["Id"] in words]
        if "--format" in words:
            for one in found:
                print(f"/{one['Name']} {one['State']['Status']} 0 0")
        else:
            print(json.dumps(found))
    elif verb == "logs":
        lines = (folder / f"{words[-1]}.log").read_text().splitlines(keepends=True)
        since = values.get("--since", "")
        timed = [line for line in lines if line >= since]
        bare = [line.partition(" ")[2] for line in timed]
        print("".join(timed if "--timestamps" in words else bare), end="")
    elif verb in ("stop", "rm"):
        for one in _all(folder):
            if {one["Id"], one["Name"]} & set(words):
                _end(one, signal.SIGTERM if verb == "stop" else signal.SIGKILL)
                if verb == "rm":
                    (folder / f"{one['Name']}.json").unlink()
    return 0


def add(folder: Path, name: str, labels: dict[str, str], image: str = "image") -> None:
    """Note a container that runs, and is no process."""
    state = {"Status": "running", "ExitCode": 0, "StartedAt": "2026-11-28T07:20:40Z"}
    config = {"Image": image, "Labels": labels}
    document = {"Id": f"id-{name}", "Name": name, "State": state, "Config": config}
    (folder / f"{name}.json").write_text(json.dumps(document))


def _run(folder: Path, words: tuple[str, ...]) -> None:
    pairs = list(itertools.pairwise(words))
    name = dict(pairs)["--name"]
    if (folder / f"{name}.json").exists():
        sys.exit(f"Conflict. The container name {name} is already in use")
    labels = dict(value.split("=", 1) for flag, value in pairs if flag == "--label")
    mounts = [value.split(",") for flag, value in pairs if flag == "--mount"]
    sources = {one[2].removeprefix("target="): one[1].removeprefix("source=") for one in mounts}
    own = sources["/run/ropeway"]
    script = Path(own, "job.sh").read_text().replace("/run/ropeway", own)
    for target, source in sources.items():
        script = script.replace(target, source) if target.startswith("/head") else script
    script = script.replace("/tmp/ropeway", f"{own}/code")
    read, write = os.pipe()
    job = subprocess.Popen(
        ("bash", "-c", script), stdin=subprocess.DEVNULL, stdout=write, stderr=write,
        start_new_session=True,
    )  # fmt: skip
    os.close(write)
    with (folder / f"{name}.log").open("wb") as log:
        subprocess.Popen(
            ("bash", "-c", _LOGGED), stdin=read, stdout=log, stderr=log, start_new_session=True
        )
    add(folder, name, labels)
    document = json.loads((folder / f"{name}.json").read_text())
    document["pid"] = job.pid
    (folder / f"{name}.json").write_text(json.dumps(document))
    (folder / "argv").write_text(shlex.join(words))


def _all(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    for one in found:
        if "pid" in one and not _lives(one["pid"]):
            one["State"]["Status"] = "exited"
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _end(one: dict[str, Any], number: signal.Signals) -> None:
    """End the processes of a container: with SIGTERM the first alone, and wait for it."""
    if "pid" not in one:
        return
    pids = [one["pid"]]  # first, or it would start another in place of one that is killed
    if number == signal.SIGKILL:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == one["pid"]:
                pids.append(int(path.parent.name))
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    while _lives(one["pid"]):
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
