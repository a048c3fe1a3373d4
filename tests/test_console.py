"""The terminal: what is written where, and what a person sees at the end."""

import json
import re
import sys
import threading
import unicodedata
from asyncio import CancelledError
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.cells import cell_len

from ropeway.errors import LaunchError
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.report.figures import milliseconds, percent, rate, seconds
from ropeway.report.line import live_line, printable, shrink, stage_line
from ropeway.report.table import pairs


class Terminal(StringIO):
    """A terminal one line high for each newline: it obeys return and erase-to-end-of-line."""

    encoding = "utf-8"

    def isatty(self):
        return True

    @property
    def visible(self):
        lines, column = [""], 0
        for piece in re.findall(r"\r|\n|\x1b\[K|[^\r\n\x1b]+", self.getvalue()):
            if piece == "\n":
                lines.append("")
                column = 0
            elif piece == "\r":
                column = 0
            elif piece == "\x1b[K":
                lines[-1] = lines[-1][:column]
            else:
                lines[-1] = lines[-1][:column] + piece + lines[-1][column + len(piece) :]
                column += len(piece)
        return "\n".join(lines)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def log(stream=StringIO, **flags):
    """A screen whose streams are files, those files, and its clock."""
    out, err, clock = stream(), stream(), Clock()
    given = {"width": 80, "color": "never"} | flags
    return Screen(stdout=out, stderr=err, clock=clock, **given), out, err, clock


def terminal(**flags):
    return log(Terminal, **flags)


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


# stdout is the answer, stderr is the conversation


WORDS = "counting\nhint: try `ropeway plan`\nwork …\nok    work  0.0 s\n"


@pytest.mark.parametrize(("quiet", "words"), [(False, WORDS), (True, "")])
def test_the_answer_goes_to_stdout_and_the_conversation_to_stderr(quiet, words):
    screen, out, err, _ = log(quiet=quiet)
    screen.say("counting")
    screen.hint("try `ropeway plan`")
    with screen.step("work"):
        pass
    screen.warn("slow")
    screen.error(LaunchError("it broke"))
    screen.answer("42")
    assert out.getvalue() == "42\n"
    assert err.getvalue() == f"{words}warning: slow\nerror: it broke\n"


def test_an_answer_is_never_wrapped_or_read_as_markup():
    screen, out, _, _ = log()
    screen.answer("[bold]" + "x" * 200 + ":smile:")
    assert out.getvalue() == "[bold]" + "x" * 200 + ":smile:\n"


def test_json_puts_one_document_on_stdout_and_nothing_else():
    screen, out, err, _ = log(json=True, verb="plan")
    screen.say("hello")
    screen.warn("slow")
    screen.answer("a table")
    screen.write("streamed")
    with screen.stages(["one"]) as stages, stages.stage("one"), screen.step("work") as step:
        step.update("half")
    screen.result({"layout": "TP2×PP2", "名": "模型"})
    assert out.getvalue() == ""
    screen.close(ok=True)
    assert json.loads(out.getvalue()) == {
        "schema": 1, "verb": "plan", "ok": True, "rehearsal": False, "error": None,
        "warnings": ["slow"],
        "layout": "TP2×PP2", "名": "模型",
    }  # fmt: skip
    assert err.getvalue() == "warning: slow\n"


def test_a_second_json_document_or_a_number_that_json_does_not_have_is_our_bug():
    screen, out, _, _ = log(json=True)
    with pytest.raises(ValueError, match="JSON"):
        screen.result({"ttft_s": float("nan")})
    assert out.getvalue() == ""
    screen.result({})
    with pytest.raises(RuntimeError, match="one JSON document"):
        screen.result({})


def test_details_show_only_when_asked_for():
    for verbose, shown in ((0, ""), (1, "ray start\n")):
        screen, _, err, _ = log(verbose=verbose)
        screen.detail("ray start")
        assert err.getvalue() == shown


def test_an_error_has_four_parts():
    screen, _, err, _ = log()
    screen.error(
        LaunchError(
            "the engine did not start (2 of 4 workers ended)",
            where="127.0.0.3",
            evidence=["worker 2: out of memory\nwanted 1.8 GiB", "worker 3: out of memory"],
            hint="free memory, or use fewer NPUs:\n`ropeway up --layout TP2`",
        )
    )
    assert err.getvalue() == (
        "error: the engine did not start (2 of 4 workers ended)\n"
        "  at 127.0.0.3\n"
        "  worker 2: out of memory\n"
        "  wanted 1.8 GiB\n"
        "  worker 3: out of memory\n"
        "\n"
        "hint: free memory, or use fewer NPUs:\n"
        "      `ropeway up --layout TP2`\n"
    )


