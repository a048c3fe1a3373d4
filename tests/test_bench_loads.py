"""`ropeway bench` with loads of every kind: what reaches the server, what is said of it."""

import csv
import gzip
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from json_documents import read_document
from ropeway.bench.workloads.pictures import picture
from ropeway.cli.main import exit_code

FAST = Behaviour(ttft_s=0.01, tpot_s=0.001)
SMALL = ("--clients", "4", "--output-tokens", "8", "--warmup", "0")

Captured = pytest.CaptureFixture[str]
Run = Callable[..., tuple[Any, FakeEndpoint]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Run:
    """Measure an endpoint in an empty folder; return the document and what the endpoint got."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, behaviour: Behaviour = FAST, code: int = 0) -> tuple[Any, FakeEndpoint]:
        with running(behaviour) as fake:
            assert exit_code(["bench", "--url", fake.url, *SMALL, *args, "--json"]) == code
        document = read_document(capsys.readouterr().out)
        if document["error"] is None or "summary" in document:
            fake.requests = fake.requests[1:]  # the one that asks whether it answers
        return document, fake

    return run


def contents(fake: FakeEndpoint) -> list[Any]:
    return [body["messages"][-1]["content"] for body in fake.requests]


def words(text: str) -> int:
    """As the endpoint counts, without the template."""
    return sum(1 if len(word) <= 8 else 2 for word in text.split())


# Random prompts


def test_lengths_of_prompts_and_answers_may_be_random(bench: Run) -> None:
    document, fake = bench(
        "--requests", "30", "--input-tokens", "20-40", "--output-tokens", "3-9", "--processes", "2"
    )
    assert document["load"]["input_range"] == [20, 40]
    assert (document["load"]["input_tokens"], document["load"]["output_tokens"]) == (30, 6)
    lengths = {words(text) + 4 for text in contents(fake)}
    assert lengths <= set(range(20, 41))
    assert len(lengths) > 8
    answers = sum(body["max_tokens"] for body in fake.requests)
    assert document["summary"]["output_tokens"] == answers != 30 * 6
    assert len(fake.requests) == 30


def test_a_table_says_lengths_arrivals_and_hits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    args = ("--requests", "4", "--input-tokens", "20-60", "--rate", "50", "--arrivals", "burst:2")
    with running(replace(FAST, cached=10)) as fake:
        assert exit_code(["bench", "--url", fake.url, *SMALL, *args]) == 0
    out = capsys.readouterr().out
    assert "20 to 60 tokens in, 8 out · 4 clients, 50.0 requests a second (burst:2) · 4" in out
    told = json.loads(next(tmp_path.glob("runs/*/summary.json")).read_text())
    assert told["cached_share"] == pytest.approx(40 / told["input_tokens"])
    assert f"cached    {told['cached_share']:.0%} of the prompts' tokens, as the server says" in out


def test_a_server_that_says_nothing_of_its_cache_is_not_one_that_had_none(bench: Run) -> None:
    silent, _ = bench("--requests", "4", "--out", "silent")
    empty, _ = bench("--requests", "4", "--out", "empty", behaviour=replace(FAST, cached=0))
    assert silent["summary"]["cached_share"] is None
    assert empty["summary"]["cached_share"] == 0


def test_shared_beginnings_come_on_top_of_the_length(bench: Run) -> None:
    document, fake = bench(
        "--requests", "12", "--prefixes", "2", "--prefix-tokens", "50", "--input-tokens", "20"
    )
    assert document["load"]["input_tokens"] == 20
    assert document["summary"]["input_tokens"] == 12 * 70
    assert len({" ".join(text.split()[:20]) for text in contents(fake)}) == 2


def test_conversations_ask_as_many_questions_as_requests_are_wanted(bench: Run) -> None:
    document, fake = bench("--turns", "3", "--requests", "11", "--rate", "300", "--processes", "2")
    assert document["summary"]["completed"] == 11
    lengths = sorted(len(body["messages"]) for body in fake.requests)
    assert lengths == [1] * 4 + [3] * 4 + [5] * 3
    longest = max(fake.requests, key=lambda body: len(body["messages"]))
    said = [message["content"] for message in longest["messages"][1::2]]
    assert said == ["The lift goes up the hill and comes"] * 2
    assert document["load"]["prompts"].endswith("; conversations of 3 questions")


def test_by_default_each_client_has_two_conversations(bench: Run) -> None:
    document, _ = bench("--turns", "3")
    assert document["load"]["requests"] == document["summary"]["completed"] == 4 * 2 * 3


def test_a_question_that_fails_ends_its_conversation(bench: Run) -> None:
    behaviour = replace(FAST, fault="error", fault_every=3)
    document, fake = bench("--turns", "4", "--clients", "1", "--requests", "8", code=1,
                           behaviour=behaviour)  # fmt: skip
    # The first request is the one that asks whether it answers: the second question fails.
    assert [len(body["messages"]) for body in fake.requests] == [1, 3, 1, 3, 5]
    assert document["summary"]["errors"] == {"server error": 2}


def test_an_answer_without_text_ends_no_conversation(bench: Run) -> None:
    document, fake = bench(
        "--turns", "2", "--requests", "8", behaviour=replace(FAST, reasoning=("think ",) * 50)
    )
    assert document["summary"]["completed"] == 8
    assert fake.requests[-1]["messages"][1] == {"role": "assistant", "content": ""}


def test_pictures_are_sent_with_each_prompt(bench: Run) -> None:
    document, fake = bench("--requests", "6", "--images", "2", "--image-size", "64x48")
    urls = [part["image_url"]["url"] for content in contents(fake) for part in content[:2]]
    assert len(set(urls)) == 12
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    assert all(content[2]["type"] == "text" for content in contents(fake))
    assert document["load"]["image_size"] == [64, 48]


# When


def timings(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("runs/*/timings.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_duration_ends_when_what_was_begun_in_it_has_ended(bench: Run, tmp_path: Path) -> None:
    document, fake = bench(
        "--duration", "1", "--turns", "50", behaviour=Behaviour(ttft_s=0.4, tpot_s=0)
    )
    assert document["ended"] == "complete"
    assert document["summary"]["unfinished"] == 0
    sent = timings(tmp_path)
    assert len(sent) == document["summary"]["completed"] == len(fake.requests) >= 4
    assert max(one["sent"] for one in sent) < 1 < max(one["ended"] for one in sent)
    assert (document["load"]["requests"], document["load"]["duration_s"]) == (0, 1)


def test_what_is_due_after_the_duration_is_not_sent(bench: Run, tmp_path: Path) -> None:
    document, _ = bench("--duration", "0.5", "--rate", "20", "--arrivals", "constant")
    sent = timings(tmp_path)
    assert 1 <= len(sent) == document["summary"]["completed"] <= 10
    assert max(one["due"] for one in sent) < 0.5
    assert max(one["sent"] for one in sent) < 0.5


def test_requests_come_as_a_trace_says(bench: Run, tmp_path: Path) -> None:
    (tmp_path / "times").write_text("10\n10\n10.3\n10.6\n")
    document, _ = bench("--arrivals", "trace:times")
    assert sorted(one["due"] for one in timings(tmp_path)) == [0, 0, 0.3, 0.6]
    assert document["load"]["requests"] == 4
    assert document["summary"]["due_ttft_s"] is not None, "an open loop"


def test_what_is_typed_goes_before_what_the_spec_says_of_the_same(
    bench: Run, tmp_path: Path
) -> None:
    (tmp_path / "my.yaml").write_text(
        "cluster: {local: {}}\nmodel: {name: smollm2}\nworkload: {rate: 1, requests: 500}\n"
    )
    (tmp_path / "times").write_text("0\n0.1\n")
    spec = ("-c", "my.yaml")
    traced, _ = bench(*spec, "--arrivals", "trace:times", "--out", "traced")
    assert (traced["load"]["rate"], traced["load"]["requests"]) == (None, 2)
    timed, _ = bench(*spec, "--rate", "50", "--duration", "0.3", "--out", "timed")
    assert (timed["load"]["rate"], timed["load"]["requests"]) == (50, 0)
    few, _ = bench(*spec, "--rate", "200", "--out", "few")
    assert few["load"]["requests"] == 2 * 4, "of the clients that were typed"


# Prompts of the user's own


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def request(body: Mapping[str, Any], url: str = "/v1/chat/completions") -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body}


def in_words(body: Mapping[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)


MESSAGES = [{"role": "system", "content": "be short"}, {"role": "user", "content": "缆车?"}]


def test_bodies_are_sent_as_they_are_but_for_the_stream_and_the_model(
    bench: Run, tmp_path: Path
) -> None:
    bodies: list[dict[str, Any]] = [
        {"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 3, "top_p": 0.25, "stream": True},
        {"model": "gpt-4o", "messages": MESSAGES, "max_completion_tokens": 5, "temperature": 1},
        {"messages": MESSAGES, "max_tokens": None},
    ]
    write(tmp_path / "p.jsonl", list(map(request, bodies)))
    document, fake = bench("--prompts", "p.jsonl", "--requests", "3")
    streamed = {"model": "fake", "stream": True, "stream_options": {"include_usage": True}}
    expected = [
        bodies[0] | streamed,
        bodies[1] | streamed,
        {"messages": MESSAGES, **streamed, "max_tokens": 8, "ignore_eos": True},
    ]
    assert sorted(fake.requests, key=in_words) == sorted(expected, key=in_words)
    load = document["load"]
    assert (load["files"], len(load["files_sha256"][0])) == (["p.jsonl"], 64)
    assert load["output_tokens"] == round((3 + 5 + 8) / 3)
    assert load["prompts"] == "3 rows of p.jsonl, in a random order"


def test_columns_become_prompts_by_a_template_from_a_packed_table(
    bench: Run, tmp_path: Path
) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt") as table:
        csv.writer(table).writerows([["id", "word"], *([n, f"w{n}"] for n in range(6))])
    args = ("--template", "Say {word}", "--set", "top_p=0.5", "--temperature", "0.7")
    document, fake = bench("--prompts", "t.csv.gz", "--requests", "6", *args)
    assert sorted(contents(fake)) == [f"Say w{n}" for n in range(6)]
    assert contents(fake) != sorted(contents(fake)), "in a random order"
    (first, *_) = fake.requests
    assert (first["top_p"], first["temperature"], first["max_tokens"]) == (0.5, 0.7, 8)
    assert (document["load"]["template"], document["load"]["settings"]) == (
        "Say {word}", ["top_p=0.5"],
    )  # fmt: skip


def test_several_files_are_one_set_of_prompts(bench: Run, tmp_path: Path) -> None:
    table = pyarrow.table({"prompt": ["a", "b"], "unused": [1, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "p.parquet")
    (tmp_path / "array.json").write_text(json.dumps([{"prompt": "c"}, {"prompt": "d"}], indent=1))
    document, fake = bench("--prompts", "p.parquet", "--prompts", "array.json", "--requests", "4")
    assert sorted(contents(fake)) == ["a", "b", "c", "d"]
    assert document["load"]["prompts"].startswith("4 rows of p.parquet, array.json, ")


def test_rows_are_repeated_only_when_there_are_too_few_and_it_is_said(
    bench: Run, tmp_path: Path
) -> None:
    write(tmp_path / "p.jsonl", [{"prompt": f"p{n}"} for n in range(6)])
    document, fake = bench(
        "--prompts", "p.jsonl", "--requests", "10", "--warmup", "2", "--processes", "3"
    )
    sent = contents(fake)
    assert max(sent.count(text) for text in sent) == 2, "12 requests of 6 rows"
    assert min(sent.count(text) for text in sent) == 2
    assert "each is sent 2.0 times" in document["load"]["prompts"]


def test_the_next_load_of_a_row_goes_on_in_the_file_whatever_their_sizes(
    bench: Run, tmp_path: Path
) -> None:
    write(tmp_path / "p.jsonl", [{"prompt": f"p{n}"} for n in range(120)])
    document, fake = bench("--prompts", "p.jsonl", "--clients", "6,1")
    sent = contents(fake)
    assert len(sent) == len(set(sent)) == sum(one["load"]["requests"] for one in document["rungs"])


def test_the_answers_of_conversations_are_as_long_as_in_the_file(
    bench: Run, tmp_path: Path
) -> None:
    talks = [
        {"id": str(n), "conversations": [{"from": "human", "value": f"question {n}"},
                                         {"from": "gpt", "value": "word " * (n + 1)}]}
        for n in range(5)
    ]  # fmt: skip
    talks.append({"id": "alone", "conversations": [{"from": "human", "value": "anyone?"}]})
    (tmp_path / "share.json").write_text(json.dumps(talks, indent=1))
    document, fake = bench("--prompts", "share.json", "--requests", "5")
    template = 4  # that the endpoint counts with every text
    assert {body["messages"][0]["content"]: body["max_tokens"] for body in fake.requests} == {
        f"question {n}": n + 1 + template for n in range(5)
    }
    assert all(body["ignore_eos"] for body in fake.requests)
    assert document["load"]["prompts"] == (
        "5 rows of share.json, in a random order; answers as long as in the file, by the server's"
        " tokenizer; 1 conversation left out: no answer in it, or too long"
    )
    write(tmp_path / "share.jsonl", talks)
    document, fake = bench(
        "--prompts", "share.jsonl", "--requests", "5", "--out", "again",
        behaviour=replace(FAST, tokenizer=False),
    )  # fmt: skip
    assert {body["max_tokens"] for body in fake.requests} == {len("word " * n) // 4 + 1
                                                              for n in range(1, 6)}  # fmt: skip
    assert "estimated from their bytes" in document["load"]["prompts"]


def test_pictures_of_a_table_are_read_once_and_sent(bench: Run, tmp_path: Path) -> None:
    png = picture("0", 2, 2)
    (tmp_path / "a.png").write_bytes(png)
    write(tmp_path / "p.jsonl", [{"prompt": "what?", "image": "a.png"}])
    _, fake = bench("--prompts", "p.jsonl", "--requests", "1")
    (image, text) = fake.requests[0]["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert text["text"] == "what?"


# What is refused


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("--duration", "3", "--requests", "4"), "`--duration`, `--requests` contradict"),
        (("--arrivals", "constant"), "`--arrivals constant` needs `--rate`"),
        (("--arrivals", "sometimes", "--rate", "1"), "`--arrivals sometimes` is no way"),
        (("--arrivals", "trace:times", "--rate", "1"), "a trace has times of its own"),
        (("--arrivals", "trace:times", "--requests", "3"), "the trace has 2 requests, and 3"),
        (("--arrivals", "trace:none"), "the trace cannot be read: no such file"),
        (("--prefixes", "2"), "shared beginnings need"),
        (("--prefix-tokens", "2"), "shared beginnings need"),
        (("--template", "{a}"), "`--template` is for prompts of your own"),
        (("--set", "a=1"), "`--set` is for prompts of your own"),
        (("--prompts", "good", "--turns", "2"), "`--turns` is for random prompts"),
        (("--prompts", "good", "--input-tokens", "9"), "`--input-tokens` is for random prompts"),
        (("--prompts", "good", "--set", "model=x"), "`--set model` would measure another"),
        (("--prompts", "-"), "prompts are not read from standard input"),
        (("--prompts", "none"), "there is no such file"),
        (("--prompts", "empty"), "the input is empty"),
        (("--prompts", "alone"), "no conversation has a question"),
        (("--prompts", "broken"), "the line cannot be read"),
        (("--prompts", "array"), "the array is damaged"),
        (("--prompts", "completions"), "sends chats, and this row asks for `/v1/completions`"),
        (("--prompts", "several"), "the row asks for several answers"),
        (("--prompts", "long"), "the prompt has about"),
        (("--turns", "100", "--input-tokens", "100"), "make 10,800"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_nothing_is(
    args: tuple[str, ...], what: str, bench: Run, tmp_path: Path
) -> None:
    (tmp_path / "times").write_text("1\n2\n")
    write(tmp_path / "good", [{"prompt": "hi"}])
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "broken").write_text('{"prompt": "hi"}\n{"prompt": \n')
    (tmp_path / "array").write_text('[{"prompt": "hi"}, ')
    write(tmp_path / "alone", [{"conversations": []}])
    write(tmp_path / "completions", [request({"prompt": "x"}, "/v1/completions")])
    write(tmp_path / "several", [request({"messages": MESSAGES, "n": 2})])
    write(tmp_path / "long", [{"prompt": "word " * 50_000}])
    document, fake = bench(*args, code=2)
    assert what in document["error"]["what"]
    assert fake.requests == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("hello world\n", "the line cannot be read: it is not JSON at byte 0"),
        ('{"prompt": \n', "the line cannot be read: it is JSON that ends too early"),
        ("3\n", "the line cannot be read: it is `int` in JSON, and no object"),
    ],
)
def test_prompts_in_another_format_are_refused_with_those_that_are_read(
    text: str, what: str, bench: Run, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "p.txt").write_text(text)
    document, _ = bench("--prompts", "p.txt", code=2)
    error = document["error"]
    assert (error["what"], error["where"]) == (what, "p.txt:1")
    assert error["hint"].startswith('prompts are read from JSON lines such as `{"prompt": "…"}`')
    with running(FAST) as fake:
        args = ["bench", "--url", fake.url, "--prompts", "p.txt", "--lang", "zh"]
        assert exit_code(args) == 2
    told = capsys.readouterr().err
    assert "无法解析该行：" in told
    assert "JSON is malformed" not in told


@pytest.mark.parametrize(
    "args", [("--input-tokens", "9-2"), ("--images", "99"), ("--image-size", "0x5"),
             ("--image-size", "9000x5"), ("--duration", "0")],
)  # fmt: skip
def test_what_is_no_value_is_a_wrong_command(args: tuple[str, ...], capsys: Captured) -> None:
    assert exit_code(["bench", *args]) == 2
    assert args[0] in capsys.readouterr().err
