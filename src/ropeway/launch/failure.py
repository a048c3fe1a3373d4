"""A failed start in the engine's own words."""

from collections.abc import Mapping

from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import Diagnosis
from ropeway.errors import HostError, LaunchError


def root_cause(logs: Mapping[str, str]) -> Diagnosis | None:
    """Why the engine failed, as its logs tell; None when they tell of no failure or no more than
    that there was one. `logs`: name → text."""
    found = diagnose(logs)
    return None if found.verdict == "healthy" or found.echo else found


def engine_failure(error: HostError | LaunchError, cause: Diagnosis, log: str) -> LaunchError:
    """The failure in the engine's own words, and what to do where the failure table knows it."""
    known = cause.signature is not None
    told = (cause.cause.en, *(detail.en for detail in cause.details)) if known else ()
    advice = (cause.fix.en, f"known from: {', '.join(cause.source)}") if known else ()
    return LaunchError(
        f"the engine failed: {cause.headline}",
        where=log,
        evidence=(*told, error.what),
        hint="\n".join((*advice, f"the whole log: less {log}")),
    )
