"""What doctor found, on a screen that suits 2 hosts or 200."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from ropeway.doctor.finding import Examination, Finding, format_locations
from ropeway.phrases import Phrase, joined, phrase
from ropeway.report.chinese import COMMAND, in_language
from ropeway.report.console import with_literals
from ropeway.report.line import fill, one_line, printable
from ropeway.report.table import prose
from ropeway.units import counted

_STYLES = {"fail": "bold red", "warn": "yellow"}
WORDS = {
    "fail": {"en": "FAIL", "zh": "故障"},
    "warn": {"en": "warn", "zh": "警告"},
    "ok": {"en": "ok  ", "zh": "正常"},
    "note": {"en": "note", "zh": "说明"},
    "found": {"en": "found", "zh": "实际"},
    "expected": {"en": "expected", "zh": "期望"},
    "fix": {"en": "fix", "zh": "处理"},
    "source": {"en": "source", "zh": "来源"},
    "check": {"en": "check", "zh": "检查项"},
}
_INDENT = 6
# What `ssh` errors advise: `is sshd running? try: ssh root@10.0.0.7 true`.
_COMMAND_AT_END = re.compile(rf"(?:: |：)({COMMAND}.*)$")
_LOCATIONS = 4
_REASONS = 2


def doctor_text(
    examination: Examination,
    unread: Sequence[tuple[str, str]],
    language: str = "en",
    *,
    verbose: bool,
) -> RenderableType:
    """Return the counts, then the findings, each cause before its consequences.

    unread   host and command whose output could not be read; named if `verbose`, else counted
    verbose  also every location, the sources and the checks' ids
    """
    parts: list[RenderableType] = [_summary(examination, language), Text()]
    for finding, consequences in with_consequences(examination.findings):
        parts.append(_finding(finding, language, verbose=verbose))
        parts += [_Wrapped(consequence_line(one), _INDENT, language) for one in consequences]
        parts.append(Text())
    if examination.passed:
        subjects = " · ".join(in_language(one, language) for one in examination.passed)
        parts.append(Text.assemble((f"{WORDS['ok'][language]}  ", "green"), subjects))
    for line in unchecked_lines(examination, None if verbose else _REASONS, language):
        parts.append(_Wrapped(line, 0, language))
    label = f"{WORDS['note'][language]}  "
    if unread and not verbose:
        text = phrase(
            "{outputs} could not be read completely; `-v` names them",
            outputs=counted(len(unread), "output"),
        )
        parts.append(prose(label + _said(text, language), "dim"))
    elif unread:
        parts += [prose(label + one_line(f"{host}: {why}"), "dim") for host, why in unread]
    return Group(*parts)


def consequence_line(finding: Finding) -> Phrase:
    """Return what a finding led to, on one line."""
    where = where_of(finding, _LOCATIONS)
    if not where:
        return phrase("consequence: {title}", title=finding.title)
    return phrase("consequence: {title} ({where})", title=finding.title, where=where)


@dataclass(frozen=True)
class _Wrapped:
    """A line of prose, wrapped so that what stands between backticks stays whole."""

    text: str
    indent: int
    language: str

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        line = fill(_said(self.text, self.language), options.max_width, self.indent, _INDENT)
        style = "dim" if self.indent else "yellow"
        shown = Text(" " * self.indent + line, style=style, no_wrap=True, overflow="ignore")
        yield shown


def unchecked_lines(examination: Examination, limit: int | None, language: str) -> list[str]:
    """Return what was not checked: a line for each reason, in one language.

    With more than `limit` reasons for a subject, the rest is counted.
    """
    lines: dict[tuple[bool, Phrase], list[str]] = {}
    for one in sorted(examination.not_checked, key=lambda one: not one.partly):
        why = [*one.why[:limit]]
        if limit is not None and len(one.why) > limit:
            why.append(phrase("and {n:,} more", n=len(one.why) - limit))
        lines.setdefault((one.partly, joined(why)), []).append(one.subject)
    text = {True: "partly checked: {subjects} ({why})", False: "not checked: {subjects} ({why})"}
    return [
        in_language(phrase(text[partly], subjects=joined(subjects, ", "), why=why), language)
        for (partly, why), subjects in lines.items()
    ]


def _summary(examination: Examination, language: str) -> Text:
    counts = " · ".join(_said(one, language) for one in counts_of(examination))
    text, warnings = verdict_of(examination), len(examination.causes("warn"))
    style = (
        "bold red" if not examination.sound else "bold" if examination.not_checked else "bold green"
    )
    verdict = Text(_said(text, language), style=style)
    colon, comma = ("：", "，") if language == "zh" else (": ", ", ")
    if warnings:
        verdict.append(f"{comma}{_said(counted(warnings, 'warning'), language)}", style="yellow")
    return Text.assemble((counts, "bold"), colon, verdict)


def counts_of(examination: Examination) -> list[Phrase]:
    """Return how much was looked at: hosts, NPUs and pings."""
    hosts = counted(examination.hosts, "host")
    if examination.answered != examination.hosts:
        hosts = phrase("{n:,} of {hosts}", n=examination.answered, hosts=hosts)
    pings = [counted(examination.pings, "ping")] if examination.pings else []
    return [hosts, counted(examination.npus, "NPU"), *pings]


def verdict_of(examination: Examination) -> Phrase:
    """Return what the examination comes to, warnings aside."""
    if faults := len(examination.causes("fail")):
        return counted(faults, "fault")
    return phrase("no fault in what was checked" if examination.not_checked else "sound")


def _finding(finding: Finding, language: str, *, verbose: bool) -> RenderableType:
    head = Text.assemble(
        (WORDS[finding.level][language], _STYLES[finding.level]),
        f"  {_said(finding.title, language)}",
    )
    if where := where_of(finding, len(finding.locations) if verbose else _LOCATIONS):
        head.append(f"  {_said(where, language)}", style="bold")
    facts = {"found": finding.evidence, "expected": finding.expected, "fix": finding.fix}
    if verbose:
        facts |= {"source": finding.source, "check": finding.check}
    rows = [
        (WORDS[name][language], in_language(value, language))
        for name, value in facts.items()
        if value
    ]
    return Group(head, _Facts(rows))


def _said(text: str, language: str) -> str:
    return one_line(in_language(text, language))


def where_of(finding: Finding, limit: int) -> str:
    """Return the locations, unless the title already names them."""
    if all(str(location) in finding.title for location in finding.locations):
        return ""
    return format_locations(finding.locations, limit=limit)


@dataclass(frozen=True)
class _Facts:
    """Names and texts below a finding. Prose is wrapped; a line to be typed never is."""

    rows: Sequence[tuple[str, str]]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        width = max(cell_len(name) for name, _ in self.rows) + 2
        indent = _INDENT + width
        for name, text in self.rows:
            label = f"{' ' * _INDENT}{name}{' ' * (width - cell_len(name))}"
            for line, typed in fix_lines(text):
                shown = (
                    Text(printable(line), style="cyan")
                    if typed
                    else with_literals(fill(one_line(line), options.max_width, indent, indent))
                )
                head = Text(label, style="dim")
                yield Text.assemble(head, shown, no_wrap=True, overflow="ignore")
                label = " " * indent


def fix_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a text, and whether each is to be typed as it is."""
    for line in text.splitlines():
        command = _COMMAND_AT_END.search(line)
        if line.startswith("$ "):
            yield line.removeprefix("$ "), True
        elif command:
            yield line[: command.start(1)].rstrip(), False
            yield command[1], True
        else:
            yield line, False


def with_consequences(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Return each cause with the consequences that stand right below it."""
    groups: list[tuple[Finding, list[Finding]]] = []
    for finding in findings:
        if groups and finding.cause == groups[-1][0].check:
            groups[-1][1].append(finding)
        else:
            groups.append((finding, []))
    return groups
