"""Our sentences in Chinese: every template has one, with the same values in it."""

import ast
import errno
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from string import Formatter

import click
import pytest
from rich.cells import cell_len

from ropeway.cli.main import VERBS, exit_code, ropeway
from ropeway.doctor.checks import CHECKS
from ropeway.engines.ascend_layouts import LIMITS, NOTES
from ropeway.engines.ascend_releases import DRIVER_NEEDS, MODEL_NEEDS, changes
from ropeway.errors import LaunchError, reason_of
from ropeway.phrases import Phrase, count, joined, phrase, translated, translation
from ropeway.report.chinese import COMMAND, TABLES, chinese, error_in_chinese
from ropeway.report.console import Screen
from ropeway.report.line import fill
from ropeway.units import counted

SOURCE = Path(__file__).parent.parent / "src" / "ropeway"
TABLE = chinese()
# What templates are given to, and which of its arguments they are.
OS_ERRORS = [OSError(number, os.strerror(number)) for number in errno.errorcode]
MAKERS = {"phrase": slice(1), "count": slice(1, 3), "counted": slice(1, 2)}


def templates() -> Iterator[str]:
    """Every template that the source gives to `phrase`, `count` or `counted`."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants: dict[str, list[str]] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.IfExp):
                texts = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
                for target in (one for one in node.targets if isinstance(one, ast.Name)):
                    constants.setdefault(target.id, []).extend(filter(is_text, texts))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            arguments = node.args[MAKERS.get(node.func.id, slice(0))]
            written = [one for one in arguments if not isinstance(one, ast.JoinedStr)]
            for part in (part for argument in written for part in ast.walk(argument)):
                texts = [part.value] if isinstance(part, ast.Constant) else []
                if isinstance(part, ast.Name):
                    texts = constants.get(part.id, [])
                for text in filter(is_text, texts):
                    both = (f"{{n:,}} {text}", f"{{n:,}} {text}s")
                    yield from both if node.func.id == "counted" else (text,)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def fields(template: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(template) if name)


def constants() -> Iterator[str]:
    """Every text in the source; the Chinese of some is asked for by what they are."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def instead() -> set[str]:
    """What to do about flags and settings that a release removed."""
    return {*changes()["flags_instead"].values(), *changes()["settings_instead"].values()}


def reasons() -> set[str]:
    """Why releases cannot run a layout, or may not, and what they need."""
    needs = {need.why for need in (*DRIVER_NEEDS, *MODEL_NEEDS)}
    return {row.reason for row in (*LIMITS, *NOTES)} | needs


def check_texts() -> set[str]:
    """What doctor's checks say, but for their sources, which are names."""
    return {text for check in CHECKS for text in (check.title, check.expected, check.fix)}


def test_every_template_has_a_chinese_one_with_the_same_values() -> None:
    sentences = set(templates())
    assert len(sentences) > 80
    assert sentences - set(TABLE) - {"{n:,} tokens/s"} == set()
    for english in sentences & set(TABLE):
        assert fields(TABLE[english]) == fields(english), english


def test_no_entry_is_left_over() -> None:
    models = [json.loads(path.read_text()) for path in (SOURCE / "models/known").glob("*.json")]
    notes = [model["note"] for model in models if "note" in model]
    names = {
        *constants(),
        *notes,
        *reasons(),
        *check_texts(),
        *instead(),
        *map(reason_of, OS_ERRORS),
    }
    assert set(TABLE) - set(templates()) - names == set()


def test_what_to_do_about_what_a_release_removed_has_chinese() -> None:
    assert instead() - set(TABLE) == set()


def test_a_sentence_stands_in_one_table() -> None:
    folder = SOURCE / "report" / "chinese"
    tables = [json.loads((folder / f"{name}.json").read_text(), object_pairs_hook=list)
              for name in TABLES]  # fmt: skip
    times = Counter(english for table in tables for english, _ in table)
    assert [english for english, number in times.items() if number > 1] == []


