"""The rehearsal that `up --rehearse --keep` left, as other verbs meet it."""

from contextlib import suppress

from ropeway.cli.call import current_call
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.sim.kept import Kept, find_kept


def kept_rehearsal() -> Kept:
    """Return the rehearsal that was kept, and say that it is meant. Raises Refused without one."""
    kept = find_kept()
    if kept is None:
        raise Refused(phrase("no rehearsal is kept"), hint="ropeway up --rehearse --keep")
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


def mention_kept(screen: Screen) -> None:
    """Say that there is a rehearsal, to somebody who asks for what runs.

    What is wrong with one is not said: a real service has nothing to do with it.
    """
    with suppress(RopewayError):
        if (kept := find_kept()) is not None:
            screen.hint(
                phrase("a rehearsal is kept: {title}\nropeway status --rehearsal", title=kept.title)
            )
