"""`ropeway doctor --lang zh`: whole in Chinese, on the screen and on the page."""

import json
import re
from html import unescape

import pytest

from ropeway.cli.main import exit_code
from ropeway.doctor.checks import CHECKS
from ropeway.report.chinese import chinese
from ropeway.report.doctor import fix_lines
from ropeway.sim.faults import FAULTS

# What is the same in every language: what is between backticks, what a command printed, names.
LITERAL = re.compile(
    r"`[^`]*`|Cannot connect to the Docker daemon.*?running\?"
    r"|dcmi module initialize failed\S* ret is|link status: \w+|net health status: [\w ]+"
    r"|vnic link status: \w+|present: not present|netdetect address|raylet, pid"
    r"|(?:vllm|gpustack|msprechecker|docs)\S*|HCCL installation|\S*/\S+"
    r"|\b(?:host\d+ )?NPU [\d,-]+|\w+ \d[\d.]*(?:rc\d)?\b",
    re.S,
)
ENGLISH = re.compile(r"[A-Za-z][a-z]+(?: [A-Za-z]+){2,}")


def run(capsys, *args: str) -> str:
    exit_code(["doctor", *args])
    output = capsys.readouterr()
    return output.out + output.err


def english_in(text: str) -> list[str]:
    """Sentences in English: three words in a row that are no command, name or output."""
    lines = [line for line in text.splitlines() if not typed(line)]
    return ENGLISH.findall(LITERAL.sub("—", re.sub(r"\n\s*", " ", "\n".join(lines))))


COMMANDS = [
    line.split()[0]
    for check in CHECKS
    for line, is_typed in fix_lines(check.fix)
    if is_typed and not line.startswith("{")
]


def typed(line: str) -> bool:
    return line.strip().startswith((*COMMANDS, "docker ", "systemctl ", "ssh ", "dmesg "))


@pytest.mark.parametrize("size", ["2x8-910B4", "5x2-A3"])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_is_told_in_chinese_alone(capsys, fault, size):
    shown = run(capsys, "--lang", "zh", "--rehearse", size, "--fault", fault)
    assert english_in(shown) == [], shown
    assert re.search(r"故障|警告", shown)


def test_every_text_of_a_check_has_chinese():
    texts = {text for check in CHECKS for text in (check.title, check.expected, check.fix)}
    assert texts - {"", *chinese()} == set()


def test_the_locale_decides(capsys, monkeypatch):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert "状态良好" in run(capsys, "--rehearse", "2x8-910B4")
    assert "sound" in run(capsys, "--lang", "en", "--rehearse", "2x8-910B4")


def test_the_document_is_english(capsys):
    arguments = ("--json", "--rehearse", "2x8-910B4", "--fault", "host-down")
    english = json.loads(run(capsys, *arguments))
    assert json.loads(run(capsys, "--lang", "zh", *arguments)) == english


@pytest.mark.parametrize(
    "args",
    [
        ("--fault", "tls-on"),
        ("--bundle", "x.zip", "host1"),
        ("--rehearse", "2x8-910B4", "host1"),
        ("--list-faults",),
    ],
)
def test_what_is_refused_and_listed_is_in_chinese_too(capsys, args):
    shown = run(capsys, "--lang", "zh", *args)
    assert [line for line in shown.splitlines() if english_in(line)] == []


@pytest.mark.parametrize(
    ("faults", "english", "in_chinese"),
    [
        (["lossy"], "128 of 128 pairs lose packets", "128 对 NPU 中有 128 对丢包"),
        (
            ["host-down:host1", "host-down:host2"],
            "none of 2 hosts answered",
            "2 台主机均无响应",
        ),
    ],
)
def test_what_fails_in_part_and_what_fails_throughout(capsys, faults, english, in_chinese):
    args = [word for fault in faults for word in ("--fault", fault)]
    for language, words in (("en", english), ("zh", in_chinese)):
        assert words in run(capsys, "--lang", language, "--rehearse", "2x8-910B4", *args)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_opens_in_the_language_of_the_terminal(capsys, tmp_path, language):
    page = tmp_path / "doctor.html"
    run(capsys, "--lang", language, "--rehearse", "2x8-910B4", "--html", str(page))
    (opened,) = re.findall(r'id="(\w+)" checked', page.read_text(encoding="utf-8"))
    assert opened == language


@pytest.mark.parametrize("fault", ["host-down", "docker-down", "lossy", "no-light", "no-hccn-conf"])
def test_the_page_is_whole_in_chinese(capsys, tmp_path, fault):
    page = tmp_path / "doctor.html"
    run(capsys, "--rehearse", "2x8-910B4", "--fault", fault, "--html", str(page))
    text = page.read_text(encoding="utf-8").partition("<main>")[2]
    for _ in range(3):  # spans may hold code
        text = re.sub(r"<code[^>]*>[^<]*</code>|<br>|<title>[^<]*</title>", " ", text)
    text = re.sub(r'<(span|text) [^>]*lang="en"[^>]*>[^<]*</\1>', " ", text)
    text = re.sub(r'<span lang="en">.*?</span>(?=<span lang="zh)', " ", text)
    assert english_in(unescape(re.sub(r"<[^>]+>", "\n", text))) == []
