"""The documentation is run: what README shows must load, parse, be listed, exist, and be short."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest

from ropeway.cli.main import VERBS, exit_code, ropeway
from test_architecture import LAYERS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "ropeway"
READMES = ("README.md", "README.zh.md")
PAGES = (*READMES, "CHANGELOG.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
STRUCTURE = "docs/structure.md"
MAX_LINES, MAX_WORDS, FIRST_EXAMPLE_BY_LINE = 150, 600, 20

README = pytest.mark.parametrize("page", READMES)
PAGE = pytest.mark.parametrize("page", PAGES)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Code blocks: their language and what is in them."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """The text without its code blocks, as many lines as before."""

    def emptied(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n")

    return re.sub(r"^```.*?^```$", emptied, text, flags=re.DOTALL | re.MULTILINE)


def typed(text: str) -> Iterator[str]:
    """Every command line to type: the lines of `sh` blocks, and after `$` in `console` blocks."""
    for language, code in blocks(text):
        lines = code.splitlines()
        if language == "sh":
            yield from lines
        if language == "console":
            yield from (line.removeprefix("$ ") for line in lines if line.startswith("$ "))


def own_commands(text: str) -> list[list[str]]:
    """Command lines of ours as words, from code blocks and from `ropeway …` in the prose."""
    lines = [*typed(text), *re.findall(r"`(ropeway [^`]+)`", prose(text))]
    words = [shlex.split(re.sub(r" >\S+", "", line), comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["ropeway"]]


def parse_command(command: click.Command, words: list[str]) -> None:
    """Parse as the command itself would, and run nothing. Raises click.UsageError."""
    # A group may be a verb of its own as well: `ropeway plan --model …`.
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        verb = command.get_command(click.Context(command), words[0])
        if verb is None:
            raise click.UsageError(f"no such verb: {words[0]}")
        parse_command(verb, words[1:])
    else:
        command.make_context(command.name, list(words))


def verbs_in_table(text: str) -> list[str]:
    return re.findall(r"^\| `(\w+)` \|", prose(text), flags=re.MULTILINE)


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", prose(text))


def word_count(text: str) -> int:
    """Words and figures, code included; marks, comments and the targets of links are none."""
    shown = re.sub(r"\]\([^)]*\)|<!-- .* -->", "]", text)
    return sum(bool(re.search(r"\w", word)) for word in shown.split())


def kind(line: str) -> str:
    """What a line of Markdown is, whatever language it is in."""
    mark = re.match(r"#+ |```\w*$|\| |\|-|- |\d+\. ", line)
    return mark[0] if mark else "text" if line else "blank"


# What is shown works


@README
def test_the_spec_loads_and_has_a_plan(page: str, tmp_path: Path, capfd) -> None:
    (spec,) = [code for language, code in blocks(text_of(page)) if language == "yaml"]
    assert len(spec.splitlines()) <= 12
    (tmp_path / "ropeway.yaml").write_text(spec, encoding="utf-8")
    assert exit_code(["plan", "-c", str(tmp_path / "ropeway.yaml")]) == 0, capfd.readouterr().err


@PAGE
def test_every_command_line_parses(page: str) -> None:
    for words in own_commands(text_of(page)):
        try:
            parse_command(ropeway, words)
        except click.UsageError as error:
            pytest.fail(f"ropeway {shlex.join(words)}: {error.format_message()}")


@README
def test_the_main_commands_are_shown(page: str) -> None:
    shown = {words[0] for words in own_commands(text_of(page))}
    assert {"init", "up", "chat", "bench", "down"} <= shown


@README
def test_every_make_target_exists(page: str) -> None:
    makefile = text_of("Makefile")
    targets = {words[1] for line in typed(text_of(page)) if (words := line.split())[:1] == ["make"]}
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    assert "\nINSTALL ?=" in makefile


@README
def test_the_table_lists_exactly_the_verbs_in_order_of_use(page: str) -> None:
    assert verbs_in_table(text_of(page)) == list(VERBS)


@README
def test_every_flag_in_the_table_is_one_of_its_verb(page: str) -> None:
    for verb, row in re.findall(r"^\| `(\w+)` \|(.*)\|$", text_of(page), flags=re.MULTILINE):
        command = ropeway.get_command(click.Context(ropeway), verb)
        assert command is not None
        known = {name for option in command.params for name in option.opts}
        assert set(re.findall(r"--[\w-]+", row)) <= known


@PAGE
def test_every_relative_link_leads_somewhere(page: str) -> None:
    for link in links(text_of(page)):
        if not re.match(r"https?://", link):
            target = (ROOT / page).parent / link.partition("#")[0]
            assert target.exists(), link


# README stays short, and both say the same


def test_readme_is_short() -> None:
    text = text_of("README.md")
    assert word_count(text) <= MAX_WORDS
    for page in READMES:
        assert len(text_of(page).splitlines()) <= MAX_LINES


@README
def test_the_name_comes_first_and_something_to_run_soon(page: str) -> None:
    lines = text_of(page).splitlines()
    assert lines[0] == "# Ropeway"
    assert lines.index("```sh") < FIRST_EXAMPLE_BY_LINE


def test_both_languages_have_the_same_lines() -> None:
    english, chinese = (text_of(page).splitlines() for page in READMES)
    assert [kind(line) for line in chinese] == [kind(line) for line in english]


def test_both_languages_have_the_same_code() -> None:
    english, chinese = map(text_of, READMES)
    assert blocks(english) == blocks(chinese)
    for ours, theirs in zip(english.splitlines(), chinese.splitlines(), strict=True):
        code = re.findall(r"`([^`]+)`", ours), re.findall(r"`([^`]+)`", theirs)
        assert sorted(code[0]) == sorted(code[1]), ours


def test_both_languages_link_to_each_other_and_to_the_same_pages() -> None:
    english, chinese = (links(text_of(page)) for page in READMES)
    assert "README.zh.md" in english
    assert "README.md" in chinese
    theirs = {re.sub(r"\.zh\.(md|svg|png)$", r".\1", link) for link in chinese}
    assert set(english) - {"README.zh.md"} == theirs - {"README.md"}


# The map is complete

NOT_IN_THE_MAP = {"__init__.py", "__main__.py"}


def test_the_map_names_every_folder_and_every_file_at_the_top() -> None:
    named = set(re.findall(r"^\| `([\w./]+)` \|", text_of(STRUCTURE), flags=re.MULTILINE))
    folders = {f"{path.name}/" for path in SOURCE.iterdir() if any(path.glob("*.py"))}
    files = {
        path.name
        for path in SOURCE.iterdir()
        if path.is_file() and path.stat().st_size and path.name not in NOT_IN_THE_MAP
    }
    assert named == folders | files


def test_the_map_shows_the_layers_that_are_enforced() -> None:
    code = "\n".join(code for _, code in blocks(text_of(STRUCTURE)))
    rows = [tuple(line.split()) for line in code.splitlines()]
    start = rows.index(LAYERS[0])
    assert tuple(rows[start : start + len(LAYERS)]) == LAYERS


def test_every_file_of_ours_that_the_map_mentions_exists() -> None:
    form = r"`((?:[\w.-]+/)+[\w.*-]*|[\w-]+\.(?:py|yaml|toml|md))`"
    mentioned = set(re.findall(form, text_of(STRUCTURE)))
    not_files = {"cli/x.py", "deployment.json", "ropeway.yaml"}
    for name in mentioned - not_files:
        matches = (next(base.glob(name), None) for base in (SOURCE, ROOT))
        assert any(matches), name
    for path, noun in re.findall(r"\b((?:[a-z]\w*\.)+)([A-Z]\w+)", text_of(STRUCTURE)):
        module = SOURCE / f"{path.strip('.').replace('.', '/')}.py"
        assert f"class {noun}" in module.read_text(encoding="utf-8"), module


def test_the_changelog_begins_with_this_version() -> None:
    from_newest = re.findall(r"^## \[([\d.]+)\]", text_of("CHANGELOG.md"), flags=re.MULTILINE)
    assert from_newest[0] == re.findall(r'"(.+)"', text_of("src/ropeway/__init__.py"))[-1]
    numbers = [tuple(map(int, version.split("."))) for version in from_newest]
    assert all(newer > older for newer, older in pairwise(numbers))


# The tests above can fail


@pytest.mark.parametrize("line", ["ropeway up --lokal", "ropeway uq", "ropeway bench --clients 0"])
def test_a_wrong_command_line_is_seen(line: str) -> None:
    ((words),) = own_commands(f"```console\n$ {line}\nwhatever it prints\n```")
    with pytest.raises(click.UsageError):
        parse_command(ropeway, words)


def test_output_and_other_commands_are_not_taken_for_ours() -> None:
    text = "```console\n$ ropeway down # all\nropeway is down\n$ ls\n```\n`ropeway init`, `ropeway`"
    assert own_commands(text) == [["down"], ["init"]]


def test_structure_notes_the_size_of_each_folder():
    rows = re.findall(r"^\| `(\w+(?:/|\.py))` \| ([\d,]+) \|", text_of(STRUCTURE), re.MULTILINE)
    noted = {name.strip("/"): int(lines.replace(",", "")) for name, lines in rows}
    sizes: dict[str, int] = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).parts[0]
        sizes[name] = sizes.get(name, 0) + len(path.read_bytes().splitlines())
    sizes = {name: size for name, size in sizes.items() if name not in NOT_IN_THE_MAP}
    assert noted == {name: pytest.approx(size, rel=0.1) for name, size in sizes.items()}
