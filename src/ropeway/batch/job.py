"""A job as its user names it: files in, files out, and beside them the folder that remembers it."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

from ropeway.batch.input.parts import Part, Shape, find_parts
from ropeway.batch.input.requests import Kind
from ropeway.batch.input.survey import BEGINNINGS, Survey, kept_survey, rows, skipped, survey
from ropeway.batch.input.template import Form
from ropeway.batch.input.tokens import UNLIMITED
from ropeway.batch.journal.finished import read_finished
from ropeway.batch.journal.journal import Journal, take_folder
from ropeway.batch.journal.manifest import NAME as MANIFEST
from ropeway.batch.journal.manifest import FileIdentity, Manifest, check_same, read_manifest
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.journal.segments import epochs
from ropeway.batch.journal.totals import Totals
from ropeway.batch.output.assemble import assemble
from ropeway.batch.output.own_files import (
    check_folder,
    check_places,
    check_strangers,
    distinct_files,
    found_at,
    is_inside,
    is_one_of,
)
from ropeway.batch.output.stored import Output, Stored
from ropeway.batch.rows import Outcome, Row
from ropeway.batch.sending.servers import Servers
from ropeway.batch.shards.shard import Shard, is_sharded, kept_shards, read_shards
from ropeway.errors import Refused
from ropeway.phrases import phrase

_AT_ONCE = 10_000

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Order:
    """What the user asks for.

    inputs    names of files, globs or URLs; `-` is standard input
    errors    the file of the rows that get no answer
    journal   the job's folder, if it is not to be beside the output
    html      the page at the end; `schema`: what answers must fit. Of both only the name matters
    form      how lines without a body become requests; `template`: of their prompt, as it was typed
    shape     of the input, where its name does not say it
    skip_bad  leave out lines that cannot be sent
    ordered   write the output in the order of the input
    revoked   outcomes of earlier runs that are taken back
    """

    inputs: tuple[str, ...]
    output: Output
    errors: Output
    form: Form
    journal: Path | None = None
    html: Path | None = None
    schema: Path | None = None
    template: str = ""
    shape: Shape | None = None
    skip_bad: bool = False
    ordered: bool = False
    revoked: frozenset[Outcome] = field(default_factory=frozenset)

    @property
    def folder(self) -> Path:
        """Where the journal is: beside the output, or here for one in object storage."""
        if self.journal is not None:
            return self.journal
        name = f"{self.output.name}.journal"
        return Path(name) if isinstance(self.output, Stored) else self.output.with_name(name)

    @property
    def files(self) -> dict[str, Output]:
        """The files besides the input, by the flags that name them."""
        named: dict[str, Output | None] = {
            "-o": self.output,
            "--errors": self.errors,
            "--html": self.html,
            "--check": self.schema,
        }
        return {flag: path for flag, path in named.items() if path is not None}


@dataclass(frozen=True)
class Job:
    """A job whose input was looked at.

    left     files that a glob found, but that are the job's own, and so no input
    journal  what is done of it
    """

    order: Order
    form: Form
    parts: tuple[Part, ...]
    left: tuple[str, ...]
    found: Survey
    manifest: Manifest
    journal: Totals


@dataclass(frozen=True)
class OneJob(Job):
    """A job whose journal is open."""

    journal: Journal

    def rows(self) -> Iterator[Row]:
        """Return what is still to be sent."""
        if len(self.journal.done) == self.found.rows:
            return iter(())
        return rows(self.parts, self.form, self.found, self.order.folder, self.journal.done)


@dataclass(frozen=True)
class ShardedJob(Job):
    """A job whose shards have a journal each; `before`: what those had at the start."""

    shards: tuple[Shard, ...]
    before: tuple[Totals, ...]

    def to_do(self) -> list[Shard]:
        """Return the shards of which not all is done."""
        samples, pairs = self.form.samples, zip(self.shards, self.before, strict=True)
        return [one for one, done in pairs if done.counts.total() < one.lines * samples]


class _Looked(NamedTuple):
    """What is known of a job before what is done of it is opened."""

    form: Form
    parts: tuple[Part, ...]
    left: tuple[str, ...]
    found: Survey
    manifest: Manifest


def answers_of(found: Survey) -> int:
    """Return the tokens that the answers to all lines have at most; some without a limit."""
    return found.answer.total + found.unlimited * UNLIMITED


def tokens_of(found: Survey, samples: int) -> int:
    """Return the tokens of all prompts and answers, estimated."""
    return samples * (found.prompt.total + answers_of(found))


def typical(found: Survey) -> tuple[int, int]:
    """Return the tokens of a prompt and of its answer, on average."""
    lines = max(1, found.prompt.count)
    return max(1, found.prompt.total // lines), max(1, answers_of(found) // lines)


def look(order: Order, servers: Servers | None, stdin: BinaryIO, tell: Tell) -> Survey:
    """Look at the input and keep nothing of it. Raises Refused for what cannot be sent."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts, _ = _parts(order, folder, stdin)
        return _survey(order, _form(order, servers), parts, folder, servers, tell)


@contextmanager
def open_job(order: Order, servers: Servers, stdin: BinaryIO, tell: Tell) -> Iterator[OneJob]:
    """Look at the input, and go on with the job of this output, or begin it.

    `tell` is given how many bytes of how many were looked at. As long as it is open no other run
    has it. Raises Refused where the input, the flags or the files do not allow it, with nothing
    sent; a folder that was made for it is removed.
    """
    with _open(order, servers, stdin, tell, sharded=False) as looked:
        job, rows = looked.manifest.job, looked.found.rows
        with Journal(order.folder, rows=rows, job=job, revoked=order.revoked) as journal:
            skip(journal, looked.form, order.folder)
            yield OneJob(order, *looked, journal)


