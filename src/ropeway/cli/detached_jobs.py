"""The batch jobs that are in containers, as several verbs name and show them."""

from collections.abc import Iterator, Sequence

from ropeway.batch.progress import Progress
from ropeway.errors import Refused
from ropeway.launch.detached import FoundJob, find_jobs
from ropeway.launch.labels import Reached
from ropeway.outside import parse_json
from ropeway.phrases import phrase


def find_job(service: Reached, name: str | None) -> FoundJob:
    """Return the job of this name, or the only one there is. Raises Refused."""
    jobs = find_jobs(service)
    meant = [one for one in jobs if name in (None, one.name)]
    if len(meant) == 1:
        return meant[0]
    if not meant:
        raise service.nothing_runs() if service.failures else no_job(name)
    raise Refused(
        phrase("several jobs can be meant"),
        evidence=[one.name for one in meant],
        hint=phrase("name one: `--job {name}`", name=meant[0].name),
    )


def no_job(name: str | None) -> Refused:
    """Return the error for a job that is not there; without a name for any."""
    what = phrase("there is no batch job")
    if name is not None:
        what = phrase("there is no batch job `{name}`", name=name)
    return Refused(what, hint=phrase("`ropeway status` shows those that there are"))


def jobs_json(jobs: Sequence[FoundJob]) -> list[dict[str, object]]:
    """Return what documents say of jobs."""
    return [job_json(job) for job in jobs]


def job_lines(jobs: Sequence[FoundJob]) -> Iterator[str]:
    """Yield a line for each job: where it is, its state, how far it is."""
    for job in jobs:
        known = {"name": job.name, "host": job.container.host, "state": job.state}
        progress = progress_of(job.said)
        if progress is None:
            yield phrase("batch job {name} on {host}: {state}", **known)
        else:
            rows = {"done": progress.finished, "rows": progress.rows}
            what = "batch job {name} on {host}: {state}, {done:,} of {rows:,} rows"
            yield phrase(what, **known, **rows)


def job_json(job: FoundJob, state: str | None = None) -> dict[str, object]:
    """Return what documents say of a job. `state`: in place of that which was found."""
    progress = progress_of(job.said)
    return {
        "job": job.name,
        "name": job.service,
        "host": job.container.host,
        "folder": job.folder,
        "state": state or job.state,
        "exit_code": job.exit_code,
        "rows": progress.rows if progress else None,
        "finished": progress.finished if progress else None,
    }


def progress_of(line: str) -> Progress | None:
    """Return the progress that a line of a job tells of, if it does."""
    try:
        document = parse_json(line)
        return Progress.from_json(document) if isinstance(document, dict) else None
    except ValueError:
        return None
