"""Errors in Chinese: each text of ours that an error gets is a phrase, or has an entry itself.

Read from the syntax trees: what is given to the constructor, the variables and the functions of
the same module that it comes from. Other text comes from outside, and stays as it is.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ropeway import errors
from ropeway.doctor.checks import CHECKS
from ropeway.report.chinese import COMMAND, chinese
from ropeway.spec.errors import _COMPLAINTS

SOURCE = Path(__file__).parent.parent / "src" / "ropeway"
# Folders and files all of whose errors are in Chinese; nobody reads those of their programs.
WHOLE = (
    *("spec", "hosts", "engines", "models", "facts", "plan", "endpoint", "bench", "batch"),
    *("launch", "doctor", "sim", "cli"),
    *("units.py", "hardware.py", "phrases.py", "suggest.py"),
)
# Those that say nothing but errors in a verb that is in English.
SPEAKING = ("launch/", "doctor/", *(f"cli/{verb}.py" for verb in ("bringup", "doctor", "up")))
IDS = {check.id for check in CHECKS}
PROGRAMS = {"facts/__main__.py"}
FILES = sorted(
    path
    for place in WHOLE
    for path in ((SOURCE / place).rglob("*.py") if (SOURCE / place).is_dir() else [SOURCE / place])
    if str(path.relative_to(SOURCE)) not in PROGRAMS
)
# Who is given texts, and which of its arguments they are.
GIVEN = {
    **{
        name: slice(1)
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.RopewayError)
    },
    **dict.fromkeys(("Interrupted", "Bug", "need", "missing", "_bad_config", "check"), slice(1)),
    **dict.fromkeys(("Fault", "Problem", "_refuse", "_broken", "_Unsupported"), slice(1, None)),
    "QuantisationFault": slice(1),
    "matching": slice(1, None),
}
# Who tells what happens on the way.
SAID = dict.fromkeys(
    ("say", "warn", "hint", "step", "ok", "update", "on_progress", "check", "Step"), slice(1)
)
MAKERS = {"phrase", "count", "counted", "joined", "did_you_mean"}
# Names of things in vLLM and Ray, which are the same in every language.
NAMES = re.compile(
    r"`[^`]*`|vLLM-Ascend|vLLM|npu-smi|\bpid\b|additional-config|create_dp_placement_groups|\(v1/\S+\)"
)


class Texts:
    """The texts in one module that are English only."""

    def __init__(self, tree: ast.Module, given: Mapping[str, slice] = GIVEN) -> None:
        self.given = given
        self.functions = {
            node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
        }
        self.tree = tree
        self.seen: set[int] = set()

    def english(self) -> Iterator[str]:
        for scope in (*self.functions.values(), self.tree):
            for call in ast.walk(scope):
                if isinstance(call, ast.Call):
                    for text in _texts_of(call, self.given):
                        yield from self._of(text, scope)

    def _of(self, node: ast.expr | None, scope: ast.AST) -> Iterator[str]:
        if node is None or id(node) in self.seen:
            return
        self.seen.add(id(node))
        match node:
            case ast.Constant(value=str(text)) if not _is_shown_as_it_is(text):
                yield f"line {node.lineno}: no Chinese for {text!r}"
            case ast.JoinedStr(values=values):
                ours = "".join(part.value for part in values if isinstance(part, ast.Constant))
                made = [part for part in values if isinstance(part, ast.FormattedValue)]
                holds_error = any(ast.unparse(part.value).endswith("error") for part in made)
                holds_error &= "type(error)" not in ast.unparse(node)  # what Python says
                if holds_error or not _is_shown_as_it_is(ours):
                    yield f"line {node.lineno}: {ast.unparse(node)} is no phrase"
            case ast.BinOp(left=left, right=right):
                yield from (*self._of(left, scope), *self._of(right, scope))
            case ast.IfExp(body=body, orelse=orelse):
                yield from (*self._of(body, scope), *self._of(orelse, scope))
            case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    yield from self._of(part, scope)
            case ast.GeneratorExp(elt=part) | ast.ListComp(elt=part) | ast.Starred(value=part):
                yield from self._of(part, scope)
            case ast.Call(func=ast.Name(id="tuple"), args=parts):
                for part in parts:
                    yield from self._of(part, scope)
            case ast.Call(func=ast.Name(id=name)) if name in self.functions and name not in MAKERS:
                yield from self._returned(self.functions[name])
            case ast.Call(func=ast.Attribute(attr="format")):
                yield f"line {node.lineno}: {ast.unparse(node)} is no phrase"
            case ast.Name(id=name):
                for value in _assigned(scope, name):
                    yield from self._of(value, scope)

    def _returned(self, function: ast.FunctionDef) -> Iterator[str]:
        for node in ast.walk(function):
            if isinstance(node, ast.Return):
                yield from self._of(node.value, function)


def _texts_of(call: ast.Call, given: Mapping[str, slice]) -> list[ast.expr]:
    place = given.get(ast.unparse(call.func).rpartition(".")[2])
    if place is None:
        return []
    named = ("what", "text", "evidence", "hint", "reason")
    return [*call.args[place], *(word.value for word in call.keywords if word.arg in named)]


def _assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    for node in ast.walk(scope):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                for part, value in zip(target.elts, node.value.elts, strict=True):
                    if isinstance(part, ast.Name) and part.id == name:
                        yield value


def _is_shown_as_it_is(text: str) -> bool:
    is_command = all(re.match(COMMAND, line) for line in text.splitlines())
    if text in chinese() or text in IDS or is_command:
        return True
    return not re.search(r"[A-Za-z]{2}", NAMES.sub("", text))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_text_of_an_error_and_of_a_start_has_chinese(path: Path) -> None:
    speaks = str(path.relative_to(SOURCE)).startswith(SPEAKING)
    given = GIVEN | SAID if speaks else GIVEN
    assert list(Texts(ast.parse(path.read_text(encoding="utf-8")), given).english()) == []


def test_complaints_of_pydantic_have_chinese() -> None:
    assert set(_COMPLAINTS.values()) - set(chinese()) == set()


@pytest.mark.parametrize(
    "body",
    [
        'raise Refused(n, evidence=[f"{n}: {n.error}"])',
        'raise Refused("not in any table")',
        'raise Refused(f"{n} is not in any table")',
        'raise Refused("{} is not".format(n))',
        'hint = f"give {n} words"\n    raise Refused(n, hint=hint)',
        "raise Refused(why(n))",
        'raise Refused(n, evidence=[f"{n} is a number"])',
        'raise Refused("not in a table" if n else n)',
    ],
)
def test_what_is_english_only_is_seen(body: str) -> None:
    code = f'def f(n):\n    {body}\ndef why(n):\n    return f"because of {{n}}"\n'
    assert len(list(Texts(ast.parse(code)).english())) == 1


def test_what_comes_from_outside_is_not() -> None:
    code = 'def f(n):\n    raise Refused(n, evidence=[f"{n}: {n}"], hint=f"`{n}`")\n'
    assert list(Texts(ast.parse(code)).english()) == []
