"""Read the table of failure signatures from `tables/*.toml`, and find the row that claims a line.

TOML, because a row is mostly prose in two languages and a fragment copied from a log: quoted text
may contain `#`, `: ` and backslashes (which YAML interprets), the parser refuses a second row of
the same name, and the standard library reads it. There is a file for each subject.

A row `[id]`:

    kind      root: names the fault itself. secondary: a part that broke because of it. echo: says
              only that something else failed. noise: is printed in good health too
    weak      true for a root that says who waited or which part broke, but seldom why: another root
              of the same moment explains more
    text      fragments as they stand in the log; one of them must be in the line
    pattern   a regular expression that must match as well
    codes     codes of CANN (`EI0006`), torch_npu (`ERR00100`), ACL (numbers) or LLM-DataDist
              (`LLM_…`) with this meaning
    calm      true when the line may be of level INFO or WARNING
    category  one of CATEGORIES in result.py
    cause, fix, cause_zh, fix_zh
    details   [{find, say, zh}]: what to extract from the line or those around it; `{name}` is a
              group of `find`; `{name:bytes}` prints a size, `{name:hccl}` (zh: `{name:hccl-zh}`)
              the meaning of an HCCL code
    versions  where it happens, in words
    source    `vllm-ascend#4051`, `owner/repo#1`, a URL, or words
    basis     how we know: recorded (the default), once, source, measured; see result.py
    example   a line that this row claims

A row without `text` refines others: `after` names them, and the logs must show its `layout`
(pipeline, expert, ray, nodes, full-graph; or what a shell printed: capabilities-dropped,
device-files-closed, -missing, -open, driver-missing, -there) and an engine version in `between`
(the second excluded).

The longest match claims a line, so that rows need no order. Words take precedence over a code, but
not those of an echo, and not those of a weak row over an exact code of CANN or HIXL. Any part of
CANN may report E…9999 (`generic`): such a code says nothing, the words beside it may.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    "hixl": "https://gitcode.com/cann/hixl: docs/cpp/HIXL错误码.md, LLM-DataDist错误码.md",
}
_TABLES = Path(__file__).with_name("tables")
_REPOSITORIES = {
    "vllm-ascend": "vllm-project/vllm-ascend",
    "vllm": "vllm-project/vllm",
    "gpustack": "gpustack/gpustack",
}


@dataclass(frozen=True)
class Detail:
    """A pattern to look for in the lines, and the sentence to make of its groups."""

    find: re.Pattern[str]
    say: Text


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A row of the table. `weak` is 0, 1, 2 for an exact code without words, or 3 for a code of
    which only the family is known.
    """

    id: str
    kind: Kind
    weak: int = 0
    category: str
    text: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = None
    codes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    layout: tuple[str, ...] = ()
    between: tuple[str, ...] = ()
    cause: Text
    fix: Text
    versions: str | None = None
    source: tuple[str, ...] = ()
    basis: Basis = "recorded"
    example: str = ""
    calm: bool = False
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True)
class CodeMeaning:
    """The meaning of a code in a few words; `kind` and `category` as in a row."""

    kind: Kind
    category: str
    meaning: Text


