"""A run's folder: `conditions.json`, `timings.jsonl` (a line a request), `summary.json`.

The raw timings are the record; the summary can always be computed from them again. In the file,
times are seconds from the first request sent, rounded to a microsecond.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ropeway.bench.run import BenchResult
from ropeway.bench.stats import Conditions, Summary, span, summarise
from ropeway.endpoint.stream import Failure, Timing
from ropeway.errors import Refused, RopewayError

SCHEMA = 1


@dataclass(frozen=True)
class Run:
    """A run read back. `ended` is "unknown" when the run was killed before it could say."""

    conditions: Conditions
    timings: tuple[Timing, ...]
    summary: Summary
    ended: str


def new_run_dir(parent: Path, verb: str, now: datetime) -> Path:
    """The name of a folder that does not exist yet: `2026-01-31T10-12-05Z-bench`."""
    stem = f"{now.astimezone(UTC):%Y-%m-%dT%H-%M-%SZ}-{verb}"
    names = (stem, *(f"{stem}-{again}" for again in range(2, 1000)))
    return next(parent / name for name in names if not (parent / name).exists())


class RunWriter:
    """Writes a run while it is measured: `with RunWriter(folder, conditions) as writer`.

    Every timing is on its way to disk before the next one. When an error comes before the first
    timing, the folder is taken away again. Raises Refused when the folder already holds a run or
    cannot be made, RopewayError when the disk fails later.
    """

    def __init__(self, folder: Path, conditions: Conditions) -> None:
        self.folder = folder
        self._zero: float | None = None
        self._made = not folder.exists()
        if (folder / "timings.jsonl").exists():
            raise Refused(
                "this folder already holds a run",
                where=str(folder),
                hint="give `--out` another folder; the results in this one are kept",
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_json(folder / "conditions.json", dataclasses.asdict(conditions))
            # Half a surrogate pair, should a server send one, becomes its JSON escape.
            self._lines = (folder / "timings.jsonl").open(
                "x", encoding="utf-8", errors="backslashreplace", buffering=1
            )
        except OSError as error:
            raise Refused(
                f"cannot write the results: {(error.strerror or str(error)).lower()}",
                where=str(folder),
                hint="give `--out` a folder that can be written to",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._lines.close()
        if error is not None and self._zero is None:
            (self.folder / "timings.jsonl").unlink()
            (self.folder / "conditions.json").unlink()
            if self._made:
                self.folder.rmdir()

    def append(self, timing: Timing) -> None:
        """Write one timing down."""
        if self._zero is None:
            self._zero = timing.sent
        try:
            self._lines.write(json.dumps(_as_row(timing, self._zero), ensure_ascii=False) + "\n")
        except OSError as error:
            raise _disk_failed(self.folder, error) from error

    def finish(self, result: BenchResult) -> Summary:
        """Summarise, write `summary.json`, and give the summary."""
        summary = summarise(result.timings, result.duration_s)
        document = {"ended": result.ended, "late": result.late} | dataclasses.asdict(summary)
        try:
            _write_json(self.folder / "summary.json", document)
        except OSError as error:
            raise _disk_failed(self.folder, error) from error
        return summary


def read_run(folder: Path) -> Run:
    """Read a run's folder; the summary is computed afresh from the raw timings.

    A last line that was cut off when the run was killed is left out. Raises Refused, with file
    and line, for anything else that is not as it was written.
    """
    conditions = _read_conditions(folder / "conditions.json")
    timings = tuple(_read_timings(folder / "timings.jsonl"))
    ended = "unknown"
    if (folder / "summary.json").exists():
        ended = str(_read_object(folder / "summary.json").get("ended", ended))
    return Run(conditions, timings, summarise(timings, span(timings)), ended)


def _disk_failed(folder: Path, error: OSError) -> RopewayError:
    return RopewayError(
        f"the results could not be written: {(error.strerror or str(error)).lower()}",
        where=str(folder),
        hint="see whether the disk is full; what was written before is kept",
    )


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


def _write_json(path: Path, document: dict[str, Any]) -> None:
    text = json.dumps({"schema": SCHEMA} | document, ensure_ascii=False, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _read_conditions(path: Path) -> Conditions:
    document = _read_object(path)
    document.pop("schema", None)
    try:
        return Conditions(**document)
    except TypeError as error:
        raise _unreadable(path, str(error)) from error


def _read_timings(path: Path) -> Iterator[Timing]:
    # Not splitlines(): an answer may hold U+2028, which is a line end only to that function. What
    # follows the last line end is nothing, or a line cut off when the run was killed.
    for number, line in enumerate(_read_text(path).split("\n")[:-1], 1):
        try:
            row = json.loads(line)
            row["chunks"] = tuple((moment, tokens) for moment, tokens in row["chunks"])
            row["error"] = Failure(**row["error"]) if row["error"] else None
            yield Timing(**row)
        except (ValueError, TypeError, KeyError) as error:
            raise _unreadable(f"{path}:{number}", str(error)) from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_read_text(path))
    except ValueError as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable(path, "it is not a JSON object")
    return document


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(where: Path | str, why: str) -> Refused:
    return Refused(
        "this is not the record of a run",
        where=str(where),
        evidence=(why,),
        hint="give the folder that `ropeway bench` wrote",
    )