@pytest.mark.parametrize("command", ["`ropeway up {}`", "ssh -p 22 {}", "try: docker pull {}"])
def test_on_a_terminal_prose_is_wrapped_between_words_and_a_command_is_not(command):
    screen, _, err, _ = terminal()
    command = command.format("--set engine.flag=value " * 12)
    prose = "one word after another " * 9
    screen.error(LaunchError(prose, evidence=[prose], hint=f"{prose}\n{command}\n{prose}"))
    shown = err.getvalue()
    assert command.removeprefix("try: ") in shown
    assert max(len(line) for line in shown.splitlines() if "--set" not in line) <= 80
    assert shown.split() == f"error: {prose * 2} hint: {prose} {command} {prose}".split()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("wide", range(60, 90))
def test_no_address_or_command_is_broken_at_the_edge(wide, language):
    """Neither in prose nor in Chinese, which has no spaces to break at."""
    address, command = "http://192.168.0.1:8000/v1", "ssh -l root 192.168.0.1 true"
    screen, _, err, _ = terminal(width=wide, language=language)
    kept = phrase(
        "a rehearsal, nothing real: {title}; {url} answers for it", title="qwen3", url=address
    )
    screen.say(kept)
    screen.warn(kept)
    tried = phrase("is it up, and are you in its network (VPN)? try: {ssh} true", ssh=command[:-5])
    screen.hint(tried)
    screen.error(LaunchError(kept, hint=tried))
    with screen.step(kept) as step:
        step.ok(kept)
    lines = err.visible.splitlines()
    assert max(map(cell_len, lines)) <= wide
    shown = "\n".join(lines)
    assert (shown.count(address), shown.count(command)) == (5, 2)


def test_outside_text_cannot_steer_the_terminal():
    screen, out, err, _ = terminal()
    evil = "\x1b]0;title\x07\x1b[2Jred \x1b[31mtext\x1b[0m\b\r\x9b2K中"
    screen.answer(evil)
    screen.write(evil + "\n")
    screen.answer(pairs([("dtype", evil)]))
    screen.error(LaunchError(evil, evidence=[evil]))
    assert "\x1b" not in out.getvalue() + err.getvalue()
    assert out.getvalue() == "red text2K中\nred text2K中\ndtype  0;titlered text2K中\n"
    assert printable("a\tb\nc") == "a\tb\nc"


UNSEEN = "\x7f\x85\x9b\xad\u061c\u200b\u200e\u202e\u2066\u2028\u2060\u3164\ufeff\ufff9\U000e0041"


def test_what_cannot_be_seen_is_not_written():
    screen, out, err, _ = terminal()
    screen.answer(f"a{UNSEEN}b")
    screen.write(UNSEEN.join("cd\n"))
    screen.error(LaunchError(f"e{UNSEEN}f", evidence=[UNSEEN], hint=UNSEEN))
    assert out.getvalue() == "ab\ncd\n"
    assert not set(UNSEEN) & set(err.getvalue())


def test_letters_and_emoji_stay_whole():
    kept = "👩‍👩‍👧 ❤️ می‌خواهم क्‍ष 葛󠄀 \u0600"
    assert printable(kept) == kept


def test_of_all_that_steers_only_what_joins_or_shows_is_written():
    """U+0600 to U+110CD: signs of numbers that are seen; U+13430 on: joins hieroglyphs."""
    seen = (0x9, 0xA, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x200C, 0x200D)
    seen = {*seen, 0x110BD, 0x110CD, *range(0x13430, 0x13456)}
    steers = [
        number
        for number in range(sys.maxunicode + 1)
        if unicodedata.category(chr(number)) in ("Cc", "Cf", "Zl", "Zp")
    ]
    assert {number for number in steers if printable(chr(number))} <= seen


def test_json_has_the_escapes_of_what_cannot_be_seen():
    screen, out, _, _ = log(json=True)
    screen.result({"answer": f"中{UNSEEN}"})
    screen.close(ok=True)
    assert not set(UNSEEN) & set(out.getvalue())
    assert "中\\u007f\\u0085" in out.getvalue()
    assert json.loads(out.getvalue())["answer"] == f"中{UNSEEN}"


@pytest.mark.parametrize(
    ("stream", "color", "no_color", "coloured"),
    [
        (StringIO, "always", False, True), (StringIO, "never", False, False),
        (StringIO, "auto", False, False), (Terminal, "auto", False, True),
        (Terminal, "auto", True, False),
    ],
)  # fmt: skip
def test_colour_follows_the_flag_and_by_itself_the_terminal(
    stream, color, no_color, coloured, monkeypatch
):
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    screen, _, err, _ = log(stream, color=color)
    screen.error(LaunchError("no"))
    assert ("\x1b[1;31m" in err.getvalue()) is coloured


