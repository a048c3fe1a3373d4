"""Reads YAML strictly, as plain data with the line of every value.

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: `no` and `on` are text, `1e-5` is a number,
`12:30` is text. So what a value means can be seen by looking at it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from ropeway.errors import SpecError, reason_of
from ropeway.outside import read_bounded
from ropeway.phrases import joined, phrase

MAX_BYTES = 200_000  # of a spec with some thousand hosts
MAX_DEPTH = 40
MAX_PROBLEMS = 50  # listed in one error


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file: its line (0 for the whole file), and what to do."""

    line: int
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Document:
    """A file's mapping as plain data; `lines` has the line of each dotted path (`a.b[0].c`)."""

    data: dict[str, object]
    lines: dict[str, int]

    def line_of(self, path: Sequence[str | int]) -> int:
        """Return the line of `path`, or of the nearest mapping around it that the file has."""
        for end in range(len(path), 0, -1):
            if line := self.lines.get(dotted(path[:end])):
                return line
        return self.lines.get("", 1)


def read_text(path: Path) -> str:
    """Return the file's text. Raises SpecError when it is missing, too large or not UTF-8."""
    where = str(path)
    try:
        raw = read_bounded(path, MAX_BYTES)
    except OSError as error:
        hint = "`ropeway init` writes an annotated sample; `--config` names another file"
        raise SpecError(
            phrase("the file cannot be read: {reason}", reason=reason_of(error)),
            where=where,
            hint=hint if isinstance(error, FileNotFoundError) else None,
        ) from None
    except ValueError as error:  # too long, a pipe, a device; a NUL in the name
        raise SpecError(
            phrase("the file cannot be read: {reason}", reason=error.args[0]),
            where=where,
            hint="check that `--config` names the spec and not the model or a log",
        ) from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(
            phrase(
                "the file is not UTF-8 text: byte 0x{byte:02x} cannot be read",
                byte=raw[error.start],
            ),
            where=f"{where}:{line}",
            hint=phrase(
                "convert it: `iconv -f GB18030 -t UTF-8 {name} > utf8.yaml`", name=path.name
            ),
        ) from None


def load_yaml(text: str, where: str) -> Document:
    """Read one YAML mapping. `where` names the file in errors.

    Raises SpecError (`where` is `file:line`) on bad syntax, tabs, duplicate keys, keys that are
    not text, tags, aliases, several documents, and anything but a mapping.
    """
    root = _compose(text, where)
    if root is None:
        hint = "`ropeway init` writes an annotated sample"
        raise SpecError("the file is empty", where=where, hint=hint)
    if not isinstance(root, yaml.MappingNode):
        line, complaint = _line(root), "the file must consist of `key: value` lines"
        raise as_error(where, [Problem(line, complaint, _colon_hint(text, line))])
    reader = _Reader()
    data = reader.value(root, ())
    if reader.problems:
        raise as_error(where, sorted(reader.problems, key=lambda problem: problem.line))
    return Document(cast(dict[str, object], data), reader.lines)


def dump_yaml(data: object, *, one_line: bool = False) -> str:
    """Return plain data as YAML that `load_yaml` and any YAML 1.1 reader read alike."""
    width = 10**6 if one_line else 100
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=width,
        default_flow_style=one_line,
    )


def as_error(where: str, problems: Sequence[Problem]) -> SpecError:
    """Return a file's problems as one error: the first in `what`, the others as evidence."""
    first, *rest = problems
    place = f"{where}:{first.line}" if first.line else where
    evidence: list[str] = [
        phrase(
            "{where}:{line}: {problem}",
            where=where,
            line=other.line,
            problem=joined(filter(None, (other.text, other.hint))),
        )
        for other in rest[: MAX_PROBLEMS - 1]
    ]
    if len(problems) > MAX_PROBLEMS:
        evidence.append(phrase("and {n:,} more", n=len(problems) - MAX_PROBLEMS))
    return SpecError(first.text, where=place, evidence=evidence, hint=first.hint)


def dotted(path: Sequence[str | int]) -> str:
    """Write `("cluster", "hosts", 0, "npus")` as `cluster.hosts[0].npus`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


# What a scalar without quotes means, in this order; else it is text.
_PLAIN: tuple[tuple[str, Callable[[str], object]], ...] = (
    (r"~|null|Null|NULL|", lambda _text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]{1,300}", int),
    (r"0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}", lambda text: int(text, 0)),
    (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", float),
)


def _plain_value(text: str) -> object:
    for pattern, read in _PLAIN:
        if re.fullmatch(pattern, text):
            return read(text)
    return text


class _Loader(yaml.SafeLoader):
    """Composes nodes only. Without aliases and tags a file cannot grow or mean more than it shows;
    nor can it nest deeper than Python recurses."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = cast(Any, self).peek_event()
        self.depth += 1
        if isinstance(event, yaml.AliasEvent):
            raise _Unsupported(
                event, phrase("an alias (`*{name}`)", name=event.anchor), "write the value out"
            )
        if getattr(event, "tag", None) is not None:
            raise _Unsupported(event, phrase("a tag (`{name}`)", name=event.tag), "remove it")
        if self.depth > MAX_DEPTH:
            raise _Unsupported(event, phrase("more than {n} levels", n=MAX_DEPTH))
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # YAML 1.1's; `_plain_value` takes their place


