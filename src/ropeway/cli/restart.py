"""`ropeway restart`: end what runs and let it begin again."""

import time

import click

from ropeway.cli.bringup import interruptible
from ropeway.cli.options import screen_options
from ropeway.cli.target import Reached, Target, reached, target_options
from ropeway.cli.up_hosts import audited, author
from ropeway.errors import LaunchError, Refused
from ropeway.launch.life import restart as again
from ropeway.launch.lock import locked
from ropeway.launch.probe import serving
from ropeway.report.console import Screen


@click.command()
@target_options
@click.option("--replica", type=click.IntRange(min=0), help="Only this one.  [default: all]")
@screen_options
def restart(*, target: Target, replica: int | None, screen: Screen) -> None:
    """Restart a service on its hosts, as it is, and wait for its first token.

    With several replicas name one, and the others go on serving.

    \b
    Example:
      ropeway restart --replica 1
    """
    if not target.is_remote:
        raise Refused(
            "restart is for services on real hosts",
            hint="here: `ropeway down`, then `ropeway up`",
        )
    me = author()
    with interruptible(), reached(target) as seen, locked(seen.every, me) as lock:
        now = seen.anew().state.found
        which = tuple(one for one in now if replica in (None, one.replica))
        if not which or seen.name is None:
            raise Refused("nothing like that is running", hint="`ropeway status` shows what is")
        with (
            audited(seen.every, me, seen.name, "restart", screen.warn),
            screen.step(f"restart {len(which)} containers") as step,
        ):
            lock.check()
            again(seen.hosts, seen.runtime, which)
            _wait(seen, which[0].spec.serve.start_timeout)
            step.ok("the first token is there")
    screen.answer(f"`{seen.name}` serves again at {which[0].url}")
    screen.result({"name": seen.name, "restarted": [one.name for one in which]})


def _wait(seen: Reached, seconds: float) -> None:
    """Until every engine generates. Raises LaunchError when that takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        answers = serving(seen.hosts, seen.runtime, seen.anew().state.found)
        if answers and not any(answers.values()):
            return
        if time.monotonic() > deadline:
            raise LaunchError(
                f"it generated no token within {seconds:g} s",
                evidence=tuple(f"{name}: {why}" for name, why in answers.items() if why),
                hint="ropeway logs",
            )
        time.sleep(2.0)
