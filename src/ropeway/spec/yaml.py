"""YAML, read strictly: plain data, and the line every value stands on.

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

from ropeway.errors import SpecError

MAX_BYTES = 500_000
MAX_VALUES = 20_000  # aliases counted each time they are used: ten levels of ten are a bomb
MAX_DEPTH = 40

_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file: the line (0 when it is the whole file), and what to do."""

    line: int
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Document:
    """A file's mapping as plain data; `lines`: dotted path (`a.b[0].c`) → line, from 1."""

    data: dict[str, object]
    lines: dict[str, int]

    def line_of(self, path: Sequence[str | int]) -> int:
        """The line of `path`, or of the nearest mapping around it that the file does have."""
        for end in range(len(path), 0, -1):
            if found := self.lines.get(dotted(path[:end])):
                return found
        return self.lines.get("", 1)


def read_text(path: Path) -> str:
    """The file's text. Raises SpecError when it is missing, no file, too large or not UTF-8."""
    where = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(
            "no such file",
            where=where,
            hint="`ropeway init` writes an annotated sample; another file is named with `--config`",
        ) from None
    except IsADirectoryError:
        raise SpecError("this is a directory, not a file", where=where) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SpecError(f"the file cannot be read: {_reason(error)}", where=where) from None
    if len(raw) > MAX_BYTES:
        raise SpecError(
            f"the file is larger than {MAX_BYTES:,} bytes, so it is not a spec",
            where=where,
            hint="check that `--config` names the spec and not the model or a log",
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(
            f"the file is not UTF-8 text: byte 0x{raw[error.start]:02x} cannot be read",
            where=f"{where}:{line}",
            hint=f"convert it: `iconv -f GB18030 -t UTF-8 {path.name} > utf8.yaml`",
        ) from None


def load_yaml(text: str, where: str) -> Document:
    """Read one YAML mapping. `where` names the file in errors.

    Raises SpecError (`where` is `file:line`) on bad syntax, tabs, duplicate keys, keys that are
    not text, tags, several documents, aliases that contain themselves or blow up, and no mapping.
    """
    root = _compose(text, where)
    if root is None:
        raise SpecError(
            "the file is empty", where=where, hint="`ropeway init` writes an annotated sample"
        )
    if not isinstance(root, yaml.MappingNode):
        problem = Problem(
            _line(root),
            "the file must hold `key: value` lines at its top",
            _colon_hint(text, _line(root)),
        )
        raise as_error(where, [problem])
    reader = _Reader()
    data = reader.value(root, ())
    if reader.problems:
        raise as_error(where, reader.problems)
    return Document(cast(dict[str, object], data), reader.lines)


def dump_yaml(data: object) -> str:
    """Plain data as block YAML that `load_yaml` and any YAML 1.1 reader read alike."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def as_error(where: str, problems: Sequence[Problem]) -> SpecError:
    """All problems of a file as one error: the first in `what`, the others as evidence."""
    first, *rest = sorted(problems, key=lambda problem: problem.line)
    return SpecError(
        first.text,
        where=_place(where, first.line),
        evidence=[f"{_place(where, other.line)}: {_with_hint(other)}" for other in rest],
        hint=first.hint,
    )


def dotted(path: Sequence[str | int]) -> str:
    """`("cluster", "hosts", 0, "npus")` → `cluster.hosts[0].npus`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _place(where: str, line: int) -> str:
    return f"{where}:{line}" if line else where


def _with_hint(problem: Problem) -> str:
    return f"{problem.text}; {problem.hint}" if problem.hint else problem.text


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


class _Loader(yaml.SafeLoader):
    """Composes nodes only; core-schema scalars; bounded depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}  # forget YAML 1.1's, which the class would inherit


class _Dumper(yaml.SafeDumper):
    """Quotes whatever either schema would not read back as text; never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        del data
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML folds U+0085 and U+2028 into spaces unless they are escaped
        style = None if data.isprintable() else '"'
        return self.represent_scalar(_TAG + "str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)

_CORE: dict[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}", "-+0123456789"),
    "float": (r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    "merge": (r"<<", "<"),
}
for _name, (_pattern, _first) in _CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _TAG + _name,
            re.compile(f"^(?:{_pattern})$"),
            ["" if letter == "\0" else letter for letter in _first],
        )

_SCALARS: dict[str, tuple[str, Callable[[str], object]]] = {
    _TAG + "null": (_CORE["null"][0], lambda _text: None),
    _TAG + "bool": (_CORE["bool"][0], lambda text: text.lower() == "true"),
    _TAG + "int": (
        _CORE["int"][0],
        lambda text: int(text, 0) if text[:2] in ("0o", "0x") else int(text),
    ),
    _TAG + "float": (_CORE["float"][0], float),
    _TAG + "str": (".*", str),
}


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        shown = f"U+{ord(text[error.position]):04X}"
        problem = Problem(line, f"a character that YAML does not allow: {shown}")
        raise as_error(where, [problem]) from None
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise as_error(where, [_syntax_problem(text, error)]) from None
    except (ValueError, OverflowError) as error:
        # an escape beyond Unicode's last character, or a version of thousands of digits
        line = loader.get_mark().line + 1
        raise as_error(where, [Problem(line, f"not valid YAML: {error}")]) from None
    finally:
        loader.dispose()


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> Problem:
    """PyYAML's words kept, except where they hide the cause."""
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    said = (error.problem or "cannot be read").strip()
    if "'\\t'" in said:
        return Problem(line, "a tab where YAML wants spaces", "indent with two spaces")
    if "but found another document" in said:
        return Problem(line, "a second document (`---`) begins here, and one file is one spec")
    if "found undefined alias" in said:
        said = said.replace("'", "`")
    if error.context:
        said = f"{said} ({error.context.strip()})"
    return Problem(line, f"not valid YAML: {said}", _colon_hint(text, line))


def _colon_hint(text: str, line: int) -> str | None:
    """The two ways to lose a colon: a full-width one, and no space after it."""
    lines = text.splitlines()
    for number in (line, line - 1):
        shown = lines[number - 1].strip() if 0 < number <= len(lines) else ""
        if re.match(r"[\w.-]+\s*：", shown):
            return f"line {number} has a full-width colon `：`; write `: `"
        if re.match(r"[\w.-]+:[^\s:]", shown):
            return f"line {number} needs a space after the colon"
    return None


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


@dataclass
class _Reader:
    """Walks composed nodes once, collecting lines and every problem met on the way."""

    lines: dict[str, int] = field(default_factory=lambda: {"": 1})
    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    open_nodes: list[yaml.Node] = field(default_factory=list)

    def value(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        self.count += 1
        if self.count > MAX_VALUES:
            if self.count == MAX_VALUES + 1:
                text = f"the file holds more than {MAX_VALUES:,} values, aliases written out"
                self.problems.append(Problem(_line(node), text))
            return None
        if any(node is other for other in self.open_nodes):
            self.problems.append(Problem(_line(node), f"`{dotted(path)}` contains itself"))
            return None
        self.open_nodes.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self.open_nodes.pop()

    def _mapping(self, node: yaml.MappingNode, path: tuple[str | int, ...]) -> dict[str, object]:
        found: dict[str, object] = {}
        first_line: dict[str, int] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            line = _line(key_node)
            if key_node.tag == _TAG + "merge":
                merged.append(value_node)
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            at = (*path, key)
            if key in found:
                text = f"`{dotted(at)}` is given twice, first on line {first_line[key]}"
                self.problems.append(Problem(line, text, "keep one of the two"))
                continue
            first_line[key] = line
            self.lines[dotted(at)] = line
            found[key] = self.value(value_node, at)
        for source in merged:
            found = self._merge(source, path) | found
        return found

    def _merge(self, source: yaml.Node, path: tuple[str | int, ...]) -> dict[str, object]:
        """`<<: *name`: the keys of another mapping, or of several, the earlier one winning."""
        before = dict(self.lines)
        nodes = source.value if isinstance(source, yaml.SequenceNode) else [source]
        result: dict[str, object] = {}
        for node in reversed(nodes):
            value = self.value(node, path)
            if isinstance(value, dict):
                result |= value
            else:
                text = f"`<<` in `{dotted(path)}` must name a mapping"
                self.problems.append(Problem(_line(source), text))
        self.lines |= before
        return result

    def _sequence(self, node: yaml.SequenceNode, path: tuple[str | int, ...]) -> list[object]:
        items = []
        for index, item in enumerate(node.value):
            at = (*path, index)
            self.lines[dotted(at)] = _line(item)
            items.append(self.value(item, at))
        return items

    def _key(self, node: yaml.Node, path: tuple[str | int, ...]) -> str | None:
        scalar = isinstance(node, yaml.ScalarNode)
        if scalar and node.tag == _TAG + "str" and not _unprintable(node.value):
            return str(node.value)
        inside = f" in `{dotted(path)}`" if path else ""
        if scalar and node.value and node.tag in _SCALARS and not _unprintable(node.value):
            text = f"a key{inside} must be text, and `{node.value}` is not"
            self.problems.append(Problem(_line(node), text, "put it in quotes"))
        else:
            self.problems.append(Problem(_line(node), f"a key{inside} must be text"))
        return None

    def _scalar(self, node: yaml.Node, path: tuple[str | int, ...]) -> object:
        at, text = dotted(path), str(node.value)
        known = _SCALARS.get(node.tag)
        if known is None or not isinstance(node, yaml.ScalarNode):
            tag = node.tag.replace(_TAG, "!!")
            self.problems.append(Problem(_line(node), f"`{at}` has the tag `{tag}`", "remove it"))
            return None
        pattern, read = known
        if _unprintable(text):
            fault = f"`{at}` holds an escape that is no character"
        elif re.fullmatch(pattern, text, re.DOTALL) is None:  # an explicit `!!int abc`
            fault = f"`{at}`: `{text}` is not what its tag says"
        else:
            value = read(text)
            if not isinstance(value, float) or math.isfinite(value):
                return value
            fault = f"`{at}` is too large a number"
        self.problems.append(Problem(_line(node), fault))
        return None


def _unprintable(text: str) -> bool:
    """A NUL ends an argument early; half a surrogate pair cannot be written at all."""
    return "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)