@dataclass(frozen=True)
class Table:
    """All rows, and the meanings of codes.

    codes      by who prints them (acl, hccl, cann, torch_npu, hixl), then by code; `family` has
               CANN's codes of which only the first two letters are known, `generic` what
               E…9999 means
    fixes      what to do, by category, about a code without a row
    fragments  every `text`, with its row
    """

    signatures: tuple[Signature, ...]
    codes: Mapping[str, Mapping[str, CodeMeaning]]
    fixes: Mapping[str, Text]
    by_code: Mapping[str, Signature]
    fragments: tuple[tuple[str, Signature], ...]

    def __getitem__(self, name: str) -> Signature:
        return next(row for row in self.signatures if row.id == name)

    def claim(
        self, message: str, code: str | None = None, *, calm: bool = False
    ) -> Signature | None:
        """Return the row that this message belongs to; None when there is none.

        code  what stood before the message (`EI0006`)
        calm  whether the line's level is INFO, WARNING or below
        """
        worded = self._by_words(message, calm=calm)
        if worded and worded.kind in ("root", "noise"):
            exact = self._exact_code(message, code) if worded.weak else None
            if exact is None or exact.kind != "root" or exact.weak == 1:
                return worded
            return replace(exact, details=(*exact.details, *worded.details))
        coded = self._by_code(message, code, calm=calm)
        if worded and worded.kind == "secondary" and not worded.weak:
            return coded if coded and coded.kind == "root" else worded
        return coded or worded or self._family(message, code)

    def _by_words(self, message: str, *, calm: bool) -> Signature | None:
        """Return the row with the longest match; of equal ones the first by name."""
        longest, claims = 0, None
        for text, row in self.fragments:
            if text not in message or (calm and not row.calm):
                continue
            length = len(text)
            if row.pattern:
                match = row.pattern.search(message)
                length = match.end() - match.start() if match else 0
            if length > longest:
                longest, claims = length, row
        return claims

    def _by_code(self, message: str, code: str | None, *, calm: bool) -> Signature | None:
        """Return the row of the first code that has a row or a meaning."""
        if row := self._by_cann_code(message, code):
            return row
        if code and code[:3] == "ERR" and code[-3:] in self.codes["torch_npu"]:
            return self._coded("torch_npu", code)
        if calm and not _NPU_WARNING.search(message):
            return None
        if number := _ACL_CODE.search(message):
            if number[1] in self.by_code:
                return self.by_code[number[1]]
            if number[1] in self.codes["acl"]:
                return self._coded("acl", number[1])
        if row := self._by_hixl_code(message):
            return row
        number = _HCCL_CODE.search(message)
        if number and number[1] in self.codes["hccl"]:
            return self._coded("hccl", number[1])
        if name := _HCCL_NAME.search(message):
            for each, meaning in self.codes["hccl"].items():
                if meaning.meaning.en.startswith(f"{name[1]}, "):
                    return self._coded("hccl", each)
        return None

    def _exact_code(self, message: str, code: str | None) -> Signature | None:
        """Return the row of a code that names one cause, whatever the words beside it."""
        return self._by_cann_code(message, code) or self._by_hixl_code(message)

    def _by_hixl_code(self, message: str) -> Signature | None:
        """Return the row of the first code of HIXL or LLM-DataDist."""
        for each in (*_LLM_STATUS.findall(message), *_ACL_CODE.findall(message)):
            if each in self.codes["hixl"]:
                return self._coded("hixl", each)
            if each in self.by_code and each.startswith("LLM_"):
                return self.by_code[each]
        return None

    def _by_cann_code(self, message: str, code: str | None) -> Signature | None:
        """Return the row of the first code of CANN that has a row or a meaning of its own."""
        for each in (code, *_CANN_CODE.findall(message)):
            if each in self.by_code:
                return self.by_code[each]
            if each in self.codes["cann"]:
                return self._coded("cann", each)
        return None

    def _family(self, message: str, code: str | None) -> Signature | None:
        """Return a row that names the part of CANN which an unknown code belongs to, or that says
        that any part may report it.
        """
        for each in (code, *_CODE_AS_HEAD.findall(message)):
            known = each and (each[:2] in self.codes["family"] or _GENERIC.fullmatch(each))
            if each and known and each[:3] != "ERR":
                return self._coded("cann", each)
        return None

    def _coded(self, kind: str, code: str) -> Signature:
        """Make a row from a code's meaning, or from that of its family."""
        number = code[-3:] if kind == "torch_npu" else code
        exact = self.codes[kind].get(number)
        generic = self.codes["generic"]["E…9999"] if _GENERIC.fullmatch(code) else None
        known = exact or generic or self.codes["family"][code[:2]]
        meaning = known.meaning
        name = kind if kind == "torch_npu" else kind.upper()
        return Signature(
            id=f"{kind}-{code}",
            kind=known.kind,
            category=known.category,
            cause=Text(
                f"{name} code {code}: {meaning.en}.",
                f"{name} 错误码 {code}：{meaning.zh}。",
            ),
            fix=self.fixes[known.category],
            source=(_CODE_SOURCES[kind],),
            basis="code",
            weak=2 if exact and kind != "torch_npu" else 3,
        )


