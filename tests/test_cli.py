"""The command as a whole: its list of verbs, its exit codes, and how errors are words."""

import json
import os
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click
import pytest

from json_documents import read_document
from ropeway.cli.bug_report import bug_report
from ropeway.cli.call import current_call
from ropeway.cli.main import VERBS, exit_code
from ropeway.cli.options import (
    config_option,
    dry_run_option,
    screen_options,
    ssh_config_option,
    yes_option,
)
from ropeway.errors import LaunchError, Refused
from ropeway.report.console import Screen
from waiting import SECONDS

Captured = pytest.CaptureFixture[str]


def verb_of(name: str) -> click.Command:
    verb: click.Command = getattr(import_module(f"ropeway.cli.{name}"), name)
    return verb


def raising(error: BaseException) -> click.Command:
    """A verb with the common flags that ends like this."""

    @click.command()
    @screen_options
    def verb(*, screen: Screen) -> None:
        screen.say("working")
        raise error

    return verb


@pytest.mark.parametrize(("name", "code"), [("zero", 2), ("pipe", 2), ("none", 0), ("null", 0)])
def test_what_ssh_would_read_without_end_is_no_configuration(
    name: str, code: int, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    config = {"zero": "/dev/zero", "null": os.devnull, "pipe": str(tmp_path / "pipe")}

    @click.command()
    @ssh_config_option
    def verb(ssh_config: str | None) -> None:
        assert ssh_config

    assert exit_code(["--ssh-config", config.get(name, name)], verb) == code


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["help"]])
def test_the_verbs_are_listed_in_order_of_use(args: list[str], capsys: Captured) -> None:
    assert exit_code(args) == 0
    shown = capsys.readouterr().out
    listed = shown.split("Verbs:\n")[1].split("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines() if line[2] != " "] == list(VERBS)
    assert "130  interrupted" in shown
    assert "ropeway init && ropeway up" in shown


def test_the_version_is_told(capsys: Captured) -> None:
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"ropeway, version {version('ropeway')}\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_begins_with_its_sentence_and_ends_with_an_example(name: str) -> None:
    text = verb_of(name).help or ""
    first = " ".join(text.split("\n\n")[0].split())
    assert first == VERBS[name], "the list of verbs and the verb's own help say the same"
    mark, title, *examples = cleandoc(text).split("\n\n")[-1].splitlines()
    assert mark == "\b", "or click would run the lines together"
    assert title in ("Example:", "Examples:")
    assert all(f"ropeway {name}" in line for line in examples if not line.lstrip().startswith("#"))
    assert examples


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_the_common_flags(name: str) -> None:
    verb = verb_of(name)
    verbs = list(verb.commands.values()) if isinstance(verb, click.Group) else [verb]
    for each in verbs:
        flags = {flag for param in each.params for flag in param.opts}
        assert flags >= {"--json", "--quiet", "-q", "--verbose", "-v", "--color"}


def test_the_list_of_verbs_needs_none_of_their_modules() -> None:
    code = (
        "import sys; from ropeway.cli.main import exit_code; exit_code(['--help']);"
        "sys.exit(' '.join({'aiohttp', 'pydantic', 'asyncio', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize("name", VERBS)
def test_help_fits_into_80_columns(name: str, capsys: Captured) -> None:
    assert exit_code(["help", name]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "...\n" not in shown.partition("Options:")[2], "no summary is cut off"


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        (["bnech"], "no such verb: `bnech`", "did you mean `ropeway bench`?"),
        (["stauts"], "no such verb: `stauts`", "did you mean `ropeway status`?"),
        (["frobnicate"], "no such verb: `frobnicate`", "see `ropeway --help`"),
        (["model", "inspect", "x"], "no such command `inspect`",
         "did you mean `ropeway model show`?"),
        (["model", "lst"], "no such command `lst`", "did you mean `ropeway model list`?"),
        (["model", "zzz"], "no such command `zzz`", "there are `ropeway model fetch`,"
         " `ropeway model list`, `ropeway model push`, `ropeway model show`"),
        (["--lang", "en", "plan"], "no such option `--lang`",
         "write it after the verb: `ropeway VERB --lang`"),
        (["-q", "plan"], "no such option `-q`", "write it after the verb: `ropeway VERB -q`"),
        (["model", "--json", "list"], "no such option `--json`",
         "write it after the verb: `ropeway model VERB --json`"),
        (["--hlep"], "no such option `--hlep`", "did you mean `--help`?"),
        (["init", "--focre"], "no such option `--focre`", "did you mean `--force`?"),
        (["init", "--hlep"], "no such option `--hlep`", "did you mean `--help`?"),
        (["plan", "--input", "9"], "no such option `--input`", "did you mean `--input-tokens`?"),
        (["bench", "--clients", "0"],
         "invalid value for `--clients`: 0 is not at least 1", "see `ropeway bench --help`"),
        (["plan", "--hosts", "0"],
         "invalid value for `--hosts`: 0 is not between 1 and 4096", "see `ropeway plan --help`"),
        (["plan", "--hosts", "x"],
         "invalid value for `--hosts`: `x` is not a whole number", "see `ropeway plan --help`"),
    ],
)  # fmt: skip
def test_what_is_typed_wrongly_is_refused_with_where_to_look(
    args: list[str], what: str, hint: str, capsys: Captured
) -> None:
    assert exit_code(args) == 2
    assert capsys.readouterr().err == f"error: {what}\n\nhint: {hint}\n"


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["init", "--focre", "--json"], "no such option `--focre`"),
        (["model", "show", "x", "--layuot", "--json"], "no such option `--layuot`"),
        (["--json", "bnech"], "no such option `--json`"),
        (["bnech", "--json"], "no such verb: `bnech`"),
    ],
)
def test_json_is_honoured_even_when_the_flags_are_wrong(
    args: list[str], what: str, capsys: Captured
) -> None:
    assert exit_code(args) == 2
    document = read_document(capsys.readouterr().out)
    verb = {"init": "init", "model": "model show"}.get(args[0])
    assert (document["schema"], document["verb"], document["ok"]) == (1, verb, False)
    assert (document["error"]["what"], document["error"]["exit_code"]) == (what, 2)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (LaunchError("it broke", where="127.0.0.2"), 1, "error: it broke\n  at 127.0.0.2\n"),
        (Refused("no", hint="say `yes`"), 2, "error: no\n\nhint: say `yes`\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (click.Abort(), 130, "error: interrupted\n"),
        (click.exceptions.Exit(1), 1, ""),
    ],
)
def test_every_end_has_its_exit_code_and_its_words(
    error: BaseException, code: int, words: str, capsys: Captured
) -> None:
    assert exit_code([], raising(error)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.replace("\nerror: i", "error: i") in (f"working\n{words}", f"working{words}")


def test_an_error_is_told_on_the_screen_that_the_flags_made(capsys: Captured) -> None:
    assert exit_code(["--json"], raising(LaunchError("it broke"))) == 1
    out, err = capsys.readouterr()
    assert read_document(out)["error"]["kind"] == "LaunchError"
    assert err == "error: it broke\n"
    assert exit_code(["-q", "--color", "always"], raising(LaunchError("it broke"))) == 1
    assert capsys.readouterr().err == "\x1b[1;31merror: \x1b[0mit broke\n"


def test_an_error_after_the_result_is_in_the_one_document(capsys: Captured) -> None:
    @click.command()
    @screen_options
    def verb(*, screen: Screen) -> None:
        screen.result({"requests": 3})
        screen.warn("slow")
        raise LaunchError("3 of 3 requests failed")

    assert exit_code(["--json"], verb) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["ok"], document["requests"], document["warnings"]) == (False, 3, ["slow"])
    assert document["error"]["what"] == "3 of 3 requests failed"
    assert captured.err == "warning: slow\nerror: 3 of 3 requests failed\n"


