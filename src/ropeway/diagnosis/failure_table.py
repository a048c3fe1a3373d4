"""Print the failure table: as a page of Markdown in one language, or as data in both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from ropeway.diagnosis.result import CATEGORIES, Text
from ropeway.diagnosis.signatures import CodeMeaning, Signature, link_to, table

_TITLE = Text("# Known failures", "# 已知故障")
_INTRODUCTION = Text(
    "`ropeway diagnose LOG` looks for these. A line of a log that contains one of the fragments "
    "below belongs to that row; of several rows, to the one with the longest match. None of this "
    "has been verified on NPU hardware by us; “measured here” means on the local cluster.",
    "`ropeway diagnose LOG` 按下表查找。日志行包含某条目的片段即属于该条目；"
    "若有多个条目符合，取匹配最长者。本项目尚未在 NPU 硬件上验证；“实测”指在本地集群上出现过。",
)
_KINDS = {
    "root": Text("root", "根因"),
    "secondary": Text("secondary", "次生"),
    "echo": Text("echo", "转述"),
    "noise": Text("noise", "无害"),
}
_KIND_MEANINGS = {
    "root": Text("names the fault itself.", "指明故障本身。"),
    "secondary": Text("a part that broke because of something else.", "受其他故障牵连。"),
    "echo": Text("says only that something else failed.", "仅说明其他部分失败。"),
    "noise": Text("is printed in good health too.", "正常时也会输出。"),
}
_GENERAL = Text("general", "笼统")
_GENERAL_MEANING = Text(
    "says who waited or which part broke, but seldom why: another root of the same moment is the "
    "cause.",
    "说明谁在等待、哪部分失败，很少说明原因：同一时刻若另有根因，以另一根因为准。",
)
_IN_PLACE_OF = Text(
    "in place of {rows}, where the logs show: {layout}", "日志中出现 {layout} 时，取代 {rows}"
)
_VERSIONS = Text("Versions: {}.", "版本：{}。")
_SOURCES = Text("Source: {}", "来源：{}")
_BASES = {
    "measured": Text("Measured here.", "实测。"),
    "recorded": Text("Recorded elsewhere.", "他处有记录。"),
    "once": Text("One report, not confirmed.", "仅一处报告，未经证实。"),
    "source": Text("Read in source code or a manual.", "来自源码或手册。"),
}
_COLUMNS = Text("| code | kind | category | meaning |", "| 错误码 | 类型 | 类别 | 含义 |")
_CODES = {
    "acl": (
        Text("ACL and operator codes", "ACL 与算子错误码"),
        "`error code is N`, `runtime result = N`",
    ),
    "hccl": (Text("HCCL result codes", "HCCL 返回码"), "`HCCL … error code is N`"),
    "cann": (
        Text("CANN codes without a row of their own", "没有单独条目的 CANN 错误码"),
        "`EI0003: …`",
    ),
    "torch_npu": (Text("torch_npu codes", "torch_npu 错误码（后三位）"), "`ERR…N`"),
    "family": (
        Text("CANN codes of which only the family is known", "仅知所属部分的 CANN 错误码"),
        "`EZ….: …`",
    ),
}


def table_page(language: str) -> str:
    """Return all rows by category, roots first, then the codes, as Markdown."""
    return "\n".join(_page(language)) + "\n"


def table_data() -> dict[str, object]:
    """Return all rows and codes as data for JSON, in both languages."""
    return {
        "rows": [_row_data(row) for row in _ordered_rows()],
        "codes": {
            kind: [{"code": code, **asdict(meaning)} for code, meaning in codes.items()]
            for kind, codes in table().codes.items()
        },
    }


def _ordered_rows() -> list[Signature]:
    categories = list(CATEGORIES)
    return sorted(
        table().signatures,
        key=lambda row: (categories.index(row.category), row.kind != "root", row.weak, row.id),
    )


def _page(language: str) -> Iterator[str]:
    yield _TITLE.in_language(language)
    yield ""
    yield _INTRODUCTION.in_language(language)
    yield ""
    for kind, name in _KINDS.items():
        yield f"- **{name.in_language(language)}** {_KIND_MEANINGS[kind].in_language(language)}"
        if kind == "root":
            general = f"{name.in_language(language)} · {_GENERAL.in_language(language)}"
            yield f"- **{general}** {_GENERAL_MEANING.in_language(language)}"
    rows = _ordered_rows()
    for category, chinese in CATEGORIES.items():
        yield f"\n## {Text(category.capitalize(), chinese).in_language(language)}"
        for row in rows:
            if row.category == category:
                yield from _section(row, language)
    for kind, (title, form) in _CODES.items():
        yield f"\n## {title.in_language(language)}\n\n{form}\n"
        yield from _code_table(table().codes[kind], language)


def _section(row: Signature, language: str) -> Iterator[str]:
    kind = _KINDS[row.kind].in_language(language)
    if row.kind == "root" and row.weak:
        kind = f"{kind} · {_GENERAL.in_language(language)}"
    yield f"\n### {row.id}\n"
    if row.after:
        refined = _IN_PLACE_OF.in_language(language)
        where = refined.format(rows=_quoted(row.after, ", "), layout=", ".join(row.layout))
    else:
        where = _quoted((*row.text, *row.codes), " · ")
    yield f"{kind}: {where}"
    yield ""
    yield row.cause.in_language(language)
    if row.kind != "noise":
        yield f"**{row.fix.in_language(language)}**"
    yield ""
    remarks = [_BASES[row.basis].in_language(language)]
    if row.versions:
        remarks.append(_VERSIONS.in_language(language).format(row.versions))
    remarks.append(_SOURCES.in_language(language).format(", ".join(map(_link, row.source))))
    yield " ".join(remarks)


def _code_table(codes: Mapping[str, CodeMeaning], language: str) -> Iterator[str]:
    yield _COLUMNS.in_language(language)
    yield "|---|---|---|---|"
    for code, row in codes.items():
        kind = _KINDS[row.kind].in_language(language)
        category = Text(row.category, CATEGORIES[row.category]).in_language(language)
        yield f"| {code} | {kind} | {category} | {row.meaning.in_language(language)} |"


def _row_data(row: Signature) -> dict[str, object]:
    return {
        "id": row.id,
        "kind": row.kind,
        "general": bool(row.weak),
        "category": row.category,
        "text": row.text,
        "pattern": row.pattern.pattern if row.pattern else None,
        "codes": row.codes,
        "after": row.after,
        "layout": row.layout,
        "between": row.between,
        "cause": asdict(row.cause),
        "fix": asdict(row.fix),
        "versions": row.versions,
        "source": tuple(map(link_to, row.source)),
        "basis": row.basis,
        "example": row.example or None,
    }


def _quoted(texts: Sequence[str], separator: str) -> str:
    return separator.join(f"`{text}`" for text in texts)


def _link(source: str) -> str:
    target = link_to(source)
    if not target.startswith("https://"):
        return source
    return f"[{source}]({target})" if source != target else f"<{target}>"
