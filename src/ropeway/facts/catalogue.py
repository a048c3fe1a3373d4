"""All outputs that can be read: found by name or by the command as people type it, or recognised.

A module of facts that reads an output exports it in its `OUTPUTS`; this is the one list of them.
"""

import difflib
import fnmatch
import re
import shlex
from itertools import takewhile
from typing import Any

from ropeway.facts import (
    ascend_versions,
    containers,
    docker,
    filesystems,
    hccn,
    images,
    limits,
    memory,
    names,
    network,
    npu_smi,
    npu_smi_details,
    ping,
    ports,
    processor,
    programs,
    ray,
    storage,
    system,
)
from ropeway.facts.base import Output
from ropeway.facts.captures import clean_lines, read_capture

_MODULES = (
    npu_smi,
    npu_smi_details,
    hccn,
    ascend_versions,
    system,
    processor,
    programs,
    memory,
    limits,
    filesystems,
    docker,
    containers,
    images,
    network,
    ping,
    ports,
    names,
    storage,
    ray,
)
OUTPUTS: tuple[Output[Any], ...] = tuple(output for module in _MODULES for output in module.OUTPUTS)
BY_NAME: dict[str, Output[Any]] = {output.name: output for output in OUTPUTS}

# An echoed command says what was asked, not what came: it wins where the output says nothing.
_ECHO_SCORE = 0.7
_MISSING_SCORE = 0.5
_LOWEST_SCORE = 0.25
_CANDIDATES = 6
_READ_FOR_RECOGNITION = 200_000
_MOST_COMMANDS = 50

_LOOP = re.compile(r"^\s*for +\w+ +in\b[^;]{0,200};? *do\s+|;? *done\b.*$")
_BEFORE = re.compile(r"(?:(?:sudo|timeout [\d.]+[smh]?|time|watch(?: -n ?[\d.]+)?)\s+)+")
_NPU_SMI = re.compile(r"(?:^|[\s/'\"])npu-smi(?:\s+(.*))?$")
# What shells say of a file, and of a program, that is not there.
_NO_FILE = re.compile(r"(?:cat|ls|head|tail|stat): (?:cannot \w+ )?'?(/[^:'\n]{1,300})'?: ")
_NO_PROGRAM = re.compile(
    r"(?:^|[\s/\"'])([\w-]{2,40})(?:: (?:command not found|not found|No such file|未找到命令)|"
    r"\"?: executable file not found)",
    re.I | re.M,
)
_TYPES = {
    "board": "npu-smi-board",
    "common": "npu-smi-common",
    "usages": "npu-smi-usages",
    "memory": "npu-smi-memory",
    "health": "npu-smi-health",
    "ecc": "npu-smi-ecc",
    "proc-mem": "npu-smi-proc-mem",
    "topo": "npu-smi-topo",
    "spod-info": "npu-smi-spod",
    "current-fault-event": "npu-smi-fault-event",
}


def find(asked: str) -> Output[Any] | None:
    """The output of this name, or of this command line; None when there is none.

    A name may be written with underscores or blanks. A command line may have a path, arguments, a
    loop around it and a pipe behind it.
    """
    name = "-".join(re.split(r"[\s_-]+", asked.strip().lower()))
    if name in BY_NAME:
        return BY_NAME[name]
    line = _LOOP.sub("", " ".join(asked.split("\n"))).strip()
    line = _BEFORE.sub("", line.split("|")[0]).strip()
    found = _npu_smi_query(line) or hccn.query_of(line) or _by_command(line)
    return BY_NAME.get(found) if found else None


def near(asked: str) -> list[str]:
    """Names that look like this one."""
    name = "-".join(re.split(r"[\s_-]+", asked.strip().lower()))
    close = difflib.get_close_matches(name, BY_NAME, n=3)
    return close or [known for known in BY_NAME if name and known.startswith(name)][:3]


