"""What doctor found: a screen that can be read at 2 hosts and at 200, and a page with the pings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ropeway.doctor.finding import Examination, Finding, hosts_in
from ropeway.doctor.pings import PingMatrix
from ropeway.report.line import one_line
from ropeway.report.page import render_page

_STYLES = {"fail": "bold red", "warn": "yellow", "skip": "dim", "ok": "green"}
_WORDS = {"fail": "FAIL", "warn": "warn", "skip": "skip", "ok": "ok"}
# A grid of more hosts than this shows blocks of hosts, and one of NPUs is for few hosts only.
_NPU_GRID = 4
_PLACES = 4


def doctor_text(
    seen: Examination, unread: Sequence[tuple[str, str]], *, verbose: bool
) -> RenderableType:
    """Counts first, then what is wrong, causes before what follows from them.

    unread   host and command whose output could not be read; named with `verbose`, counted else
    verbose  every place and the sources too
    """
    parts: list[RenderableType] = [_summary(seen), Text()]
    shown_under: set[int] = set()
    for number, finding in enumerate(seen.findings):
        if finding.follows is None:
            parts.append(_finding(finding, verbose=verbose))
            following = _following(seen.findings, number)
            shown_under.update(id(one) for one in following)
            parts += [_follower(one) for one in following]
            parts.append(Text())
    parts += [
        _finding(one, verbose=verbose)
        for one in seen.findings
        if one.follows is not None and id(one) not in shown_under
    ]
    if seen.passed:
        passed = Text.assemble(("ok    ", "green"), " · ".join(seen.passed))
        parts.append(passed)
    if unread:
        parts.append(_unread(unread, verbose=verbose))
    return Group(*parts)


def _summary(seen: Examination) -> Text:
    asked = f"{seen.answered} of {seen.hosts}" if seen.answered != seen.hosts else f"{seen.hosts}"
    counted = [f"{asked} hosts", f"{seen.npus} NPUs"]
    if seen.pings:
        counted.append(f"{seen.pings:,} pings")
    failed, warned = len(seen.causes("fail")), len(seen.causes("warn"))
    if failed:
        verdict = Text(f"{failed} fault{'s' if failed > 1 else ''}", style="bold red")
    else:
        verdict = Text("sound", style="bold green")
    if warned:
        verdict.append(f", {warned} warning{'s' if warned > 1 else ''}", style="yellow")
    return Text.assemble((" · ".join(counted), "bold"), ": ", verdict)


def _finding(finding: Finding, *, verbose: bool) -> RenderableType:
    head = Text.assemble(
        (f"{_WORDS[finding.level]:<4}", _STYLES[finding.level]), f"  {one_line(finding.what)}"
    )
    shown = len(finding.places) if verbose else _PLACES
    if where := _where(finding, shown):
        head.append(f"  {where}", style="bold")
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    for name, value in (
        ("seen", finding.seen),
        ("wanted", finding.wanted),
        ("fix", finding.fix),
        ("source", finding.source if verbose else ""),
        ("check", finding.check if verbose else ""),
    ):
        if value:
            rows.add_row(name, _literals(one_line(value)))
    return Group(head, Padding(rows, (0, 0, 0, 6)))


def _literals(text: str) -> Text:
    """What stands in backticks is something to type."""
    whole = Text(text)
    whole.highlight_regex(r"`[^`]+`", "cyan")
    return whole


def _follower(finding: Finding) -> RenderableType:
    where = _where(finding, _PLACES)
    text = f"so also: {one_line(finding.what)}" + (f" ({where})" if where else "")
    return Padding(Text(text, style="dim"), (0, 0, 0, 6))


def _where(finding: Finding, shown: int) -> str:
    """The places, unless the finding has named them already."""
    if all(str(place) in finding.what for place in finding.places):
        return ""
    return one_line(hosts_in(finding.places, shown=shown))


def _following(findings: Sequence[Finding], number: int) -> list[Finding]:
    """What stands below a cause and follows from it."""
    found = []
    for finding in findings[number + 1 :]:
        if finding.follows is None:
            break
        found.append(finding)
    return found


def _unread(unread: Sequence[tuple[str, str]], *, verbose: bool) -> RenderableType:
    if not verbose:
        text = f"note  {len(unread)} outputs could not be read whole; `-v` names them"
        return Text(text, style="dim")
    return Group(
        *(Text(f"note  {one_line(host)}: {one_line(why)}", style="dim") for host, why in unread)
    )


@dataclass(frozen=True)
class Cell:
    """One square of the ping grid. `state`: good, lossy, dead, untested; title is its tooltip."""

    x: int
    y: int
    state: Literal["good", "lossy", "dead", "untested"]
    title: str


@dataclass(frozen=True)
class Grid:
    """Who pings (rows) and who is pinged (columns): hosts, or NPUs where there are few hosts."""

    size: int
    labels: tuple[str, ...]
    cells: tuple[Cell, ...]
    per_npu: bool


def render_html(
    seen: Examination,
    names: Sequence[str],
    matrix: PingMatrix | None,
    *,
    title: str,
    when: str,
    language: Literal["en", "zh"] = "en",
) -> str:
    """The whole page: one file, no network, no script. Everything from outside is escaped."""
    return render_page(
        "doctor.html.j2",
        {},
        seen=seen,
        causes=_with_followers(seen.findings),
        grid=grid(names, matrix) if matrix is not None and matrix.total else None,
        matrix=matrix,
        title=title,
        when=when,
        language=language,
        where=_where,
    )


def _with_followers(findings: Sequence[Finding]) -> list[tuple[Finding, list[Finding]]]:
    return [
        (finding, _following(findings, number))
        for number, finding in enumerate(findings)
        if finding.follows is None
    ]


def grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    """The pings as squares: by NPU for up to four hosts, else by host."""
    if len(names) <= _NPU_GRID:
        return _npu_grid(names, matrix)
    cells = []
    for (source, target), tested in matrix.tested.items():
        failed = matrix.failed[source, target]
        worst = matrix.worst.get((source, target), 0.0)
        told = f"{failed} of {tested} fail" if failed else f"all {tested} arrive"
        title = f"{names[source]} → {names[target]}: {told}"
        cells.append(Cell(target, source, _state(failed, tested, worst), title))
    return Grid(len(names), tuple(names), tuple(cells), per_npu=False)


def _npu_grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    ports = sorted(matrix.sent)
    at = {port: number for number, port in enumerate(ports)}
    losses = {(source, target): loss for source, target, loss in matrix.failures}
    labels = tuple(f"{names[host]} NPU {device}" for host, device in ports)
    cells = []
    for source in ports:
        for target in ports:
            if source[0] == target[0] or (source[0], target[0]) not in matrix.tested:
                continue
            loss = losses.get((source, target), 0.0)
            title = f"{labels[at[source]]} → {labels[at[target]]}: {loss:.0f} % lost"
            cells.append(Cell(at[target], at[source], _state(loss > 0, 1, loss), title))
    return Grid(len(ports), labels, tuple(cells), per_npu=True)


def _state(failed: int, tested: int, worst: float) -> Literal["good", "lossy", "dead"]:
    if not failed:
        return "good"
    return "dead" if failed == tested and worst >= 100 else "lossy"
