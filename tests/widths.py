"""Which lines of a screen are too wide."""

import re

from rich.cells import cell_len


def too_wide(text: str, width: int) -> list[str]:
    """The lines that are wider than the terminal, though not for one long word, such as a link.

    A command between backticks is such a word, and the names of rows stand two blanks before it.
    """
    words = (re.split(r" {2,}", re.sub(r"`[^`]+`", "command", line).strip())[-1]
             for line in text.splitlines())  # fmt: skip
    pairs = zip(text.splitlines(), words, strict=True)
    return [line for line, last in pairs if cell_len(line) > width and " " in last]
