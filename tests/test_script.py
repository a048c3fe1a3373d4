"""Many questions in one round trip: the script in a real shell, and its answers taken apart."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ropeway.facts.question import Parsed, Question
from ropeway.facts.script import Answer, Pings, answers, script

FRAME = "Rf00dcafe"


def ask(key: str, argv: tuple[str, ...], **how) -> Question[str]:
    return Question(key, argv, Parsed.of, **how)


SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]


def ask_all(lines, shell: str = "sh", path: Path | None = None) -> list[Answer]:
    argv = ["busybox", "sh", "-s"] if shell == "busybox" else [shell, "-s"]
    env = {"PATH": f"{path}:/usr/bin:/bin" if path else "/usr/bin:/bin"}
    done = subprocess.run(
        argv, input=script(lines, FRAME), capture_output=True, text=True, env=env, timeout=30
    )
    assert done.stderr == ""
    return list(answers(done.stdout, FRAME))


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_command_prints_comes_back_byte_for_byte(shell):
    hostile = 'it\'s $HOME `id` "q"\\n\n\n  two lines * '
    [answer] = ask_all([ask("said", ("printf", "%s", hostile))], shell)
    assert answer == Answer("said", None, None, 0, hostile)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_command_that_is_not_there_says_so(shell):
    [answer] = ask_all([ask("none", ("no-such-program", "-x"))], shell)
    assert (answer.exit_code, answer.text) == (127, "")


def test_a_command_that_fails_gives_its_exit_code_and_what_it_complains_of():
    [answer] = ask_all([ask("no", ("ls", "/no/such/place"))])
    assert answer.exit_code == 2
    assert "No such file" in answer.text


def test_a_command_that_hangs_is_given_up():
    first, second = ask_all([ask("slow", ("sleep", "20"), limit=1), ask("then", ("echo", "on"))])
    assert (first.exit_code, second.text) == (124, "on\n")


def test_a_command_does_not_eat_the_rest_of_the_script():
    first, second = ask_all([ask("eats", ("cat",)), ask("then", ("echo", "on"))])
    assert (first.text, second.text) == ("", "on\n")


def test_an_argument_of_several_lines_is_one_argument():
    [answer] = ask_all([ask("lines", ("sh", "-c", "echo one\necho 'two'\n"))])
    assert answer.text == "one\ntwo\n"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_asks_once_for_every_npu_that_is_listed(shell, tmp_path):
    listing = "printf '\\tNPU ID    : 0\\n\\tChip Count   : 1\\n\\n\\tNPU ID   : 224\\n'"
    tool(tmp_path, "npu-smi", f'[ "$2" = -l ] && {{ {listing}; exit; }}\necho "$@"')
    rows = ask_all([ask("board", ("npu-smi", "info", "-i", "N"), each="npu")], shell, tmp_path)
    assert [(row.key, row.number, row.text) for row in rows] == [
        ("board", 0, "info -i 0\n"),
        ("board", 224, "info -i 224\n"),
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_what_depends_on_another_answer_is_asked_only_then(shell):
    lines = [
        ask("well", ("true",)),
        ask("badly", ("false",)),
        ask("missing", ("no-such-program",)),
        *(ask(f"after-{key}", ("echo", key), after=key) for key in ("well", "badly", "missing")),
        *(ask(f"unless-{key}", ("echo", key), unless=key) for key in ("well", "badly", "missing")),
        ask("prefix", ("echo",), after="wel"),
    ]
    keys = [answer.key for answer in ask_all(lines, shell)]
    assert keys[3:] == ["after-well", "unless-badly", "unless-missing"]


def test_without_npus_each_asks_nothing():
    assert ask_all([ask("board", ("npu-smi", "info", "-i", "N"), each="npu")]) == []


def test_a_busy_tool_is_asked_again(tmp_path):
    tool(
        tmp_path,
        "hccn_tool",
        f"[ -e {tmp_path}/asked ] && echo fine && exit\n: >{tmp_path}/asked\n"
        'echo "hccn_tool is busy, please try again."; exit 1',
    )
    [answer] = ask_all([ask("ip", ("hccn_tool", "-ip"))], path=tmp_path)
    assert (answer.exit_code, answer.text) == (0, "fine\n")


def test_pings_go_from_one_device_to_many_addresses(tmp_path):
    tool(tmp_path, "hccn_tool", 'echo "$@"')
    rows = ask_all([Pings(3, ("10.0.0.1", "fd00::1:2"))], path=tmp_path)
    assert [(row.key, row.number, row.address, row.text) for row in rows] == [
        ("ping", 3, "10.0.0.1", "-i 3 -ping -g address 10.0.0.1\n"),
        ("ping", 3, "fd00::1:2", "-i 3 -ping -g address fd00::1:2\n"),
    ]


def test_an_answer_that_is_cut_off_is_known_as_such():
    whole = f"\n{FRAME} a\nfirst\n{FRAME} = 0\n\n{FRAME} b\nsec"
    assert list(answers(whole, FRAME)) == [
        Answer("a", None, None, 0, "first"),
        Answer("b", None, None, None, "sec"),
    ]


def test_what_stands_outside_of_frames_is_nobodys():
    text = f"Welcome to host1!\nLast login …\n\n{FRAME} a\nx\n{FRAME} = 0\n"
    assert [row.text for row in answers(text, FRAME)] == ["x"]
