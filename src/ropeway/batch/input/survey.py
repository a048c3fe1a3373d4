"""The look at all of the input before anything is sent, and the rows that are sent afterwards.

One pass over the files finds every line that cannot be sent, and says how large the job is. A
second one is needed only where two names have the same hash: to see whether they are the same.
"""

import hashlib
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ropeway.batch.input.beginnings import Beginnings
from ropeway.batch.input.left_out import Faults, left_out
from ropeway.batch.input.names import Names
from ropeway.batch.input.parts import Part, Shape, cannot_read
from ropeway.batch.input.pictures import PictureRow
from ropeway.batch.input.requests import Kind, Reader, Request
from ropeway.batch.input.reread import Read, blank, lines_again
from ropeway.batch.input.source import Fault, Reading
from ropeway.batch.input.template import Form
from ropeway.batch.input.tokens import UNLIMITED, Spread
from ropeway.batch.journal.bitmap import Bitmap
from ropeway.batch.rows import Outcome, Result, Row, error_result
from ropeway.durable import PRIVATE, write_whole
from ropeway.errors import Refused, reason_of
from ropeway.phrases import joined, phrase

_SURVEY, BEGINNINGS = "survey.json", "beginnings.bin"
_MOST_MODELS = 1000
_MODELS_SHOWN = 5
_MARK_EVERY = 256 << 20
_MOST_TWINS = 100_000  # names that occur more than once, each with some 200 bytes in memory

Tell = Callable[[int], None]


@dataclass(frozen=True)
class Survey:
    """What is known of an input. Tokens are estimates (`tokens`).

    form       a hash of how lines become requests
    rows       all of them, left out or not: lines that are not blank, times samples
    bad        lines that are left out, and `faults`: how many of each kind
    models     that requests name; "": some name none
    prompt     tokens of a line's prompt; `answer`: the most of its answer, where that has a limit
    unlimited  lines whose answer has no limit
    long       lines whose prompt may be too long for the model
    groups     beginnings that several prompts have, and `grouped`: how many prompts have such a one
    unused     columns of the first record of which nothing is made
    empty      files in which nothing is
    """

    kind: Kind
    form: str
    parts: tuple[Read, ...]
    rows: int
    bad: int
    faults: dict[str, int]
    models: tuple[str, ...]
    prompt: Spread
    answer: Spread
    unlimited: int
    long: int
    groups: int
    grouped: int
    unused: tuple[str, ...]
    empty: tuple[str, ...]


@dataclass
class _Tally:
    """What is counted on the way."""

    names: Names
    context: int | None
    served: Collection[str]
    beginnings: Beginnings = field(default_factory=Beginnings)
    prompt: Spread = field(default_factory=Spread)
    answer: Spread = field(default_factory=Spread)
    models: dict[str, None] = field(default_factory=dict)
    named: int = 0
    unlimited: int = 0
    long: int = 0

    def add(self, request: Request, index: int) -> Fault | None:
        """Count a request, or return why it cannot be sent after all."""
        model, tokens = request.model, request.tokens
        # Also of lines that are left out: what the input asks for does not change with the servers.
        if model not in self.models and len(self.models) < _MOST_MODELS:
            self.models[model] = None
        if self.served and model and model not in self.served:
            return _no_model(model, self.served)
        if self.context is not None and tokens > self.context:
            if request.fewest > self.context:
                return _too_long(tokens, self.context)
            self.long += 1
        self.prompt.add(tokens)
        if request.answer < 0:
            self.unlimited += 1
        else:
            self.answer.add(request.answer)
        self.named += bool(request.name)
        self.names.add(request.name or _made_name(index))
        self.beginnings.note(request.text)
        return None


