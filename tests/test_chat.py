"""The conversation, and the command's two streams."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_endpoint import Behaviour, running

from json_documents import read_document
from ropeway.cli.chat import chat
from ropeway.cli.main import exit_code
from ropeway.endpoint.chat import Conversation, image_type, read_image
from ropeway.endpoint.failures import RequestFailed
from ropeway.errors import Refused
from waiting import SECONDS

FAST = Behaviour(ttft_s=0, tpot_s=0.001, answer_tokens=4)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8


def run(url: str, *args: str, stdin: str | bytes = "") -> Result:
    wide = {"COLUMNS": "200"}  # so that no line of the conversation is wrapped
    return CliRunner().invoke(chat, ["--url", url, *args], input=stdin, env=wide)


@pytest.fixture
def no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is piped in."""
    with Path(os.devnull).open(encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        yield


def test_a_conversation_grows_and_the_old_one_stays_as_it_was() -> None:
    start = Conversation("be brief")
    grown = start.with_question("one?").with_answer("1").with_question("two?")
    assert start.turns == ()
    assert [message["role"] for message in grown.messages] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    assert grown.without_turns() == start
    assert grown.with_system("").messages[0]["content"] == "one?"


@pytest.mark.parametrize(
    ("data", "mime"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"GIF89a", "image/gif"),
        (b"BM6", "image/bmp"),
        (b"<svg>", None),
        (b"", None),
    ],
)
def test_an_image_is_known_by_its_first_bytes(data: bytes, mime: str | None) -> None:
    assert image_type(data) == mime


def test_a_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "cat.png"
    text.write_text("not a cat")
    with pytest.raises(Refused) as caught:
        read_image(text)
    assert caught.value.evidence == ("it begins with the bytes `6e 6f 74 20 61 20 63 61`",)


@pytest.mark.parametrize("path", ["/dev/zero", "pipe", "large"])
def test_an_image_that_does_not_end_is_refused(path: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(Refused, match=r"not a regular file|longer than"):
        read_image(tmp_path / path)


def test_a_question_that_does_not_end_is_refused() -> None:
    with Path("/dev/zero").open("rb") as endless:
        result = subprocess.run(
            [sys.executable, "-m", "ropeway", "chat", "--url", "127.0.0.1:9"],
            stdin=endless, capture_output=True, text=True, check=False, timeout=SECONDS,
        )  # fmt: skip
    assert result.returncode == 2
    assert "error: standard input is longer than 64.0 MiB" in result.stderr


def test_one_answer_goes_to_standard_output_and_the_figures_to_standard_error() -> None:
    with running(Behaviour(ttft_s=0.3, tpot_s=0.02, answer_tokens=4)) as fake:
        result = run(fake.url, "-p", "hello")
    assert (result.exit_code, result.stdout) == (0, "The lift goes up\n")
    figures = re.fullmatch(r"TTFT (\S+) s · (\S+) tokens/s · 4 tokens\n", result.stderr)
    assert figures
    assert float(figures[1]) >= 0.29
    assert float(figures[2]) > 0


def test_reasoning_is_shown_apart_from_the_answer_or_quietly_left_out() -> None:
    with running(Behaviour(ttft_s=0, tpot_s=0, answer_tokens=2, reasoning=("缆", "车？"))) as fake:
        result = run(fake.url, "-p", "hello")
        quiet = run(fake.url, "-q", "-p", "hello")
    assert (quiet.stdout, quiet.stderr) == ("The lift\n", "")
    assert result.stdout == "The lift\n"
    assert result.stderr.startswith("── thinking ──\n缆车？\n── end of thinking ──\n")


def test_an_answer_cut_while_still_thinking_closes_its_mark() -> None:
    with running(Behaviour(ttft_s=0, tpot_s=0, reasoning=("a", "b", "c"))) as fake:
        result = run(fake.url, "-p", "hello", "--max-tokens", "2")
    assert result.stdout == ""
    assert "── thinking ──\nab\n── end of thinking ──\n" in result.stderr
    assert "2 tokens · truncated at the token limit" in result.stderr


def test_piped_text_follows_the_prompt() -> None:
    with running(FAST) as fake:
        run(fake.url, "-p", "summarise", "--system", "be brief", stdin="一\ntwo\n")
        run(fake.url, stdin="only this")
    both, alone = (body["messages"] for body in fake.requests)
    assert both == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "summarise\n\n一\ntwo"},
    ]
    assert alone == [{"role": "user", "content": "only this"}]


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        ([], b"", "there is nothing to ask"),
        ([], "你好".encode("gbk"), "standard input is not UTF-8 text (byte 0xc4 at 0)"),
        (["-i", "--json"], b"", "`--json`"),
        (["-p", "x", "--image", "/no/such.png"], b"", "cannot read the image: no such file"),
    ],
)
def test_what_cannot_be_asked_is_refused(args: list[str], stdin: bytes, words: str) -> None:
    with running(FAST) as fake:
        result = run(fake.url, *args, stdin=stdin)
    assert isinstance(result.exception, Refused)
    assert result.exception.what.startswith(words)
    assert fake.requests == []