def test_a_locale_without_our_signs_does_not_end_the_program():
    raw = BytesIO()
    narrow = TextIOWrapper(raw, encoding="ascii")
    screen = Screen(stdout=narrow, stderr=narrow, color="never", width=80)
    screen.answer("TP2×PP2 → 模型")
    screen.error(LaunchError("模型 broke"))
    narrow.flush()
    assert raw.getvalue() == b"TP2?PP2 ? ??\nerror: ?? broke\n"
    raw.truncate(0)
    screen = Screen(json=True, stdout=narrow, stderr=narrow)
    screen.result({"m": "模"})
    screen.close(ok=True)
    narrow.flush()
    assert json.loads(raw.getvalue().lstrip(b"\0"))["m"] == "模"


def test_a_log_gets_one_line_at_the_start_one_a_change_and_one_at_the_end():
    screen, _, err, clock = log()
    with screen.step("start the engine", 40) as step:
        clock.now += 5
        step.update("loading weights 3/9")
        step.update("loading weights 3/9")
        step.tick("317 MB")
        clock.now += 67
    assert err.getvalue() == (
        "start the engine …\n"
        "start the engine … loading weights 3/9 · 5 s\n"
        "ok    start the engine  1 min 12 s\n"
    )


def test_what_changes_all_the_time_is_a_line_of_a_log_only_now_and_then():
    screen, _, err, clock = log()
    with screen.step("bench") as step:
        for done in range(12):
            clock.now += 1
            step.tick(f"{done} done", log_every_s=5)
            step.tick("never in a log")
    lines = err.getvalue().splitlines()
    assert lines == [
        "bench …",
        "bench … 4 done · 5 s",
        "bench … 9 done · 10 s",
        "ok    bench  12.0 s",
    ]


def test_a_terminal_gets_one_live_line_and_then_the_verdict():
    screen, _, err, clock = terminal()
    with screen.step("start the engine", 40) as step:
        assert err.visible == "start the engine … · 0 s (of about 40 s)"
        clock.now += 12
        step.update("loading weights 3/9")
        assert err.visible == "start the engine … loading weights 3/9 · 12 s (of about 40 s)"
        clock.now += 40
        step.tick("warming up")
        assert err.visible == "start the engine … warming up · 52 s (usually about 40 s)"
    assert err.visible == "ok    start the engine  52.0 s\n"


@pytest.mark.parametrize(
    ("stop", "word"),
    [
        (LaunchError("no"), "FAIL"),
        (KeyboardInterrupt(), "stop"),
        (CancelledError(), "stop"),
    ],
)
def test_what_ends_a_step_is_its_verdict_and_goes_on(stop, word):
    screen, _, err, clock = terminal()
    with pytest.raises(type(stop)), screen.step("start the engine") as step:
        step.update("loading")
        clock.now += 3
        raise stop
    assert err.visible == f"{word}  start the engine  3.0 s\n"
    assert "\x1b[?25" not in err.getvalue(), "the cursor is left alone"


def test_a_step_can_say_its_verdict_itself():
    screen, _, err, clock = terminal()
    for verdict in ("ok", "warn", "fail"):
        with screen.step("memory") as step:
            clock.now += 1
            getattr(step, verdict)("23.4 GiB free")
    assert err.visible == (
        "ok    memory  1.0 s  23.4 GiB free\n"
        "warn  memory  1.0 s  23.4 GiB free\n"
        "FAIL  memory  1.0 s  23.4 GiB free\n"
    )


def test_a_verdict_longer_than_the_terminal_goes_on_below_between_words():
    screen, _, err, clock = terminal(width=50)
    with screen.step("ask “What is the capital?”") as step:
        clock.now += 0.4
        step.ok("The capital of France is Paris.")
    assert err.visible.splitlines() == [
        "ok    ask “What is the capital?”  0.4 s  The",
        "        capital of France is Paris.",
    ]


def test_lines_said_during_a_step_stand_above_its_live_line():
    screen, out, err, _ = terminal()
    with screen.step("bench") as step:
        step.update("10 of 64")
        screen.warn("a request was slow")
        screen.answer("x")
        assert err.visible == "warning: a request was slow\nbench … 10 of 64 · 0 s"
    assert err.visible == "warning: a request was slow\nok    bench  0.0 s\n"
    assert out.getvalue() == "x\n"


def test_steps_that_overlap_each_get_their_verdict():
    screen, _, err, _ = terminal()
    outer, inner = screen.step("fetch the model"), screen.step("start Ray")
    with outer:
        with inner:
            assert err.visible == "start Ray … · 0 s"
        assert err.visible == "ok    start Ray  0.0 s\nfetch the model … · 0 s"
    assert err.visible == "ok    start Ray  0.0 s\nok    fetch the model  0.0 s\n"


