"""`ropeway restart`: end what runs and let it begin again."""

import click

from ropeway.cli.call import current_call
from ropeway.cli.options import lang_option, screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.errors import Refused
from ropeway.hosts.interrupts import interruptible
from ropeway.launch import running
from ropeway.launch.clock import SYSTEM_CLOCK
from ropeway.launch.labels import newest
from ropeway.launch.lock import audited, current_author, locked
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.units import counted


@click.command()
@target_options
@click.option("--replica", type=click.IntRange(min=0), help="Only this one.  [default: all]")
@lang_option
@screen_options
def restart(*, target: Target, replica: int | None, screen: Screen) -> None:
    """Restart a service on its hosts, as it is, and wait for its first token.

    With several replicas name one, and the others go on serving.

    \b
    Example:
      ropeway restart --replica 1
    """
    here = "here: `ropeway down`, then `ropeway up`"
    target.check_remote(Refused("restart is for services on real hosts", hint=here))
    author, clock = current_author(), current_call().clock or SYSTEM_CLOCK
    with (
        interruptible(),
        reached(target, acts=True) as service,
        locked(service.every, author) as lock,
    ):
        service = service.refreshed()
        containers = running.to_restart(service, replica)
        with (
            audited(service.every, author, containers[0].service, "restart", screen.warn),
            screen.step(
                phrase("restart {containers}", containers=counted(len(containers), "container"))
            ) as step,
        ):
            lock.ensure_held()
            running.restart(service, containers)
            running.wait_until_serving(service, replica, clock)
            step.ok(phrase("the first token is there"))
    url = target.answers_at(newest(service.containers).url)
    screen.answer(phrase("`{name}` serves again at {url}", name=service.name, url=url))
    names = [container.name for container in containers]
    screen.result({"name": service.name, "url": url, "restarted": names})
