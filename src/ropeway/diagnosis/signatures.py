"""The table of failure signatures, read from `tables/*.toml`, and which of them claims a line.

TOML, because a row is mostly prose in two languages and a fragment copied from a log: quoted text
takes `#`, `: ` and backslashes as they come (YAML reads them as its own), a row with a name that is
there already is refused by the parser, and the standard library reads it. A file for each subject.

A row `[id]`:

    kind      root: names the fault itself. secondary: a part that broke because of it. echo: says
              only that something else failed. noise: is printed when all is well
    weak      true for a root that says who waited or which part broke, and seldom why: another root
              of the same moment explains it better
    text      fragments as they stand in the log; any of them must be in the line
    pattern   a regular expression that must match as well
    codes     CANN's codes (`EI0006`), torch_npu's (`ERR00100`) or ACL's numbers that mean this row
    calm      true when the line may be of level INFO or WARNING
    category  one of CATEGORIES in result.py
    cause, fix, cause_zh, fix_zh
    details   [{find, say, zh}]: what to take from the line or its neighbours; `{name}` is a group
              of `find`; `{name:bytes}` prints a size, `{name:hccl}` (zh: `{name:hccl-zh}`) what an
              HCCL code means
    versions  where it happens, in words
    source    `vllm-ascend#4051`, `owner/repo#1`, a URL, or words
    basis     how we know: recorded (the default), once, source, measured; see result.py
    example   a line that this row claims

A row without `text` refines others: `after` names them, and `layout` (pipeline, expert, ray, nodes,
full-graph) and `between` (engine versions, the second excluded) must fit what the logs tell.

The longest match claims a line, so that rows need no order. Words win over a code, but for those
of an echo or a weak row.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ropeway.diagnosis.result import Basis, Text

Kind = Literal["root", "secondary", "echo", "noise"]
_CODE_SOURCES = {
    "acl": "https://github.com/hicann/runtime: rt_error_codes.h",
    "hccl": "HCCL API reference: HcclResult",
    "cann": "https://github.com/hicann/runtime: error_code.json",
    "torch_npu": "https://github.com/Ascend/pytorch: error_code_mechanism.md",
}
_TABLES = Path(__file__).with_name("tables")
_REPOSITORIES = {
    "vllm-ascend": "vllm-project/vllm-ascend",
    "vllm": "vllm-project/vllm",
    "gpustack": "gpustack/gpustack",
}


@dataclass(frozen=True)
class Detail:
    """Something to take from the lines, and how to say it."""

    find: re.Pattern[str]
    say: Text


@dataclass(frozen=True)
class Signature:
    """A row of the table. `weak` is 0, 1, or 2 for a number without words."""

    id: str
    kind: Kind
    category: str
    cause: Text
    fix: Text
    source: tuple[str, ...] = ()
    basis: Basis = "recorded"
    versions: str | None = None
    weak: int = 0
    calm: bool = False
    text: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    codes: tuple[str, ...] = ()
    details: tuple[Detail, ...] = ()
    example: str = ""
    after: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    between: tuple[str, ...] = ()


@dataclass(frozen=True)
class CodeMeaning:
    """What a number means: `kind` and `category` as in a row, `meaning` in a few words."""

    kind: Kind
    category: str
    meaning: Text


@dataclass(frozen=True)
class Table:
    """All rows, and the meanings of codes."""

    signatures: tuple[Signature, ...]
    codes: Mapping[str, Mapping[str, CodeMeaning]]  # of acl, hccl, cann, torch_npu, family
    fixes: Mapping[str, Text]
    by_code: Mapping[str, Signature]
    fragments: tuple[tuple[str, Signature], ...]

    def __getitem__(self, name: str) -> Signature:
        return next(row for row in self.signatures if row.id == name)

    def claim(
        self, message: str, code: str | None = None, *, calm: bool = False
    ) -> Signature | None:
        """The row that this message belongs to; None when there is none.

        code  what stood before the message (`EI0006`); calm: the line's level is INFO or WARNING
        """
        worded = self._by_words(message, calm=calm)
        if worded and worded.kind in ("root", "noise"):
            return worded
        coded = self._by_code(message, code, calm=calm)
        if worded and worded.kind == "secondary" and not worded.weak:
            return coded if coded and coded.kind == "root" else worded
        return coded or worded or self._family(message, code)

    def _by_words(self, message: str, *, calm: bool) -> Signature | None:
        """By the longest match; of equal ones the first by name, so that the answer is one."""
        longest, claims = 0, None
        for text, row in self.fragments:
            if text not in message or (calm and not row.calm):
                continue
            length = len(text)
            if row.pattern:
                found = row.pattern.search(message)
                length = found.end() - found.start() if found else 0
            if length > longest:
                longest, claims = length, row
        return claims

    def _by_code(self, message: str, code: str | None, *, calm: bool) -> Signature | None:
        """By a code of which something is known."""
        for found in (code, *_CANN_CODE.findall(message)):
            if found in self.by_code:
                return self.by_code[found]
            if found in self.codes["cann"]:
                return self._coded("cann", found)
            if found and found[:3] == "ERR" and found[-3:] in self.codes["torch_npu"]:
                return self._coded("torch_npu", found)
        if calm and not _NPU_WARNING.search(message):
            return None
        if number := _ACL_CODE.search(message):
            if number[1] in self.by_code:
                return self.by_code[number[1]]
            if number[1] in self.codes["acl"]:
                return self._coded("acl", number[1])
        number = _HCCL_CODE.search(message)
        if number and number[1] in self.codes["hccl"]:
            return self._coded("hccl", number[1])
        return None

    def _family(self, message: str, code: str | None) -> Signature | None:
        """By the part of CANN that a code of which nothing is known belongs to."""
        for found in (code, *_CANN_CODE.findall(message)):
            if found and found[:2] in self.codes["family"] and found[:3] != "ERR":
                return self._coded("cann", found)
        return None

    def _coded(self, kind: str, code: str) -> Signature:
        """A row made of a code's meaning; for one of CANN's at least which part of it speaks."""
        number = code[-3:] if kind == "torch_npu" else code
        known = self.codes[kind].get(number) or self.codes["family"][code[:2]]
        said = known.meaning
        name = kind if kind == "torch_npu" else kind.upper()
        return Signature(
            id=f"{kind}-{code}",
            kind=known.kind,
            category=known.category,
            cause=Text(
                f"{name} code {code}: {said.en}.",
                f"{name} 错误码 {code}：{said.zh}。",
            ),
            fix=self.fixes[known.category],
            source=(_CODE_SOURCES[kind],),
            basis="code",
            weak=2,
        )


@cache
def table() -> Table:
    """The rows that are shipped. Read once."""
    rows: list[Signature] = []
    for path in sorted(_TABLES.glob("*.toml")):
        if path.name != "codes.toml":
            rows += (_row(name, row) for name, row in _load(path).items())
    codes = _load(_TABLES / "codes.toml")
    return Table(
        tuple(rows),
        {kind: _meanings(codes[kind]) for kind in (*_CODE_SOURCES, "family")},
        {name: Text(fix["en"], fix["zh"]) for name, fix in codes["fix"].items()},
        {code: row for row in rows for code in row.codes},
        tuple((text, row) for row in sorted(rows, key=lambda row: row.id) for text in row.text),
    )


def link_to(source: str) -> str:
    """A source as something to open: `vllm-ascend#4051` → the URL of that issue; words stay."""
    found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)#(\d+)", source)
    if not found:
        return source
    repository = _REPOSITORIES.get(found[1], found[1])
    return f"https://github.com/{repository}/issues/{found[2]}"


def _load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _row(name: str, row: Mapping[str, Any]) -> Signature:
    """Raises TypeError on a key that is not one of a row, KeyError on one that is missing."""
    given = dict(row)
    for key in ("cause", "fix"):
        given[key] = Text(given[key], given.pop(f"{key}_zh"))
    for key in ("source", "text", "codes", "after", "layout", "between"):
        given[key] = tuple(given.get(key, ()))
    if "pattern" in given:
        given["pattern"] = re.compile(given["pattern"])
    given["details"] = tuple(
        Detail(re.compile(detail["find"]), Text(detail["say"], detail["zh"]))
        for detail in given.get("details", ())
    )
    given["weak"] = int(given.get("weak", False))
    return Signature(id=name, **given)


def _meanings(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, CodeMeaning]:
    return {
        str(code): CodeMeaning(row["kind"], row["category"], Text(row["en"], row["zh"]))
        for code, row in rows.items()
    }


_CANN_CODE = re.compile(r"(?<![\w.])(E[A-Z1-9]\d{4})(?=[:\[)])")
_ACL_CODE = re.compile(
    r"(?:\bcode(?: is|:)|[Ee]rr(?:or)?[Cc]ode ?(?:is|=|:)|errno ?[:=]|error no is"
    r"|runtime result =|\bret ?[=\[]) ?(\d{6})(?!\d)"
)
_HCCL_CODE = re.compile(r"[Hh][Cc][Cc][Ll]\w{0,40}.{0,240}error code is (\d{1,2})(?!\d)")
_NPU_WARNING = re.compile(r"Warning: |NPU warning")
