"""The server's state during a load test, as lines for the terminal."""

from collections.abc import Iterator

from rich.cells import set_cell_size
from rich.console import Group, RenderableType

from ropeway.bench.figures import Bounds, EngineTtft, Level, NpuUse, ServerState
from ropeway.phrases import Phrase, joined, phrase
from ropeway.report.chinese import in_language
from ropeway.report.figures import milliseconds, percent, rate
from ropeway.report.table import Rows

_LABEL = 10  # cells of the names, with the blanks behind them


def server_lines(server: ServerState) -> tuple[Phrase, ...]:
    """Return what the server said, why the figures are what they are, and what is missing."""
    return (
        *_engine(server),
        *(phrase("why       {cause}", cause=cause) for cause in server.causes),
        *(phrase("NPUs      {use}", use=_npus(npus)) for npus in server.npus),
        *(phrase("note      {note}", note=note) for note in server.notes),
    )


def server_rows(server: ServerState, language: str = "en") -> RenderableType:
    """Return these lines for the terminal, which end between words."""
    lines = [in_language(line, language) for line in server_lines(server)]
    names = [set_cell_size(line, _LABEL) for line in lines]
    cells = zip(names, lines, strict=True)
    return Group(*(Rows([(name.rstrip(), line[len(name) :])], least=8) for name, line in cells))


def _engine(server: ServerState) -> Iterator[Phrase]:
    if server.not_told is not None:
        yield phrase("server    not told: {why}", why=server.not_told)
        return
    levels = []
    if server.running:
        levels.append(phrase("{median} requests run (most: {largest})", **_counts(server.running)))
    if server.waiting:
        levels.append(phrase("{median} wait (most: {largest})", **_counts(server.waiting)))
    if server.kv_use:
        levels.append(phrase("KV cache {median} full (most: {largest})", **_shares(server.kv_use)))
    if levels:
        yield phrase("server    {levels}", levels=joined(levels, " · "))
    counts = []
    if server.generation_tokens_per_s is not None:
        own = rate(server.generation_tokens_per_s)
        counts.append(phrase("{own} tokens/s by its own count", own=own))
    if server.preemptions is not None:
        counts.append(phrase("{preempted:,} preempted", preempted=server.preemptions))
    if server.prefix_hits is not None:
        share = percent(server.prefix_hits)
        counts.append(phrase("prefix cache: {share} of the tokens of prompts", share=share))
    if counts:
        yield phrase("counted   {counts}", counts=joined(counts, " · "))
    if server.ttft:
        yield _ttft(server.ttft)


def _ttft(ttft: EngineTtft) -> Phrase:
    mean = milliseconds(ttft.mean_s * 1000)
    if ttft.p50_s is None or ttft.p99_s is None:
        figures = phrase("mean {mean}", mean=mean)
    else:
        figures = phrase(
            "mean {mean}, p50 {p50}, p99 {p99}",
            mean=mean,
            p50=_bounds(ttft.p50_s),
            p99=_bounds(ttft.p99_s),
        )
    if ttft.between_s is None:
        return phrase("its TTFT  {figures}", figures=figures)
    return phrase(
        "its TTFT  {figures}; to ours: {between} on average (network, HTTP and us)",
        figures=figures,
        between=_signed(ttft.between_s),
    )


def _npus(use: NpuUse) -> Phrase:
    """Return what is known of the NPUs of one host."""
    if not use.samples:
        return phrase("{host}: not told: {why}", host=use.host, why=use.missed)
    parts = [phrase("{working} of {npus} worked", working=use.working, npus=use.npus)]
    if level := use.aicore:
        parts.append(phrase("AI cores {median} busy (most: {largest})", **_shares(level)))
    if use.hbm_use is not None:
        parts.append(phrase("HBM {share} full at most", share=percent(use.hbm_use)))
    if use.samples < use.asked:
        told = {"samples": use.samples, "asked": use.asked}
        parts.append(phrase("answered {samples} of {asked} times", **told))
    return phrase("{host}: {figures}", host=use.host, figures=joined(parts, " · "))


def _shares(level: Level) -> dict[str, str]:
    return {"median": percent(level.median), "largest": percent(level.largest)}


def _counts(level: Level) -> dict[str, str]:
    return {"median": f"{level.median:,.0f}", "largest": f"{level.largest:,.0f}"}


def _bounds(bounds: Bounds) -> Phrase:
    """Return the range that a quantile lies in."""
    least = milliseconds(bounds.least * 1000)
    if bounds.most is None:
        return phrase("above {least}", least=least)
    return phrase("{least} to {most}", least=least, most=milliseconds(bounds.most * 1000))


def _signed(seconds: float) -> str:
    sign = "−" if seconds < 0 else "+"
    return f"{sign}{milliseconds(abs(seconds) * 1000)}"