class _Unsupported(Exception):
    """Valid YAML that a spec cannot have."""

    def __init__(self, event: Any, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.problem = Problem(
            event.start_mark.line + 1, phrase("a spec cannot have {what}", what=what), hint
        )


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either schema would not read back as text; never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML folds U+0085 and U+2028 into spaces unless they are escaped
        plain = data.isprintable() and isinstance(_plain_value(data), str)
        return self.represent_scalar("tag:yaml.org,2002:str", data, None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_str)


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = f"U+{ord(text[error.position]):04X}"
        problem = Problem(line, phrase("YAML does not allow the character {code}", code=code))
        raise as_error(where, [problem]) from None
    try:
        return loader.get_single_node()
    except _Unsupported as error:
        raise as_error(where, [error.problem]) from None
    except yaml.MarkedYAMLError as error:
        raise as_error(where, [_syntax_problem(text, error)]) from None
    except (ValueError, OverflowError) as error:
        # an escape beyond Unicode's last character, or a version of thousands of digits
        line = loader.get_mark().line + 1
        raise as_error(
            where, [Problem(line, phrase("not valid YAML: {error}", error=error))]
        ) from None
    finally:
        loader.dispose()


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> Problem:
    """Keep PyYAML's words, except where they hide the cause."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    complaint = (error.problem or "cannot be read").strip()
    if "'\\t'" in complaint:
        return Problem(line, "a tab is not indentation in YAML", "indent with two spaces")
    if "but found another document" in complaint:
        return Problem(line, "a second document (`---`) starts here, and a file holds one spec")
    if error.context:
        complaint = f"{complaint} ({error.context.strip()})"
    return Problem(
        line, phrase("not valid YAML: {complaint}", complaint=complaint), _colon_hint(text, line)
    )


def _colon_hint(text: str, line: int) -> str | None:
    """Recognise the two ways to lose a colon: a full-width one, and no space after it."""
    lines = text.splitlines()
    for number in (line, line - 1):
        content = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        if re.match(r"[\w.-]+\s*：", content):
            return phrase("line {n} has a full-width colon `：`; write `: `", n=number)
        if re.match(r"[\w.-]+:[^\s:]", content):
            return phrase("line {n} needs a space after the colon", n=number)
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


@dataclass
class _Reader:
    """Walks composed nodes once, collecting lines and every problem met on the way."""

    lines: dict[str, int] = field(default_factory=lambda: {"": 1})
    problems: list[Problem] = field(default_factory=list)

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        value = _scalar_value(node)
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(node, phrase("`{key}` is too large a number", key=dotted(path)))
        elif isinstance(value, str) and _is_unprintable(value):
            self._refuse(
                node,
                phrase("`{key}` holds an escape that is not a character", key=dotted(path)),
            )
        return value

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, object]:
        data: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key is None:
                continue
            at = (*path, key)
            if key in data:
                first = self.lines[dotted(at)]
                text = phrase(
                    "`{key}` is given twice, first on line {first}",
                    key=dotted(at),
                    first=first,
                )
                self._refuse(key_node, text, "keep one of the two")
                continue
            self.lines[dotted(at)] = _line(key_node)
            data[key] = self.value(value_node, at)
        return data

    def _sequence(self, node: yaml.SequenceNode, path: tuple[str | int, ...]) -> list[object]:
        items = []
        for index, item in enumerate(node.value):
            at = (*path, index)
            self.lines[dotted(at)] = _line(item)
            items.append(self.value(item, at))
        return items

    def _key(self, node: yaml.Node) -> str | None:
        """Return the key's text; None, with a problem noted, for what is not text."""
        key = _scalar_value(node) if isinstance(node, yaml.ScalarNode) else None
        if isinstance(key, str) and not _is_unprintable(key):
            return key
        if key is None or isinstance(key, str):
            self._refuse(node, "a key must be text")
        else:
            text = phrase("a key must be text, and `{name}` is not", name=node.value)
            self._refuse(node, text, "put it in quotes")
        return None

    def _refuse(self, node: yaml.Node, text: str, hint: str | None = None) -> None:
        self.problems.append(Problem(_line(node), text, hint))


def _scalar_value(node: yaml.Node) -> object:
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
    return node.value if quoted else _plain_value(node.value)


def _is_unprintable(text: str) -> bool:
    """Whether a text has a NUL, which ends an argument early, or half a surrogate pair."""
    return re.search(r"[\0\ud800-\udfff]", text) is not None
