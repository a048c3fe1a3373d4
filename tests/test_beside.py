"""`ropeway bench` with an eye on the server: `--metrics`, `--npus`, the table, the document."""

import dataclasses
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from engine_metrics import honest, metrics
from json_documents import read_document
from ports import free_port
from rehearsed import Cluster, Make, cluster  # noqa: F401  (the fixture)
from ropeway.bench.figures import ServerState
from ropeway.cli.main import exit_code
from ropeway.errors import HostError
from ropeway.facts.ascend.npu_smi import Work, parse_work
from ropeway.facts.npu_work import npu_work
from ropeway.phrases import phrase
from ropeway.report.chinese import in_language
from ropeway.report.console import Screen
from ropeway.report.server_state import server_lines, server_rows
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hosts import virtual_hosts

# Two at once, each for 0.3 s: eight take 1.2 s.
SLOW = Behaviour(ttft_s=0.1, tpot_s=0.04, capacity=2)
LOAD = ("--clients", "4", "--requests", "8", "--output-tokens", "6", "--warmup", "1")

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fakes() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda *args: stack.enter_context(running(*args))


@pytest.mark.real_time
def test_what_the_engine_says_stands_in_the_table_the_document_and_the_folder(
    tmp_path: Path, fakes: Any, capsys: Captured
) -> None:
    fake = fakes(SLOW, honest)
    call = ("bench", "--url", fake.url, *LOAD, "--requests", "12")
    assert exit_code([*call, "--out", str(tmp_path / "a")]) == 0
    table = re.sub(r"\n {10}", " ", capsys.readouterr().out)
    assert re.search(
        r"^server    2 requests run \(most: 2\) · 2 wait \(most: 2\) · KV", table, re.M
    )
    assert re.search(r"^counted   [\d.]+ tokens/s by its own count · 0 preempted", table, re.M)
    assert re.search(r"^its TTFT  mean .+, p50 .+ to .+; to ours: [+−].+ on average", table, re.M)
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["server"]["running"] == {"median": 2, "largest": 2}
    assert exit_code([*call, "--out", str(tmp_path / "b"), "--json"]) == 0
    server = read_document(capsys.readouterr().out)["server"]
    assert (server["not_told"], server["generation_tokens"]) == (None, 72)


def test_a_server_without_figures_is_said_to_tell_none(
    tmp_path: Path, fakes: Any, capsys: Captured
) -> None:
    fake = fakes(Behaviour(ttft_s=0, tpot_s=0))
    call = ("bench", "--url", fake.url, *LOAD)
    assert exit_code([*call, "--out", str(tmp_path / "a")]) == 0
    assert "\nserver    not told: it has no `/metrics` of vLLM's\n" in capsys.readouterr().out
    assert exit_code([*call, "--json", "--out", str(tmp_path / "b")]) == 0
    server = read_document(capsys.readouterr().out)["server"]
    assert (server["running"], server["preemptions"], server["causes"]) == (None, None, [])
    assert exit_code([*call, "--metrics", "none", "--json", "--out", str(tmp_path / "c")]) == 0
    assert read_document(capsys.readouterr().out)["server"] is None


@pytest.mark.real_time
def test_engines_behind_a_router_are_named(tmp_path: Path, fakes: Any, capsys: Captured) -> None:
    router = fakes(SLOW)
    engines = [fakes(SLOW, lambda _: metrics(3, 1)) for _ in range(2)]
    urls = [word for one in engines for word in ("--metrics", one.url.removesuffix("/v1"))]
    call = ["bench", "--url", router.url, *LOAD, *urls, "--json", "--out", str(tmp_path / "r")]
    assert exit_code(call) == 0
    server = read_document(capsys.readouterr().out)["server"]
    assert (server["engines"], server["running"]["median"]) == (2, 6)


