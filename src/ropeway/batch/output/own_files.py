"""The files of a job besides its input: none of them is another, an input, or a stranger's."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from stat import S_ISREG
from typing import Any

from ropeway.batch.disk import cannot_begin, cannot_write
from ropeway.batch.input.parts import STDIN, Part, printable, quoted
from ropeway.batch.journal.manifest import NAME as MANIFEST
from ropeway.batch.journal.one_writer import NAME as LOCK
from ropeway.batch.output.stored import Output, Stored, in_store, size_of
from ropeway.durable import PRIVATE, write_whole
from ropeway.errors import Refused, reason_of
from ropeway.outside import is_file, is_folder, is_there, parse_json, read_bounded
from ropeway.phrases import phrase

NAME = "written.json"
_MOST = 1 << 20
# What a job has that ended before its manifest was written, drafts included.
_EARLY = re.compile(
    rf"\.?({LOCK}|survey\.json|beginnings\.bin|left-out\.jsonl|manifest\.json|input-\d+)(\.\w+)?"
    r"|\.nfs\w+"  # on NFS a file that is open when it is removed
)
_PACKED = (".gz", ".zst", ".zstd")


def distinct_files(folder: Path, files: Mapping[str, Output], parts: Sequence[Part] = ()) -> None:
    """Refuse two names of one file, and a file in the journal's `folder`.

    `files` are those that the flags name, by flag; `parts` the input. Names are compared by what
    they lead to: a link, or another way to write a path, is no other file.
    """
    seen: dict[object, str] = {}
    for flag, path in files.items():
        if is_inside(folder, path):
            what = phrase("the folder `{folder}` is the job's own", folder=folder)
            raise Refused(what, where=str(path), hint=phrase("name another file"))
        same = _file(path)
        if same is not None and (other := seen.setdefault(same, flag)) != flag:
            what = phrase("`{one}` and `{other}` name the same file", one=other, other=flag)
            raise Refused(what, where=str(path), hint=phrase("name another file"))
    for part in parts:
        same = _file(found_at(part.path, part.store))
        if part.name != STDIN and (flag := seen.get(same, "")):
            raise Refused(
                phrase("the file of `{flag}` is in the input", flag=flag),
                where=part.name,
                hint=phrase("name another file"),
            )


def found_at(path: str, store: Any) -> Output:
    """Return a file of the input as outputs are, to be compared with them."""
    return Path(path) if store is None else in_store(path, path, store)


def is_one_of(files: Iterable[Output], path: Output) -> bool:
    """Say whether a path leads to one of these files."""
    found = _file(path)
    return found is not None and found in map(_file, files)


def is_inside(folder: Path, path: Output) -> bool:
    """Say whether a path leads to what is in a folder, or to the folder itself."""
    if isinstance(path, Stored):
        return False
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_places(folder: Path, files: Iterable[Output]) -> None:
    """Refuse a folder and files that cannot be written where they are to be."""
    try:
        Path.cwd()
    except OSError:
        raise Refused(
            phrase("the current folder is gone"), hint=phrase("go to one that is there: `cd`")
        ) from None
    _check_place(folder)
    if os.path.lexists(folder) and not is_folder(folder):
        raise Refused(phrase("this is no folder"), where=str(folder))
    for path in files:
        if path.name == "-":
            raise Refused(
                phrase("nothing is written to standard output: a job goes on from its files"),
                hint=phrase("name a file"),
            )
        suffix = PurePath(path.name).suffix
        if suffix.lower() in _PACKED:
            raise Refused(
                phrase("what is written is not packed"),
                where=str(path),
                hint=phrase("name it without `{suffix}`, and pack it later", suffix=suffix),
            )
        if isinstance(path, Stored):
            path.size()  # whether the store answers, and has no folder of this name
        elif is_folder(path):
            raise Refused(phrase("this is a folder"), where=str(path), hint=phrase("name a file"))
        else:
            _check_place(path)
            if path.is_fifo():
                what = phrase("this is a pipe, and nobody may read it when the job has ended")
                raise Refused(what, where=str(path), hint=phrase("name a file"))


def _check_place(path: Path) -> None:
    """Refuse a path whose folder is not there, or takes no draft of it: it would be made last."""
    real = Path(os.path.realpath(path))
    place = real.parent
    if not is_folder(place):
        place = place if path.is_symlink() else path.parent
        raise Refused(
            phrase("there is no such folder"),
            where=str(place),
            hint=phrase("make it first: `mkdir -p {folder}`", folder=quoted(str(place))),
        )
    if is_there(path) and not is_file(path):
        return
    try:
        handle, name = tempfile.mkstemp(dir=place, prefix=f".{real.name}.")
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise Refused(
            phrase("no file can be written here: {reason}", reason=reason_of(error)),
            where=str(path),
            hint=phrase("name another one, or mend that"),
        ) from None


def check_folder(folder: Path) -> None:
    """Refuse a folder for the job in which something else is."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if is_folder(folder) else []
    except OSError as error:
        raise cannot_begin(folder, error) from None
    if not names or MANIFEST in names:
        return
    others = [name for name in names if not _EARLY.fullmatch(name)]
    if others or LOCK not in names:
        raise Refused(
            phrase("the job's folder has something else in it"),
            where=str(folder),
            evidence=[printable(name) for name in (others or names)[:5]],
            hint=phrase("name a folder that is not there yet, or an empty one"),
        )


def check_strangers(folder: Path, paths: Iterable[Output]) -> None:
    """Refuse to write over a file that this job has not written."""
    written = _written(folder)
    for path in paths:
        size, known = size_of(path), written.get(_name(folder, path), [])
        if size and size not in known:
            raise Refused(
                phrase("the file is there already, and this job has not written it"),
                where=str(path),
                evidence=[phrase("it had {size:,} bytes", size=known[-1])] if known else [],
                hint=phrase("name another one, or move it away"),
            )


def note_written(folder: Path, sizes: Mapping[Output, int]) -> None:
    """Remember which files this job writes, and how large, before it does. Raises RopewayError.

    A file of another size is not what the job has written. Until it is replaced it has its old one.
    """
    written = _written(folder)
    for output, size in sizes.items():
        written[_name(folder, output)] = [size_of(output) or 0, size]
    path = folder / NAME
    try:
        write_whole(path, json.dumps(written, indent=2).encode() + b"\n", mode=PRIVATE)
    except OSError as error:
        raise cannot_write(path, error, hint=phrase("all answers are kept")) from None


def _written(folder: Path) -> dict[str, list[int]]:
    """Return which files the job has written, and the sizes that they may have."""
    try:
        document = parse_json(read_bounded(folder / NAME, _MOST))
        return {name: list(sizes) for name, sizes in document.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # then every file is a stranger's
        return {}


def _name(folder: Path, path: Output) -> str:
    """Return what a file is called from the folder's place: both may be moved together."""
    if isinstance(path, Stored):
        return str(path)
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder.parent))


def _file(path: Output) -> object:
    """Return what all names of a file have in common; None for what is no file, as /dev/null."""
    if isinstance(path, Stored):
        return (path.store.type_name, path.path)
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if S_ISREG(status.st_mode) else None