def survey(
    parts: Sequence[Part],
    form: Form,
    folder: Path,
    *,
    skip_bad: bool = False,
    context: int | None = None,
    served: Collection[str] = (),
    tell: Tell = lambda _: None,
    hashed: Callable[[str], int] = hash,
) -> Survey:
    """Look at all lines, and keep in `folder` what is needed to go on with the job.

    Raises Refused for the first line that cannot be sent, with others as evidence; with `skip_bad`
    such lines are left out: see `skipped`. `context` is the most tokens that the model takes, and
    `served` the models that there are, where that is known. `tell` is given bytes as they are read.
    `hashed`: by which names are looked for that occur twice.
    """
    try:
        with Names(folder, hashed) as names, Faults(folder, skip=skip_bad) as faults:
            tally = _Tally(names, context, served)
            reader = Reader(form)
            reads = _look(parts, reader, tally, faults, tell)
            if tally.named and not faults.enough:
                twins = names.repeated()  # of rows without a name it is made, and may be another's
                if twins:
                    _look_for_twins(parts, reads, reader, tally, faults, twins)
            lines = sum(read.lines for read in reads)
            # Who begins anew is left with no survey rather than with one whose files are others.
            (folder / _SURVEY).unlink(missing_ok=True)
            bad = faults.close(lines)
            if not lines:
                where = joined([part.name for part in parts], ", ")
                raise Refused("the input is empty", where=where)
            found = _result(reads, reader, tally, faults, bad)
            write_whole(folder / BEGINNINGS, tally.beginnings.kept(), mode=PRIVATE)
            write_whole(folder / _SURVEY, msgspec.json.encode(found), mode=PRIVATE)
    except OSError as error:
        raise Refused(
            phrase("what is found in the input cannot be kept: {reason}", reason=reason_of(error)),
            where=str(folder),
        ) from None
    return found


def kept_survey(parts: Sequence[Part], form: Form, folder: Path) -> Survey | None:
    """Return what an earlier run found in `folder`.

    None where files or flags are others now, or what was found is damaged.
    """
    try:
        found = msgspec.json.decode((folder / _SURVEY).read_bytes(), type=Survey)
        whole = sum(1 for _ in left_out(folder)) == found.bad
        Beginnings(_beginnings(folder))
    except (OSError, ValueError):
        return None
    now, then = ([(part.name, part.size, part.changed, part.touched, part.shape) for part in some]
                 for some in (parts, found.parts))  # fmt: skip
    return found if whole and now == then and found.form == _hash(form) else None


def rows(
    parts: Sequence[Part],
    form: Form,
    found: Survey,
    folder: Path,
    done: Container[int] | Bitmap,
) -> Iterator[Row]:
    """Yield the rows that can be sent and are not done, in the order of the input.

    Lines of which all is done are not decoded. Raises RopewayError where the input has changed.
    """
    return rows_from(parts, found.parts, form, found.kind, folder, done)


def rows_from(
    parts: Sequence[Part],
    reads: Sequence[Read],
    form: Form,
    kind: Kind,
    folder: Path,
    done: Container[int] | Bitmap,
    *,
    first: int = 0,
) -> Iterator[Row]:
    """Yield the rows of some parts of the input, as `rows` does; their first line is `first`."""
    reader = Reader(form, kind, check_files=False)
    beginnings = Beginnings(_beginnings(folder))
    samples = form.samples

    def wanted(index: int) -> bool:
        if samples == 1:
            return index not in done
        ordinals = range(index * samples, (index + 1) * samples)
        return any(ordinal not in done for ordinal in ordinals)

    for line in lines_again(parts, reads, reader, left_out(folder), wanted, first):
        request = line.request
        row = PictureRow if request.pictures else Row
        prefix = beginnings.key(request.text)
        tokens = request.tokens + (UNLIMITED if request.answer < 0 else request.answer)
        for sample, body in enumerate(reader.bodies(request)):
            ordinal = line.index * samples + sample
            if ordinal not in done:
                name = _name(request.name, line.index, sample, samples)
                yield row(ordinal, name, request.path, body, prefix, tokens, request.model)


def skipped(form: Form, folder: Path, lines: range | None = None) -> Iterator[Result]:
    """Yield what becomes of the lines that are left out, in the order of the input.

    `lines`: only of these, by their indices.
    """
    for line in left_out(folder):
        if lines is not None and line.index not in lines:
            continue
        message = f"{line.where}: {line.what}"
        for sample in range(form.samples):
            ordinal = line.index * form.samples + sample
            name = _name(line.name, line.index, sample, form.samples)
            yield error_result(ordinal, name, Outcome.SKIPPED, message)


def _beginnings(folder: Path) -> bytes:
    """Return what is kept of beginnings: nothing of a finished job, which may need it after all."""
    kept = folder / BEGINNINGS
    return kept.read_bytes() if kept.exists() else b""


