"""Sets values in the text of a spec and leaves all else as it is, comments included.

It edits the text at the marks that PyYAML gives each value. The caller reads the result again and
compares, so that a file written in an unusual way is refused and never damaged.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from ropeway.errors import SpecError
from ropeway.spec.yaml import dump_yaml

# Our comment lines at the very end of a text.
_OURS = re.compile(r"(?:^[ \t]*# (plan|tune): .*\n)+\Z", re.MULTILINE)
_WIDTH = 100

By = Literal["plan", "tune"]


@dataclass(frozen=True)
class Edit:
    """One key to set, at a path of section and key: `("serve", "layout")`.

    value  a scalar, a mapping, or a list of mappings; None removes the key
    why    a comment to write above it
    by     the verb whose reason that is
    """

    path: tuple[str, str]
    value: object
    why: str = ""
    by: By = "plan"

    def comment(self, column: int) -> str:
        """Return the reason as comment lines; nothing within braces (column -1), where a comment
        has no room."""
        if not self.why or column < 0:
            return ""
        mark = f"# {self.by}: "
        lines = textwrap.wrap(self.why, _WIDTH - column - len(mark), break_long_words=False)
        return "".join(f"{' ' * column}{mark}{line}\n" for line in lines)


def apply_edits(text: str, edits: Sequence[Edit]) -> str:
    """Return the text with every edit made; a reason replaces that of an earlier edit.

    Raises SpecError where the text is written in a way that we cannot edit.
    """
    text = text if text.endswith("\n") else text + "\n"
    # From the last to the first: each new key becomes the first of its section.
    for edit in reversed(edits):
        text = _remove(text, edit.path) if edit.value is None else _set(text, edit)
    return text


def reasoned_keys(text: str, by: By = "plan") -> set[tuple[str, str]]:
    """Return section and key of every value that has this verb's reason above it."""
    keys = set()
    for section, mapping in _root(text).value:
        if isinstance(mapping, yaml.MappingNode):
            for key, _ in mapping.value:
                start = text.rfind("\n", 0, key.start_mark.index) + 1
                reason = _OURS.search(text, 0, start)
                if reason and reason[1] == by:
                    keys.add((section.value, key.value))
    return keys


def _set(text: str, edit: Edit) -> str:
    """Return the text with `edit.value` at `edit.path`; a missing section is made."""
    section, name = edit.path
    value = _lines(edit.value) if isinstance(edit.value, list) else _scalar(edit.value)
    entry, root = f"{name}: {value}", _root(text)
    pair = _entry(root, section)
    if pair is None and root.flow_style:
        return _within(text, root, f"{section}: {{{entry}}}")
    if pair is None:
        blank = "" if text.endswith("\n\n") else "\n"
        return f"{text}{blank}{section}:\n{edit.comment(2)}  {entry}\n"
    key, mapping = pair
    if edit.why and not root.flow_style and (block := _as_block(text, key, mapping)):
        return _set(block, edit)
    if not isinstance(mapping, yaml.MappingNode):  # a section left blank
        return _below(text, key, key.start_mark.column + 2, entry, edit)
    if pair := _entry(mapping, name):
        return _replace(text, *pair, value, edit)
    if mapping.flow_style:
        return _within(text, mapping, entry)
    return _below(text, key, mapping.value[0][0].start_mark.column, entry, edit)


def _replace(text: str, key: yaml.Node, value: yaml.Node, new: str, edit: Edit) -> str:
    """Replace a value; a block over several lines becomes one line."""
    block = isinstance(value, yaml.CollectionNode) and not value.flow_style
    literal = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
    begin = value.start_mark.index
    end = _last_character(value) if block or literal else value.end_mark.index
    if block or begin == end:
        begin = text.index(":", key.end_mark.index) + 1
        new = new if new.startswith("\n") else f" {new}"
        end = max(begin, end)
    text = text[:begin] + new + text[end:]
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    alone = not text[start : key.start_mark.index].strip()
    comment = edit.comment(key.start_mark.column if alone else -1)
    return _OURS.sub("", text[:start]) + comment + text[start:]


def _as_block(text: str, key: yaml.Node, mapping: yaml.Node) -> str:
    """Return the text with a section in braces as a block, where comments have room.

    "" for one that is none, or whose entries cannot be cut out: an alias, a comment within.
    """
    if not isinstance(mapping, yaml.MappingNode) or not mapping.flow_style:
        return ""
    begin, end = mapping.start_mark.index, mapping.end_mark.index
    lines, at = [], begin + 1
    for name, value in mapping.value:
        before = text[at : name.start_mark.index]
        colon = text[name.end_mark.index : value.start_mark.index]
        given = text[value.start_mark.index : value.end_mark.index]
        backwards = value.start_mark.index < name.end_mark.index  # an alias
        if backwards or before.strip(" \n,") or colon.strip(" \n:") or "\n" in given:
            return ""
        written = text[name.start_mark.index : name.end_mark.index]
        lines.append(f"\n{' ' * (key.start_mark.column + 2)}{written}: {given}".rstrip())
        at = value.end_mark.index
    if text[begin] != "{" or text[at : end - 1].strip(" \n,"):
        return ""
    rest = text.index("\n", end)  # a comment behind the braces stays behind the key
    head = f"{text[:begin].rstrip()}{text[end:rest]}"
    return f"{head}{''.join(lines)}{text[rest:]}"


def _within(text: str, parent: yaml.MappingNode, entry: str) -> str:
    """Insert an entry after the brace that opens its mapping."""
    after = text.index("{", parent.start_mark.index) + 1  # an anchor may stand before it
    return text[:after] + entry + (", " if parent.value else "") + text[after:]


def _below(text: str, key: yaml.Node, column: int, entry: str, edit: Edit) -> str:
    """Insert a line of its own below that of `key`."""
    after = text.index("\n", key.end_mark.index) + 1
    return text[:after] + edit.comment(column) + " " * column + entry + "\n" + text[after:]


def _remove(text: str, path: tuple[str, str]) -> str:
    """Remove the key's lines, if there is such a key."""
    _, mapping = _entry(_root(text), path[0]) or (None, None)
    pair = _entry(mapping, path[1])
    if not isinstance(mapping, yaml.MappingNode) or pair is None:
        return text
    key, value = pair
    if mapping.flow_style:
        after = re.compile(r"\s*,\s*").match(text, value.end_mark.index)
        before = re.compile(r",\s*$").search(text[: key.start_mark.index])
        begin = key.start_mark.index if after or not before else before.start()
        return text[:begin] + text[after.end() if after else value.end_mark.index :]
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    end = text.index("\n", max(key.end_mark.index, _last_character(value) - 1)) + 1
    return _OURS.sub("", text[:begin]) + text[end:]


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise SpecError("the file is not a mapping")
    return root


def _entry(parent: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(parent, yaml.MappingNode):
        return None
    return next((pair for pair in parent.value if pair[0].value == name), None)


def _last_character(node: yaml.Node) -> int:
    """Return where a value ends: a block's own end mark comes after the comments that follow."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max(_last_character(value) for _, value in node.value)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max(_last_character(value) for value in node.value)
    end: int = node.end_mark.index
    return end


def _scalar(value: object) -> str:
    """Write a value as YAML on one line."""
    if isinstance(value, Mapping):
        return dump_yaml(value, one_line=True).strip()
    return dump_yaml({"k": value}).removeprefix("k:").strip()


def _lines(items: list[dict[str, object]]) -> str:
    """Write a list of mappings as YAML, each on a line of its own below the key of a section."""
    return "".join(f"\n    - {dump_yaml(item, one_line=True).rstrip()}" for item in items)