@pytest.mark.usefixtures("no_input")
def test_json_is_one_document_with_everything_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Behaviour(ttft_s=0.05, tpot_s=0.01, answer_tokens=3, reasoning=("hm",))) as fake:
        assert exit_code(["chat", "--url", fake.url, "-p", "hello", "--json"]) == 0
    out, err = capsys.readouterr()
    document: dict[str, Any] = read_document(out)
    assert err == ""
    assert document.pop("ttft_s") >= 0.05
    assert document.pop("e2e_s") >= 0.07
    assert document.pop("decode_tokens_per_s") > 0
    assert document == {
        "schema": 1,
        "verb": "chat",
        "ok": True,
        "rehearsal": False,
        "error": None,
        "warnings": [],
        "url": fake.url,
        "model": "fake",
        "answer": "The lift goes",
        "reasoning": "hm",
        "finish_reason": "stop",
        "input_tokens": 5,
        "output_tokens": 4,
    }


@pytest.mark.usefixtures("no_input")
def test_a_broken_stream_shows_what_came_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with running(Behaviour(ttft_s=0, tpot_s=0.01, fault="cut", fault_after=2)) as fake:
        ask = ["chat", "--url", fake.url, "-p", "hello"]
        assert exit_code(ask) == 1
        out, err = capsys.readouterr()
        assert out == "The lift\n"
        assert "error: the stream broke after 2 tokens" in err
        assert exit_code([*ask, "--json"]) == 1
    document = read_document(capsys.readouterr().out)
    assert (document["ok"], document["answer"]) == (False, "The lift")
    assert document["error"]["what"] == "the stream broke after 2 tokens"


def test_flags_reach_the_request(tmp_path: Path) -> None:
    picture = tmp_path / "cat"
    picture.write_bytes(PNG)
    with running(Behaviour(models=("a", "b"), ttft_s=0, tpot_s=0)) as fake:
        args = ("--model", "b", "--max-tokens", "2", "--image", str(picture), "-p", "what?")
        result = run(fake.url, *args)
    (body,) = fake.requests
    assert result.stderr.endswith("2 tokens · truncated at the token limit\n")
    assert (body["model"], body["max_tokens"]) == ("b", 2)
    assert "temperature" not in body  # then the server takes what the model's authors advise
    image, text = body["messages"][0]["content"]
    assert image["type"] == "image_url"
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")
    assert text == {"type": "text", "text": "what?"}


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running(Behaviour(ttft_s=0, tpot_s=0, key="sesame")) as fake:
        assert run(fake.url, "--key-env", "MY_KEY", "-p", "hi").exit_code == 0
        refused = run(fake.url, "-p", "hi")
    assert isinstance(refused.exception, RequestFailed)
    assert "OPENAI_API_KEY" in (refused.exception.hint or "")


def test_of_several_models_the_first_is_taken_and_named() -> None:
    with running(Behaviour(models=("a", "b"), ttft_s=0, tpot_s=0)) as fake:
        result = run(fake.url, "-p", "hi")
    assert result.stderr.startswith("model a (of a, b)\n")