def _look(
    parts: Sequence[Part], reader: Reader, tally: _Tally, faults: Faults, tell: Tell
) -> list[Read]:
    """Read every line once, and count what is in it."""
    reads: list[Read] = []
    index = 0
    read, add = reader.read, tally.add
    for part in parts:
        reader.begin(part)
        reading = Reading(part, reader.wanted)
        before, told = index, 0
        marks: list[tuple[int, int, int]] = []
        cuttable = part.shape is Shape.LINES and not part.packing
        for chunk in reading.chunks():
            if cuttable and chunk.begin >= (marks[-1][0] if marks else 0) + _MARK_EVERY:
                marks.append((chunk.begin, chunk.numbers[0], index - before))
            for number, item in zip(chunk.numbers, chunk.items, strict=True):
                if blank(item):
                    continue
                request = read(item)
                fault = request if isinstance(request, Fault) else add(request, index)
                if fault is not None:
                    faults.add(fault, index, f"{part.name}:{number}", request.name)
                    if not request.name:
                        tally.names.add(_made_name(index))
                index += 1
            tell(reading.bytes_read - told)
            told = reading.bytes_read
            if faults.enough:
                break
        reads.append(
            Read(
                part.name, part.size, part.changed, part.shape, reading.digest, index - before,
                tuple(marks), part.touched,
            )
        )  # fmt: skip
        if faults.enough:
            break
        if reading.bytes_read != part.size:
            raise cannot_read(part.name, phrase("it changed while it was read"))
    return reads


def _look_for_twins(
    parts: Sequence[Part],
    reads: Sequence[Read],
    reader: Reader,
    tally: _Tally,
    faults: Faults,
    twins: set[int],
) -> None:
    """Read every line again, and find the names that really occur more than once."""
    if len(twins) > _MOST_TWINS:
        raise Refused(
            phrase("{n:,} names occur more than once", n=len(twins)),
            where=joined([part.name for part in parts], ", "),
            hint="a `custom_id` names one row; asking each row several times is `-n`",
        )
    hashed = tally.names.hashed
    # An error row has the name that is made for it; one of its own is free for a line that is sent.
    made = ((_made_name(line.index), line) for line in faults.so_far() if not line.name)
    first = {name: line.where for name, line in made if hashed(name) in twins}
    for line in lines_again(parts, reads, reader, faults.so_far(), lambda _: True):
        name = line.request.name or _made_name(line.index)
        if hashed(name) not in twins:
            continue
        earlier = first.setdefault(name, line.where)
        if earlier != line.where:
            what = phrase("its name `{name}` is that of {where}", name=name[:200], where=earlier)
            faults.add_later(Fault("duplicate", what), line.index, line.where, name)
            if faults.enough:
                return


def _result(
    reads: Sequence[Read], reader: Reader, tally: _Tally, faults: Faults, bad: int
) -> Survey:
    return Survey(
        kind=reader.kind or Kind.COLUMNS,
        form=_hash(reader.form),
        parts=tuple(reads),
        rows=sum(read.lines for read in reads) * reader.form.samples,
        bad=bad,
        faults=dict(faults.kinds),
        models=tuple(tally.models),
        prompt=tally.prompt,
        answer=tally.answer,
        unlimited=tally.unlimited,
        long=tally.long,
        groups=tally.beginnings.groups,
        grouped=tally.beginnings.grouped,
        unused=reader.unused,
        empty=tuple(read.name for read in reads if not read.lines),
    )


def _no_model(model: str, served: Collection[str]) -> Fault:
    names = joined((f"`{name}`" for name in sorted(served)[:_MODELS_SHOWN]), ", ")
    what = phrase("the server has no model `{model}`", model=model[:200])
    return Fault("model", what, phrase("its models are {names}", names=names))


def _too_long(tokens: int, context: int) -> Fault:
    what = phrase(
        "the prompt has about {tokens:,} tokens, and the model takes {context:,}",
        tokens=tokens,
        context=context,
    )
    return Fault("context", what)


def _name(own: str, index: int, sample: int, samples: int) -> str:
    """Return a row's name. Samples are numbered from 1, so that no two rows have the same."""
    name = own or _made_name(index)
    return name if samples == 1 else f"{name}#{sample + 1}"


def _made_name(index: int) -> str:
    return f"row-{index}"


def _hash(form: Form) -> str:
    return hashlib.sha256(repr(form).encode(errors="surrogatepass")).hexdigest()
