"""The rehearsal that `up --rehearse --keep` left, as other verbs meet it."""

from contextlib import suppress

from ropeway.cli.call import current_call
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import phrase
from ropeway.sim.kept import Kept, find_kept


def require_kept() -> Kept:
    """Return the rehearsal that was kept. Raises Refused without one."""
    kept = find_kept()
    if kept is None:
        raise Refused(phrase("no rehearsal is kept"), hint="ropeway up --rehearse --keep")
    return kept


def kept_rehearsal() -> Kept:
    """Return the rehearsal that was kept, and say that it is meant. Raises Refused without one."""
    kept = require_kept()
    if (screen := current_call().screen) is not None:
        screen.warn(
            phrase(
                "a rehearsal, nothing real: {title}; {url} answers for it",
                title=kept.title,
                url=kept.url,
            )
        )
        screen.rehearsal = True
    return kept


def mention_kept() -> None:
    """Say that there is a rehearsal, to somebody whose verb goes to what is real.

    What is wrong with one is not said: a real service has nothing to do with it.
    """
    call = current_call()
    with suppress(RopewayError):
        if call.screen is not None and (kept := find_kept()) is not None:
            call.screen.hint(
                phrase(
                    "a rehearsal is kept: {title}\nropeway {verb} --rehearsal",
                    title=kept.title,
                    verb=call.verb,
                )
            )