@pytest.mark.parametrize("code", [0, 1])
def test_ok_is_what_the_exit_code_says(code: int, capsys: Captured) -> None:
    @click.command()
    @screen_options
    @click.pass_context
    def verb(ctx: click.Context, *, screen: Screen) -> None:
        screen.result({"findings": []})
        ctx.exit(code)

    assert exit_code(["--json"], verb) == code
    assert json.loads(capsys.readouterr().out)["ok"] is (code == 0)


def test_the_shared_flags_pass_plain_values() -> None:
    flags: dict[str, Any] = {}

    @click.command()
    @screen_options
    @config_option
    @yes_option
    @dry_run_option
    def verb(**given: object) -> None:
        flags.update(given)

    assert exit_code(["-vv", "-y", "-c", "a.yaml", "--dry-run"], verb) == 0
    screen = flags.pop("screen")
    assert (screen.verbose, screen.quiet, screen.json) == (2, False, False)
    assert flags == {"config": Path("a.yaml"), "yes": True, "dry_run": True}
    assert exit_code([], verb) == 0
    assert flags["config"] == Path("ropeway.yaml")


def test_a_reader_that_goes_away_ends_us_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "from ropeway.cli.main import run; run()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, "--help"],
            stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_fault_of_ours_leaves_a_report_in_the_runs_folder(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "open-sesame")

    @click.command()
    @click.argument("url")
    @screen_options
    def verb(*, screen: Screen, url: str) -> None:
        current_call().folder = tmp_path
        screen.say(url[:4])
        raise ZeroDivisionError("open-sesame")

    assert exit_code(["http://me:secret@127.0.0.1/v1"], verb) == 3
    words = capsys.readouterr().err
    (report,) = tmp_path.iterdir()
    assert f"  at {report}\n  ZeroDivisionError: ***\n" in words
    assert "Traceback" not in words
    text = report.read_text()
    assert f"ropeway {version('ropeway')}\n" in text
    assert "command: ropeway http://***@127.0.0.1/v1\n" in text
    assert "in verb\n" in text
    assert "open-sesame" not in text.replace('raise ZeroDivisionError("open-sesame")', "")


