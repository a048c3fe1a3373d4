"""Files of any size, to a host and from it, piece by piece.

`Host.put` and `Host.get` hold a whole file in memory, and begin anew after each broken connection.
Here a file goes in pieces, which are added to a draft beside its place: what has arrived stays, and
the same call goes on from there. A draft takes its place once its hash is that of the whole.
"""

import base64
import binascii
import hashlib
import os
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ropeway.durable import replace, sync_folder
from ropeway.errors import HostError, Refused, RopewayError, reason_of
from ropeway.hosts.base import Host, cannot_write, room_hint
from ropeway.phrases import phrase

PIECE = 16 * 2**20
_PIECE_SECONDS = 1800.0  # 16 MiB at 10 kB/s
_SLOWEST_READ = 20e6  # bytes per second that a host's disk can hash
_CHUNK = 2**20

OnBytes = Callable[[int, int], None]
"""It is told how many bytes of how many have arrived."""

# Each prints a line for a file that is there, and an empty one for one that is not.
_SIZES = 'for file; do if [ -f "$file" ]; then wc -c <"$file"; else echo; fi; done'
_HASHES = """
for file; do if [ -f "$file" ]; then sha256sum <"$file"; else echo; fi; done
"""
# $1 the draft, $2 the bytes it must have by now, $3 those that follow on stdin. One that somebody
# else adds to at the same time is left alone.
_ADD = """
LC_ALL=C; export LC_ALL
[ -e "$1" ] || : >"$1" || exit
[ "$(wc -c <"$1")" -eq "$2" ] || { echo ": somebody else is sending this file" >&2; exit 1; }
cat >>"$1" && [ "$(wc -c <"$1")" -eq "$(($2 + $3))" ]
"""
# $1 the draft, $2 its hash, $3 its place
_PLACE = """
LC_ALL=C; export LC_ALL
: >>"$1" || exit
read -r hash rest <<END
$(sha256sum <"$1")
END
if [ "$hash" = "$2" ]; then mv -f -- "$1" "$3"; else rm -f -- "$1"; exit 9; fi
"""
# $1 the file, $2 the first byte, counted from 1, $3 how many. What a command prints is text to us.
_READ = 'tail -c "+$2" <"$1" | head -c "$3" | gzip -1 | base64'


@dataclass(frozen=True)
class Content:
    """What a file holds: its size in bytes, and its SHA-256."""

    size: int
    digest: str


def content_of(path: Path) -> Content:
    """Return what a file of this machine holds. Raises Refused where it cannot be read."""
    hashed, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                hashed.update(chunk)
                size += len(chunk)
    except OSError as error:
        raise Refused(
            phrase("cannot read `{path}`: {reason}", path=path, reason=reason_of(error))
        ) from None
    return Content(size, hashed.hexdigest())


def contents_on(host: Host, paths: Sequence[str]) -> list[Content | None]:
    """Return what files of a host hold; None for one that is not there. Raises HostError."""
    sizes = _sizes(host, paths)
    seconds = 60.0 + sum(size or 0 for size in sizes) / _SLOWEST_READ
    lines = _lines(host, _HASHES, paths, seconds)
    return [
        Content(size, line.split()[0]) if size is not None and line else None
        for size, line in zip(sizes, lines, strict=True)
    ]


def send_file(host: Host, source: Path, target: str, content: Content, tell: OnBytes) -> None:
    """Bring a file onto a host, unless one of that name and size is there already.

    content  what the file holds; its name should depend on it, so that no other is taken for it
    Raises HostError; then the same call goes on where this one ended.
    """
    draft = f"{target}.part"
    there, arrived = _sizes(host, (target, draft))
    if there == content.size:
        return
    sent = arrived or 0
    with source.open("rb") as file:
        file.seek(sent)
        # One that has become shorter ends earlier, and its hash will say so.
        while piece := file.read(min(PIECE, max(0, content.size - sent))):
            _add(host, draft, sent, piece)
            sent += len(piece)
            tell(sent, content.size)
    seconds = 60.0 + content.size / _SLOWEST_READ
    result = host.run(("sh", "-c", _PLACE, "sh", draft, content.digest, target), timeout=seconds)
    if result.exit_code == 9:
        raise HostError(
            phrase("what arrived is not what was sent"),
            where=f"{host.name}:{target}",
            hint=phrase("did the file change meanwhile? the same command sends it anew"),
        )
    result.check(phrase("cannot put the file into its place"), where=host.name)