def test_an_answer_arrives_byte_for_byte_but_for_terminal_escapes() -> None:
    pieces = ("if x:\n", "\treturn ", "\x1b[31m1  \n", "\n")
    with running(Behaviour(ttft_s=0, tpot_s=0, answer=pieces, answer_tokens=4)) as fake:
        assert run(fake.url, "-p", "code").stdout == "if x:\n\treturn 1  \n\n"


def test_a_conversation_remembers_clears_and_leaves() -> None:
    lines = "one?\n/system be brief\ntwo?\n\n/clear\nthree?\n/nonsense\n/exit\nnot asked\n"
    with running(FAST) as fake:
        result = run(fake.url, "-i", stdin=lines)
    sent = [[message["content"] for message in body["messages"]] for body in fake.requests]
    assert sent == [
        ["one?"],
        ["be brief", "one?", "The lift goes up", "two?"],
        ["be brief", "three?"],
    ]
    assert result.exit_code == 0
    assert result.stdout == "The lift goes up\n" * 3
    remarks = [line for line in result.stderr.splitlines() if "TTFT" not in line]
    assert remarks[1:3] == ["system prompt set", "cleared"]
    assert all(word in remarks[3] for word in ("/nonsense", "/clear", "/system", "/exit"))


@pytest.mark.parametrize(
    ("fault", "error", "kept"),
    [
        ("cut", "the stream broke after 3 tokens", ["two?", "The lift goes"]),
        ("error", "the server failed with 500", []),
    ],
)
def test_a_failed_answer_does_not_end_the_conversation(
    fault: Any, error: str, kept: list[str]
) -> None:
    """Of a question that got no answer nothing is kept."""
    with running(replace(FAST, fault=fault, fault_every=2)) as fake:
        result = run(fake.url, "-i", stdin="one?\ntwo?\nthree?\n")
    assert result.exit_code == 0
    assert f"error: {error}" in result.stderr
    sent = [message["content"] for message in fake.requests[2]["messages"]]
    assert sent == ["one?", "The lift goes up", *kept, "three?"]


def test_on_a_terminal_ctrl_c_stops_the_answer_and_keeps_the_conversation() -> None:
    behaviour = Behaviour(ttft_s=0, tpot_s=0.1, answer=("车\x1b]0;x\x07",), answer_tokens=600)
    with running(behaviour) as fake:
        leader, follower = pty.openpty()
        code = (  # a shell's background jobs ignore SIGINT, and so would their children
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            f"from ropeway.cli.chat import chat; chat(['--url', '{fake.url}'])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=follower, stdout=follower, stderr=follower,
            env=os.environ | {"TERM": "dumb", "PYTHONUTF8": "1"},
        )  # fmt: skip
        os.close(follower)
        try:
            terminal = _Terminal(leader)
            terminal.wait_for("> ")
            terminal.type("你好\n")
            terminal.wait_for("车车")
            process.send_signal(signal.SIGINT)
            terminal.wait_for("the conversation is kept")
            terminal.wait_for("> ")
            terminal.type("more?\n")
            terminal.wait_for("车")
            process.send_signal(signal.SIGINT)
            terminal.wait_for("> ")
            terminal.type("\x04")
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            os.close(leader)
    first, answer, second = (message["content"] for message in fake.requests[1]["messages"])
    assert (first, second) == ("你好", "more?")
    assert answer.startswith("车")
    assert "\x1b]0;" not in terminal.shown, "a model must not steer the terminal"


class _Terminal:
    """The other end of the process's terminal: everything it showed, read once."""

    def __init__(self, leader: int) -> None:
        self._leader = leader
        self._unread = b""
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def wait_for(self, text: str, limit: float = SECONDS) -> None:
        """Read on, up to and with this text."""
        expected, end = text.encode(), time.monotonic() + limit
        while expected not in self._unread:
            ready, _, _ = select.select([self._leader], [], [], max(0, end - time.monotonic()))
            assert ready, f"waited for {text!r}, saw {self._unread!r}"
            self._unread += os.read(self._leader, 4096)
        before, _, self._unread = self._unread.partition(expected)
        self.shown += (before + expected).decode(errors="replace")
