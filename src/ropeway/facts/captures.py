"""Text that people paste, freed of what a terminal, a shell or a page put around it.

A capture comes with prompts, echoed commands, loops, Markdown fences, quote marks, colours, a byte
order mark, Windows line ends, `...` for what was left out. Parsers see only lines of output, in
blocks: one for each echoed command, because the command may be all that names the NPU.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Beyond this nothing that we read goes on; it keeps the work linear in what is sane.
LONGEST_LINE = 4_096
MOST_LINES = 50_000

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # window titles
    r"|\x1b[@-Z\\^_]?"
    r"|\^\[\[[0-9;]{0,20}m"  # a colour that was pasted as text
)
_DROPPED = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, 0x200B, 0x200E, 0x200F, 0xFEFF])
_CHARACTERS = {**_DROPPED, 0xA0: " ", 0x3000: " "}

_FENCE = re.compile(r"\s*(?:```|~~~)[\w+-]*\s*$")
_QUOTE = re.compile(r"(?:[ \t]*>)+")
_PROMPT = re.compile(
    r"(?:\([\w. -]{1,40}\) ?)?"  # an activated environment
    r"(?:\[[^\s\]]{1,60}@[^\]]{1,200}\] ?[#$>]"
    r"|[\w.-]{1,60}@[\w.-]{1,100}:[^\s#$]{0,200} ?[#$]"
    r"|(?:ba|z|da)?sh-[\d.]{1,8}[#$]"
    r"|[#$%]+)"
    r"[ \t]*"
)
_COMMAND = re.compile(
    r"(?:(?:sudo|time|timeout [\d.]+[smh]?|watch(?: -n ?[\d.]+)?) +)*"
    r"(?:[\w.~/-]{0,300}/)?"
    r"(?:hccn_tool +-|npu-smi +(?:info|set|upgrade|clear|-)|npu-smi$|upgrade-tool +-"
    r"|cat +[/~.$]|(?:lspci|dmesg) *(?:$|[|-])|for +\w+ +in\b|(?:do|done)(?:$|[ ;|])"
    r"|echo +[\"'=$-])"
)
_GLUE = re.compile(r"do(?:ne)?\b")
_HEADING = re.compile(
    r"[\s=#*\[<-]*+(?:npu|device|devid|dev|card|卡|设备)[\s_:#-]*+(\d{1,4})[\s=#*\]>:-]*$", re.I
)
# Possessive, so that a line of dots is read once.
_ELISION = re.compile(
    r"[\s|\[({<*+-]*+(?:\.{2,}+|…++)[\s|.…\])}>*+-]*$"
    r"|\s*+(?:\.{3,}+|…).{0,40}$"
    r"|[\W_]*+(?:snip|snipped|omitted|truncated|省略|略|以下省略|中间省略)[\W_]*$",
    re.I,
)
_FLAG = re.compile(r"(?<!\S)(-\w) +(\d{1,6})(?![\w.])")
_READ_FOR_MARKS = 100_000


@dataclass(frozen=True)
class Block:
    """The output after one echoed command or heading; all of it where there was neither.

    command  as it was typed, without prompt; None before the first
    device   the NPU that the command (`-i 3`) or a heading (`===== NPU 3 =====`) names
    lines    without line ends and trailing blanks; indentation is kept
    elided   `...` stood among them
    """

    command: str | None
    device: int | None
    lines: tuple[str, ...]
    elided: bool = False


@dataclass(frozen=True)
class Capture:
    """Blocks in order. `elided`: `...` stood somewhere, or there was more than anyone reads."""

    blocks: tuple[Block, ...]
    elided: bool = False

    @property
    def commands(self) -> tuple[str, ...]:
        return tuple(block.command for block in self.blocks if block.command)

    @property
    def lines(self) -> Iterator[str]:
        """Every line of output that is not blank."""
        return (line for block in self.blocks for line in block.lines if line.strip())


def read_capture(text: str) -> Capture:
    """Clean a pasted text and split it at the commands in it. Never raises; linear in the text."""
    lines = clean_lines(text)
    blocks: list[Block] = []
    command: str | None = None
    device: int | None = None
    body: list[str] = []
    elided = False
    for line in lines:
        echo = _echo(line)
        typed = echo is not None and is_command(echo)
        heading = None if typed else _HEADING.match(line)
        if typed and echo and command and _one_loop(command, echo, body):
            command = f"{command}\n{echo}"
        elif typed or heading:
            blocks.append(Block(command, device, tuple(body), elided))
            body, elided = [], False
            if heading:
                device = int(heading[1])
            elif echo:
                command, device = echo, flag_value(echo, "-i")
        elif echo is None and _ELISION.match(line):
            elided = True
        elif echo is None:  # else a prompt with nothing behind it, or a comment
            body.append(line)
    blocks.append(Block(command, device, tuple(body), elided))
    kept = tuple(
        block
        for block in blocks
        if block.command or block.elided or any(map(str.strip, block.lines))
    )
    return Capture(kept, len(lines) >= MOST_LINES or any(block.elided for block in kept))


def clean_lines(text: str) -> list[str]:
    """Lines without escapes, control characters, fences, quote marks and common indentation."""
    text = _ESCAPES.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = []
    for line in text.split("\n", MOST_LINES)[:MOST_LINES]:
        plain = line[:LONGEST_LINE].translate(_CHARACTERS).rstrip()
        quoted = _QUOTE.match(plain)
        plain = plain[quoted.end() :] if quoted else plain
        if not _FENCE.match(plain):
            lines.append(plain)
    common = len(_margin(lines))
    return [line[common:] for line in lines]


def cells(line: str) -> list[str]:
    """The cells of a table row between its `|`, stripped; what stands outside is left out."""
    parts = line.strip().split("|")
    inner = parts[1:-1] if len(parts) > 2 and not parts[-1].strip() else parts[1:]
    return [part.strip() for part in inner]


def is_rule(line: str) -> bool:
    """Whether the line only draws: `+----+`, `=====`, blank."""
    return not any(character.isalnum() for character in line)


def is_command(text: str) -> bool:
    """Whether this is a command line of which we know the output, or shell around one."""
    return _COMMAND.match(text.strip()) is not None


def flag_value(command: str, flag: str) -> int | None:
    """The number behind `-i` or another flag; None when there is none, or a variable."""
    return next((int(value) for name, value in _FLAG.findall(command) if name == flag), None)


def marked(*marks: tuple[float, str]) -> Callable[[str], float]:
    """A `recognise`: the highest score whose pattern is found; `^` stands for a line's start.

    The patterns must be linear; only the first 100,000 characters are looked at.
    """
    compiled = [(score, re.compile(pattern, re.M | re.I)) for score, pattern in marks]

    def recognise(text: str) -> float:
        head = text[:_READ_FOR_MARKS]
        return max((score for score, pattern in compiled if pattern.search(head)), default=0.0)

    return recognise


def _one_loop(command: str, echo: str, body: list[str]) -> bool:
    """Whether both lines belong to one `for … do … done`, typed over several lines."""
    last = command.rsplit("\n", 1)[-1].strip()
    open_loop = last.startswith("for ") or (command.startswith("for ") and "done" not in command)
    return not any(map(str.strip, body)) and (open_loop or _GLUE.match(echo) is not None)


def _echo(line: str) -> str | None:
    """What was typed, when the line is a prompt or a command; else None."""
    text = line.strip()
    prompt = _PROMPT.match(text)
    if prompt:
        return text[prompt.end() :]
    return text if is_command(text) else None


def _margin(lines: list[str]) -> str:
    """The blanks that every line begins with."""
    whole = [line for line in lines if line.strip()]
    first, last = min(whole, default=""), max(whole, default="")
    pairs = zip(first, last, strict=False)
    shared = next((n for n, (a, b) in enumerate(pairs) if a != b or not a.isspace()), len(first))
    return first[:shared]
