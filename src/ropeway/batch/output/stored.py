"""An output in object storage: a file is made on this machine's disk, and put there whole.

What holds it meanwhile is the job's folder. A store that has objects shows one when its upload is
complete; in HDFS a file gets its name when it is whole.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from ropeway.batch.stores import open_store, read_url, store_fault, store_faults, without_keys
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.phrases import phrase

_PIECE = 8 << 20


@dataclass(frozen=True)
class Stored:
    """A file in a store of pyarrow. `shown`: its URL, without keys."""

    shown: str
    path: str
    store: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.shown

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.path).name

    def with_name(self, name: str) -> "Stored":
        """Return another one beside it."""
        shown, path = (f"{one.rpartition('/')[0]}/{name}" for one in (self.shown, self.path))
        return replace(self, shown=shown, path=path)

    def size(self) -> int | None:
        """Return its bytes; None where it is not there. Raises Refused."""
        try:
            info = self.store.get_file_info(self.path)
        except store_faults() as error:
            raise Refused(
                phrase("the store does not answer: {reason}", reason=_first_line(error)),
                where=self.shown,
            ) from None
        if info.type.name == "Directory":
            raise Refused(phrase("this is a folder"), where=self.shown, hint=phrase("name a file"))
        return info.size if info.is_file else None

    def put(self, file: Path) -> None:
        """Let a file of this machine take its place. Raises RopewayError."""
        renames = self.store.type_name == "hdfs"
        draft = self.with_name(f".{self.name}.part") if renames else self
        try:
            draft._copy(file)
            if renames:
                self.store.move(draft.path, self.path)
        except OSError as error:
            raise RopewayError(
                phrase("the output cannot be stored: {reason}", reason=_first_line(error)),
                where=self.shown,
                hint=phrase("all answers are kept; mend that, then give the same command again"),
            ) from None

    def _copy(self, file: Path) -> None:
        """Write all of it. What is there in part only is removed: a store takes it for whole."""
        size = file.stat().st_size
        target = self.store.open_output_stream(self.path, compression=None)
        # From here on what was there before is lost, whatever happens: closing completes an upload.
        try:
            with file.open("rb") as source, target:
                shutil.copyfileobj(source, target, _PIECE)
            stored = self.size()
            if stored != size:
                raise OSError(f"{stored} of {size} bytes are there")
        except BaseException:
            with suppress(OSError):
                self.store.delete_file(self.path)
            raise


Output = Path | Stored


def size_of(output: Output) -> int | None:
    """Return the bytes of a file; None where there is none. Raises Refused."""
    if isinstance(output, Stored):
        return output.size()
    return output.stat().st_size if output.is_file() else None


def output_at(text: str) -> Output:
    """Return what a path or a URL such as `s3://bucket/out.jsonl` names. Raises Refused.

    What `file://` names is a path like any other.
    """
    if "://" not in text:
        if not Path(text).name:
            raise Refused(phrase("this is a folder"), where=text or ".", hint=phrase("name a file"))
        return Path(text)
    url, shown = read_url(text), without_keys(text)
    if url.scheme in ("http", "https"):
        raise Refused(phrase("an output is not written over HTTP"), where=shown)
    store: Any = _Unopened(text, shown)
    path = url.netloc.rpartition("@")[2] + unquote(url.path)
    if url.scheme != "s3":  # their paths are each scheme's own, and no network is asked
        store, path = _opened(text, shown)
    if not PurePosixPath(path).name or text.partition("?")[0].endswith("/"):
        raise Refused(phrase("this is a folder"), where=shown, hint=phrase("name a file"))
    return in_store(shown, path, store)


def in_store(shown: str, path: str, store: Any) -> Output:
    """Return a file of a store of pyarrow, which may be this machine."""
    return Path(path) if store.type_name == "local" else Stored(shown, path, store)


class _Unopened:
    """S3, opened when something is first asked of it: that may ask the network."""

    type_name = "s3"

    def __init__(self, text: str, shown: str) -> None:
        self._text, self._shown = text, shown

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    @cached_property
    def _store(self) -> Any:
        return _opened(self._text, self._shown)[0]


def _opened(text: str, shown: str) -> tuple[Any, str]:
    """Return a store, and the path in it. Raises Refused."""
    try:
        return open_store(text)
    except store_faults() as error:
        what = phrase("the output cannot be stored: {reason}", reason=store_fault(error, text))
        raise Refused(what, where=shown) from None


def _first_line(error: Exception) -> str:
    return reason_of(error).partition("\n")[0]