@pytest.mark.parametrize("path", ["", "/metrics", "/v1/"])
def test_a_url_without_an_engine_is_refused_before_anything_is_sent(
    path: str, tmp_path: Path, fakes: Any, capsys: Captured
) -> None:
    fake, other = fakes(SLOW, honest), fakes(SLOW)
    base = other.url.removesuffix("/v1")
    call = ("bench", "--url", fake.url, *LOAD, "--out", str(tmp_path / "r"))
    assert exit_code([*call, "--metrics", base + path]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: `--metrics` names no engine: it has no `/metrics` of vLLM's\n")
    assert f"  at {base}/metrics\n" in told
    assert f"try it with `curl {base}/metrics`" in told
    assert exit_code([*call, "--metrics", f"127.0.0.1:{free_port()}"]) == 2
    assert "no server answers" in capsys.readouterr().err
    assert exit_code([*call, "--metrics", base, "--metrics", "none"]) == 2
    assert (fake.requests, other.requests) == ([], [])
    assert not (tmp_path / "r").exists()


def test_npus_need_a_spec_with_hosts(
    tmp_path: Path, fakes: Any, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    fake = fakes(SLOW, honest)
    assert exit_code(["bench", "--url", fake.url, *LOAD, "--npus"]) == 2
    assert "`--npus` asks the hosts of a spec, and none is named" in capsys.readouterr().err
    assert fake.requests == []


def busy(two: Cluster, fake: FakeEndpoint) -> None:
    """Let the spec's service be at the fake endpoint, and the NPUs of its first host work."""
    address, port = re.findall(r"//([^:]+):(\d+)/", fake.url)[0]
    two.serve(address=address, port=int(port))


@pytest.mark.real_time
def test_the_hosts_of_the_spec_are_asked_for_the_use_of_their_npus(
    fakes: Any,
    cluster: Make,  # noqa: F811
) -> None:
    fleet = faulty_fleet("2x8-910B4", ("host-down:host2",))
    first = fleet.machines[0]
    chips = [dataclasses.replace(chip, aicore=10 * chip.device) for chip in first.chips]
    machine = dataclasses.replace(first, chips=tuple(chips))
    two = cluster(dataclasses.replace(fleet, machines=(machine, *fleet.machines[1:])))
    busy(two, fakes(SLOW, honest))
    document = two.json("bench", *LOAD, "--npus", "--requests", "12")
    one, other = document["server"]["npus"]
    assert (one["host"], one["npus"], one["working"], one["samples"]) == ("host1", 8, 7, 1)
    assert one["aicore"] == {"median": pytest.approx(0.4), "largest": 0.7}
    assert (other["samples"], other["aicore"]) == (0, None)
    assert "host2" in other["host"] and other["missed"]
    assert document["ok"], "a host that says nothing is no failure of the run"


def test_what_chips_do_is_read_from_the_same_table_as_what_they_are() -> None:
    recordings = Path(__file__).parent / "recordings"
    busy = parse_work((recordings / "npu_smi_info_16.txt").read_text())
    assert busy.value is not None
    assert busy.value[0] == Work(0, 0, 6, 35738, 65536)
    pairs = parse_work((recordings / "npu_smi_info_01.txt").read_text())
    assert pairs.value is not None
    assert [(work.npu, work.chip, work.aicore) for work in pairs.value[:3]] == [
        (0, 0, 0), (0, 1, 0), (1, 0, 0)
    ]  # fmt: skip
    assert parse_work("no table").value is None


def test_a_host_without_npu_smi_says_why() -> None:
    (sound,) = virtual_hosts(faulty_fleet("1x8-910B4", ()))
    assert npu_work(sound)[3] == Work(3, 0, 0, 2860, 32768)
    (blind,) = virtual_hosts(faulty_fleet("1x8-910B4", ("no-npu-smi",)))
    with pytest.raises(HostError, match="npu-smi says nothing of its NPUs: not found"):
        npu_work(blind)


def test_all_of_it_has_chinese() -> None:
    (line,) = server_lines(ServerState(not_told="it has no `/metrics` of vLLM's"))
    assert in_language(line, "zh") == "服务端    未知：该地址没有 vLLM 的 `/metrics`"


def test_its_lines_end_between_words_and_go_on_under_the_text() -> None:
    words = "some of what the service has to say of itself was asked for in vain, " * 3
    state = ServerState(not_told="it has no `/metrics`", notes=(phrase(words.strip()),))
    out = StringIO()
    screen = Screen(stdout=out, stderr=StringIO(), width=80, color="never")
    screen.answer(server_rows(state))
    first, second, *rest = out.getvalue().splitlines()
    assert first == "server    not told: it has no `/metrics`"
    assert second.startswith("note      some of")
    assert len(rest) == 2
    assert all(line.startswith(" " * 10) and len(line) <= 80 for line in rest)
    assert " ".join(f"{second} {' '.join(rest)}".split()) == f"note {words.strip()}"
    screen.answer(server_rows(state, "zh"))
    assert "服务端    未知：" in out.getvalue()