@cache
def table() -> Table:
    """Return the table that is part of Ropeway; it is read once."""
    rows: list[Signature] = []
    for path in sorted(_TABLES.glob("*.toml")):
        if path.name != "codes.toml":
            rows += (_row(name, row) for name, row in _load(path).items())
    codes = _load(_TABLES / "codes.toml")
    return Table(
        tuple(rows),
        {kind: _meanings(codes[kind]) for kind in (*_CODE_SOURCES, "family", "generic")},
        {name: Text(fix["en"], fix["zh"]) for name, fix in codes["fix"].items()},
        {code: row for row in rows for code in row.codes},
        tuple((text, row) for row in sorted(rows, key=lambda row: row.id) for text in row.text),
    )


def link_to(source: str) -> str:
    """Return the URL of a source such as `vllm-ascend#4051`; words and URLs stay as they are."""
    issue = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)#(\d+)", source)
    if not issue:
        return source
    repository = _REPOSITORIES.get(issue[1], issue[1])
    return f"https://github.com/{repository}/issues/{issue[2]}"


def _load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _row(name: str, row: Mapping[str, Any]) -> Signature:
    """Build a row. Raises TypeError on an unknown key, KeyError on a missing one."""
    fields = dict(row)
    for key in ("cause", "fix"):
        fields[key] = Text(fields[key], fields.pop(f"{key}_zh"))
    for key in ("source", "text", "codes", "after", "layout", "between"):
        fields[key] = tuple(fields.get(key, ()))
    if "pattern" in fields:
        fields["pattern"] = re.compile(fields["pattern"])
    fields["details"] = tuple(
        Detail(re.compile(detail["find"]), Text(detail["say"], detail["zh"]))
        for detail in fields.get("details", ())
    )
    fields["weak"] = int(fields.get("weak", False))
    return Signature(id=name, **fields)


def _meanings(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, CodeMeaning]:
    return {
        str(code): CodeMeaning(row["kind"], row["category"], Text(row["en"], row["zh"]))
        for code, row in rows.items()
    }


# With letters a code is one wherever it stands; with digits only where others print theirs.
_CODE_AS_HEAD = re.compile(r"(?<![\w.])(E[A-Z1-9]\d{4})(?=[:\[)])")
_CANN_CODE = re.compile(r"(?<![\w.])(E[A-Z]\d{4}(?!\w)|E[1-9]\d{4}(?=[:\[)\]]))")
_GENERIC = re.compile(r"E[A-Z1-9]9999")
_ACL_CODE = re.compile(
    r"(?:(?:\b|ret)[Cc]ode ?(?:is|[:=\[])|[Ee]rr(?:or)?_?[Cc]ode ?(?:is|[=:\[])|errno ?[:=]"
    r"|error no is|runtime result =|\bret ?(?:is|[=:\[])"
    r"|\bstatus ?(?:is|[:=\[])|\berror) ?(\d{6})(?!\d)"
)
_LLM_STATUS = re.compile(r"\bLLM_[A-Z_]{4,40}\b")
_HCCL_CODE = re.compile(r"[Hh][Cc][Cc][Ll]\w{0,40}.{0,240}error code is (\d{1,2})(?!\d)")
_HCCL_NAME = re.compile(r"\bHCCL_E_([A-Z_]{2,40})")
# A calm line that names a code all the same.
_NPU_WARNING = re.compile(r"Warning: |NPU warning|(?:\bret|Code) ?= ?[125]07\d{3}\b|HCCL_E_")
