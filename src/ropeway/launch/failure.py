"""A failed start in the engine's own words."""

from collections.abc import Mapping

from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import Diagnosis
from ropeway.errors import HostError, LaunchError


def root_cause(logs: Mapping[str, str]) -> Diagnosis | None:
    """Return why the engine failed, by its logs (name → text).

    None when they show no failure, or no more than that there was one.
    """
    diagnosis = diagnose(logs)
    return None if diagnosis.verdict == "healthy" or diagnosis.echo else diagnosis


def engine_failure(error: HostError | LaunchError, cause: Diagnosis, log: str) -> LaunchError:
    """Return the failure in the engine's own words, with the advice of the failure table."""
    known = cause.signature is not None
    explanation = (cause.cause.en, *(detail.en for detail in cause.details)) if known else ()
    advice = (cause.fix.en, f"known from: {', '.join(cause.source)}") if known else ()
    return LaunchError(
        f"the engine failed: {cause.headline}",
        where=log,
        evidence=(*explanation, error.what),
        hint="\n".join((*advice, f"the whole log: less {log}")),
    )