def test_without_a_folder_the_report_goes_to_the_temporary_one_or_is_told(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code(["--json"], raising(KeyError("x"))) == 3
    document = read_document(capsys.readouterr().out)
    assert document["error"]["exit_code"] == 3
    assert Path(document["error"]["where"]).parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    assert exit_code([], raising(KeyError("x"))) == 3
    assert "KeyError: 'x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["chat", "-p", "my diary"], "chat -p '***'"),
        (["chat", "-pmy diary"], "chat '-p***'"),
        (["chat", "--prompt=diary", "--system", "x"], "chat '--prompt=***' --system '***'"),
        (["chat", "--key-env", "MINE"], "chat --key-env MINE"),
        (["bench", "--input-tokens", "9"], "bench --input-tokens 9"),
        (["up", "--api-key", "s3cret"], "up --api-key '***'"),
        (["up", "api-key=s3cret"], "up 'api-key=***'"),
    ],
)
def test_the_reported_command_holds_nothing_private(args: list[str], shown: str) -> None:
    text = bug_report(KeyError("x"), args, {})
    assert f"command: ropeway {shown}\n" in text


def test_the_variable_named_by_key_env_is_hidden_whatever_its_name() -> None:
    error = ValueError("got 'xyzzy-1' and 'true'")
    text = bug_report(error, ["chat", "--key-env", "MINE"], {"MINE": "xyzzy-1", "KEY_ON": "true"})
    assert "got '***' and 'true'" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("init --host root@h --host root@h", "is the same as"),
        ("init --host h:99999", "must be at most 65535, not `99999`"),
        *(
            (f"{verb} '{host}'", f"`{host}` is not a host")
            for verb in ("init --host", "doctor --", "status --host", "down --name a --host")
            for host in ("-oProxyCommand=>ran", "root@-oProxyCommand=>ran", "-oProxyCommand=>ran@h")
        ),
        ("init --hosts-sample --host h", "asks no host"),
        ("up --rehearse 2x8-910B4 --model ''", "neither a directory nor a checkpoint"),
        ("status --rehearsal --local", "has hosts of its own"),
        ("plan --model Qwen3-8B --price inf", "inf is not at most 1e+12"),
        ("plan --model Qwen3-8B --max-ttft nan", "is not a number"),
        ("doctor --rehearse 2x8-910B4 --fault pull-fails", "up --rehearse --fault pull-fails"),
    ],
)
def test_what_contradicts_itself_is_refused(words: str, said: str, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert exit_code(shlex.split(words)) == 2
    error = capfd.readouterr().err
    assert said in error
    assert "input_value" not in error
    assert not list(tmp_path.iterdir())


PLAN = "plan --model Qwen3-30B-A3B --chip 910B4 --context 4096 --npus 8"


def output_of(words: str, **environment: str) -> str:
    """What a process with this environment alone prints; its exit code is 0."""
    ours = {"PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "ropeway", *words.split()],
        stdin=subprocess.DEVNULL, capture_output=True, env=ours, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.decode(errors="replace")) == (0, "")
    return done.stdout.decode("utf-8", errors="strict")


@pytest.mark.real_time
@pytest.mark.parametrize("form", ["", " --json", " --quiet --html /dev/stdout"])
def test_the_same_question_has_the_same_answer_in_any_process(form: str) -> None:
    outputs = [output_of(PLAN + form, PYTHONHASHSEED=seed) for seed in ("0", "7", "12345")]
    # A page says when it was made, to the minute.
    assert len({re.sub(r"\S+ \d\d:\d\d UTC", "", output) for output in outputs}) == 1


@pytest.mark.real_time
def test_a_plan_needs_nothing_of_the_environment(tmp_path: Path) -> None:
    usual = output_of(PLAN, LC_ALL="C.UTF-8", HOME=str(tmp_path), PATH=os.environ["PATH"])
    assert "tokens/s" in usual
    assert output_of(PLAN) == usual
    assert output_of(PLAN, LC_ALL="C.UTF-8", HOME="/nowhere") == usual
    assert "tokens/s" in output_of(PLAN, LC_ALL="C")
    assert "tokens/s" in output_of(PLAN, LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
