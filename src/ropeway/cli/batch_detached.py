"""A batch job in a container on the head: begun, watched from any machine, stopped, fetched."""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ropeway.batch.output.stored import Output, Stored
from ropeway.batch.rows import Outcome
from ropeway.cli.batch_options import BatchFlags, BatchRequest, DetachFlags
from ropeway.cli.batch_sent import send_job
from ropeway.cli.detached_jobs import find_job, job_json, no_job, progress_of
from ropeway.cli.endpoint import spec_file
from ropeway.cli.target import Target, reached
from ropeway.errors import Exit, HostError, Refused, RopewayError, SshError
from ropeway.hosts.base import Host
from ropeway.hosts.pieces import contents_on, fetch_file
from ropeway.launch.detached import (
    NAME,
    DetachedJob,
    FoundJob,
    find_jobs,
    follow_job,
    place_of,
    put_back,
    remove_job,
    start_job,
    stop_job,
)
from ropeway.launch.labels import Reached
from ropeway.launch.lock import Author, audited, current_author, locked
from ropeway.outside import parse_json
from ropeway.phrases import phrase
from ropeway.report.batch import file_lines, outcome_table
from ropeway.report.batch_view import View
from ropeway.report.console import Screen
from ropeway.report.progress import Step
from ropeway.spec.model import DEFAULT_FILE
from ropeway.units import format_bytes

_TOLD_EVERY_S = 5.0
# Keys that every document has, of which ours has its own.
_FRAME = frozenset(("schema", "verb", "ok", "rehearsal", "error", "warnings"))


def detach(screen: Screen, request: BatchRequest, detached: DetachFlags) -> None:
    """Begin a job on the head, or go on with it; return when it sends its rows.

    Raises what the job itself refuses; then its container is gone, and what was sent is there. One
    that had ended under this name has ended still.
    """
    name = detached.job or _name_of(request.flags.out)
    with _service(detached, acts=True) as service:
        place = place_of(service)
        host = service.hosts[place.host]
        _check_free(service, name)
        job = send_job(request, DetachedJob(place, name), host, screen)
        with (
            _changing([host], place.service, "--detach", screen) as author,
            screen.step(phrase("start the job {name} on {host}", name=name, host=host.name)),
        ):
            _check_free(service, name)
            start_job(host, job, author)
        found = find_job(service, name)
        with _it_goes_on(screen), screen.step(phrase("it looks at its input")) as step:
            code = follow_job(host, place.runtime, found, _until_it_sends(step))
        if code is not None and _result(host, found) is None:
            failure = _failure(host, found, code)
            if not put_back(host, found):
                stop_job(host, place.runtime, found)
            raise failure
    screen.answer(phrase("the job `{name}` runs on {host}", name=name, host=place.host))
    command = shlex.join(("ropeway", "batch", "--attach", "--job", name, *_where(detached)))
    out = request.flags.out or f"{name}.jsonl"
    screen.hint(
        phrase("how it goes, and at its end the results:\n{command} -o {out}",
               command=command, out=shlex.quote(str(out)))
    )  # fmt: skip
    screen.result(job_json(found))


def attach(screen: Screen, flags: BatchFlags, detached: DetachFlags) -> None:
    """Show how a job goes until it has ended; then fetch its results.

    Ctrl-C only detaches. When every row has an answer and the results are here, the head keeps
    nothing of the job.
    """
    with _service(detached, acts=False) as service:
        found = find_job(service, detached.job)
        host = service.hosts[found.container.host]
        code = _watched(screen, service, host, found, flags.currency)
        document = _result(host, found)
        if document is None:
            raise _failure(host, found, code)
        paths = _fetched(host, found, flags, screen) if flags.out else {}
        _tell_end(document, paths, screen)
        removed = "output" in paths and code == Exit.OK and _removed(service, found, screen)
    if not flags.out:
        screen.hint(phrase("name a file to fetch the results: `-o {name}.jsonl`", name=found.name))
    elif not removed:
        words = ("ropeway", "batch", "--remove", "--job", found.name, *_where(detached))
        screen.hint(
            phrase(
                "the job stays on {host}: the command that began it goes on, also with"
                " `--retry-errors`; to remove it:\n{command}",
                host=host.name, command=shlex.join(words),
            )
        )  # fmt: skip
    own = {key: value for key, value in document.items() if key not in _FRAME}
    screen.result({**own, "output": paths.get("output"), "errors": paths.get("errors")})
    if document.get("error"):
        raise _as_error(document, host, code)
    click.get_current_context().exit(code)


