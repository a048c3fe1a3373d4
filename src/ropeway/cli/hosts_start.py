"""What `up`, `down` and `tune` share on hosts: a question, what a start keeps, how it is undone."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from ropeway.cli.files import writing
from ropeway.errors import Refused
from ropeway.hosts.base import Host
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch import running
from ropeway.launch.labels import Reached
from ropeway.launch.lock import Author, Lock, audited, locked
from ropeway.phrases import phrase
from ropeway.report.chinese import in_language
from ropeway.report.console import Screen
from ropeway.spec.model import Spec, dump_spec
from ropeway.units import counted


@contextmanager
def locking(hosts: Sequence[Host], author: Author, screen: Screen) -> Iterator[Lock]:
    """Hold the lock of all hosts inside the block, and say so. Raises what `locked` raises."""
    with ExitStack() as stack:
        with screen.step(phrase("lock {hosts}", hosts=counted(len(hosts), "host"))) as step:
            lock = stack.enter_context(locked(hosts, author))
            step.ok()
        yield lock


def agree(question: str, screen: Screen, *, yes: bool) -> None:
    """Return when the user agrees, or has beforehand with `--yes`.

    Raises Abort when they do not, Refused when there is nobody to answer.
    """
    try:
        if not yes and not click.confirm(in_language(question, screen.language), err=True):
            raise click.Abort
    except click.Abort as error:
        if isinstance(error.__context__, EOFError):
            what = phrase("nobody answers the question: {question}", question=question)
            hint = phrase("to agree to it beforehand: `--yes`")
            raise Refused(what, hint=hint) from None
        raise


def keep_start(folder: Path, spec: Spec, script: str) -> None:
    """Write what a start is about into its folder. Raises Refused."""
    with writing(folder):
        (folder / "spec.yaml").write_text(dump_spec(spec), encoding="utf-8")
        (folder / "commands.sh").write_text(script, encoding="utf-8")


def save_log(folder: Path, screen: Screen, name: str, text: str) -> str:
    """Keep the log of a start that failed; return where, or "" where it cannot be kept."""
    path = folder / f"{name.replace('/', '-')}.log"
    try:
        with writing(path):
            path.write_text(text, encoding="utf-8")
    except Refused as error:
        screen.warn(error.what)
        return ""
    return str(path)


def take_down(service: Reached, lock: Lock, screen: Screen) -> int:
    """Remove all of a service that its hosts have, under a lock that is held.

    Returns how many containers there were. Raises HostError, also where a host does not answer;
    from the others it is gone then.
    """
    name = service.name
    assert name
    step = screen.step(
        phrase(
            "take `{name}` down on {hosts}", name=name, hosts=counted(len(service.hosts), "host")
        )
    )
    audit = audited(service.answering, lock.author, name, "down", screen.warn)
    with audit, step as telling, uninterrupted():
        lock.ensure_held(on=service.answering)
        removed = running.take_down(service.refreshed())
        telling.ok(counted(removed, "container"))
    return removed
