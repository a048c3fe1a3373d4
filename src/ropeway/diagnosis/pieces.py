"""Split one line of a file into what was written to it, one after the other.

A progress bar goes back to the beginning of its line, or writes no end of line, and collectors of
logs wrap a line into JSON. What stands behind a bar, or in a wrapper, is a line of its own.
"""

import re

from ropeway.diagnosis.wrapped import unwrapped

# What moves the cursor away from what was written. Not `\x1b[K`, which grep's colours have.
_MOVED = r"[\r\x08\x0b\x0c]+|\x1b\[\d{0,3}(?:;\d{0,3})?[ABE-HJf]|\x1b\[[12]K"
# What ends a bar of tqdm: `40%|####      | 93/232 [01:26<02:09,  1.07it/s]`; or one by hand:
# `40/100 (1.2GB/s, eta 3m)`.
_TQDM = (
    r"\[(?:\d{1,3}:)?\d\d:\d\d(?:<[^\]\n]{1,120}|, [^\]\n]{0,60}(?:/s|s/it)[^\]\n]{0,60})\]"
    r"|\((?:[^()\n]{0,60}, ?)?(?i:eta):? ?\d[^()\n]{0,20}\)"
)
# What other bars end with (rich, wget, curl, pip, docker pull), where a failure follows at once:
# `40% 0:00:12`, `5.10MB/s    eta 2m 3s`, `0:01:49 5200k`, `460MB/1.02GB`.
# A clock may as well be the time of a line, and words its middle: they count where nothing stands
# between. Names of exceptions and levels may have blanks before them.
_LOUD = (
    r"(?:[A-Za-z_][\w.]{0,80}(?:Error|Exception):|ERROR\b|FATAL\b|CRITICAL\b|Traceback \("
    r"|Process \S{1,60}:$|Killed\b|Segmentation fault|Aborted\b|Terminated\b|terminate called"
    r"|curl: )"
)
_WORDS = r"(?:(?i:error|failed|fatal|cannot|unable|unexpected|could not)|\S{0,6}(?:错误|失败|异常))"
_END_OF_BAR = (
    r"(?:\d ?%|-:--|\d ?[kKMGT]?i?(?:B|it)(?:/s)?|\d[kKMGTsmhd]|[━╸╺▀-▟]"
    r"|(?i:\beta|%|/s|━) {0,4}(?:\d{1,3}:)?\d{1,2}:\d\d)"
)
# A spinner and what it tells of.
_SPINNER = rf"[\u2801-\u28ff] [^\n]{{1,80}}?(?= {_LOUD})"
_OTHER_BAR = rf"{_SPINNER}|{_END_OF_BAR}(?= {{0,4}}{_LOUD}|{_WORDS})|\d:\d\d(?={_LOUD}|{_WORDS})"
_BREAK = re.compile(rf"{_MOVED}|(?P<bar>{_TQDM}|{_OTHER_BAR})")
_PROGRESS = re.compile(r"\d{1,3}(?:\.\d+)?%|\d(?:it|[kMGT]?i?B)/s|s/it")


def pieces(line: str) -> list[str]:
    """Return what was written on this line, in order; blank pieces are left out."""
    found = []
    for text in unwrapped(line):
        at = 0
        for match in _BREAK.finditer(text):
            found.append(text[at : match.end() if match["bar"] else match.start()])
            at = match.end()
        found.append(text[at:])
    return [piece for piece in found if piece and not piece.isspace()]


def is_progress(piece: str) -> bool:
    """Return whether a piece tells how far something is."""
    return _PROGRESS.search(piece) is not None