def stop(screen: Screen, detached: DetachFlags) -> None:
    """Have a job commit what it has, and end it. Its folder stays, for the command that goes on."""
    with _service(detached, acts=True) as service:
        found = find_job(service, detached.job)
        if found.exit_code is not None:
            raise Refused(
                phrase("the job `{name}` has ended already", name=found.name),
                hint=phrase("`--attach -o FILE` fetches its results, `--remove` removes it"),
            )
        host = service.hosts[found.container.host]
        with (
            _changing([host], found.service, "--stop", screen),
            screen.step(phrase("stop the job {name}", name=found.name)),
        ):
            stop_job(host, service.runtime, found)
    screen.answer(phrase("the job `{name}` is stopped, and keeps what it has", name=found.name))
    screen.hint(phrase("the command that began it goes on"))
    screen.result(job_json(found, "stopped"))


def remove(screen: Screen, detached: DetachFlags) -> None:
    """Remove a job from the hosts, running or not, with all that it has."""
    with _service(detached, acts=True) as service:
        if detached.job is None:
            found: FoundJob | None = find_job(service, None)
        else:  # one that was stopped has no container
            found = next((one for one in find_jobs(service) if one.name == detached.job), None)
        name = found.name if found else str(detached.job)
        owner = found.service if found else service.name
        if owner is None:
            raise no_job(name)
        with _changing(service.answering, owner, "--remove", screen):
            removed = remove_job(service, owner, name, [found.folder] if found else [])
    if not removed:
        raise no_job(name)
    screen.answer(phrase("the job `{name}` is removed", name=name))
    screen.result(
        {"job": name, "name": owner, "host": None, "folder": None, "state": "removed",
         "exit_code": None, "rows": None, "finished": None}
    )  # fmt: skip


@contextmanager
def _service(detached: DetachFlags, *, acts: bool) -> Iterator[Reached]:
    """Reach the service that the flags mean. Raises Refused for one without hosts."""
    file = spec_file()
    config = Path(file.name if file else DEFAULT_FILE)
    target = Target(config, False, detached.host, detached.name, detached.ssh_config)
    target.check_remote(
        Refused(
            phrase("only a service on real hosts has a head to leave a job on"),
            hint=phrase("without `--detach` it runs here"),
        )
    )
    with reached(target, acts=acts) as service:
        yield service


@contextmanager
def _changing(hosts: Sequence[Host], service: str, flag: str, screen: Screen) -> Iterator[Author]:
    """Change a service's jobs on these hosts: nobody else does meanwhile, and it is noted there."""
    author = current_author()
    with (
        locked(hosts, author) as lock,
        audited(hosts, author, service, f"batch {flag}", screen.warn),
    ):
        lock.ensure_held()
        yield author


def _removed(service: Reached, found: FoundJob, screen: Screen) -> bool:
    """Remove a job that was fetched, unless somebody has started it again; return whether it is."""
    with _changing(service.answering, found.service, "--attach", screen):
        ids = [one.container.id for one in find_jobs(service) if one.exit_code is not None]
        return found.container.id in ids and remove_job(
            service, found.service, found.name, [found.folder]
        )


@contextmanager
def _it_goes_on(screen: Screen) -> Iterator[None]:
    """Say of what ends the block that it does not end the job."""
    try:
        yield
    except KeyboardInterrupt:
        screen.hint(phrase("the job goes on; `--attach` shows it, `--stop` ends it"))
        raise
    except SshError as error:
        error.evidence = (*error.evidence, phrase("the job goes on"))
        raise


def _name_of(out: Output | None) -> str:
    """Return the name of a job by its output. Raises Refused where it has none."""
    stem = out.name.partition(".")[0] if out else ""
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower())[:31].strip("-")
    if not NAME.fullmatch(name):
        raise Refused(
            phrase("the job has no name"),
            hint=phrase("name its output, `-o answers.jsonl`, or itself, `--job answers`"),
        )
    return name


def _check_free(service: Reached, name: str) -> None:
    """Raise Refused where a job of this name runs."""
    for job in find_jobs(service):
        if job.name == name and job.state in ("running", "restarting", "paused", "created"):
            raise Refused(
                phrase("the job `{name}` runs already", name=name),
                where=job.container.host,
                hint=phrase("`--attach` shows how it goes; `--job` gives another one a name"),
            )


