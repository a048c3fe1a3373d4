"""`ropeway bench`: what it prints, what it leaves behind, how it ends."""

import dataclasses
import html
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_endpoint import Behaviour, running

from children import INTERRUPTIBLE, spawned
from engine_metrics import honest
from json_documents import read_document
from ports import free_port
from ropeway.bench.run import Progress
from ropeway.cli.bench import bench
from ropeway.cli.chat import chat
from ropeway.cli.main import exit_code
from ropeway.endpoint.failures import ModelUnknown
from ropeway.errors import EndpointError, Refused, RopewayError
from waiting import SECONDS, wait_for

SMALL = ("--clients", "4", "--requests", "8", "--output-tokens", "8")


def run(url: str, *args: str) -> Result:
    wide = {"COLUMNS": "200"}  # so that no line is wrapped
    return CliRunner().invoke(bench, ["--url", url, *SMALL, *args], env=wide)


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


FAST = Behaviour(ttft_s=0.05, tpot_s=0.01)


def test_the_command_reports_and_leaves_a_folder(tmp_path: Path) -> None:
    with running(FAST) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"), "--layout", "TP2")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "fake · TP2", "what is not stated is left out"
    assert "128 tokens in, 8 out · 4 clients · 8 requests" in lines
    assert "prompts   random words, exactly 128 tokens, no shared beginning" in lines
    assert any(re.fullmatch(r"completed +8 +of 8 in \S+ m?s *", line) for line in lines)
    assert any(re.match(r"time per output token +\S+ ms +\S+ ms ", line) for line in lines)
    assert "tokens    1,024 in, 64 out" in lines
    page = tmp_path / "r" / "report.html"
    assert lines[-2:] == [f"page      {page}", f"results   {tmp_path / 'r'}"]
    assert page.read_text().startswith("<!doctype html>")
    began, ended = result.stderr.splitlines()
    assert began == f"8 requests, 4 clients → fake at {fake.url} …"
    assert ended.startswith(f"ok    8 requests, 4 clients → fake at {fake.url}  ")
    summary, conditions = read(tmp_path / "r", "summary"), read(tmp_path / "r", "conditions")
    assert summary["completed"] == 8
    assert (conditions["layout"], conditions["label"]) == ("TP2", "measured here")
    assert summary["tpot_s"]["p50"] > 0


def test_it_speaks_chinese_and_so_does_its_page(tmp_path: Path) -> None:
    with running(dataclasses.replace(FAST, fault="error", fault_every=2)) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"), "--lang", "zh", "--hardware", "无")
    text = (result.stdout + result.stderr).replace(fake.url, "").replace(str(tmp_path), "")
    text = text.replace("the server failed with 500: the engine core died", "")
    words = set(re.findall(r"(?<![\w/.-])[a-z][a-z-]{2,}(?![\w/.-])", text))
    assert words <= {"fake", "token", "tokens", "measured"}, text
    assert 'id="zh" checked' in (tmp_path / "r" / "report.html").read_text()


def test_the_page_has_the_command_that_measures_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        address, port = re.findall(r"//([^:]+):(\d+)/", fake.url)[0]
        (tmp_path / "my.yaml").write_text(
            f"serve: {{address: {address}, port: {port}, layout: TP2}}\n"
            "cluster: {local: {}}\nmodel: {name: smollm2}\n"
            "workload: {clients: 2, requests: 6, input_tokens: 33, output_tokens: 9, seed: 5}\n"
        )
        flags = ("--requests", "3", "--no-ignore-eos", "--engine", "my engine", "--json")
        assert exit_code(["bench", "-c", "my.yaml", "--out", "a", *flags]) == 0
        page = html.unescape((tmp_path / "a" / "report.html").read_text())
        (command,) = re.findall(r"<pre>(ropeway bench .*)</pre>", page)
        assert "my.yaml" not in command, "nobody else has that file"
        assert exit_code([*shlex.split(command)[1:], "--out", "b"]) == 0
    first, second = (read(tmp_path / name, "conditions") for name in ("a", "b"))
    assert {**first, "started_at": ""} == {**second, "started_at": ""}


