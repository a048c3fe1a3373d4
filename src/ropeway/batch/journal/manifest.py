"""What a journal belongs to, in `manifest.json` beside its segments.

A job goes on only as what it began as: answers of two models, or of two settings, must not end in
one file unnoticed. Where it sends its rows, and how many at once, is not part of that, and may
change.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ropeway import __version__
from ropeway.batch.disk import cannot_begin
from ropeway.durable import PRIVATE, write_whole
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.outside import parse_json, read_bounded
from ropeway.phrases import Phrase, phrase
from ropeway.units import counted

FORMAT = 1
NAME = "manifest.json"
_MOST = 64 << 20  # a part of the input takes some 200 bytes


@dataclass(frozen=True)
class FileIdentity:
    """A file of the input, known by its bytes and what they are read as: its name may change."""

    name: str
    size: int
    hash: str
    shape: str


@dataclass(frozen=True)
class Manifest:
    """What a job is.

    engine    version of the server; "" where it does not tell
    settings  what `--set` and other flags put into each request, as JSON values
    template  of the prompt; "" where rows have their own
    ropeway   the version that began the job. For people: what it means for the files is `format`.
    """

    model: str
    rows: int
    parts: tuple[FileIdentity, ...]
    engine: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    template: str = ""
    ropeway: str = __version__
    format: int = FORMAT

    @property
    def job(self) -> str:
        """A hash of the input: with an ordinal it names a row, whatever its text."""
        parts = [[part.size, part.hash] for part in self.parts]
        return hashlib.sha256(json.dumps([self.rows, parts]).encode()).hexdigest()


def differences(old: Manifest, new: Manifest) -> tuple[Phrase, ...]:
    """Return why `new` does not go on with `old`: a line for each thing that differs.

    The engine's version only counts where both are known.
    """
    return tuple(_differences(old, new))


def _differences(old: Manifest, new: Manifest) -> Iterator[Phrase]:
    if old.model != new.model:
        yield _changed("model", old.model, new.model)
    if old.engine and new.engine and old.engine != new.engine:
        yield _changed("engine", old.engine, new.engine)
    if old.template != new.template:
        yield _changed("template", old.template, new.template)
    for key in sorted({*old.settings, *new.settings}):
        was, now = _as_json(old.settings, key), _as_json(new.settings, key)
        if was != now:
            yield _changed(key, was, now)
    if len(old.parts) != len(new.parts):
        yield _changed("input", counted(len(old.parts), "file"), counted(len(new.parts), "file"))
    for was_part, now_part in zip(old.parts, new.parts, strict=False):
        if (was_part.size, was_part.hash) != (now_part.size, now_part.hash):
            yield _changed("input", _described(was_part), _described(now_part))
        elif was_part.shape != now_part.shape:
            yield _changed("format", was_part.shape, now_part.shape)
    if old.rows != new.rows:
        yield _changed("rows", f"{old.rows:,}", f"{new.rows:,}")


def _changed(name: str, was: str, now: str) -> Phrase:
    return phrase("{name} was {was}, and is {now}", name=name, was=was or "–", now=now or "–")


def _as_json(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False, sort_keys=True) if key in settings else ""


def _described(part: FileIdentity) -> str:
    return f"{part.name} ({part.size:,} B, {part.hash[:12]})"


def check_same(folder: Path, manifest: Manifest) -> None:
    """Keep the manifest of a new job; raise Refused when the folder holds that of another."""
    old = read_manifest(folder)
    if old is None:
        write_manifest(folder, manifest)
        return
    if changed := differences(old, manifest):
        raise not_the_job(folder, changed)


def not_the_job(folder: Path, changed: Sequence[Phrase]) -> Refused:
    """Return the error for a job that is another than that of the folder."""
    return Refused(
        phrase("this is not the job that began this output"),
        where=str(folder),
        evidence=changed,
        hint=phrase("go on with what it began with, or give this job an output of its own"),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, completely or not at all."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    path = folder / NAME
    try:
        write_whole(path, f"{text}\n".encode(), mode=PRIVATE)
    except OSError as error:
        raise cannot_begin(path, error) from None


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None where there is none."""
    path = folder / NAME
    try:
        document = parse_json(read_bounded(path, _MOST))
        parts = tuple(FileIdentity(**part) for part in document.pop("parts"))
        manifest = msgspec.convert(asdict(Manifest(parts=parts, **document)), Manifest)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = phrase("the job's manifest cannot be read: {reason}", reason=reason_of(error))
        raise RopewayError(reason, where=str(path)) from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Refused(
            phrase("the job's manifest is none of ours, or of another version of Ropeway"),
            where=str(path),
            hint=phrase("go on with the version that began the job"),
        ) from None
    if manifest.format != FORMAT:
        raise Refused(
            phrase(
                "the job was begun by another version of Ropeway: {version}",
                version=manifest.ropeway,
            ),
            where=str(path),
            hint=phrase("go on with the version that began the job"),
        )
    return manifest
