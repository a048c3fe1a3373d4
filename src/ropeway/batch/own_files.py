"""The files of a job besides its input: none of them is another, an input, or a stranger's."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from stat import S_ISREG
from typing import Any

from ropeway.batch.disk import cannot_write, write_whole
from ropeway.batch.parts import STDIN, Part
from ropeway.batch.stored import Output, Stored, size_of
from ropeway.errors import Refused
from ropeway.outside import parse_json, read_bounded
from ropeway.phrases import phrase

NAME = "written.json"
_MOST = 1 << 20
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
    return Path(path) if store is None else Stored(path, path, store)


def is_one_of(files: Iterable[Output], path: Output) -> bool:
    """Say whether a path leads to one of these files."""
    found = _file(path)
    return found is not None and found in map(_file, files)


def is_inside(folder: Path, path: Output) -> bool:
    """Say whether a path leads to what is in a folder, or to the folder itself."""
    if isinstance(path, Stored):
        return path.local is not None and is_inside(folder, path.local)
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def check_places(folder: Path, files: Iterable[Output]) -> None:
    """Refuse a folder and files that cannot be written where they are to be."""
    _check_place(folder)
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
        elif path.is_dir():
            raise Refused(phrase("this is a folder"), where=str(path), hint=phrase("name a file"))
        elif path.is_fifo():
            what = phrase("this is a pipe, and nobody may read it when the job has ended")
            raise Refused(what, where=str(path), hint=phrase("name a file"))
        here = path.local if isinstance(path, Stored) else path
        if here is not None:
            _check_place(here)


def _check_place(path: Path) -> None:
    """Refuse a path whose folder is not there."""
    place = Path(os.path.realpath(path)).parent
    if not place.is_dir():
        place = place if path.is_symlink() else path.parent
        raise Refused(
            phrase("there is no such folder"),
            where=str(place),
            hint=phrase("make it first: `mkdir -p {folder}`", folder=place),
        )


def check_strangers(folder: Path, paths: Iterable[Output]) -> None:
    """Refuse to write over a file that this job has not written."""
    written = _written(folder)
    for path in paths:
        if size_of(path) and _name(folder, path) not in written:
            raise Refused(
                phrase("the file is there already, and this job has not written it"),
                where=str(path),
                hint=phrase("name another one, or move it away"),
            )


def note_written(folder: Path, paths: Iterable[Output]) -> None:
    """Remember which files this job writes, before it does. Raises RopewayError."""
    before = _written(folder)
    written = before | {_name(folder, path) for path in paths}
    if written != before:
        path = folder / NAME
        try:
            write_whole(path, json.dumps(sorted(written)).encode() + b"\n")
        except OSError as error:
            raise cannot_write(path, error, hint=phrase("all answers are kept")) from None


def _written(folder: Path) -> set[str]:
    try:
        return {str(name) for name in parse_json(read_bounded(folder / NAME, _MOST))}
    except (OSError, ValueError, TypeError):  # then every file is a stranger's
        return set()


def _name(folder: Path, path: Output) -> str:
    """Return what a file is called from the folder's place: both may be moved together."""
    if isinstance(path, Stored):
        return str(path)
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder.parent))


def _file(path: Output) -> object:
    """Return what all names of a file have in common; None for what is no file, as /dev/null."""
    if isinstance(path, Stored):
        return (path.store.type_name, path.path) if path.local is None else _file(path.local)
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino) if S_ISREG(status.st_mode) else None
