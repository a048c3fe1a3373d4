"""The answers of hosts in a file that `ropeway bundle` wrote, for support from afar."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ropeway.errors import Refused, reason_of
from ropeway.facts.transcript import Transcript, transcript_from
from ropeway.phrases import phrase
from ropeway.spec.yaml import MAX_BYTES
from ropeway.units import format_bytes

FOLDER = "facts"
SPEC = "spec.yaml"
ERROR = ".error.txt"

# The answers of a host of 16 NPUs are half a megabyte.
_LARGEST_BYTES = 32 * 2**20
_LARGEST_TOTAL = 512 * 2**20
_MOST_HOSTS = 4096


@dataclass(frozen=True)
class Bundle:
    """What a bundle says of its hosts.

    failures  name of a host that did not answer → why
    spec      the text of the spec; None when no service was found
    """

    transcripts: tuple[Transcript, ...]
    failures: dict[str, str]
    spec: str | None


def member_of(host: str, ending: str = ".txt") -> str:
    """Return the name in the archive of a host's answers, or with ERROR, of why there are none."""
    return f"{FOLDER}/{host}{ending}"


def read_bundle(path: Path) -> Bundle:
    """Read the hosts' answers and the spec. Raises Refused when that is not what the file holds."""
    with _archive(path) as archive:
        members = {
            info.filename: info
            for info in archive.infolist()
            if PurePosixPath(info.filename).parts[:-1] == (FOLDER,) or info.filename == SPEC
        }
        if len(members) > _MOST_HOSTS + 1:
            raise Refused(
                phrase("the bundle names more than {most} hosts", most=_MOST_HOSTS),
                where=str(path),
            )
        texts: dict[str, str] = {}
        left = _LARGEST_TOTAL
        for name, info in members.items():
            most = MAX_BYTES if name == SPEC else min(_LARGEST_BYTES, left)
            texts[name] = _text(archive, info, f"{path}:{name}", most)
            left -= len(texts[name])
    spec = texts.pop(SPEC, None)
    failures = {
        name.removeprefix(f"{FOLDER}/").removesuffix(ERROR): text.strip()
        for name, text in texts.items()
        if name.endswith(ERROR)
    }
    transcripts = tuple(
        transcript_from(text, f"{path}:{name}")
        for name, text in texts.items()
        if not name.endswith(ERROR)
    )
    if not transcripts and not failures:
        raise Refused(
            "the file holds no answers of hosts",
            where=str(path),
            hint="`ropeway bundle` writes such files; older versions wrote none of the answers",
        )
    names = [transcript.name for transcript in transcripts]
    if len(set(names)) < len(names):
        raise Refused("the bundle has one host twice", where=str(path))
    return Bundle(transcripts, failures, spec)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip file. Raises Refused for whatever is wrong with it, then or while it is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        reason = reason_of(error)
        raise Refused(
            phrase("cannot read the bundle: {reason}", reason=reason), where=str(path)
        ) from error
    # An encrypted member is a RuntimeError, an unknown compression a NotImplementedError.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise Refused("the file is not a bundle, or it is damaged", where=str(path)) from error


def _text(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, most: int) -> str:
    """Return a member as text. Reads at most so many bytes, whatever the archive says."""
    with archive.open(info) as member:
        content = member.read(most + 1)
    if len(content) > most:
        raise Refused(
            phrase(
                "it is larger than {size}, which nothing in a bundle is", size=format_bytes(most)
            ),
            where=where,
        )
    return content.decode(errors="replace")