def test_streamed_text_is_not_erased_by_the_conversation():
    out = err = Terminal()
    screen = Screen(stdout=out, stderr=err, clock=Clock(), width=80, color="never")
    screen.write("Par")
    screen.write("is")
    screen.say("2 tokens")
    screen.write("done")
    with screen.step("work"):
        pass
    assert out.visible == "Paris\n2 tokens\ndone\nok    work  0.0 s\n"


def test_with_verbose_a_terminal_gets_plain_lines():
    screen, _, err, _ = terminal(verbose=1)
    with screen.step("start Ray") as step:
        step.update("head")
    assert "\r" not in err.getvalue()
    assert err.getvalue().count("\n") == 3


def test_the_live_line_ticks_while_the_work_blocks():
    drawn = threading.Event()

    class Watched(Terminal):
        def write(self, text):
            if "· 7 s" in text:
                drawn.set()
            return super().write(text)

    clock = Clock()
    screen = Screen(stdout=StringIO(), stderr=Watched(), clock=clock, width=80)
    with screen.step("wait"):
        clock.now += 7
        assert drawn.wait(timeout=60)


def test_stages_say_what_is_done_and_what_comes_next():
    screen, _, err, clock = log()
    names = ["check the laptop", "start TP2", "bench", "chat", "stop"]
    with screen.stages(names, 300) as stages:
        with stages.stage("check the laptop"), screen.step("memory"):
            clock.now += 2
        with stages.stage("start TP2"):
            clock.now += 70
        with stages.stage("stop"):
            clock.now += 1
    assert err.getvalue() == (
        "[1/5] check the laptop · about 5 min in all · next: start TP2\n"
        "  memory …\n"
        "  ok    memory  2.0 s\n"
        "[2/5] start TP2 · 2 s (of about 5 min) · next: bench\n"
        "[5/5] stop · 1 min 12 s (of about 5 min) · last\n"
        "done  3 of 5  1 min 13 s\n"
    )


def test_stages_say_where_they_stopped():
    for kind, word in ((LaunchError, "FAIL"), (KeyboardInterrupt, "stop")):
        screen, _, err, clock = log()
        with pytest.raises(kind), screen.stages(["a", "b"]) as stages, stages.stage("b"):
            clock.now += 3
            raise kind("no")
        assert err.getvalue() == f"[2/2] b · last\n{word}  [2/2] b  3.0 s\n"
        screen.say("after")
        assert err.getvalue().endswith("\nafter\n")


def test_a_stage_that_was_not_planned_is_our_bug():
    screen, _, _, _ = log()
    with screen.stages(["a"]) as stages, pytest.raises(ValueError), stages.stage("b"):
        pass


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("detail", ["", "读取权重 3/9 " * 20, "loading " * 20])
def test_a_live_line_fits_and_keeps_its_time(width, detail):
    line = live_line("启动 TP2×PP2", detail, "1 min 12 s", width)
    assert cell_len(line) <= width
    assert line.endswith(" · 1 min 12 s")


def test_a_wide_terminal_shows_the_whole_detail():
    detail = "loading weights 3/9 from /models/SmolLM2-135M-Instruct-padded/model.safetensors"
    assert detail in live_line("start", detail, "1 s (of about 40 s)", 200)
    assert detail not in live_line("start", detail, "1 s (of about 40 s)", 80)


def test_shrinking_counts_chinese_as_two_cells():
    assert shrink("模型模型", 8) == "模型模型"
    assert shrink("模型模型", 7) == "模型模…"
    assert shrink("模型模型", 6) == "模型…"
    assert shrink("模型", 0) == ""


@pytest.mark.parametrize("width", [30, 79, 199])
def test_a_stage_header_fits(width):
    names = ["start TP2×PP2+EP on two hosts", "bench TP2×PP2+EP with 256 clients", "下一步", "x"]
    for index in range(len(names)):
        assert cell_len(stage_line(names, index, "1 min 12 s so far", width)) <= width


def test_figures_have_three_digits_and_their_unit():
    assert [rate(x) for x in (0.834, 5.318, 53.17, 590.4, 2070.4, None)] == [
        "0.83", "5.32", "53.2", "590", "2,070", "–",
    ]  # fmt: skip
    assert [milliseconds(x) for x in (0.421, 42.06, 99.96, 312.4, 999.6, 3124, 31240, 92000)] == [
        "0.42 ms", "42.1 ms", "100 ms", "312 ms", "1.00 s", "3.12 s", "31.2 s", "1 min 32 s",
    ]  # fmt: skip
    assert [percent(x) for x in (1.0, 0.824, 0.099, 0.0902, None)] == [
        "100%", "82%", "9.9%", "9.0%", "–",
    ]  # fmt: skip
    assert [seconds(x) for x in (0.24, 9.94, 31.24, 59.7, 91)] == [
        "0.2 s", "9.9 s", "31 s", "1 min 00 s", "1 min 31 s",
    ]  # fmt: skip