def test_a_phrase_is_text_that_can_be_made_again() -> None:
    hosts = count(2, "{n:,} host", "{n:,} hosts")
    text = phrase("{hosts} of {npus} NPUs", hosts=hosts, npus=8)
    table = {
        "{n:,} hosts": "{n:,} Hosts",
        "{hosts} of {npus} NPUs": "{npus} je {hosts}",
        "; ": " + ",
    }
    assert text == "2 hosts of 8 NPUs"
    assert translated(text, table) == "8 je 2 Hosts"
    assert count(1, "{n:,} host", "{n:,} hosts") == "1 host"
    both = joined((text, "as it is"))
    assert both == "2 hosts of 8 NPUs; as it is"
    assert translated(both, table) == "8 je 2 Hosts + as it is"
    assert translated(Phrase("plain"), {"plain": "schlicht"}) == "schlicht"
    assert translated(3, table) == 3


def test_a_text_is_never_half_translated() -> None:
    inner = phrase("{n} words", n=2)
    text = phrase("{inner} in {place}", inner=inner, place="a log")
    assert translation(text, {"{inner} in {place}": "{place} 里有{inner}"}) is None
    table = {"{inner} in {place}": "{place} 里有{inner}", "{n} words": "{n} 个词"}
    assert translation(text, table) == "a log 里有2 个词"
    assert translation(joined((text, "b"), ", "), {**table, ", ": "、"}) == "a log 里有2 个词、b"
    assert translation("from outside", table) is None


HOSTS = counted(2, "host")


def test_an_error_is_shown_in_chinese_when_all_of_it_has_chinese() -> None:
    error = LaunchError(HOSTS, where="host1", evidence=["a line"], hint="ropeway down --name x")
    shown = error_in_chinese(error)
    assert shown is not None
    assert (shown.what, shown.where) == ("2 台主机", "host1")
    assert (shown.evidence, shown.hint) == (("a line",), "ropeway down --name x")


@pytest.mark.parametrize(
    "error",
    [
        LaunchError("nobody translated this"),
        LaunchError(HOSTS, hint="nobody translated this"),
        LaunchError(HOSTS, evidence=[phrase("{n} things", n=HOSTS)]),
    ],
)
def test_and_else_in_english(error: LaunchError) -> None:
    assert error_in_chinese(error) is None
    screen, out = screen_in("zh")
    screen.error(error)
    assert out.getvalue().startswith("error: ")
    assert "台主机" not in out.getvalue()


def screen_in(language: str) -> tuple[Screen, StringIO]:
    out = StringIO()
    return Screen(stdout=out, stderr=out, width=80, color="never", language=language), out


def test_a_screen_speaks_its_language() -> None:
    screen, out = screen_in("zh")
    screen.answer(HOSTS)
    screen.say(HOSTS)
    screen.warn(HOSTS)
    screen.hint(HOSTS)
    screen.error(LaunchError(HOSTS))
    with screen.step(HOSTS) as step:
        step.ok(HOSTS)
    lines = out.getvalue().splitlines()
    assert lines[:5] == [
        "2 台主机", "2 台主机", "警告：2 台主机", "提示：2 台主机", "错误：2 台主机"
    ]  # fmt: skip
    assert lines[5] == "2 台主机 …"
    assert lines[6].startswith("完成  2 台主机  0.0 s  2 台主机")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_stages_are_announced_in_its_language() -> None:
    out, clock = StringIO(), Clock()
    screen = Screen(stdout=out, stderr=out, width=80, language="zh", clock=clock)
    with screen.stages([HOSTS, counted(8, "NPU")], 200) as stages:
        with stages.stage(HOSTS):
            clock.now = 5
        with stages.stage(counted(8, "NPU")):
            pass
    assert out.getvalue().splitlines() == [
        "[1/2] 2 台主机 · 共约 3 min 20 s · 下一步：8 个 NPU",
        "[2/2] 8 个 NPU · 5 s（预计约 3 min 20 s） · 最后一步",
        "完成  2/2  5.0 s",
    ]


