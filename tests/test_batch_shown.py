"""What `ropeway batch` shows: plan, progress, events and page, in either language."""

import json
import re
from pathlib import Path

import pytest
from batch_endpoint import Faults

from batch_calls import columns, requests, run, serving
from ropeway.cli.main import exit_code
from ropeway.report import batch_view


def test_plan_sends_nothing_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", *({"prompt": "word " * 100} for _ in range(20)))
    with serving() as (url, endpoint):
        code, said, _ = run(
            capsys, source, "--plan", "--url", url, "--set", "max_tokens=10", "-n", "2"
        )
        assert endpoint.requests == 0
    assert code == 0
    assert said["rows"] == 40
    assert said["output_tokens_at_most"] == 400
    assert 3000 < said["input_tokens_estimated"] < 8000
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
    assert said["forecast"] is None


def test_plan_says_what_tokens_cost_without_a_spec_or_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", *({"prompt": "a"} for _ in range(20)))
    away = "http://127.0.0.1:9/v1"
    args = (source, "--plan", "--url", away, "--set", "max_tokens=10", "--token-price", 2e6, 3e6)
    code, said, _ = run(capsys, *args)
    assert code == 0
    assert said["forecast"]["cost"] == said["input_tokens_estimated"] * 2 + 200 * 3
    assert said["forecast"]["likely_s"] is None
    assert said["warnings"][0].startswith(f"{away}: no server answers: connection refused; ")
    assert exit_code(["batch", *map(str, args), "--currency", "CNY"]) == 0
    assert "CNY at most" in capsys.readouterr().out


def test_events_tell_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests(tmp_path / "in.jsonl", 20)
    with serving() as (url, _):
        _, _, err = run(capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "--url", url)
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {event["event"] for event in events} == {"progress"}
    assert events[-1]["finished"] == events[-1]["rows"] == 20
    assert events[-1]["replicas"][0]["url"] == url


def test_who_reads_chinese_reads_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ropeway", "batch", "in.jsonl"])
    monkeypatch.setattr(batch_view, "_FIRST_BLOCK_S", 0.0)
    requests(tmp_path / "in.jsonl", 60)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("{\n")
    faults = Faults(refused=0.1, errors=0.1, length=0.1)
    with serving(seconds=0.1, faults=faults) as (url, _):
        common = ["--url", url, "--skip-bad", "--lang", "zh", "--price", "1"]
        exit_code(["batch", "in.jsonl", "--plan", "-n", "2", *common])
        exit_code(["batch", "in.jsonl", "-o", "out.jsonl", "--max-cost", "1e-9", *common])
        exit_code(["batch", "in.jsonl", "-o", "out.jsonl", *common])
    out, err = capsys.readouterr()
    said = (out + err).replace("the engine failed, as it was told to", "")  # the server's words
    said = re.sub(r"ropeway .*|http:\S*|\S*\.jsonl\S*|r\d+: \w+|token/s|`.*?`", "", said)
    words = set(re.findall(r"[A-Za-z]{2,}", said))
    assert words <= {"token", "fake", "min", "ms", "KiB"}, said
    for shown in ("每条提示词", "行处理中", "失败的尝试", "已回答", "再次执行同一命令"):
        assert shown in said


def test_what_is_reached_of_the_predicted_ceiling_is_told_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 200)
    spec, page = tmp_path / "spec.yaml", tmp_path / "page.html"
    with serving(seconds=0.05) as (url, _):
        port = url.removesuffix("/v1").rpartition(":")[2]
        spec.write_text(
            "{name: a, cluster: {hosts: [{address: 127.0.0.1, npus: 8}], nic: lo, chip: 910B4},"
            f" model: {{path: /m/Qwen3-32B}}, serve: {{layout: TP8, context: 4096, port: {port}}}}}"
        )
        code, _, err = run(
            capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "-c", spec, "--html", page,
            "--price", "2", "--currency", "CNY", "--in-flight", "8",
        )  # fmt: skip
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert code == 0
    last = events[-1]
    assert last["ceiling"] > 100
    assert last["ceiling_share"] == last["rates"]["answer"] / last["ceiling"]
    text = page.read_text(encoding="utf-8")
    assert "that are possible by the planner" in text
    assert "未经实测" in text
    assert "CNY" in text


def test_a_page_shows_what_became_of_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 200)
    page = tmp_path / "page.html"
    with serving(faults=Faults(refused=0.1, errors=0.1)) as (url, _):
        _, said, _ = run(
            capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "--url", url, "--html", page
        )
    text = page.read_text(encoding="utf-8")
    refused = said["outcomes"]["refused"]
    assert f'title="refused 被拒绝 {refused}"' in text
    assert "Every one of the 200 rows has its outcome." in text
    assert "全部 200 行都已得到结果。" in text
    tries = said["failed_tries"]["status 500"]
    assert f'<span lang="zh-Hans">状态码 500</span></th><td>{tries}</td>' in text
    assert "<script" not in text
    assert "<code>--retry-errors</code>" in text
    assert re.search(r"One error</span>.*r\d+: 400", text, re.DOTALL)
