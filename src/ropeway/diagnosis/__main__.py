"""`python -m ropeway.diagnosis > docs/failures.md`: the failure table as a page for people."""

import sys
from collections.abc import Iterator, Mapping

from ropeway.diagnosis.result import CATEGORIES
from ropeway.diagnosis.signatures import CodeMeaning, Signature, link_to, table

_HEAD = """\
# The failures we know

What `ropeway diagnose LOG` looks for. Made from the tables in `src/ropeway/diagnosis/tables/` with
`python -m ropeway.diagnosis`; a test keeps both equal. A line of a log that holds one of the
fragments below is of that row; of several rows the one with the longest match. Nothing here was
verified on NPU hardware by us; what is marked as measured was seen on the local cluster.

- **root** names the fault. **root, general** says who waited or which part broke, and gives way to
  another root of the same moment.
- **secondary** broke because of something else; **echo** says only that something failed; **noise**
  is printed when all is well. None of these is ever taken for the cause when there is another.
"""
_BASIS = {
    "measured": "measured here",
    "recorded": "recorded elsewhere",
    "once": "one report, not confirmed",
    "source": "read in source code or manual",
}
_CODES = {
    "acl": ("ACL and operator codes", "`error code is N`, `runtime result = N`"),
    "hccl": ("HCCL result codes", "`HCCL … error code is N`"),
    "cann": ("CANN codes without a row of their own", "`EI0003: …`"),
    "torch_npu": ("torch_npu codes", "the last three digits of `ERR…`"),
    "family": ("CANN codes of which only the first letters are known", "`EZ….: …`"),
}


def failures_page() -> str:
    """All rows by category, then the codes."""
    parts = [_HEAD.rstrip()]
    rows = sorted(table().signatures, key=lambda row: (row.kind != "root", row.weak, row.id))
    for category, chinese in CATEGORIES.items():
        parts.append(f"\n## {category.capitalize()} · {chinese}")
        parts += ("\n".join(_section(row)) for row in rows if row.category == category)
    for kind, (title, form) in _CODES.items():
        parts.append("\n".join(_code_table(title, form, table().codes[kind])))
    return "\n".join(parts).rstrip() + "\n"


def _section(row: Signature) -> Iterator[str]:
    general = ", general" if row.kind == "root" and row.weak else ""
    yield f"\n### {row.id}\n"
    if row.after:
        yield f"{row.kind}: in place of {', '.join(f'`{name}`' for name in row.after)}, where the"
        yield f"logs tell of: {', '.join(row.layout)}"
    else:
        shown = [f"`{text}`" for text in (*row.text, *row.codes)]
        yield f"{row.kind}{general}: {' · '.join(shown)}"
    yield ""
    yield f"{row.cause.en}\n**{row.fix.en}**" if row.kind != "noise" else row.cause.en
    yield ""
    yield f"{row.cause.zh}\n**{row.fix.zh}**" if row.kind != "noise" else row.cause.zh
    yield ""
    where = f" Versions: {row.versions}." if row.versions else ""
    yield f"{_BASIS[row.basis].capitalize()}.{where} {', '.join(map(_linked, row.source))}"


def _linked(source: str) -> str:
    target = link_to(source)
    if not target.startswith("https://"):
        return source
    return f"[{source}]({target})" if source != target else f"<{target}>"


def _code_table(title: str, form: str, codes: Mapping[str, CodeMeaning]) -> Iterator[str]:
    yield f"\n## {title}\n\n{form}\n"
    yield "| code | kind | category | meaning | 含义 |"
    yield "|---|---|---|---|---|"
    for code, known in codes.items():
        said = known.meaning
        yield f"| {code} | {known.kind} | {known.category} | {said.en} | {said.zh} |"


def main() -> None:
    sys.stdout.write(failures_page())


if __name__ == "__main__":
    main()