def test_a_page_that_cannot_be_written_is_one_error_after_the_figures(tmp_path: Path) -> None:
    (tmp_path / "r" / "report.html").mkdir(parents=True)
    with running(FAST) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"))
    assert isinstance(result.exception, RopewayError)
    assert "the results could not be written" in result.exception.what
    assert result.stdout.splitlines()[-1] == f"results   {tmp_path / 'r'}"
    assert "page  " not in result.stdout
    assert read(tmp_path / "r", "summary")["completed"] == 8


def test_samples_of_the_server_that_cannot_be_kept_cost_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "r" / "server.jsonl").mkdir(parents=True)
    with running(FAST, honest) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"))
    assert result.exit_code == 0, result.exception
    assert "`server.jsonl` could not be written whole" in result.stdout
    page = tmp_path / "r" / "report.html"
    assert result.stdout.splitlines()[-2:] == [
        f"page      {page}", f"results   {tmp_path / 'r'}"
    ]  # fmt: skip
    assert page.exists()


def test_a_spec_gives_address_and_load_and_flags_go_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(FAST) as fake:
        address, port = re.findall(r"//([^:]+):(\d+)/", fake.url)[0]
        (tmp_path / "my.yaml").write_text(
            f"serve: {{address: {address}, port: {port}, layout: TP2×PP2}}\n"
            "cluster: {local: {}}\nmodel: {name: smollm2}\n"
            "workload: {clients: 2, requests: 6, input_tokens: 33, output_tokens: 9, seed: 5}\n"
        )
        flags = ("--requests", "3", "--out", str(tmp_path / "r"), "--json")
        assert exit_code(["bench", "-c", str(tmp_path / "my.yaml"), *flags]) == 0
    done = read_document(capsys.readouterr().out)
    assert (done["url"], done["layout"]) == (fake.url, "TP2×PP2")
    names = ("clients", "requests", "input_tokens", "output_tokens", "seed")
    assert [done["load"][name] for name in names] == [2, 3, 33, 9, 5]


