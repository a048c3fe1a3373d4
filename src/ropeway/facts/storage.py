"""A model's directory on a host, read by its shell: nothing else is needed there.

One command prints all that tells whether the model is whole: its config, every file's size, which
shards the index wants, and where each shard's own header says that it ends. Only headers are read,
so the largest model takes a second or two. What the files are for the planner, `models.py` says.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.captures import clean_lines
from ropeway.facts.printed import documents, refusal, seen, whole, whole_lines
from ropeway.facts.quantisation import Quantisation, recognise_quantisation

# Sections, each after a line `== NAME [FILE]`:
#   files    bytes, mode in hexadecimal, name; links are followed
#   json     config.json itself
#   index    how many tensors each shard should hold; total_size as the index has it
#   kinds    how often each type stands in quant_model_description.json, then its extra keys
#   headers  of each safetensors file: the end of its data, its first 8 bytes, its name
# Commas and braces become line ends, so that JSON in one line is read like any other.
_SCRIPT = r"""
d=$1
[ -d "$d" ] || { echo "$d: No such file or directory"; exit 1; }
cd "$d" 2>/dev/null && [ -r . ] || { echo "$d: Permission denied"; exit 1; }
echo "== directory $d"
echo "== files"
stat -L -c '%s %f %n' -- * 2>&1
[ -f config.json ] && { printf '\n== json config.json\n'; cat config.json 2>&1; echo; }
split() { tr ',{}' '\n\n\n' < "$1" 2>/dev/null; }
s='[[:space:]]*'
for f in *.safetensors.index.json; do
  [ -f "$f" ] || continue
  printf '\n== index %s\n' "$f"
  split "$f" | grep '"total_size"'
  split "$f" | sed -n "s/^.*:$s\"\([^\"]*\.safetensors\)\"$s\$/\1/p" | sort | uniq -c
done
for f in quant_model_description*.json; do
  [ -f "$f" ] || continue
  printf '\n== kinds %s\n' "$f"
  split "$f" | sed -n "s/^$s\"[^\"]*\.[^\"]*\"$s:$s\"\([A-Za-z0-9_]*\)\"$s\$/\1/p" | sort | uniq -c
  split "$f" | grep -E '"(version|group_size|kv_cache_type|[a-z_]*quant_type)"'
