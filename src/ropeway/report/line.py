"""One line of text, made to fit: pure functions from words and a width to a string.

Widths are counted in terminal cells, where a CJK character takes two.
"""

import re
from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size

from ropeway.outside import UNSEEN
from ropeway.phrases import Phrase, phrase
from ropeway.report.chinese import in_language
from ropeway.units import format_seconds

# Fewer cells of a detail say nothing; the line is better without them.
LEAST_DETAIL = 8

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
# Where a line may end: at a space, and beside a CJK character, but not before what closes or after
# what opens.
_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef"
_CLOSING, _OPENING = "、。，．：；？！）》」』】〉…", "（《「『【〈"
_WORD = re.compile(
    rf"(\s*)([{_OPENING}]*(?:[{_CJK}]|(?:`[^`]+`|[^\s{_CJK}])+)[{_CLOSING}]*|[{_CLOSING}]+)"
)


def printable(text: str) -> str:
    """Return outside text without what steers a terminal or cannot be seen; newlines and tabs stay.

    A model's answer or a log line may have escape sequences: colours are harmless, but others move
    the cursor, rename the window or imitate our own output.
    """
    return UNSEEN.sub("", _ESCAPES.sub("", text))


def shrink(text: str, cells: int) -> str:
    """Return the text if it fits into `cells`, else its beginning and "…"."""
    if cell_len(text) <= cells:
        return text
    if cells < 1:
        return ""
    return set_cell_size(text, cells - 1).rstrip() + "…"


def fill(text: str, width: int | None, first: int, rest: int) -> str:
    """Return prose with line ends between words, or Chinese characters.

    What stands between backticks stays on one line.

    `width` in cells, None does not wrap; `first` cells of the first line are taken, and the others
    are indented by `rest`.
    """
    lines, room = [""], (width or 0) - first
    for gap, word in _WORD.findall(text):
        if width and lines[-1].strip() and cell_len(lines[-1] + gap + word) > room:
            lines, room = [*lines, word], width - rest
        else:
            lines[-1] += gap + word
    return ("\n" + " " * rest).join(lines)


def live_line(name: str, detail: str, time: str, width: int) -> str:
    """Return the line of a running step: `name … detail · 12 s (of about 40 s)`, at most `width`.

    The time always stays; the detail gives way first, then the name.
    """
    clock = f" · {time}"
    opening = f"{name} …"
    room = width - cell_len(opening) - cell_len(clock) - 1
    if detail and room >= min(LEAST_DETAIL, cell_len(detail)):
        return f"{opening} {shrink(detail, room)}{clock}"
    return shrink(opening, width - cell_len(clock)) + clock


def stage_line(
    names: Sequence[str], index: int, time: str, width: int | None, language: str = "en"
) -> str:
    """Return the header of a stage: `[3/9] start TP2 · 1 min 12 s so far · next: bench`.

    `width` in cells; None does not shorten. The next stage gives way first.
    """
    head = f"[{index + 1}/{len(names)}] {names[index]}"
    if time:
        head += f" · {time}"
    after = phrase("last")
    if index + 1 < len(names):
        after = phrase("next: {stage}", stage=names[index + 1])
    following = f" · {in_language(after, language)}"
    if width is None:
        return head + following
    room = width - cell_len(head)
    if room < len(" · next: ") + LEAST_DETAIL:
        return shrink(head, width)
    return head + shrink(following, room)


def waiting_time(seconds: float, expected: float | None) -> str:
    """Return `12 s (of about 40 s)`, or `52 s (usually about 40 s)` once that has passed."""
    now = whole_seconds(seconds)
    if expected is None:
        return now
    if seconds <= expected:
        return phrase("{now} (of {expected})", now=now, expected=about(expected))
    return phrase("{now} (usually {expected})", now=now, expected=about(expected))


def about(seconds: float) -> Phrase:
    """Return an expected duration, coarsely: 40 → "about 40 s", 293 → "about 4 min 50 s"."""
    minutes, rest = divmod(round(seconds, -1), 60)
    time = f"{minutes:.0f} min" + (f" {rest:.0f} s" if rest else "")
    if seconds < 60:
        time = whole_seconds(seconds)
    elif seconds >= 600:
        time = f"{round(seconds / 60)} min"
    return phrase("about {time}", time=time)


def spent(seconds: float) -> str:
    """Return the duration of a finished step: 0.3013 → "0.3 s", 72 → "1 min 12 s"."""
    return f"{seconds:.1f} s" if seconds < 59.95 else format_seconds(seconds)


def whole_seconds(seconds: float) -> str:
    """Return a running clock: 0.4 → "0 s", 72.9 → "1 min 12 s"."""
    return f"{int(seconds)} s" if seconds < 60 else format_seconds(int(seconds))


def one_line(text: str) -> str:
    """Return outside text on a single line, with runs of white space as one space."""
    return " ".join(printable(text).split())
