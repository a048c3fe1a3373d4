"""A model's directory on a host, read by its shell: nothing else is needed there.

One command prints all that tells whether the model is whole: its config, every file's size, which
shards the index wants, and where each shard's own header says that it ends. Only headers are read,
so the largest model takes a second or two. What the files are for the planner, `models/` says.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from ropeway.facts.complaints import to_parsed
from ropeway.facts.host import ModelFiles
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.text import json_values, parse_int, plain_lines, rows
from ropeway.models.quantisation import recognise_quantisation
from ropeway.models.task import sees_pooling

# Hashing 60 GB from a disk of 1 GB/s takes a minute; from shared storage several.
_HASH_SECONDS = 3600
_SECONDS = 60

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


def parse_model(text: str) -> Parsed[ModelFiles]:
    """Read what the script above prints."""
    sections = list(_sections(text))
    names = [name for name, _, _ in sections]
    if "directory" not in names or "files" not in names:
        return to_parsed(text, None, plain_lines(text[:20_000]))
    model = _Model()
    for name, rest, lines in sections:
        if name == "directory":
            model.path = rest
        elif name == "json":
            model.read_config(lines)
        else:
            if name == "index":
                model.indexes[rest] = set()
            for line in filter(str.strip, lines):
                if name == "end" or not _READERS[name](model, line):
                    model.unparsed.append(line)
    return Parsed.of(model.files(), model.unparsed, truncated="end" not in names)


def parse_hashes(text: str) -> Parsed[Mapping[str, str]]:
    """Return file → SHA-256 in hexadecimal, from `sha256sum FILE…`."""
    hashes, leftovers = rows(text, _HASH)
    return to_parsed(text, {row[2]: row[1].lower() for row in hashes} or None, leftovers)


_HASH = re.compile(r"\\?([0-9a-fA-F]{64}) [ *](\S.*)")

# Both are about a directory.
MODEL = Question("model-directory", (*shell(_SCRIPT), "sh"), parse_model, limit=_SECONDS)
# This reads every file to its end, at about 1 GB/s and core at best.
HASHES = Question(
    "sha256sum", (*shell(_HASHES), "sh"), parse_hashes, limit=_HASH_SECONDS, optional=True
)


def _sections(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, rest of its line and lines of each section."""
    _, *parts = _SECTION.split(text.replace("\r\n", "\n"))
    for name, rest, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        yield name, rest, body.split("\n")


_SECTION = re.compile(r"^== (directory|files|json|index|kinds|headers|end)(?: (.*))?$", re.M)


@dataclass
class _Model:
    """What is known while the sections are read. A reader returns whether it understood a line.

    indexes   index file → the shards that it names
    expected  bytes that a shard must have by its own header
    kinds     how often each type of quantisation stands in quant_model_description.json
    """

    path: str = ""
    unparsed: list[str] = field(default_factory=list)
    config: Mapping[str, object] | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    indexes: dict[str, set[str]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def read_config(self, lines: Sequence[str]) -> None:
        values, _ = json_values("\n".join(lines))
        if values and isinstance(values[0], dict):
            self.config = values[0]
        else:
            self.unparsed.append("config.json is not JSON")

    def read_file(self, line: str) -> bool:
        match = _FILE.fullmatch(line)
        if match and match[2].startswith("8"):  # S_IFREG of stat.h: a regular file
            self.sizes[match[3]] = int(match[1])
        elif match and match[2].startswith("4"):  # S_IFDIR: a folder
            self.folders.add(match[3])
        return match is not None or _DANGLING.search(line) is not None

    def read_index(self, line: str) -> bool:
        match = _COUNTED.fullmatch(line)
        if match:
            self.indexes[next(reversed(self.indexes))].add(match[2])
        return match is not None or '"total_size"' in line

    def read_kind(self, line: str) -> bool:
        match = _COUNTED.fullmatch(line)
        if match:
            self.kinds[match[2]] = self.kinds.get(match[2], 0) + int(match[1])
        return match is not None or _PAIR.fullmatch(line) is not None

    def read_header(self, line: str) -> bool:
        match = _HEADER.fullmatch(line)
        first = bytes(int(number) & 255 for number in match[2].split()) if match else b""
        end = parse_int(match[1]) if match else None
        if match and end is not None and len(first) == 8:
            self.expected[match[3]] = 8 + int.from_bytes(first, "little") + end
        return match is not None

    def files(self) -> ModelFiles:
        config = self.config or {}
        kind, written = config.get("model_type"), config.get("transformers_version")
        marks = recognise_quantisation(config, self.sizes, self.kinds)
        return ModelFiles(
            path=self.path,
            there=True,
            config=self.config,
            sizes=self.sizes,
            missing=_missing(self.indexes, self.sizes.keys()),
            short={
                name: (size, self.expected[name])
                for name, size in self.sizes.items()
                if size < self.expected.get(name, 0)
            },
            model_type=kind if isinstance(kind, str) else None,
            transformers=written if isinstance(written, str) else None,
            scheme=marks.scheme,
            scheme_evidence="; ".join(marks.evidence) or None,
            kinds=self.kinds,
            pools=sees_pooling(self.sizes.keys() | self.folders),
        )


_READERS: Mapping[str, Callable[[_Model, str], bool]] = {
    "files": _Model.read_file,
    "index": _Model.read_index,
    "kinds": _Model.read_kind,
    "headers": _Model.read_header,
}
_FILE = re.compile(r"([0-9]{1,18}) ([0-9a-f]{3,8}) (.+)")
_DANGLING = re.compile(r"(?:cannot statx?|can't stat) '?.{1,255}?'?: No such file")
_COUNTED = re.compile(r"\s*([0-9]{1,12}) (\S.{0,255})")
_PAIR = re.compile(r'\s*"\w{1,60}"\s*:\s*"?[^"]{0,100}?"?\s*')
_HEADER = re.compile(r"([0-9]{1,18}|-) :((?: [0-9]{1,3}){0,8}) : (.+)")


def _missing(indexes: Mapping[str, Set[str]], files: Set[str]) -> tuple[str, ...]:
    """Return the shards that are not there, by the index that vLLM goes by, else by any; without
    one, by the numbers in the names."""
    main = indexes.get("model.safetensors.index.json")
    shards = set(main) if main is not None else set().union(*indexes.values())
    for name in () if indexes else files:
        match = _NUMBERED.fullmatch(name)
        if match and 0 < int(match[3]) <= 10_000:
            digits = len(match[2])
            shards |= {
                f"{match[1]}{number:0{digits}}-of-{match[3]}.safetensors"
                for number in range(1, int(match[3]) + 1)
            }
    return tuple(sorted(shards - files))


_NUMBERED = re.compile(r"(.{1,200}-)([0-9]{1,8})-of-([0-9]{1,8})\.safetensors")