done
printf '\n== headers\n'
for f in *.safetensors; do
  [ -f "$f" ] || continue
  b=$(od -An -tu1 -N8 "$f" 2>/dev/null); e=-
  set -- $b
  if [ "$#" = 8 ] && [ "$5$6$7$8" = 0000 ]; then
    n=$(($1 + $2 * 256 + $3 * 65536 + $4 * 16777216))
    [ "$n" -le 100000000 ] && e=$(head -c $((n + 8)) "$f" | tail -c +9 | tr '[]' '\n\n' |
      awk '/data_offsets/ { getline; split($0, o, ","); if (o[2] + 0 > m) m = o[2] + 0 }
           END { printf "%.0f", m }')
  fi
  echo "$e :" $b ": $f"
done
echo "== end"
"""
_HASHES = 'cd "$1" && for f in *; do [ -f "$f" ] && sha256sum "$f"; done; true'

# What the downloaders of Hugging Face, ModelScope, aria2, wget and browsers leave when stopped.
_UNFINISHED = (".incomplete", ".aria2", ".part", ".partial", ".tmp", ".download", ".crdownload")
_TOKENIZERS = frozenset(
    ("tokenizer.json", "tokenizer.model", "tiktoken.model", "vocab.json", "tekken.json")
)
_GIT_LFS = b"version "


@dataclass(frozen=True)
class ModelFile:
    """A file and its size; `expected_bytes` where its own header says how long it must be."""

    name: str
    size_bytes: int
    expected_bytes: int | None = None


@dataclass(frozen=True)
class BrokenFile:
    """A weight file that is none: `why` in words."""

    name: str
    why: str


@dataclass(frozen=True)
class WeightIndex:
    """What an index file wants: shard → number of tensors; the bytes of all tensors."""

    name: str
    shards: Mapping[str, int]
    total_bytes: int | None


@dataclass(frozen=True)
class ModelDirectory:
    """A directory with a model, or what there is of one.

    config       config.json; None where it is missing or no JSON
    missing      shards that the index names, or that numbered names leave out
    short, long  weight files that end before, or go on after, what their header says
    broken       weight files without a header: empty, or a pointer of Git LFS
    dangling     links to nothing
    unfinished   what a stopped download left
    description  the extra keys of quant_model_description.json
    """

    path: str
    config: Mapping[str, object] | None
    files: tuple[ModelFile, ...]
    indexes: tuple[WeightIndex, ...]
    missing: tuple[str, ...]
    short: tuple[ModelFile, ...]
    long: tuple[ModelFile, ...]
    broken: tuple[BrokenFile, ...]
    dangling: tuple[str, ...]
    unfinished: tuple[str, ...]
    quantisation: Quantisation
    description: Mapping[str, str]
    has_tokenizer: bool
    has_generation_config: bool


@dataclass(frozen=True)
class FileHash:
    """A file's SHA-256 in hexadecimal."""

    name: str
    sha256: str


@dataclass(frozen=True)
class FileHashes:
    """In the order of the output."""

    hashes: tuple[FileHash, ...]


def model_directory_command(path: str) -> tuple[str, ...]:
    """All about a model's directory; read with `parse_model_directory`. It only reads."""
    return ("sh", "-c", _SCRIPT, "sh", path)


def hashes_command(path: str) -> tuple[str, ...]:
    """Every file's content as a hash: this reads all of it, at about 1 GB/s and core at best."""
    return ("sh", "-c", _HASHES, "sh", path)


def parse_model_directory(text: str) -> Reading[ModelDirectory]:
    """Read the answer to `model_directory_command`."""
    sections = list(_sections(text))
    names = [name for name, _, _ in sections]
    if "directory" not in names or "files" not in names:
        return refusal(text)
    draft = _Draft()
    for name, rest, lines in sections:
        if name == "directory":
            draft.path = rest
        elif name == "files":
            draft.read_files(lines)
        elif name == "json":
            draft.read_config(lines)
        elif name == "index":
            draft.read_index(rest, lines)
        elif name == "kinds":
            draft.read_kinds(lines)
        elif name == "headers":
            draft.read_headers(lines)
    return Reading.of(draft.done(), tuple(draft.unread), cut="end" not in names)


def parse_hashes(text: str) -> Reading[FileHashes]:
    """Read `sha256sum FILE…`."""
    found = []
    unread = []
    for line in filter(str.strip, clean_lines(text)):
        row = _HASH.match(line)
        if row:
            found.append(FileHash(row[2], row[1].lower()))
        else:
            unread.append(line)
    if not found:
        return refusal(text)
    return Reading.of(FileHashes(tuple(found)), tuple(unread))


def _sections(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Name, rest of its line and lines of each section."""
    head: re.Match[str] | None = None
    lines: list[str] = []
    for line in whole_lines(text):
        found = _SECTION.match(line)
        if not found:
            lines.append(line)
            continue
        if head:
            yield head[1], head[2], lines
        head, lines = found, []
    if head:
        yield head[1], head[2], lines


class _Draft:
    """A ModelDirectory while its sections are read."""

    def __init__(self) -> None:
        self.path = ""
        self.unread: list[str] = []
        self._config: Mapping[str, object] | None = None
        self._sizes: dict[str, int] = {}
        self._expected: dict[str, int] = {}
        self._indexes: list[WeightIndex] = []
        self._broken: list[BrokenFile] = []
        self._dangling: list[str] = []
        self._kinds: dict[str, int] = {}
        self._description: dict[str, str] = {}

    def read_files(self, lines: list[str]) -> None:
        for line in filter(str.strip, lines):
            row, dangling = _FILE.match(line), _DANGLING.search(line)
            if row and row[2].startswith("8"):  # S_IFREG of stat.h: a regular file
                self._sizes[row[3]] = int(row[1])
            elif dangling:
                self._dangling += [dangling[1]] if dangling[1] != "*" else []
            elif not row:
                self.unread.append(line)

    def read_config(self, lines: list[str]) -> None:
        found = documents("\n".join(lines))
        value = found.values[0] if found.values else None
        if isinstance(value, Mapping) and not found.cut:
            self._config = value
        else:
            self.unread.append("config.json is not JSON")

    def read_index(self, name: str, lines: list[str]) -> None:
        shards: dict[str, int] = {}
        total = None
        for line in filter(str.strip, lines):
            size, row = _TOTAL.search(line), _COUNTED.match(line)
            if size:
                total = int(size[1])
            elif row:
                shards[row[2]] = int(row[1])
            else:
                self.unread.append(line)
        self._indexes.append(WeightIndex(name, shards, total))

    def read_kinds(self, lines: list[str]) -> None:
        for line in filter(str.strip, lines):
            row, pair = _COUNTED.match(line), _PAIR.match(line)
            if pair:
                self._description[pair[1]] = pair[2]
            elif row:
                self._kinds[row[2]] = self._kinds.get(row[2], 0) + int(row[1])
            else:
                self.unread.append(line)

    def read_headers(self, lines: list[str]) -> None:
        for line in filter(str.strip, lines):
            row = _HEADER.match(line)
            if not row:
                self.unread.append(line)
                continue
            first = bytes(int(number) & 255 for number in row[2].split())
            end = whole(row[1])
            if end is not None and len(first) == 8:
                self._expected[row[3]] = 8 + int.from_bytes(first, "little") + end
            else:
                self._broken.append(BrokenFile(row[3], _why(first)))

    def done(self) -> ModelDirectory:
        files = tuple(
            ModelFile(name, size, self._expected.get(name)) for name, size in self._sizes.items()
        )
        known = [file for file in files if file.expected_bytes is not None]
        names = frozenset(self._sizes)
        return ModelDirectory(
            path=self.path,
            config=self._config,
            files=files,
            indexes=tuple(self._indexes),
            missing=_missing(self._indexes, names),
            short=tuple(f for f in known if f.size_bytes < (f.expected_bytes or 0)),
            long=tuple(f for f in known if f.size_bytes > (f.expected_bytes or 0)),
            broken=tuple(self._broken),
            dangling=tuple(self._dangling),
            unfinished=tuple(sorted(n for n in names if n.endswith(_UNFINISHED))),
            quantisation=recognise_quantisation(self._config or {}, names, self._kinds),
            description=self._description,
            has_tokenizer=bool(names & _TOKENIZERS),
            has_generation_config="generation_config.json" in names,
        )


def _why(first: bytes) -> str:
    if first == _GIT_LFS:
        return "a pointer of Git LFS, not the file itself"
    if len(first) < 8:
        return f"{len(first)} bytes, less than any header" if first else "empty, or not readable"
    return "does not start with a safetensors header"


def _missing(indexes: list[WeightIndex], names: frozenset[str]) -> tuple[str, ...]:
    """By the index that vLLM goes by, else by any; without one, by the numbers in the names."""
    main = [index for index in indexes if index.name == "model.safetensors.index.json"] or indexes
    wanted = {shard for index in main for shard in index.shards}
    if not indexes:
        for name in names:
            found = _NUMBERED.fullmatch(name)
            if found and 0 < int(found[3]) <= 10_000:
                digits = len(found[2])
                wanted |= {
                    f"{found[1]}{number:0{digits}}-of-{found[3]}.safetensors"
                    for number in range(1, int(found[3]) + 1)
                }
    return tuple(sorted(wanted - names))


_SECTION = re.compile(r"== (directory|files|json|index|kinds|headers|end)(?: (.*))?$")
_FILE = re.compile(r"([0-9]{1,18}) ([0-9a-f]{3,8}) (.+)$")
_DANGLING = re.compile(r"(?:cannot statx?|can't stat) '?(.{1,255}?)'?: No such file")
_TOTAL = re.compile(r'"total_size"\s*:\s*([0-9]{1,18})\b')
_COUNTED = re.compile(r"\s*([0-9]{1,12}) (\S.{0,255})$")
_PAIR = re.compile(r'\s*"(\w{1,60})"\s*:\s*"?([^"]{0,100}?)"?\s*$')
_HEADER = re.compile(r"([0-9]{1,18}|-) :((?: [0-9]{1,3}){0,8}) : (.+)$")
_NUMBERED = re.compile(r"(.{1,200}-)([0-9]{1,8})-of-([0-9]{1,8})\.safetensors")
_HASH = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](\S.*)$")

_DIRECTORY_LINE = re.compile(r"^== directory .+\n== files$", re.MULTILINE)
_HASH_LINE = re.compile(r"^[> \t]*[0-9a-f]{64} [ *]\S", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "model-directory",
        "the model's directory, as `ropeway doctor` lists it",
        parse_model_directory,
        lambda text: seen(text, 0.95, _DIRECTORY_LINE),
    ),
    Output(
        "sha256sum",
        "sha256sum FILE…",
        parse_hashes,
        lambda text: seen(text, 0.9, _HASH_LINE),
    ),
)
