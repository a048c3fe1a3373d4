"""A run's folder: `conditions.json`, `timings.jsonl` (one line for each request), `summary.json`.

What was seen of the server meanwhile lies beside them (`samples`).

The raw timings are the record; the summary can always be computed from them again. In the file,
times are seconds from the start, rounded to a microsecond.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from ropeway.bench.course import course_of
from ropeway.bench.figures import Calibration, Figures
from ropeway.bench.load_test import Conditions
from ropeway.bench.own_share import doubts, own_share
from ropeway.bench.run import BenchResult
from ropeway.bench.samples import NPUS, SERVER, Seen
from ropeway.bench.server_state import server_state
from ropeway.bench.stats import columns_of, summary_of
from ropeway.durable import write_whole
from ropeway.endpoint.stream import Timing
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.phrases import phrase
from ropeway.spec.model import Layout

SCHEMA = 1
TIMINGS = "timings.jsonl"

_DECODER = msgspec.json.Decoder(Timing)


def new_run_dir(parent: Path, verb: str, now: datetime) -> Path:
    """Return a folder that does not exist yet: `2026-01-31T10-12-05Z-bench`."""
    return new_folder(parent, f"{now.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{verb}")


def new_folder(parent: Path, name: str) -> Path:
    """Return a folder that does not exist yet: this name, or with a number from 2 behind it."""
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(parent / one for one in names if not (parent / one).exists())


def folder_name(layout: Layout) -> str:
    """Return a layout as the name of a folder: `dp2-tp2-ep`."""
    return str(layout).replace("×", "-").replace("+", "-").lower()


class RunWriter:
    """Writes a run while it is measured: `with RunWriter(folder, conditions) as writer`.

    Every timing is on its way to disk before the next one, as a whole line or not at all. When an
    error comes before the first timing, the folder is removed again. Raises Refused when the folder
    already holds a run or cannot be made, RopewayError when the disk fails later.
    """

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        self._load = conditions.load
        self.folder, self.path = folder, folder / TIMINGS
        self._empty = True
        self._made = not folder.exists()
        if self.path.exists():
            raise holds_a_run(folder)
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            write_json(folder / "conditions.json", conditions.as_json())
            self._lines = self.path.open("xb", buffering=0)
        except OSError as error:
            raise cannot_begin(folder, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self._lines.close()
        if error is not None and self._empty:
            self.path.unlink()
            (self.folder / "conditions.json").unlink()
            for name in (SERVER, NPUS):
                (self.folder / name).unlink(missing_ok=True)
            if self._made:
                self.folder.rmdir()

    def append(self, lines: bytes) -> None:
        """Write timings, as whole lines."""
        self._empty = False
        start = self._lines.tell()
        with recorded(self.path):
            try:
                while lines:
                    lines = lines[self._lines.write(lines) :]
            except OSError:
                self._lines.truncate(start)
                self._lines.seek(start)
                raise

    def finish(
        self,
        result: BenchResult,
        calibration: Calibration | None = None,
        seen: Seen | None = None,
    ) -> tuple[Figures, RopewayError | None]:
        """Write `summary.json`; return the figures, and what could not be written, if so.

        seen  of the server; None: it was not looked at
        """
        load, columns = self._load, columns_of(read_timings(self.path), self._load)
        summary, own = summary_of(columns, load), own_share(result.shares, calibration)
        figures = Figures(
            summary,
            own,
            doubts(own, summary, load),
            course=course_of(columns, from_due=load.is_open),
            server=None if seen is None else server_state(seen, summary),
        )
        rest = figures.as_json()
        del rest["summary"]  # whose keys stand here beside the rest
        document = {"ended": result.ended, **dataclasses.asdict(summary), **rest}
        path, failure = self.folder / "summary.json", result.failure
        try:
            with recorded(path):
                write_json(path, document)
        except RopewayError as error:
            failure = failure or error
        return figures, failure


def without_answer(timing: Timing) -> Timing:
    """Return a timing without its pieces and texts, which take most of its room."""
    return dataclasses.replace(timing, chunks=(), text="", reasoning="")


def read_timings(path: Path) -> Iterator[Timing]:
    """Yield the timings of a record, in the order in which requests ended.

    Raises ValueError for a line that is none.
    """
    with path.open("rb") as lines:
        yield from timings_of(lines)


def timings_of(lines: Iterable[bytes]) -> Iterator[Timing]:
    """Yield the timings of lines of a record. Raises ValueError for a line that is none."""
    return map(_DECODER.decode, lines)


def holds_a_run(folder: Path) -> Refused:
    """Return the error for a folder in which results are already."""
    return Refused(
        "this directory already holds a run",
        where=str(folder),
        hint="give `--out` another directory; the results in this one are kept",
    )


def cannot_begin(folder: Path, error: OSError) -> Refused:
    """Return the error for a folder that cannot be made or written to."""
    return Refused(
        phrase("cannot write the results: {reason}", reason=reason_of(error)),
        where=str(folder),
        hint="give `--out` a directory that can be written to",
    )


@contextmanager
def recorded(path: Path) -> Iterator[None]:
    """Write results to `path` or into it inside the block. Raises RopewayError when that fails."""
    try:
        yield
    except OSError as error:
        raise RopewayError(
            phrase("the results could not be written: {reason}", reason=reason_of(error)),
            where=str(path),
            hint="check whether the disk is full; what was written before is kept",
        ) from error


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a document of ours, with the number of its schema; when that fails, no part of it."""
    text = json.dumps({"schema": SCHEMA, **document}, ensure_ascii=False, indent=2) + "\n"
    # Half a surrogate pair, which a word of the command line may have, becomes its JSON escape.
    write_whole(path, text.encode(errors="backslashreplace"))
