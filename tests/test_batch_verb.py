"""`ropeway batch`, whole: files in, files out, against an endpoint that speaks HTTP."""

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from batch_endpoint import BatchEndpoint, Faults, answer_text

from json_documents import read_document
from ropeway.cli.main import exit_code

BODY = '{"model": "fake",  "messages":[{"role":"user","content":"say %d"}],"temperature":1.10}'


@contextmanager
def serving(**how: Any) -> Iterator[tuple[str, BatchEndpoint]]:
    """An endpoint in a thread; yields its URL and itself."""
    endpoint, ready, ended = BatchEndpoint(**how), threading.Event(), threading.Event()
    url = ""

    async def serve() -> None:
        nonlocal url
        server = await endpoint.start()
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        while not ended.is_set():
            await asyncio.sleep(0.02)
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield url, endpoint
    finally:
        ended.set()
        thread.join()


def requests(path: Path, count: int, first: int = 0) -> list[str]:
    """Write so many requests in OpenAI's form; return their bodies."""
    bodies = [BODY % number for number in range(first, first + count)]
    lines = [
        f'{{"custom_id":"r{number}","method":"POST","url":"/v1/chat/completions","body":{body}}}\n'
        for number, body in enumerate(bodies, first)
    ]
    path.write_text("".join(lines))
    return bodies


def columns(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, dict[str, Any], str]:
    """Return the exit code, the document and what was said beside it."""
    capsys.readouterr()
    code = exit_code(["batch", *map(str, args), "--json"])
    out, err = capsys.readouterr()
    document = read_document(out)
    print(document["error"])  # for whoever reads a failure
    return code, document, err


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts(path: Path) -> dict[str, str]:
    """What was answered to which row, each of which is there once."""
    rows = [
        (line["custom_id"], line["response"]["body"]["choices"][0]["message"]["content"])
        for line in lines(path)
    ]
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_every_row_is_answered_once_and_has_its_own_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bodies, out = requests(tmp_path / "in.jsonl", 300), tmp_path / "out.jsonl"
    with serving() as (one, _), serving() as (other, _):
        code, said, _ = run(
            capsys, tmp_path / "in.jsonl", "-o", out, "--url", one, "--url", other, "--ordered"
        )
    assert code == 0
    assert said["ended"] == "complete"
    assert said["outcomes"]["answered"] == said["rows"] == 300
    expected = {f"r{n}": answer_text(body.encode()).decode() for n, body in enumerate(bodies)}
    assert texts(out) == expected
    assert list(texts(out)) == list(expected)
    assert (tmp_path / "out.errors.jsonl").read_bytes() == b""


def test_rows_without_an_answer_are_in_the_file_of_errors_and_decide_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 200)
    out, bad = tmp_path / "o", tmp_path / "bad"
    with serving(faults=Faults(refused=0.1, length=0.1)) as (url, _):
        args = (tmp_path / "in.jsonl", "-o", out, "--errors", bad, "--url", url)
        code, said, _ = run(capsys, *args)
    counts = said["outcomes"]
    assert code == 1
    assert said["error"] is None
    assert sum(counts.values()) == 200
    assert counts["refused"] == len(lines(bad)) > 0
    assert counts["cut"] > 0
    assert len(lines(out)) == counts["answered"] + counts["cut"]
    with serving() as (url, endpoint):
        again = run(capsys, *args[:-1], url, "--retry-errors")
    assert again[0] == 0
    assert endpoint.requests == counts["refused"]
    assert again[1]["outcomes"]["refused"] == 0
    assert len(texts(out)) == 200
    assert bad.read_bytes() == b""


def test_the_same_command_goes_on_and_another_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", *({"prompt": f"say {n}"} for n in range(50)))
    out = tmp_path / "out.jsonl"
    with serving() as (url, endpoint):
        args = (source, "-o", out, "--url", url)
        assert run(capsys, *args, "--set", "max_tokens=5")[0] == 0
        assert endpoint.requests == 50
        first = out.read_bytes()
        assert run(capsys, *args, "--set", "max_tokens=5")[0] == 0
        code, said, _ = run(capsys, *args, "--set", "max_tokens=6")
        assert code == 2
        assert said["error"]["evidence"] == ["max_tokens was 5, and is 6"]
        columns(source, *({"prompt": f"say {n + 1}"} for n in range(50)))
        code, said, _ = run(capsys, *args, "--set", "max_tokens=5")
        assert code == 2
        assert "input was" in said["error"]["evidence"][0]
        assert endpoint.requests == 50, "nothing is sent twice, and nothing for a wrong command"
    assert out.read_bytes() == first


def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    bodies = requests(tmp_path / "in.jsonl", 400)
    out, command = tmp_path / "out.jsonl", [sys.executable, "-m", "ropeway", "batch"]
    with serving(seconds=0.2) as (url, endpoint):
        argv = [*command, str(tmp_path / "in.jsonl"), "-o", str(out), "--url", url, "-q"]
        argv += ["--in-flight", "32"]
        child = subprocess.Popen(argv)
        while endpoint.requests < 200:
            time.sleep(0.01)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode == 0
        assert endpoint.requests <= 400 + 4 * 32
    assert texts(out) == {f"r{n}": answer_text(b.encode()).decode() for n, b in enumerate(bodies)}


