"""What the engine's tests share: a service brought up through the command line, and references."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from json_documents import read_document
from ports import free_port
from ropeway.checkpoints.fetch import default_root, ensure
from ropeway.hosts import processes
from ropeway.hosts.base import Command, run_command
from ropeway.hosts.local import LocalHost
from ropeway.launch.local.steps import from_record, ray_settings, scratch_of

ROPEWAY = str(Path(sys.executable).parent / "ropeway")
# Of this process alone: a run of the tests that was killed must not stop the next one.
SERVICE = f"rwtest-{os.getpid()}"
PORT = free_port()
SCRATCH = Path(scratch_of(SERVICE, os.getuid()))
QUESTIONS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Count from one to ten.",
)
NEW_TOKENS = 16
CONTEXT = 512
KV_CACHE_MIB = 256
# Prints, as JSON, the vLLM rank actors that Ray knows: their class, state, and host.
RANKS = """\
import json, logging, ray
from ray._private.state import actors
ray.init(logging_level=logging.ERROR, log_to_driver=False)
hosts = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
print(json.dumps([
    {"kind": actor["ActorClassName"], "state": actor["State"], "pid": actor["Pid"],
     "address": actor["Address"]["IPAddress"] or hosts.get(actor["Address"].get("NodeID"))}
    for actor in actors().values()
]))
"""


@dataclass(frozen=True)
class Service:
    """A running service, and how to speak to it."""

    url: str
    folder: Path

    def log_probabilities(self, tokens: list[int]) -> list[float]:
        """Of each token but the first, given those before it."""
        body = {"model": "m", "prompt": tokens, "max_tokens": 1, "prompt_logprobs": 0}
        with send(f"{self.url}/completions", body) as answer:
            rows = json.load(answer)["choices"][0]["prompt_logprobs"]
        return [row[str(token)]["logprob"] for row, token in zip(rows[1:], tokens[1:], strict=True)]

    def printed_kv_tokens(self) -> set[int]:
        """What the engine's log says of its cache: tokens, of each data-parallel replica."""
        log = (self.folder / "engine.log").read_text(encoding="utf-8", errors="replace")
        found = re.findall(r"KV cache size: ([\d,]+) tokens", log)
        return {int(number.replace(",", "")) for number in found}

    def rank_hosts(self) -> list[str]:
        """Where Ray says the ranks are: one address per rank that is alive."""
        deployment = from_record((SCRATCH / "deployment.json").read_text(), "record")
        question = Command((deployment.python, "-c", RANKS), ray_settings(deployment))
        found = run_command(LocalHost(), question, timeout=60).check(
            "Ray does not answer", where="head"
        )
        return sorted(
            row["address"]
            for row in json.loads(found.stdout)
            if row["kind"].startswith("RayWorkerProc") and row["state"] == "ALIVE"
        )


def send(url: str, body: object = None, key: str = "") -> HTTPResponse:
    """Send a request, with a key; GET without a body."""
    request = urllib.request.Request(
        url, data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )  # fmt: skip
    answer: HTTPResponse = urllib.request.urlopen(request, timeout=300)
    return answer


def check_answers(url: str, model: str, key: str = "") -> None:
    """Its greedy answers are those of transformers on the same weights, token for token."""
    for expected in reference(model, "float32"):
        body = {
            "model": "m", "prompt": expected["prompt"], "max_tokens": NEW_TOKENS, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip
        with send(f"{url}/completions", body, key) as answer:
            assert json.load(answer)["choices"][0]["token_ids"] == expected["answer"]


def spec_text(model: str, layout: str, dtype: str, npus: int, more: str = "") -> str:
    """A spec for two hosts with `npus` each; `more` are further lines below `serve`."""
    return f"""\
name: {SERVICE}
cluster: {{local: {{hosts: 2, npus: {npus}}}}}
model: {{name: {model}, served_name: m}}
serve:
  layout: {layout}
  dtype: {dtype}
  context: {CONTEXT}
  kv_cache: {KV_CACHE_MIB}MiB
  port: {PORT}
{more}"""


def ropeway(*args: str, cwd: Path, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROPEWAY, *args], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


def shared_memory_files() -> set[str]:
    """What Python, torch, vLLM and Ray call theirs; other programs may come and go meanwhile."""
    ours = ("psm_", "sem.", "torch_", "vllm", "VLLM", "ray", "plasma", "nccl", "__KMP", "gloo")
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(ours)}


def shared_memory_in_use() -> set[str]:
    """What any living process has mapped, an engine of somebody else's for instance."""
    names: set[str] = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended meanwhile
            names.update(re.findall(r"/dev/shm/(\S+)", maps.read_text(errors="replace")))
    return names


def left_behind(shared_memory_before: set[str]) -> list[str]:
    """What is still there of the service, in words."""
    left = [f"{process.pid} {process.title}" for process in processes.find(SERVICE)]
    left += sorted(shared_memory_files() - shared_memory_before - shared_memory_in_use())
    return [*left, str(SCRATCH)] if SCRATCH.exists() else left


@cache
def reference(model: str, dtype: str) -> list[dict[str, Any]]:
    """What transformers answers to QUESTIONS, in a process of its own; reference.py says what."""
    found = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reference.py")), directory(model), dtype,
         str(NEW_TOKENS)],
        input=json.dumps(QUESTIONS), capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers: list[dict[str, Any]] = json.loads(found.stdout.splitlines()[-1])
    return answers


@cache
def directory(model: str) -> str:
    """The checkpoint of this name, made if it is not there."""
    root = default_root(os.environ)
    return str(ensure(model, root, host=LocalHost(), on_step=lambda _: None))


@contextmanager
def served(
    cwd: Path, model: str, layout: str, dtype: str = "float32", *, npus: int = 2, more: str = ""
) -> Iterator[Service]:
    """Bring it up on two hosts, hand it out, take it down; then nothing of it may be left."""
    before = shared_memory_files()
    (cwd / "ropeway.yaml").write_text(spec_text(model, layout, dtype, npus, more))
    up = ropeway("up", "--json", cwd=cwd)
    assert up.returncode == 0, up.stderr + up.stdout
    said = read_document(up.stdout)
    try:
        yield Service(said["url"], cwd / said["folder"])
    finally:
        down = ropeway("down", "--name", SERVICE, cwd=cwd)
    assert down.returncode == 0, down.stderr
    assert left_behind(before) == []