@contextmanager
def open_shards(
    order: Order, servers: Servers, stdin: BinaryIO, tell: Tell
) -> Iterator[ShardedJob]:
    """Look at the input, and go on with the shards of this output's job; see `open_job`."""
    with _open(order, servers, stdin, tell, sharded=True) as looked:
        if read_finished(order.folder):
            yield ShardedJob(order, *looked, read_journal(order.folder), (), ())
            return
        shards = kept_shards(order.folder, looked.found)
        before = read_shards(order.folder, shards, order.revoked)
        yield ShardedJob(order, *looked, sum(before, Totals()), shards, tuple(before))


@contextmanager
def _open(
    order: Order, servers: Servers, stdin: BinaryIO, tell: Tell, *, sharded: bool
) -> Iterator[_Looked]:
    """Look at the input, and keep the job's folder to ourselves."""
    _check_files(order)
    folder, form = order.folder, _form(order, servers)
    fresh = not folder.exists()
    with take_folder(folder):
        try:
            _check_way(folder, sharded=sharded)
            parts, left = _parts(order, folder, stdin)
            distinct_files(folder, order.files, parts)
            found = kept_survey(parts, form, folder)
            if found is None or (found.bad and (order.revoked or not order.skip_bad)):
                found = _survey(order, form, parts, folder, servers, tell)
            manifest = _manifest(order, form, found, servers)
            check_same(folder, manifest)
            yield _Looked(form, parts, left, found, manifest)
        except BaseException:
            # As long as it is locked: another run may wait for it, and begin its own job in it.
            if fresh and not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _check_way(folder: Path, *, sharded: bool) -> None:
    """Refuse to go on in shards with a job that has none, or the other way round."""
    if read_finished(folder):
        return
    if is_sharded(folder) and not sharded:
        what, hint = phrase("the job was begun with `--on ray`"), phrase("go on with `--on ray`")
    elif sharded and epochs(folder):
        what = phrase("the job was begun without `--on ray`")
        hint = phrase("go on without it, or give this job an output of its own")
    else:
        return
    raise Refused(what, where=str(folder), hint=hint)


def write_files(order: Order, counts: Counter[Outcome]) -> None:
    """Write the output and the file of errors, while the job is open.

    `counts`: what its journal has counted, which is closed.
    """
    assemble(order.folder, order.output, order.errors, ordered=order.ordered, expected=counts)
    if read_finished(order.folder):
        (order.folder / BEGINNINGS).unlink(missing_ok=True)  # no prompt is sent any more


def _parts(order: Order, folder: Path, stdin: BinaryIO) -> tuple[tuple[Part, ...], tuple[str, ...]]:
    """Return the files of the input, and those that are the job's own though a glob found them."""
    left: list[str] = []
    begun = read_manifest(folder)

    def leave(path: str, store: Any) -> bool:
        place = found_at(path, store)
        own = is_one_of(order.files.values(), place)
        if own:
            left.append(path)
        return own or is_inside(order.folder, place)

    parts = find_parts(
        order.inputs,
        folder,
        stdin,
        order.shape,
        begun_with={(part.size, part.hash) for part in begun.parts} if begun else None,
        leave=leave,
    )
    return parts, tuple(left)


def _form(order: Order, servers: Servers | None) -> Form:
    return replace(order.form, model=servers.model if servers else "")


def _survey(
    order: Order,
    form: Form,
    parts: Sequence[Part],
    folder: Path,
    servers: Servers | None,
    tell: Tell,
) -> Survey:
    size, read = sum(part.size for part in parts), 0

    def more(count: int) -> None:
        nonlocal read
        read += count
        tell(read, size)

    return survey(
        parts,
        form,
        folder,
        skip_bad=order.skip_bad,
        context=servers.context if servers else None,
        served=servers.names if servers else (),
        tell=more,
    )


def _manifest(order: Order, form: Form, found: Survey, servers: Servers) -> Manifest:
    """Return what the job is, so that it goes on only as that."""
    made = found.kind is Kind.COLUMNS
    settings = dict(form.settings)
    # A request without a model is for the one that is served.
    asked = {model or form.model for model in found.models}
    model = (
        str(settings.pop("model", form.model)) if made else ", ".join(sorted(filter(None, asked)))
    )
    if made:
        settings["--api"] = form.path
        if not form.pictures:
            settings["--no-pictures"] = True
    if form.schema is not None:
        settings["--check"] = form.schema
    return Manifest(
        model=model,
        rows=found.rows,
        parts=tuple(
            FileIdentity(part.name, part.size, part.digest, part.shape) for part in found.parts
        ),
        engine=servers.engine,
        settings=settings,
        template=order.template,
    )


def skip(journal: Journal, form: Form, folder: Path, lines: range | None = None) -> None:
    """Give the lines that are left out their outcome; `lines`: only to these."""
    for number, result in enumerate(skipped(form, folder, lines), 1):
        if result.ordinal not in journal.done:
            journal.add(result)
        if not number % _AT_ONCE:
            journal.flush()


def _check_files(order: Order) -> None:
    """Refuse files that would be lost, or that cannot be written."""
    distinct_files(order.folder, order.files)
    check_places(order.folder, filter(None, (order.output, order.errors, order.html)))
    here = None if isinstance(order.output, Stored) else order.output
    if here is not None and here.exists() and not here.is_file():
        raise Refused(
            phrase("the output must be a file: what is done is remembered beside it"),
            where=str(order.output),
        )
    check_folder(order.folder)
    if order.html is not None:
        check_strangers(order.folder, [order.html])
    if not read_finished(order.folder):  # of which nothing else is written anew
        check_strangers(order.folder, (order.output, order.errors))