def fetch_file(
    host: Host,
    source: str,
    target: Path,
    content: Content,
    tell: OnBytes,
    *,
    old: Collection[str] = (),
) -> None:
    """Bring a file of a host here, unless it is here already; no power cut takes it away again.

    old  hashes of contents that it may take the place of
    Raises Refused where another file has its name or this disk cannot take it, and HostError; then
    the same call goes on where this one ended.
    """
    if target.exists():
        here = content_of(target) if target.is_file() else None
        if here == content:
            _sync(target)  # whoever brought it may have been ended before that
            return
        if here is None or here.digest not in old:
            raise Refused(
                phrase("the file is there already, and it is another one"),
                where=str(target),
                hint=phrase("name another one, or move it away"),
            )
    draft = target.with_name(f".{target.name}.{content.digest[:12]}.part")
    try:
        with draft.open("ab") as file:
            file.truncate(min(file.tell(), content.size))
            while (arrived := file.seek(0, os.SEEK_END)) < content.size:
                file.write(_piece(host, source, arrived, min(PIECE, content.size - arrived)))
                file.flush()
                tell(file.tell(), content.size)
            os.fsync(file.fileno())
        if content_of(draft) != content:
            draft.unlink()
            raise HostError(
                phrase("what arrived is not what was sent"),
                where=f"{host.name}:{source}",
                hint=phrase("did the file change meanwhile? the same command fetches it anew"),
            )
        replace(draft, target)
    except OSError as error:
        raise _cannot_keep(target, error) from None


def _sync(path: Path) -> None:
    """Make a file and its name durable. Raises Refused."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise _cannot_keep(path, error) from None


def _sizes(host: Host, paths: Sequence[str]) -> list[int | None]:
    return [int(line) if line else None for line in _lines(host, _SIZES, paths, 60.0)]


def _lines(host: Host, script: str, paths: Sequence[str], seconds: float) -> list[str]:
    """Return a line for each path. Raises HostError."""
    result = host.run(("sh", "-c", script, "sh", *paths), timeout=seconds)
    result.check(phrase("cannot look at files"), where=host.name)
    lines = [line.strip() for line in result.stdout.split("\n")[: len(paths)]]
    if len(lines) < len(paths) or not all(not line or line.split()[0].isalnum() for line in lines):
        raise HostError(
            phrase("cannot look at files"), where=host.name, evidence=(result.stdout[:200],)
        )
    return lines


def _add(host: Host, draft: str, size: int, piece: bytes) -> None:
    argv = ("sh", "-c", _ADD, "sh", draft, str(size), str(len(piece)))
    result = host.run(argv, stdin=piece, timeout=_PIECE_SECONDS)
    if not result.ok:
        last = next(reversed(result.stderr.strip().splitlines()), "")
        raise cannot_write(draft, last.rpartition(": ")[2].lower(), host.name)


def _piece(host: Host, source: str, begin: int, size: int) -> bytes:
    argv = ("sh", "-c", _READ, "sh", source, str(begin + 1), str(size))
    result = host.run(argv, timeout=_PIECE_SECONDS)
    result.check(phrase("cannot read `{path}`", path=source), where=host.name)
    try:
        packed = base64.b64decode("".join(result.stdout.split()), validate=True)
        piece = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(packed, size + 1)
    except (binascii.Error, zlib.error):
        piece = b""
    if len(piece) != size:
        raise HostError(
            phrase("cannot read `{path}`", path=source),
            where=host.name,
            evidence=tuple(result.stderr.strip().splitlines()[-3:]),
        )
    return piece


def _cannot_keep(path: Path, error: OSError) -> RopewayError:
    reason = reason_of(error)
    return Refused(
        phrase("cannot write `{path}`: {reason}", path=path, reason=reason),
        hint=room_hint(reason, str(path.parent)),
    )
