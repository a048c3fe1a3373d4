"""Whatever a server answers: one clear error that blames it, exit code 1, and no bug of ours."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certificates import self_signed
from json_documents import read_document
from raw_server import Answer, RawServer, document, events, head, raw_server
from ropeway.cli.main import exit_code

MODELS = document({"data": [{"id": "fake"}]})
DEEP = "[" * 100_000
HUGE = "1" + "0" * 4000
Captured = pytest.CaptureFixture[str]
Answers = dict[str, Answer]
VERBS = {
    "chat": ("chat", "-p", "hi"),
    "chat json": ("chat", "-p", "hi", "--json"),
    "bench": ("bench", "--requests", "3", "--clients", "2", "--warmup", "0"),
}


def piece(text: Any = "hello", finish: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}], **more}


def usage(tokens: str) -> str:
    return f'{{"choices": [], "usage": {{"completion_tokens": {tokens}}}}}'


def answering(answers: Answers) -> Callable[[str], Answer]:
    """`answers` by the end of the path; `models` lists one model."""
    return lambda path: ({"models": MODELS} | answers).get(
        path.rpartition("/")[2], (head("404 Not Found"),)
    )


def run(verb: str, server: RawServer, folder: Path) -> int:
    out = ("--out", str(folder / "run")) if verb == "bench" else ()
    return exit_code([*VERBS[verb], "--url", server.url, *out])


@pytest.fixture(autouse=True)
def no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Path("/dev/null").open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield


def endless(start: bytes, piece: bytes) -> Answer:
    """64 MiB, which is more than we take of anything."""
    return (start, *itertools.repeat(piece * (2**20 // len(piece)), 64))


FAULTS = {
    "an event that is too deep": ({"completions": events(DEEP)}, "brackets are more than"),
    "an error event that is too deep": (
        {"completions": events('{"error": ' + DEEP)}, "is not an event"),
    "a refusal that is too deep": (
        {"completions": (head("400 Bad Request"), DEEP.encode())}, "refuses the request"),
    "models that are too deep": ({"models": document(DEEP)}, "something that is not a list"),
    "a count of 4,000 digits": ({"completions": events(piece(), usage(HUGE))}, "than 40 digits"),
    "a count of 30 digits": (
        {"completions": events(piece(), usage("1" * 30))}, "`completion_tokens` in"),
    "a count below 0": ({"completions": events(piece(), usage("-5"))}, "`completion_tokens` in"),
    "a count that is NaN": ({"completions": events(piece(), usage("NaN"))}, "is `NaN`"),
    "a count that is infinite": ({"completions": events(piece(), usage("1e999"))}, "is `Infinity`"),
    "a count with a fraction": ({"completions": events(piece(), usage("1.5"))}, "is `1.5`"),
    "a count that is a text": ({"completions": events(piece(), usage('"9"'))}, '`"9"`'),
    "a count that is true": ({"completions": events(piece(), usage("true"))}, "is `true`"),
    "choices that are no list": ({"completions": events({"choices": 5})}, "`choices` in"),
    "models without an end": (
        {"models": endless(head(), b'{"data": [],')}, "answers with more than 16.0 MiB"),
    "an answer without an end": (
        {"completions": endless(head(), b" ")}, "answers with more than 16.0 MiB"),
    "a line without an end": (
        {"completions": endless(head(kind="text/event-stream"), b"data: ")}, "longer than 4.0 MiB"),
    "an event without an end": (
        {"completions": endless(head(kind="text/event-stream"), b"data: " + b"x" * 99 + b"\n")},
        "longer than 4.0 MiB"),
    "a compressed answer": (
        {"completions": endless(head(Content_Encoding="gzip"), b"\x1f\x8b")}, "compresses its"),
    "a compressed stream": (
        {"completions": endless(head(kind="text/event-stream", Content_Encoding="br"), b"x")},
        "compresses its"),
    "a redirect elsewhere": (
        {"completions": (head("307 Temporary Redirect", Location="http://127.0.0.2:1/v1"),)},
        "redirects to `http://127.0.0.2:1/v1` (307)"),
    "a redirect to TLS": (
        {"models": (head("301 Moved", Location="https://h/v1/models"),)}, "`https://h/v1/models`"),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", FAULTS)
def test_a_hostile_answer_is_one_error_that_blames_the_server(
    name: str, verb: str, tmp_path: Path, capsys: Captured
) -> None:
    answers, words = FAULTS[name]
    with raw_server(answering(answers)) as server:
        assert run(verb, server, tmp_path) == 1
    said = capsys.readouterr().err
    assert words in " ".join(said.split())
    assert "bug in Ropeway" not in said


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("path", ["models", "completions"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 There"])
def test_where_a_server_redirects_to_nothing_is_sent(
    status: str, path: str, verb: str, tmp_path: Path, capsys: Captured
) -> None:
    with raw_server(answering({"completions": events(piece("evil", "stop"))})) as other:
        redirect = (head(status, Location=f"{other.url}/{path}"),)
        with raw_server(answering({path: redirect})) as server:
            assert run(verb, server, tmp_path) == 1
    assert other.paths == []
    assert f"redirects to `{other.url}/{path}`" in " ".join(capsys.readouterr().err.split())


def test_no_compression_is_asked_for(tmp_path: Path) -> None:
    with raw_server(answering({"completions": events(piece("hi", "stop"))})) as server:
        assert run("chat", server, tmp_path) == 0
    assert {head["Accept-Encoding"] for head in server.heads} == {"identity"}


def test_an_answer_without_an_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("ropeway.endpoint.stream.LONGEST_ANSWER", 1000)
    with raw_server(answering({"completions": events(*[piece("x" * 99)] * 30)})) as server:
        assert run("chat", server, tmp_path) == 1
    said = capsys.readouterr().err
    assert "the stream broke after 8 tokens" in said
    assert "longer than any model's" in said


def test_counts_that_fall_give_no_tokens_back(tmp_path: Path, capsys: Captured) -> None:
    falling = [piece(usage={"completion_tokens": count}) for count in (9, 4)]
    with raw_server(answering({"completions": events(*falling, piece("", "stop"))})) as server:
        assert run("chat json", server, tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["output_tokens"] == 4


def test_a_tokenizer_that_counts_differently_each_time_is_not_believed(tmp_path: Path) -> None:
    counts = itertools.count(1)

    def answer(path: str) -> Answer:
        if path == "/tokenize":
            return document({"count": next(counts)})
        return answering({"completions": events(piece("hi", "stop"))})(path)

    with raw_server(answer) as server:
        assert run("bench", server, tmp_path) == 0
    conditions = json.loads((tmp_path / "run" / "conditions.json").read_text())
    assert "about 128 tokens" in conditions["load"]["prompts"]


def test_a_list_of_very_many_models_is_shown_in_part(tmp_path: Path, capsys: Captured) -> None:
    rows = [{"id": f"model-{number}"} for number in range(5000)] + [{"id": "x" * 10**6}]
    with raw_server(answering({"models": document({"data": rows})})) as server:
        run("chat", server, tmp_path)
    said = capsys.readouterr().err
    assert "model-29" in said
    assert len(said) < 2000


@pytest.mark.real_time
def test_an_answer_that_comes_too_slowly_is_given_up(capsys: Captured) -> None:
    def drip() -> Iterator[bytes]:
        yield head()
        for _ in range(200):
            time.sleep(0.05)
            yield b" "

    with raw_server(answering({"completions": drip()})) as server:
        assert exit_code([*VERBS["chat"], "--url", server.url, "--timeout", "2"]) == 1
    assert "the answer was not complete within 2 s" in capsys.readouterr().err


def test_a_certificate_that_nobody_signed_is_refused_with_the_way_to_trust_it(
    tmp_path: Path, capsys: Captured
) -> None:
    context, certificate = self_signed(tmp_path, "IP:127.0.0.1")
    with raw_server(answering({"completions": events(piece("hi", "stop"))})) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = ("--url", server.url.replace("http", "https"))
        assert exit_code(["chat", "-p", "hi", *url]) == 1
        said = capsys.readouterr().err
        assert "its certificate is not trusted: self-signed certificate" in said
        assert "`export SSL_CERT_FILE=ca.pem`" in said
        assert server.paths == []
        trusting = subprocess.run(
            [sys.executable, "-m", "ropeway", "chat", "-p", "hi", *url],
            env={**os.environ, "SSL_CERT_FILE": str(certificate)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert trusting.stdout == "hi\n"


LEAVES = st.one_of(
    st.sampled_from(
        ("null", "true", "[]", "{}", '""', "-1", "1e999", "-1e400", "NaN", "-Infinity", "1.5", HUGE,
         "1" * 5000, "1" * 41, "9" * 40, DEEP, '{"a":' * 2000, '"\\ud800"', '"\\udc00\\ud800"',
         '"\\u202e\\u0085"', "[" * 99 + "]" * 99, "nonsense", "", '"\x00"', "'x'")
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
)  # fmt: skip


def like(sample: Any) -> st.SearchStrategy[str]:
    """JSON texts of the sample's shape, with parts missing, and others in the place of some."""
    if isinstance(sample, dict):
        whole = st.fixed_dictionaries({}, optional={k: like(v) for k, v in sample.items()}).map(
            lambda parts: "{" + ", ".join(f'"{key}": {text}' for key, text in parts.items()) + "}"
        )
        return st.one_of(whole, whole, whole, LEAVES)
    if isinstance(sample, list):
        return (
            st.lists(like(sample[0]), max_size=2).map(lambda parts: f"[{', '.join(parts)}]")
            | LEAVES
        )
    return st.just(json.dumps(sample)) | LEAVES