def recognise(text: str) -> Output[Any] | None:
    """The output that the text most likely is; None when it looks like none of them."""
    head = "\n".join(clean_lines(text[:_READ_FOR_RECOGNITION]))
    scores = {output.name: output.recognise(head) for output in OUTPUTS}
    typed = read_capture(head).commands[:_MOST_COMMANDS]
    echoed = {found.name for line in typed if (found := find(line)) is not None}
    if len(echoed) == 1:
        name = echoed.pop()
        scores[name] = max(scores[name], _ECHO_SCORE)
    elif (missing := _missing(head)) is not None:
        scores[missing] = max(scores[missing], _MISSING_SCORE)
    ranked = sorted(scores, key=lambda name: -scores[name])  # stable: the first of equals wins
    likely = list(takewhile(lambda name: scores[name] >= _LOWEST_SCORE, ranked))[:_CANDIDATES]
    readable = (name for name in likely if BY_NAME[name].parse(text).state != "unknown")
    name = next(readable, likely[0] if likely else "")
    return BY_NAME.get(name)


def _missing(text: str) -> str | None:
    """The output that would have been there, were its file or its program on the host."""
    file, program = _NO_FILE.search(text), _NO_PROGRAM.search(text)
    if file:
        return _by_path(file[1])
    if not program:
        return None
    if program[1] == "hccn_tool":
        return "hccn-other"
    output = find(program[1])
    first = (o.name for o in OUTPUTS if o.command.split()[0] == program[1])
    return output.name if output else next(first, None)


def _npu_smi_query(line: str) -> str | None:
    found = _NPU_SMI.search(line)
    if not found:
        return None
    words = (found[1] or "").split()
    if words[:1] == ["info"]:
        words = words[1:]
    if "-t" in words[:-1]:
        kind = words[words.index("-t") + 1]
        if kind == "board" and "-c" in words:
            return "npu-smi-board-chip"
        return _TYPES.get(kind, "npu-smi-details")
    flags = {"-m": "npu-smi-m", "-l": "npu-smi-l", "-h": "npu-smi-help", "--help": "npu-smi-help"}
    flags["-v"] = "npu-smi-details"
    return next((flags[word] for word in words if word in flags), "npu-smi-info")


def _by_command(line: str) -> str | None:
    """The output whose command begins like this line; for files, the one that reads this path."""
    typed = _words(line)
    if not typed:
        return None
    if "/" in typed[-1] and typed[0].rsplit("/", 1)[-1] in ("cat", "less", "head", "tail", "more"):
        return _by_path(typed[-1])
    if "/" in typed[0] and len(typed) == 1 and (file := _by_path(typed[0])) is not None:
        return file
    best, longest = None, 0
    wanted = _plain([typed[0].rsplit("/", 1)[-1], *typed[1:]])
    for output in OUTPUTS:
        own = _plain(_words(output.command.split("|")[0]))
        if (
            own
            and own[0] not in ("cat", "hccn_tool")
            and wanted[: len(own)] == own
            and len(own) > longest
        ):
            best, longest = output.name, len(own)
    return best


def _by_path(path: str) -> str | None:
    known = [
        (words[-1], output.name)
        for output in OUTPUTS
        if (words := _words(output.command))[:1] == ["cat"] and "/" in words[-1]
    ]
    for pattern, name in known:
        if fnmatch.fnmatchcase(path, pattern):
            return name
    # The same file in another place: the package's folder, then the file's own name.
    if path.endswith("_install.info"):
        return "cann-install-info"
    for folder, name in (("driver", "driver-version-info"), ("firmware", "firmware-version-info")):
        if path.endswith(f"{folder}/version.info"):
            return name
    if path.endswith("version.info"):
        return "cann-version-info"
    file = path.rsplit("/", 1)[-1]
    same = {name for pattern, name in known if pattern.rsplit("/", 1)[-1] == file}
    return same.pop() if len(same) == 1 else None


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an open quote
        return line.split()


def _plain(words: list[str]) -> list[str]:
    """The words before the first flag, placeholder or path: `docker image ls`."""
    return list(takewhile(lambda word: re.fullmatch(r"[a-z][a-z0-9_-]*", word), words))