def test_the_spec_of_this_folder_is_read_and_its_key_goes_to_no_other_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "of-the-service")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running(dataclasses.replace(FAST, key="of-the-service")) as fake:
        address, port = re.findall(r"//([^:]+):(\d+)/", fake.url)[0]
        (tmp_path / "ropeway.yaml").write_text(
            f"serve: {{address: {address}, port: {port}, api_key_env: MY_KEY}}\n"
            "cluster: {local: {}}\nmodel: {name: smollm2}\n"
            "workload: {clients: 2, requests: 3, output_tokens: 4}\n"
        )
        assert CliRunner().invoke(chat, ["-p", "hi"]).exit_code == 0
        assert exit_code(["bench", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["load"]["requests"] == 3
        refused = CliRunner().invoke(chat, ["--url", fake.url, "-p", "hi"])
    assert isinstance(refused.exception, EndpointError)
    assert "OPENAI_API_KEY" in (refused.exception.hint or "")


@pytest.mark.parametrize("verb", [("chat", "-p", "hi"), ("bench", *SMALL)])
def test_a_service_on_the_loopback_of_a_host_is_told_with_the_way_there(
    verb: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    port = free_port()
    (tmp_path / "ropeway.yaml").write_text(
        f"serve: {{port: {port}}}\nmodel: {{path: /data/m}}\n"
        "cluster: {hosts: [{address: 192.168.0.1, npus: 8, user: me, port: 2222}]}\n"
    )
    assert exit_code(verb) == 1
    told = capsys.readouterr().err
    assert "no server answers: connection refused" in told
    assert f"ssh -l me -p 2222 192.168.0.1 -N -L {port}:127.0.0.1:{port}\n" in told
    assert "or set `serve.address`" in told
    assert exit_code([*verb, "--url", f"http://127.0.0.1:{port}"]) == 1
    assert "ssh" not in capsys.readouterr().err, "another server, of which nothing is known"


@pytest.mark.parametrize(
    ("layout", "predicted"),
    [
        ("layout: TP4", "TP4 (80%"),
        ("layout: TP1", None),
        ("replicas: 1", ", the plan's choice for a blank `serve.layout` (80%"),
    ],
)
def test_what_the_planner_expected_stands_beside_what_was_measured(
    layout: str, predicted: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        address, port = re.findall(r"//([^:]+):(\d+)/", fake.url)[0]
        (tmp_path / "ropeway.yaml").write_text(
            f"serve: {{address: {address}, port: {port}, context: 4096, {layout}}}\n"
            "cluster: {chip: 910B4, hosts: [{address: 192.168.0.1, npus: 8}]}\n"
            "model: {path: /data/Qwen3-30B-A3B}\n"
        )
        assert exit_code(["bench", *SMALL, "--json"]) == 0
        document = read_document(capsys.readouterr().out)
        assert exit_code(["bench", *SMALL]) == 0
    expected = document["predicted_tokens_per_s"]
    shown = " ".join(capsys.readouterr().out.split())
    line = re.search(r" plan ([\d,.]+) tokens/s predicted for (.*)", shown)
    if predicted is None:
        found = (expected, document["predicted_layout"], line)
        assert found == (None, None, None), "TP1 does not fit"
        return
    assert line is not None
    assert float(line[1].replace(",", "")) == pytest.approx(expected, rel=0.01)
    assert line[2].startswith(document["predicted_layout"])
    assert predicted in line[2]


def test_a_service_that_listens_everywhere_is_found_at_its_first_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:  # nobody answers at this port afterwards
        port = server.getsockname()[1]
    (tmp_path / "ropeway.yaml").write_text(
        f"serve: {{address: 0.0.0.0, port: {port}, api_key_env: MY_KEY}}\n"
        "cluster: {hosts: [{address: 127.0.0.9, npus: 8}]}\nmodel: {path: /data/m}\n"
    )
    result = CliRunner().invoke(chat, ["-p", "hi"])
    assert isinstance(result.exception, EndpointError)
    assert result.exception.where == f"http://127.0.0.9:{port}/v1"


def test_json_is_one_document_and_the_folder_is_below_runs_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        assert exit_code(["bench", "--url", fake.url, *SMALL, "--json"]) == 0
    out, err = capsys.readouterr()
    document = read_document(out)
    assert err == ""
    assert (document["schema"], document["ended"]) == (1, "complete")
    assert document["summary"]["output_tokens"] == 64
    assert document["load"]["prompts"].startswith("random words, exactly 128 tokens")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("Z-bench")


def test_without_a_tokenizer_the_command_says_about(tmp_path: Path) -> None:
    with running(dataclasses.replace(FAST, tokenizer=False)) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"))
    assert "about 128 tokens" in result.stdout
    lines = (tmp_path / "r" / "timings.jsonl").read_text().splitlines()
    true = [json.loads(line)["input_tokens"] for line in lines]
    assert f"tokens    {sum(true):,} in, 64 out\n" in result.stdout
    assert min(true) >= 128 + 4, "the server's count, template included, not the wish"


def test_failures_end_with_1_their_kinds_and_a_sample(tmp_path: Path) -> None:
    with running(dataclasses.replace(FAST, fault="error", fault_every=2)) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"))
    assert result.exit_code == 1
    assert "4 of 8 requests failed\n  4 × server error  after " in result.stdout
    assert re.search(r"^completed +4 +of 8 in ", result.stdout, re.MULTILINE)
    assert re.search(r"^warn  8 requests.*some failed$", result.stderr, re.MULTILINE)
    assert result.stderr.endswith(
        "error: 4 of 8 requests failed\n"
        "  4 server error: the server failed with 500: the engine core died\n"
    )


@pytest.mark.parametrize(("tokens", "code"), [("100", 1), ("6", 0)])
def test_the_time_limit_is_no_failure_unless_nothing_was_completed(
    tmp_path: Path, tokens: str, code: int
) -> None:
    slow = Behaviour(ttft_s=0, tpot_s=0.05)
    args = ("--output-tokens", tokens, "--requests", "99", "--time-limit", "1", "--warmup", "0")
    with running(slow) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"), *args)
    assert result.exit_code == code
    assert ("error: no request was completed within 1.0 s" in result.stderr) == bool(code)
    assert result.stdout.startswith("ended     early: time limit\n")
    sent = re.search(r"^completed +\d+ +of (\d+) in ", result.stdout, re.MULTILINE)
    assert sent
    assert f"4 clients · {sent[1]} of 99 requests\n" in result.stdout
    assert re.search(r"^[1-4] requests? cancelled in flight", result.stdout, re.MULTILINE)
    assert read(tmp_path / "r", "summary")["ended"] == "time limit"


@pytest.mark.real_time
def test_ctrl_c_keeps_what_was_measured_and_ends_with_130(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "r", subprocess.PIPE
    timings = folder / "timings.jsonl"
    argv = (*INTERRUPTIBLE, sys.executable, "-m", "ropeway", "bench", *SMALL)
    with running(FAST) as fake:
        more = ("--url", fake.url, "--requests", "99999", "--out", str(folder))
        with subprocess.Popen((*argv, *more), stdout=pipe, stderr=pipe, text=True) as process:
            try:
                wait_for(lambda: timings.exists() and timings.read_text().count("\n") > 4)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert (process.returncode, "error" in err) == (130, False), err
    assert out.startswith("ended     early: interrupted\n")
    summary = read(folder, "summary")
    assert summary["ended"] == "interrupted"
    assert 4 < summary["completed"] <= len(timings.read_text().splitlines())
    assert summary["errors"] == {}


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("flag", "begun"), [("--calibration", 1), ("--calibration", 2), ("--no-calibration", 1)]
)
def test_ctrl_c_in_a_terminal_goes_to_all_processes_and_one_decides(
    tmp_path: Path, flag: str, begun: int
) -> None:
    argv = (*INTERRUPTIBLE, sys.executable, "-m", "ropeway", "bench", *SMALL, flag)
    pipe = subprocess.PIPE
    with running(FAST) as fake:
        more = ("--url", fake.url, "--requests", "99999", "--out", str(tmp_path / "r"))
        with subprocess.Popen(
            (*argv, *more), stdout=pipe, stderr=pipe, text=True, start_new_session=True
        ) as process:
            try:
                wait_for(lambda: len(spawned(process.pid)) >= begun)
                os.killpg(process.pid, signal.SIGINT)
                _, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert (process.returncode, "Traceback" in err) == (130, False), err
    assert set(re.findall("error.*", err)) <= {"error: interrupted"}


def test_lengths_beyond_the_context_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with running(Behaviour(context=100)) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"))
    assert isinstance(result.exception, Refused)
    assert all(word in result.exception.what for word in ("128", "136", "`fake`", "100"))
    assert fake.requests == []
    assert not (tmp_path / "r").exists()


def test_a_wrong_model_is_one_error_and_leaves_no_folder(tmp_path: Path) -> None:
    with running(FAST) as fake:
        result = run(fake.url, "--out", str(tmp_path / "r"), "--model", "fakee")
    assert isinstance(result.exception, ModelUnknown)
    assert result.exception.hint == "did you mean `--model fake`?"
    assert not (tmp_path / "r").exists()


def test_the_progress_line_says_how_far_and_how_long() -> None:
    progress = Progress(12, 512, 1, 256, 9000, 1024.4, 40.0)
    assert str(progress) == (
        "12/512 done · 1 failed · 256 in flight · 1,024 tokens/s · 40.0 s left"
    )


def test_a_spec_that_is_named_beside_a_url_gives_no_key_to_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", "of-the-service")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "my.yaml").write_text(
        "cluster: {local: {}}\nmodel: {name: smollm2}\nserve: {api_key_env: MY_KEY}\n"
    )
    with running(dataclasses.replace(FAST, key="of-the-service")) as fake:
        words = ["-c", str(tmp_path / "my.yaml"), "--url", fake.url, "-p", "hi"]
        assert isinstance(CliRunner().invoke(chat, words).exception, EndpointError)
