"""The Chinese of our English sentences: tables from template to template, and who reads them."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources

from ropeway.errors import RopewayError
from ropeway.phrases import Phrase, translated, translation

LANGUAGES = ("en", "zh")
Say = Callable[[str], str]
"""Puts a text into the language of the screen."""
# By who says the sentence; `errors` has those of all the rest, and what the terminal itself says.
TABLES = (
    "plan", "doctor", "launch", "batch", "bench", "server", "sweep", "compare", "tune",
    "tune_hosts", "errors",
)  # fmt: skip
# How a line begins that is to be typed, which is the same in every language. Prose begins with some
# of these words too (`less is left`, `ssh cannot connect`), and goes on in another way.
COMMAND = (
    r"(?:(?:ropeway|ssh-keyscan|sudo) |(?:apt|pip) (?:un)?install |export \S*=|kill -?\d|rm -"
    r"|(?:docker|podman) (?:exec|images|info|inspect|load|logs|ps|pull|restart|rm|run|start|stop) "
    r"|less \S*[./]|ssh (?=-|\S+@|\S+(?: true)?$))"
)


@cache
def chinese() -> Mapping[str, str]:
    """Return the Chinese templates by the English ones."""
    return {english: text for name in TABLES for english, text in read_table(name).items()}


def read_table(name: str) -> Mapping[str, str]:
    """Return one of the tables."""
    file = resources.files("ropeway.report.chinese").joinpath(f"{name}.json")
    table: Mapping[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return table


def in_language(text: str, language: str) -> str:
    """Return a sentence in a language; in English where there is no Chinese for all of it."""
    return translated(text, chinese()) if language == "zh" else text


def error_in_chinese(error: RopewayError) -> RopewayError | None:
    """Return the error with its parts in Chinese; None when one of ours has none.

    A place and a line of evidence that are no Phrase come from outside, such as a line of a log.
    """
    table = chinese()
    what = translation(error.what, table)
    where = _given(error.where or "", table)
    where = where and where.replace(", ", "，")  # of its parts: file, key, release
    evidence = [_given(line, table) for line in error.evidence]
    hint = error.hint or ""
    if not all(re.match(COMMAND, line) for line in hint.splitlines()):
        hint = translation(hint, table) or ""
    if what is None or where is None or None in evidence or (error.hint and not hint):
        return None
    lines = [line for line in evidence if line is not None]
    return RopewayError(what, where=where or None, evidence=lines, hint=hint or None)


def _given(text: str, table: Mapping[str, str]) -> str | None:
    """Return the translation of a Phrase, and other text as it is unless the table has it."""
    return translation(text, table) if isinstance(text, Phrase) else table.get(text, text)
