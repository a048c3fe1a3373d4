"""What doctor found: a screen that suits 2 hosts or 200, and a page with the ping matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ropeway.doctor.finding import Examination, Finding, format_locations
from ropeway.doctor.pings import PingMatrix
from ropeway.report.console import with_literals
from ropeway.report.line import one_line
from ropeway.report.page import literals, render_page
from ropeway.report.table import pairs
from ropeway.units import counted

_LEVELS = {"fail": ("FAIL", "bold red"), "warn": ("warn", "yellow")}
_NPU_GRID_HOSTS = 4  # with more hosts the grid shows hosts in place of NPUs
_LOCATIONS = 4
_REASONS = 2


def doctor_text(
    examination: Examination, unread: Sequence[tuple[str, str]], *, verbose: bool
) -> RenderableType:
    """Return the counts, then the findings, each cause before its consequences.

    unread   host and command whose output could not be read; named if `verbose`, else counted
    verbose  also every location, the sources and the checks' ids
    """
    parts: list[RenderableType] = [_summary(examination), Text()]
    for finding, consequences in _with_consequences(examination.findings):
        parts.append(_finding(finding, verbose=verbose))
        for consequence in consequences:
            where = _where(consequence, _LOCATIONS)
            line = f"consequence: {one_line(consequence.title)}" + (f" ({where})" if where else "")
            parts.append(Padding(Text(line, style="dim"), (0, 0, 0, 6)))
        parts.append(Text())
    if examination.passed:
        parts.append(Text.assemble(("ok    ", "green"), " · ".join(examination.passed)))
    for label, subjects, why in unchecked_lines(examination, _REASONS if not verbose else None):
        reason = with_literals(one_line(f" ({why})"))
        parts.append(Text.assemble((f"{label}: ", "yellow"), ", ".join(subjects), " ", reason))
    if unread and not verbose:
        text = (
            f"note  {counted(len(unread), 'output')} could not be read completely; `-v` names them"
        )
        parts.append(Text(text, style="dim"))
    elif unread:
        parts += [Text(f"note  {one_line(f'{host}: {why}')}", style="dim") for host, why in unread]
    return Group(*parts)


def unchecked_lines(
    examination: Examination, limit: int | None
) -> list[tuple[str, list[str], str]]:
    """Return label, subjects and reason of what was not checked: a line for each reason.

    With more than `limit` reasons for a subject, the rest is counted.
    """
    lines: dict[tuple[bool, str], list[str]] = {}
    for one in sorted(examination.not_checked, key=lambda one: not one.partly):
        why = "; ".join(one.why[:limit])
        if limit is not None and len(one.why) > limit:
            why += f"; and {len(one.why) - limit} more"
        lines.setdefault((one.partly, why), []).append(one.subject)
    return [
        ("partly checked" if partly else "not checked", subjects, why)
        for (partly, why), subjects in lines.items()
    ]


def _summary(examination: Examination) -> Text:
    hosts: str = counted(examination.hosts, "host")
    if examination.answered != examination.hosts:
        hosts = f"{examination.answered} of {hosts}"
    counts = [hosts, counted(examination.npus, "NPU")]
    if examination.pings:
        counts.append(counted(examination.pings, "ping"))
    faults, warnings = len(examination.causes("fail")), len(examination.causes("warn"))
    verdict = Text("sound", style="bold green")
    if examination.not_checked:
        verdict = Text("no fault in what was checked", style="bold")
    if faults:
        verdict = Text(counted(faults, "fault"), style="bold red")
    if warnings:
        verdict.append(f", {counted(warnings, 'warning')}", style="yellow")
    return Text.assemble((" · ".join(counts), "bold"), ": ", verdict)


def _finding(finding: Finding, *, verbose: bool) -> RenderableType:
    head = Text.assemble(_LEVELS[finding.level], f"  {one_line(finding.title)}")
    if where := _where(finding, len(finding.locations) if verbose else _LOCATIONS):
        head.append(f"  {where}", style="bold")
    facts = {"found": finding.evidence, "expected": finding.expected, "fix": finding.fix}
    if verbose:
        facts |= {"source": finding.source, "check": finding.check}
    rows = [(name, with_literals(one_line(value))) for name, value in facts.items() if value]
    return Group(head, Padding(pairs(rows), (0, 0, 0, 6)))


def _where(finding: Finding, limit: int) -> str:
    """Return the locations, unless the title already names them."""
    if all(str(location) in finding.title for location in finding.locations):
        return ""
    return one_line(format_locations(finding.locations, limit=limit))


def _with_consequences(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    """Return each cause with the consequences that stand right below it."""
    groups: list[tuple[Finding, list[Finding]]] = []
    for finding in findings:
        if groups and finding.cause == groups[-1][0].check:
            groups[-1][1].append(finding)
        else:
            groups.append((finding, []))
    return groups


@dataclass(frozen=True)
class Cell:
    """One square of the ping grid; the title is its tooltip."""

    x: int
    y: int
    state: Literal["good", "lossy", "dead"]
    title: str


@dataclass(frozen=True)
class Grid:
    """Sources of pings (rows) and targets (columns): NPUs where there are few hosts, else hosts."""

    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    per_npu: bool


def render_html(
    examination: Examination,
    names: Sequence[str],
    matrix: PingMatrix | None,
    *,
    title: str,
    when: str,
) -> str:
    """Return the page: one file, no network, no script. Everything from outside is escaped."""
    return render_page(
        "doctor.html.j2",
        {"literals": literals},
        examination=examination,
        groups=_with_consequences(examination.findings),
        grid=grid(names, matrix) if matrix is not None and matrix.total else None,
        title=title,
        when=when,
        where=_where,
    )


def grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    """Return the pings as squares: by NPU for up to four hosts, else by host."""
    if len(names) <= _NPU_GRID_HOSTS:
        return _npu_grid(names, matrix)
    cells = []
    for (source, target), tested in matrix.tested.items():
        failed = matrix.failed[source, target]
        worst = matrix.worst.get((source, target), 0.0)
        outcome = f"{failed} of {tested} fail" if failed else f"all {tested} arrive"
        title = f"{names[source]} → {names[target]}: {outcome}"
        cells.append(Cell(target, source, _state(failed, tested, worst), title))
    return Grid(tuple(names), tuple(cells), per_npu=False)


def _npu_grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    ports = sorted(matrix.sent)
    losses = {(source, target): loss for source, target, loss in matrix.failures}
    labels = tuple(f"{names[host]} NPU {device}" for host, device in ports)
    cells = []
    for y, source in enumerate(ports):
        for x, target in enumerate(ports):
            if source[0] == target[0] or (source[0], target[0]) not in matrix.tested:
                continue
            loss = losses.get((source, target), 0.0)
            title = f"{labels[y]} → {labels[x]}: {loss:.0f}% lost"
            cells.append(Cell(x, y, _state(loss > 0, 1, loss), title))
    return Grid(labels, tuple(cells), per_npu=True)


def _state(failed: int, tested: int, worst: float) -> Literal["good", "lossy", "dead"]:
    if not failed:
        return "good"
    return "dead" if failed == tested and worst >= 100 else "lossy"
