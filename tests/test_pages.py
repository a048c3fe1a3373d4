"""The commands that READMEs and tutorials show are run, and print what is shown."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN_PAGES = ROOT / "scripts" / "run-pages"
PAGES = (
    "README.md", "README.zh.md", "docs/tutorial.md", "docs/tutorial.zh.md",
    "docs/pictures/terminal.svg", "docs/pictures/terminal.zh.svg",
    "docs/pictures/plan.txt", "docs/pictures/plan.zh.txt",
)  # fmt: skip


def run_pages(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, RUN_PAGES, *words], text=True, capture_output=True)


@pytest.mark.real_time
@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_what_its_commands_print(page: str) -> None:
    done = run_pages("--check", page)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_no_longer_printed_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ ropeway --version\nropeway, version 0.0.0\n```\n")
    done = run_pages("--check", str(page))
    assert done.returncode == 1
    assert "-ropeway, version 0.0.0" in done.stdout
    assert run_pages(str(page)).returncode == 0
    assert run_pages("--check", str(page)).returncode == 0


@pytest.mark.parametrize(
    ("shown", "code"),
    [("b\na", 0), ("a\nb", 0), ("a\nc", 1)],
)
def test_a_block_that_varies_is_kept_while_only_the_order_differs(
    shown: str, code: int, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- varies: the order -->\n```console\n$ printf 'a\\nb'\n{shown}\n```\n")
    assert run_pages("--check", str(page)).returncode == code


def test_a_line_of_a_readme_that_fails_is_seen(tmp_path: Path) -> None:
    for name in ("page.md", "page.zh.md"):
        (tmp_path / name).write_text("```sh\nropeway up -c none.yaml\n```\n")
        done = run_pages("--check", str(tmp_path / name))
        assert done.returncode == 1
        assert "ropeway up -c none.yaml: exit code 2" in done.stderr


@pytest.mark.real_time
def test_a_picture_is_kept_when_only_a_time_differs(tmp_path: Path) -> None:
    picture = tmp_path / "terminal.svg"
    real = (ROOT / "docs/pictures/terminal.svg").read_text(encoding="utf-8")
    slow, steps = re.subn(r"&#160;\d+\.\d&#160;s(?=&#160;|<)", "&#160;9.9&#160;s", real)
    assert steps > 3
    picture.write_text(slow, encoding="utf-8")
    assert run_pages("--check", str(picture)).returncode == 0
    picture.write_text(slow.replace("RoCE", "Rocky"), encoding="utf-8")
    assert run_pages("--check", str(picture)).returncode == 1