@pytest.mark.parametrize("stops", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("last", [False, True])
def test_ctrl_c_commits_and_says_what_goes_on(
    tmp_path: Path, stops: signal.Signals, last: bool
) -> None:
    rows = 16 if last else 400
    requests(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.jsonl"
    with serving(seconds=1.0 if last else 0.2) as (url, endpoint):
        argv = [sys.executable, "-m", "ropeway", "batch", str(tmp_path / "in.jsonl")]
        argv += ["-o", str(out), "--url", url, "--in-flight", "16"]
        env = {**os.environ, "COLUMNS": "200"}
        child = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        while endpoint.requests < min(100, rows):
            time.sleep(0.01)
        child.send_signal(stops)
        said, talked = child.communicate(timeout=60)
        sent = endpoint.requests
    if last:  # what was in flight was all that was left: the job is done
        assert child.returncode == 0
        assert len(texts(out)) == rows
        return
    assert child.returncode == 130
    assert f"answered  {sent:>4}" in " ".join(said.split("\n")) or str(sent) in said
    assert "the same command goes on" in talked
    assert not out.exists(), "the output is written when the job ends"


@pytest.mark.parametrize("flag", [("--max-cost", "1", "--token-price", "1000", "1000"), ()])
def test_a_job_stops_at_its_price(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: tuple[str, ...]
) -> None:
    requests(tmp_path / "in.jsonl", 2000)
    with serving(seconds=0.05) as (url, _):
        code, said, _ = run(
            capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "--url", url, *flag,
            "--in-flight", "16",
        )  # fmt: skip
    assert (code, said["ended"]) == ((1, "cost") if flag else (0, "complete"))
    done = sum(said["outcomes"].values())
    assert done + said["missing"] == 2000
    assert len(lines(tmp_path / "o")) == done


def test_a_bad_line_is_refused_and_nothing_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "a"}\n{"prompt": \n{"prompt": "b"}\n')
    with serving() as (url, endpoint):
        code, said, _ = run(capsys, source, "-o", out, "--url", url)
        assert code == 2
        assert said["error"]["where"] == f"{source}:2"
        assert endpoint.requests == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
        code, said, _ = run(capsys, source, "-o", out, "--url", url, "--skip-bad")
    assert code == 1
    assert said["outcomes"] == {
        "answered": 2, "cut": 0, "refused": 0, "failed": 0, "poison": 0, "skipped": 1,
    }  # fmt: skip
    (line,) = lines(tmp_path / "out.errors.jsonl")
    assert line["custom_id"] == "row-1"
    assert f"{source}:2" in line["error"]["message"]


def test_files_that_are_there_are_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    out, errors = tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl"
    with serving() as (url, endpoint):
        for path in (out, errors):
            path.write_text("mine\n")
            code, said, _ = run(capsys, source, "-o", out, "--url", url)
            assert (code, said["error"]["where"]) == (2, str(path))
            assert path.read_text() == "mine\n"
            path.unlink()
        code, said, _ = run(capsys, source, "-o", source, "--url", url)
        assert (code, said["error"]["where"]) == (2, str(source))
        code, said, _ = run(capsys, source, "-o", tmp_path / "x" / "out", "--url", url)
        assert (code, said["error"]["where"]) == (2, str(tmp_path / "x"))
        assert endpoint.requests == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (["-o", "o", "--html", "o"], "o"),
        (["-o", "o", "--html", "in.jsonl"], "in.jsonl"),
        (["-o", "o", "--errors", "{folder}/o"], "{folder}/o"),
        (["-o", "o", "--errors", "link"], "link"),  # which leads to `o`, where nothing is yet
        (["-o", "o", "--html", "hard"], "in.jsonl"),
        (["-o", "o", "--check", "schema", "--errors", "./schema"], "schema"),
        (["-o", "o", "--html", "o.journal/page.html"], "o.journal/page.html"),
        (["-o", "o", "--errors", "o.journal"], "o.journal"),
        (["-o", "o", "--html", "away/page.html"], "away"),
        (["-o", "dangling"], "{folder}/away"),
        (["-o", "-"], None),
        (["-o", "o.jsonl.GZ"], "o.jsonl.GZ"),
        (["-o", "o", "--errors", "e.zst"], "e.zst"),
    ],
)
def test_no_file_of_a_job_is_another(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    where: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    (tmp_path / "schema").write_text("{}")
    (tmp_path / "link").symlink_to("o")
    (tmp_path / "dangling").symlink_to("away/o")
    (tmp_path / "hard").hardlink_to(source)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    with serving() as (url, endpoint):
        flags = [flag.format(folder=tmp_path) for flag in flags]
        code, said, _ = run(capsys, "in.jsonl", *flags, "--url", url)
        assert endpoint.requests == 0
    assert code == 2
    assert said["error"]["where"] == (where and where.format(folder=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before


def test_a_job_that_goes_on_writes_over_its_own_files_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "o"
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("mine\n")
    with serving(faults=Faults(refused=1.0)) as (url, _):
        args = (source, "-o", out, "--url", url)
        for _ in range(2):
            assert run(capsys, *args)[1]["outcomes"]["refused"] == 1
        code, said, _ = run(capsys, *args, "--errors", mine)
        assert (code, said["error"]["where"]) == (2, str(mine))
        assert mine.read_text() == "mine\n"
        for _ in range(2):
            assert run(capsys, *args, "--errors", other)[0] == 1
        assert len(lines(other)) == 1
        moved = tmp_path / "moved"
        moved.mkdir()
        for path in (out, other, tmp_path / "o.journal"):
            path.rename(moved / path.name)
        again = (source, "-o", moved / "o", "--errors", moved / "other", "--url", url)
        assert run(capsys, *again)[0] == 1


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_glob_does_not_find_what_the_job_itself_has_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    columns(tmp_path / "in.jsonl", *({"prompt": f"say {n}"} for n in range(40)))
    page = tmp_path / "page.jsonl"
    args = (f"{scheme}{tmp_path}/**/*", "-o", tmp_path / "o.jsonl", "--html", page)
    with serving(faults=Faults(refused=0.5)) as (url, _):
        first = run(capsys, *args, "--url", url)
        assert first[1]["rows"] == 40
        code, said, _ = run(capsys, *args, "--url", url)
    assert said["outcomes"] == first[1]["outcomes"]
    assert code == 1
    own = ["o.errors.jsonl", "o.jsonl", "page.jsonl"]
    assert said["warnings"] == [f"{tmp_path}/{name} is the job's own, and no input" for name in own]


def test_what_came_through_a_pipe_is_not_lost_to_another_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(*prompts: str) -> tuple[int, dict[str, Any], str]:
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return run(capsys, "-", "-o", tmp_path / "o", "--url", url, *flags)

    flags = ["--max-cost", "1e-9", "--price", "1"]
    with serving() as (url, _):
        assert pipe("a", "b")[1]["ended"] == "cost"
        kept = (tmp_path / "o.journal" / "input-0").read_bytes()
        code, said, _ = pipe("c")
        assert (code, said["error"]["evidence"]) == (2, ["other bytes come through the pipe"])
        assert (tmp_path / "o.journal" / "input-0").read_bytes() == kept
        assert not (tmp_path / "o.journal" / "input-0.new").exists()
        flags = []
        assert (pipe()[0], len(texts(tmp_path / "o"))) == (0, 2)
        assert pipe("a", "b")[0] == 0


@pytest.mark.parametrize("bodies", [False, True])
def test_answers_that_do_not_fit_a_schema_are_asked_for_again(
    bodies: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    requests(source, 1) if bodies else columns(source, {"prompt": "a"})
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    with serving() as (url, endpoint):  # it answers with a hash, which is no JSON object
        args = (source, "-o", tmp_path / "o", "--url", url, "--check", schema, "--tries", "2")
        code, said, _ = run(capsys, *args)
        assert endpoint.requests == 2
        assert code == 1
        assert said["outcomes"]["failed"] == 1
        assert said["failed_tries"] == {"does not fit": 2}
        (line,) = lines(tmp_path / "o.errors.jsonl")
        assert "the answer is no JSON" in line["error"]["message"]
        schema.write_text('{"type": "string"}')
        code, said, _ = run(capsys, *args)
    assert code == 2
    assert "check was" in said["error"]["evidence"][0]


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


def test_an_endpoint_that_is_away_is_said_and_one_that_is_there_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    away = "http://127.0.0.1:9/v1"
    code, said, _ = run(capsys, source, "-o", tmp_path / "o", "--url", away)
    assert (code, said["error"]["kind"]) == (1, "ServerAway")
    with serving() as (url, _):
        code, said, _ = run(capsys, source, "-o", tmp_path / "o", "--url", away, "--url", url)
    assert code == 0
    assert away in said["warnings"][0]


def test_events_tell_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requests(tmp_path / "in.jsonl", 20)
    with serving() as (url, _):
        _, _, err = run(capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "--url", url)
    events = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert {event["event"] for event in events} == {"progress"}
    assert events[-1]["finished"] == events[-1]["rows"] == 20
    assert events[-1]["replicas"][0]["url"] == url


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
    assert f"<th>status 500</th><td>{said['failed_tries']['status 500']}</td>" in text
    assert "<script" not in text


@pytest.mark.parametrize("args", [["in.jsonl", "-o", "out.jsonl"], ["--help"], []])
def test_without_its_extra_the_verb_says_what_to_install(args: list[str]) -> None:
    lines = (
        "import sys",
        "sys.modules['msgspec'] = None",
        "from ropeway.cli.main import exit_code",
        f"sys.exit(exit_code(['batch', *{args}]))",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "`ropeway batch` needs the package msgspec" in done.stderr
    assert 'pip install "ropeway[batch]"' in done.stderr
