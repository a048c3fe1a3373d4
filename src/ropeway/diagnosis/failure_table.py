"""Print the failure table: as a page of Markdown in one language, or as data in both."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

from ropeway.diagnosis.result import CATEGORIES
from ropeway.diagnosis.signatures import CodeMeaning, Signature, link_to, table


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


@cache
def _words(language: str) -> Mapping[str, Mapping[str, str]]:
    """Return the words of the page: section of page.toml → name → text."""
    page = tomllib.loads(Path(__file__).with_name("page.toml").read_text(encoding="utf-8"))
    return {
        section: {
            name: text if isinstance(text, str) else text[language] for name, text in texts.items()
        }
        for section, texts in page.items()
    }


def _page(language: str) -> Iterator[str]:
    words, kinds = _words(language)["words"], _words(language)["kinds"]
    yield f"{words['title']}\n\n{words['introduction']}\n"
    for kind, meaning in _words(language)["kind-meanings"].items():
        yield f"- **{kinds[kind]}** {meaning}"
        if kind == "root":
            yield f"- **{kinds[kind]} · {words['general']}** {words['general-meaning']}"
    rows = _ordered_rows()
    for category, chinese in CATEGORIES.items():
        yield f"\n## {chinese if language == 'zh' else category.capitalize()}"
        for row in rows:
            if row.category == category:
                yield from _section(row, language)
    for kind, title in _words(language)["codes"].items():
        yield f"\n## {title}\n\n{_words(language)['forms'][kind]}\n"
        yield from _code_table(table().codes[kind], language)


def _section(row: Signature, language: str) -> Iterator[str]:
    words, kind = _words(language)["words"], _words(language)["kinds"][row.kind]
    if row.kind == "root" and row.weak:
        kind = f"{kind} · {words['general']}"
    where = _quoted((*row.text, *row.codes), " · ")
    if row.after:
        rows, layout = _quoted(row.after, ", "), ", ".join(row.layout)
        where = words["in-place-of"].format(rows=rows, layout=layout)
    yield f"\n### {row.id}\n\n{kind}: {where}\n"
    yield row.cause.in_language(language)
    if row.kind != "noise":
        yield f"**{row.fix.in_language(language)}**"
    yield ""
    remarks = [_words(language)["bases"][row.basis]]
    if row.versions:
        remarks.append(words["versions"].format(row.versions))
    remarks.append(words["sources"].format(", ".join(map(_link, row.source))))
    yield " ".join(remarks)


def _code_table(codes: Mapping[str, CodeMeaning], language: str) -> Iterator[str]:
    yield _words(language)["words"]["columns"]
    yield "|---|---|---|---|"
    for code, row in codes.items():
        kind = _words(language)["kinds"][row.kind]
        category = CATEGORIES[row.category] if language == "zh" else row.category
        yield f"| {code} | {kind} | {category} | {row.meaning.in_language(language)} |"


def _row_data(row: Signature) -> dict[str, object]:
    """Return a row as the table has it, without what only the search of a log goes by."""
    data = asdict(row) | {
        "weak": bool(row.weak),
        "pattern": row.pattern.pattern if row.pattern else None,
        "source": tuple(map(link_to, row.source)),
        "example": row.example or None,
    }
    names = {"weak": "general"}
    hidden = ("calm", "details")
    return {names.get(name, name): data[name] for name in data if name not in hidden}


def _quoted(texts: Sequence[str], separator: str) -> str:
    return separator.join(f"`{text}`" for text in texts)


def _link(source: str) -> str:
    target = link_to(source)
    if not target.startswith("https://"):
        return source
    return f"[{source}]({target})" if source != target else f"<{target}>"
