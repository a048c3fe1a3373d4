"""`ropeway batch`, whole: files in, files out, against an endpoint that speaks HTTP."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from batch_endpoint import Faults, answer_text

from batch_calls import columns, lines, requests, run, serving, texts
from batch_rows import files_of_at_most
from ropeway.cli.main import exit_code
from waiting import wait_for


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
        assert (tmp_path / "out.jsonl.journal").stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in (tmp_path / "out.jsonl.journal").iterdir()) == [
            "finished.json", "left-out.jsonl", "lock", "manifest.json",
            "survey.json", "written.json",
        ]  # fmt: skip
        code, said, _ = run(capsys, *args, "--set", "max_tokens=6")
        assert code == 2
        assert said["error"]["evidence"] == ["max_tokens was 5, and is 6"]
        columns(source, *({"prompt": f"say {n + 1}"} for n in range(50)))
        code, said, _ = run(capsys, *args, "--set", "max_tokens=5")
        assert code == 2
        assert "input was" in said["error"]["evidence"][0]
        assert endpoint.requests == 50, "nothing is sent twice, and nothing for a wrong command"
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    ("begun", "now", "line"),
    [
        ([], ["--no-pictures"], "--no-pictures was –, and is true"),
        (["--format", "tsv"], ["--format", "csv"], "format was tsv, and is csv"),
        (["--set", "url=a"], ["--set", "url=b"], 'url was "a", and is "b"'),
    ],
)
def test_what_the_input_is_read_as_may_not_change(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    begun: list[str],
    now: list[str],
    line: str,
) -> None:
    picture = '{"prompt": "a", "image": "http://h/a.png"}\n'
    text = "prompt\na\nb\n" if "--format" in begun else picture * 2
    source = tmp_path / "in.jsonl"
    source.write_text(text)
    stop = ["--max-cost", "1e-9", "--price", "1", "--skip-bad"]
    with serving() as (url, endpoint):
        args = (source, "-o", tmp_path / "o", "--url", url)
        assert run(capsys, *args, *begun, *stop)[1]["ended"] == "cost"
        sent = endpoint.requests
        code, said, _ = run(capsys, *args, *now, *stop)
        assert (code, endpoint.requests) == (2, sent)
    assert line in said["error"]["evidence"]


def test_requests_without_a_model_are_for_the_one_that_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    requests(source, 2)
    source.write_text(source.read_text().replace('"model": "fake", ', ""))
    with serving() as (url, endpoint):
        args = (source, "-o", tmp_path / "o", "--url", url)
        assert run(capsys, *args)[0] == 0
        code, said, _ = run(capsys, *args, "--model", "other")
        assert (code, endpoint.requests) == (2, 2)
    assert said["error"]["evidence"] == ["model was fake, and is other"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--token-price", "nan", "1"],
        ["--token-price", "1", "inf"],
        ["--token-price", "-1", "1"],
        ["--until", "2020-01-01"],
        ["--until", "2020-01-01T10:00:00+08:00"],
    ],
)
def test_flags_that_mean_nothing_are_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    code, said, _ = run(capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", *flags)
    assert (code, said["error"]["kind"]) == (2, "Refused")
    assert f"`{flags[0]}`" in said["error"]["what"]


@pytest.mark.real_time
def test_it_goes_on_after_a_kill(tmp_path: Path) -> None:
    bodies = requests(tmp_path / "in.jsonl", 400)
    out, command = tmp_path / "out.jsonl", [sys.executable, "-m", "ropeway", "batch"]
    with serving(seconds=0.2) as (url, endpoint):
        argv = [*command, str(tmp_path / "in.jsonl"), "-o", str(out), "--url", url, "-q"]
        argv += ["--in-flight", "32"]
        child = subprocess.Popen(argv)
        wait_for(lambda: endpoint.requests >= 200 or child.poll() is not None)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode == 0
        assert endpoint.requests <= 400 + 4 * 32
    assert texts(out) == {f"r{n}": answer_text(b.encode()).decode() for n, b in enumerate(bodies)}


@pytest.mark.real_time
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
        wait_for(lambda: endpoint.requests >= min(100, rows) or child.poll() is not None)
        child.send_signal(stops)
        said, talked = child.communicate(timeout=60)
        sent = endpoint.requests
    if last:  # what was in flight was all that was left: the job is done
        assert child.returncode == 0
        assert len(texts(out)) == rows
        return
    assert child.returncode == 130
    assert re.search(rf"^answered +{sent} ", said, re.MULTILINE)
    assert "the same command goes on" in talked
    assert "stopping: up to 10 s for 16 rows; Ctrl-C again ends now" in talked
    assert len(texts(out)) == sent, "however a run ends, what there is is written"


@pytest.mark.real_time
def test_a_second_ctrl_c_ends_at_once_and_says_what_goes_on(tmp_path: Path) -> None:
    requests(tmp_path / "in.jsonl", 4)
    said = tmp_path / "said"
    with serving(seconds=60.0) as (url, endpoint), said.open("w") as file:
        argv = [sys.executable, "-m", "ropeway", "batch", str(tmp_path / "in.jsonl")]
        child = subprocess.Popen([*argv, "-o", str(tmp_path / "o"), "--url", url], stderr=file)
        wait_for(lambda: endpoint.requests == 4 or child.poll() is not None)
        child.send_signal(signal.SIGINT)
        wait_for(lambda: "Ctrl-C again" in said.read_text() or child.poll() is not None)
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
    assert "the same command goes on:\n" in said.read_text()


def test_what_is_committed_is_written_although_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 2000)
    out = tmp_path / "out.jsonl"
    with serving() as (url, _):
        args = (tmp_path / "in.jsonl", "-o", out, "--url", url)
        run(capsys, *args, "--max-cost", "1e-9", "--price", "1")  # it has looked at its input
        with files_of_at_most(500_000):
            code, said, _ = run(capsys, *args)
        assert (code, said["ended"], said["output"]) == (1, "broken", str(out))
        assert 0 < len(texts(out)) == said["outcomes"]["answered"] < 2000
        assert run(capsys, *args)[0] == 0
    assert len(texts(out)) == 2000


def test_a_run_whose_journal_is_gone_tells_of_that_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 2000)
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"

    def remove() -> None:
        while endpoint.requests < 300:
            time.sleep(0.01)
        for segment in journal.glob("*.journal"):
            segment.unlink()

    with serving(seconds=0.05) as (url, endpoint):
        removing = threading.Thread(target=remove)
        removing.start()
        code, said, _ = run(capsys, tmp_path / "in.jsonl", "-o", out, "--url", url)
        removing.join()
    assert (code, said["ended"], said["output"]) == (1, "broken", None)
    assert said["error"]["what"] == "the journal was removed while the job ran"
    assert not out.exists()


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
        assert said["failed_tries"] == {"does not fit the schema": 2}
        (line,) = lines(tmp_path / "o.errors.jsonl")
        assert "the answer is no JSON" in line["error"]["message"]
        schema.write_text('{"type": "string"}')
        code, said, _ = run(capsys, *args)
    assert code == 2
    assert "check was" in said["error"]["evidence"][0]


def test_the_command_that_goes_on_has_no_key_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": "b"})
    monkeypatch.setattr("sys.argv", ["ropeway", "batch", "s3://KEYID:hunter2@bucket/in.jsonl"])
    with serving() as (url, _):
        stop = ["--max-cost", "1e-9", "--price", "1", "--url", url]
        assert exit_code(["batch", str(source), "-o", str(tmp_path / "o"), *stop]) == 1
    said = "".join(capsys.readouterr())
    assert "the same command goes on" in said
    assert "hunter2" not in said


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


def test_a_model_that_is_listed_and_not_there_yet_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests(tmp_path / "in.jsonl", 40)
    with serving() as (url, endpoint):
        usual, early = endpoint.take, []

        def take(connection, head: bytes, body: bytes) -> None:
            if head.startswith(b"GET") or len(early) >= 12:
                usual(connection, head, body)
                return
            early.append(body)
            connection.write(404, b'{"error":{"message":"The model `fake` does not exist."}}')

        endpoint.take = take  # type: ignore[method-assign]
        code, said, _ = run(
            capsys, tmp_path / "in.jsonl", "-o", tmp_path / "o", "--url", url, "--tries", "1"
        )
    assert (code, said["failed_tries"]) == (0, {"status 404": 12})


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


def test_what_was_left_out_is_looked_at_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, str]] = [{"prompt": "a"}, {"prompt": "b", "image": "p.png"}, {"other": ""}]
    source, out = columns(tmp_path / "in.jsonl", *rows), tmp_path / "o"
    with serving() as (url, endpoint):
        args = (source, "-o", out, "--skip-bad", "--url", url)
        assert run(capsys, *args)[1]["outcomes"]["skipped"] == 2
        (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        assert run(capsys, *args)[1]["outcomes"]["skipped"] == 2
        code, said, _ = run(capsys, *args, "--retry-errors")
        assert (code, endpoint.requests) == (1, 2)
    assert (said["outcomes"]["answered"], said["outcomes"]["skipped"]) == (2, 1)
    assert said["generated_again"] == 0
    assert list(texts(out)) == ["row-0", "row-1"]
    assert [row["custom_id"] for row in lines(tmp_path / "o.errors.jsonl")] == ["row-2"]


def test_a_job_that_is_ended_before_rows_are_sent_leaves_nothing(tmp_path: Path) -> None:
    with serving() as (url, _):
        argv = [sys.executable, "-m", "ropeway", "batch", "-", "-o", str(tmp_path / "o")]
        child = subprocess.Popen([*argv, "--url", url], stdin=subprocess.PIPE)
        while not list(tmp_path.glob("o.journal/input-0.*")):
            time.sleep(0.01)
        child.terminate()
        child.communicate(timeout=60)
    assert child.returncode == 130
    assert not list(tmp_path.iterdir())