def _where(detached: DetachFlags) -> list[str]:
    """Return the flags that mean the same service again."""
    file = spec_file()
    named = (("--host", detached.host), ("--name", detached.name),
             ("--ssh-config", detached.ssh_config),
             ("-c", file.name if file and file.name != DEFAULT_FILE else None))  # fmt: skip
    return [word for flag, value in named if value for word in (flag, value)]


def _until_it_sends(step: Step) -> Callable[[str], bool]:
    """Return what to do with the lines of a job that begins."""

    def on_line(text: str) -> bool:
        if progress_of(text) is not None:
            return True
        if text.startswith("ropeway: "):
            step.update(text)
        return False

    return on_line


def _watched(screen: Screen, service: Reached, host: Host, found: FoundJob, currency: str) -> int:
    """Show how a job goes; return its exit code when it has ended."""
    view = View(screen, currency)
    name = phrase("job {name} on {host}", name=found.name, host=host.name)
    with _it_goes_on(screen), screen.step(name) as step:

        def on_line(text: str) -> bool:
            if progress := progress_of(text):
                view.show(progress, step)
            elif text.startswith("ropeway: "):
                step.update(text)
            return False

        code = follow_job(host, service.runtime, found, on_line)
    assert code is not None
    return code


def _printed(host: Host, found: FoundJob) -> dict[str, Any]:
    """Return the document that a job printed at its end; empty where it printed none."""
    try:
        document = parse_json(host.get(f"{found.folder}/result.json"))
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _result(host: Host, found: FoundJob) -> dict[str, Any] | None:
    """Return the document of a job that has come to rows; None of one that never did."""
    document = _printed(host, found)
    return document if "rows" in document else None


def _failure(host: Host, found: FoundJob, code: int) -> RopewayError:
    """Return the error of a job that never came to rows."""
    document = _printed(host, found)
    if document.get("error"):
        return _as_error(document, host, code)
    return HostError(
        phrase("the batch job ended without a result"),
        where=host.name,
        hint=phrase("what it said: {command}", command=f"ropeway logs --job {found.name}"),
    )


def _as_error(document: Mapping[str, Any], host: Host, code: int) -> RopewayError:
    """Return the error of a job's document, as it would have been raised here."""
    error = document["error"]
    kind = Refused if code == Exit.REFUSED else RopewayError
    return kind(
        str(error["what"]),
        where=str(error["where"] or host.name),
        evidence=[str(line) for line in error["evidence"]],
        hint=str(error["hint"]) if error["hint"] else None,
    )


def _fetched(host: Host, found: FoundJob, flags: BatchFlags, screen: Screen) -> dict[str, str]:
    """Fetch what a job has written; return where each file is."""
    assert isinstance(flags.out, Path) and not isinstance(flags.errors, Stored)
    name = flags.out.name.removesuffix(".jsonl")
    targets = {
        "output": (f"{found.name}.jsonl", flags.out),
        "errors": (f"{found.name}.errors.jsonl",
                   flags.errors or flags.out.with_name(f"{name}.errors.jsonl")),
        "page": (f"{found.name}.html", flags.html or flags.out.with_name(f"{name}.html")),
    }  # fmt: skip
    sources = [f"{found.folder}/{source}" for source, _ in targets.values()]
    noted = f"{found.folder}/fetched"
    paths: dict[str, str] = {}
    with screen.step(phrase("fetch the results")) as step:

        def tell(arrived: int, size: int) -> None:
            done = f"{format_bytes(arrived)} of {format_bytes(size)}"
            step.tick(done, log_every_s=_TOLD_EVERY_S)

        # What an earlier `--attach` has fetched may be replaced by what there is now.
        before = host.run(("sh", "-c", 'cat "$1" 2>/dev/null; :', "sh", noted)).stdout.split()
        contents = contents_on(host, sources)
        for (key, (_, target)), source, content in zip(
            targets.items(), sources, contents, strict=True
        ):
            if content is not None:
                fetch_file(host, source, target, content, tell, old=before)
                before.append(content.digest)
                paths[key] = str(target)
        host.put("\n".join(dict.fromkeys(before)).encode(), noted)
    return paths


def _tell_end(document: Mapping[str, Any], paths: Mapping[str, str], screen: Screen) -> None:
    """Say what became of the rows, and where they are."""
    for warning in document.get("warnings") or ():
        screen.warn(str(warning))
    outcomes = document.get("outcomes") or {}
    counts = Counter({outcome: int(outcomes.get(outcome.name.lower(), 0)) for outcome in Outcome})
    screen.answer(outcome_table(counts, int(document["rows"]), screen.language))
    for line in file_lines(paths):
        screen.answer(line)
