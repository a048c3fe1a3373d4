"""A run's folder: `conditions.json`, `timings.jsonl` (one line for each request), `summary.json`.

The raw timings are the record; the summary can always be computed from them again. In the file,
times are seconds from the first request sent, rounded to a microsecond.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ropeway.bench.load_test import Conditions
from ropeway.bench.run import BenchResult
from ropeway.bench.stats import Summary, summarise
from ropeway.endpoint.stream import Timing
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.phrases import phrase

SCHEMA = 1


def new_run_dir(parent: Path, verb: str, now: datetime) -> Path:
    """Return a folder that does not exist yet: `2026-01-31T10-12-05Z-bench`."""
    stem = f"{now.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{verb}"
    names = (stem, *(f"{stem}-{number}" for number in range(2, 1000)))
    return next(parent / name for name in names if not (parent / name).exists())


class RunWriter:
    """Writes a run while it is measured: `with RunWriter(folder, conditions) as writer`.

    Every timing is on its way to disk before the next one, as a whole line or not at all. When an
    error comes before the first timing, the folder is removed again. Raises Refused when the folder
    already holds a run or cannot be made, RopewayError when the disk fails later.
    """

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        self.folder = folder
        self._zero: float | None = None
        self._made = not folder.exists()
        if (folder / "timings.jsonl").exists():
            raise Refused(
                "this directory already holds a run",
                where=str(folder),
                hint="give `--out` another directory; the results in this one are kept",
            )
        try:
            folder.mkdir(0o700, parents=True, exist_ok=True)
            write_json(folder / "conditions.json", conditions.as_json())
            self._lines = (folder / "timings.jsonl").open("xb", buffering=0)
        except OSError as error:
            raise Refused(
                phrase("cannot write the results: {reason}", reason=reason_of(error)),
                where=str(folder),
                hint="give `--out` a directory that can be written to",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _traceback: object) -> None:
        self._lines.close()
        if error is not None and self._zero is None:
            (self.folder / "timings.jsonl").unlink()
            (self.folder / "conditions.json").unlink()
            if self._made:
                self.folder.rmdir()

    def append(self, timing: Timing) -> None:
        """Write one timing."""
        if self._zero is None:
            self._zero = timing.sent
        line = _encoded(_as_row(timing, self._zero))
        start = self._lines.tell()
        with recorded(self.folder / "timings.jsonl"):
            try:
                while line:
                    line = line[self._lines.write(line) :]
            except OSError:
                self._lines.truncate(start)
                self._lines.seek(start)
                raise

    def finish(self, result: BenchResult) -> tuple[Summary, RopewayError | None]:
        """Write `summary.json`; return the summary, and what could not be written, if so."""
        summary = summarise(result.timings, result.duration_s)
        document = {"ended": result.ended, "late": result.late} | dataclasses.asdict(summary)
        path, failure = self.folder / "summary.json", result.failure
        try:
            with recorded(path):
                write_json(path, document)
        except RopewayError as error:
            failure = failure or error
        return summary, failure


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


def _as_row(timing: Timing, zero: float) -> dict[str, Any]:
    def at(moment: float | None) -> float | None:
        return None if moment is None else round(moment - zero, 6)

    return dataclasses.asdict(timing) | {
        "sent": at(timing.sent),
        "first_token": at(timing.first_token),
        "last": at(timing.last),
        "ended": at(timing.ended),
        "chunks": [[at(moment), tokens] for moment, tokens in timing.chunks],
    }


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write a document of ours, with the number of its schema; when that fails, no part of it."""
    try:
        path.write_bytes(_encoded({"schema": SCHEMA, **document}, indent=2))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _encoded(document: Mapping[str, object], indent: int | None = None) -> bytes:
    # Half a surrogate pair, which a word of the command line may have, becomes its JSON escape.
    text = json.dumps(document, ensure_ascii=False, indent=indent) + "\n"
    return text.encode(errors="backslashreplace")