@pytest.mark.parametrize("width", [24, 39, 40, 80])
def test_chinese_is_wrapped_between_characters_but_not_before_a_comma(width: int) -> None:
    text = (
        "其他机器可以访问（例如 `curl -s 10.0.0.1`），因此必须设置；写明变量名，或使用 127.0.0.1。"
    )
    lines = fill(text, width, 0, 0).splitlines()
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert max(map(cell_len, lines)) <= width
    assert not [line for line in lines if line[0] in "），；。" or line[-1] == "（"]


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["plan", "--hosts", "x"], "`--hosts` 的值无效：`x` 不是整数"),
        (["plan", "--hosts", "0"], "`--hosts` 的值无效：0 不在 1 到 4096 之间"),
        (["doctor", "--timeout", "0"], "`--timeout` 的值无效：0.0 小于最小值 1"),
        (["doctor", "--partners"], "选项 `--partners` 需要一个值"),
        (["up", "--yes=no"], "选项 `--yes` 不带值"),
        (["up", "--pot", "3"], "没有选项 `--pot`"),
        (["up", "--color", "blue"], "`--color` 的值无效：`blue` 不在可选值"),
        (["up", "a", "b"], "多余的参数：a b"),
        (["bnech"], "没有 `bnech` 这个子命令"),
        (["chat", "-c", "absent.yaml"], "无法读取该文件：没有这个文件或目录"),
    ],
)
def test_a_wrong_call_is_refused_in_the_language_of_the_terminal(
    args: list[str], what: str, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert exit_code(args) == 2
    assert capsys.readouterr().err.startswith(f"错误：{what}")


def test_the_document_is_english() -> None:
    out = StringIO()
    screen = Screen(json=True, stdout=out, stderr=StringIO(), language="zh")
    screen.error(LaunchError(HOSTS))
    screen.close(ok=False)
    assert json.loads(out.getvalue())["error"]["what"] == "2 hosts"


def speaking() -> list[str]:
    """The verbs that take `--lang`."""
    commands = {verb: ropeway.get_command(click.Context(ropeway), verb) for verb in VERBS}
    return [verb for verb, command in commands.items()
            if any(option.name == "lang" for option in command.params)]  # fmt: skip


def test_help_says_which_verbs_speak_chinese() -> None:
    assert f"of {', '.join(speaking())};" in " ".join(ropeway.epilog.split())


def test_a_counted_thing_stands_apart_from_the_word_before_it() -> None:
    for english, text in TABLE.items():
        for name in re.findall(r"(?<=[\u4e00-\u9fff]){(\w+)}", text):
            things = [TABLE.get(f"{{n:,}} {word}", "") for word in (name, name.upper()[:-1] + "s")]
            assert not any(each.startswith("{n") for each in things), english


def test_a_reader_is_addressed_in_one_way() -> None:
    assert [text for text in TABLE.values() if "您" in text] == []


@pytest.mark.parametrize("verb", speaking())
def test_verbs_that_speak_chinese_take_a_language(verb: str, capsys) -> None:
    assert exit_code([verb, "--lang", "fr"]) == 2
    assert "--lang" in capsys.readouterr().err
    assert exit_code([verb, "--lang", "zh", "--no-such"]) == 2
    assert "没有选项" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "apt install openssh-client", "export A=1", "kill -9 5", "kill 5", "less logs/host1.log",
        "less /tmp/x", "pip uninstall -y x", "podman ps -a", "ropeway down", "rm -r x",
        "ssh -p 2222 host1", "ssh root@host1", "ssh host1", "ssh host1 true", "sudo x",
        "ssh-keyscan host1",
    ],
)  # fmt: skip
def test_what_is_to_be_typed_is_told_from_prose(command):
    assert re.match(COMMAND, command)


@pytest.mark.parametrize(
    "prose",
    [
        "export it in the shell",
        "export first, with the same value",
        "kill the process",
        "less is left for the cache",
        "pip could not download x",
        "podman has no daemon",
        "docker is not running",
        "ssh cannot connect",
        "rm removes it",
        "apt has no such package",
    ],
)
def test_prose_that_begins_like_a_command_is_none(prose):
    assert not re.match(COMMAND, prose)