MODEL_LISTS = like({"data": [{"id": "fake", "max_model_len": 4096, "owned_by": "vllm"}]})
COUNTS = like({"count": 9})
EVENTS = like(
    {
        "choices": [
            {"delta": {"content": "a", "reasoning": "b", "role": "c"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9},
        "error": {"message": "no", "code": 400},
        "object": "chat.completion.chunk",
    }
)
STREAMS = st.lists(EVENTS, max_size=4).map(lambda texts: events(*texts))
STATUS = st.sampled_from(("200 OK", "204 No", "302 Found", "400 Bad", "401 No", "404 No", "500 No"))
REFUSALS = st.builds(lambda status, text: (head(status), text.encode()), STATUS, EVENTS)
NOISE = st.binary(max_size=200).map(lambda data: (data,)) | st.binary(max_size=99).map(
    lambda data: (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n", data)
)


@pytest.mark.parametrize("verb", VERBS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(models=MODEL_LISTS.map(document) | st.just(MODELS), count=COUNTS.map(document),
       answer=STREAMS | STREAMS | REFUSALS | NOISE)  # fmt: skip
def test_no_answer_of_a_server_is_a_bug_of_ours(
    models: Answer, count: Answer, answer: Answer, verb: str, capsys: Captured
) -> None:
    answers = {"models": models, "tokenize": count, "completions": answer}
    with raw_server(answering(answers)) as server, tempfile.TemporaryDirectory() as folder:
        code = run(verb, server, Path(folder))
    said = capsys.readouterr()
    assert code in (0, 1, 2), said.err
    if verb == "chat json":
        read_document(said.out)
