"""Which service a verb means, and where it is: on this machine, or on hosts.

It is the one that was named, else the spec's. Without both, a verb that only reads takes the only
one there is; a verb that acts never does, because that one may be somebody else's.

On hosts it is known by the labels of its containers alone. The hosts are those of the spec, or all
those that one of them, given with `--host`, has in its labels: so a second machine needs no spec.
"""

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import click

from ropeway.cli.bringup import read_spec
from ropeway.cli.call import current_call
from ropeway.cli.completion import one_of
from ropeway.cli.kept import kept_rehearsal, mention_kept
from ropeway.cli.options import config_option, passed_as, remote_host, ssh_config_option
from ropeway.errors import Refused, RopewayError
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import told
from ropeway.launch.labels import Reached
from ropeway.launch.local.running import services
from ropeway.launch.running import reach_by_host, reach_by_spec
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.sim.kept import find_kept
from ropeway.spec.model import DEFAULT_FILE, Spec, load_spec, local_spec
from ropeway.units import counted

_HOST = phrase("name a host of the service: `--host root@192.168.0.147`")


@dataclass(frozen=True)
class Target:
    """What the flags say."""

    config: Path
    local: bool
    host: str | None
    name: str | None
    ssh_config: str | None
    rehearsal: bool = False

    @functools.cached_property
    def _spec(self) -> Spec | None:
        """The spec, unless the flags name another place or there is no file. Raises SpecError."""
        absent = str(self.config) == DEFAULT_FILE and not self.config.exists()
        elsewhere = self.local or self.host or self.rehearsal
        return None if elsewhere or absent else load_spec(self.config)

    @property
    def spec(self) -> Spec | None:
        """The spec, if it is one of real hosts. Raises SpecError."""
        return None if self._spec is None or self._spec.cluster.is_local else self._spec

    @property
    def is_remote(self) -> bool:
        return self.rehearsal or self.host is not None or self.spec is not None

    def tell_nothing_runs(self, screen: Screen) -> None:
        """Say that nothing runs on this machine, and how to ask hosts where no spec names them."""
        screen.answer(phrase("nothing is running on this machine"))
        if self._spec is None and not self.local:
            screen.hint(phrase("on hosts: {how}", how=_HOST))

    def answers_at(self, url: str) -> str:
        """Return where a service answers: its own `url`, or that of a kept rehearsal."""
        kept = find_kept() if self.rehearsal else None
        return kept.url if kept else url

    def check_remote(self, refusal: Refused) -> None:
        """Raise Refused unless it is on hosts: `refusal`, or that there is no spec."""
        if not self.is_remote:
            read_spec(self.config, local=self.local, without=_HOST)
            raise refusal

    def choose(self, running: Sequence[str], *, acts: bool) -> str | None:
        """Return which service is meant; None when none is named and nothing runs.

        running  names of the services that are there
        acts     the verb changes what it is given
        Raises Refused when it cannot be known and there is no terminal to ask at.
        """
        built_in = local_spec().name if self.local and acts else None  # that of `up --local`
        named = self.name or (self._spec.name if self._spec else built_in)
        if named or not running:
            return named
        if len(running) == 1 and not acts:
            return running[0]
        if sys.stdin.isatty() and sys.stderr.isatty():
            answer: str = click.prompt("which service?", type=click.Choice(running), err=True)
            return answer
        verb = click.get_current_context().command_path
        host = f" --host {self.host}" if self.host else ""
        raise Refused(
            phrase(
                "no service was named, and {services} can be meant",
                services=counted(len(running), "service"),
            ),
            evidence=running,
            hint="\n".join(f"{verb} --name {name}{host}" for name in running),
        )

    def local_service(self, user: int, *, acts: bool) -> str | None:
        """Return the service on this machine, as `choose` does. Raises Refused."""
        mention_kept()
        return self.choose(services(user), acts=acts)


def checked_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """Return the name, if a spec could have it: it becomes part of paths that `down` removes."""
    if name is None:
        return None
    try:
        return local_spec(name=name).name
    except ValueError:
        raise click.BadParameter(
            f"`{name}` is not a name of at most 31 letters a-z, digits and `-`"
        ) from None


_OPTIONS = (
    config_option,
    click.option("--local", is_flag=True, help="On this machine, whatever the spec says."),
    click.option(
        "--host", metavar="HOST", help="A host of the service, as `user@address:port`: no spec."
    ),
    click.option(
        "--name",
        callback=checked_name,
        help="Name of the service.  [default: the spec's]",
        shell_complete=one_of(lambda: services(os.getuid())),
    ),
    ssh_config_option,
    click.option(
        "--rehearsal", is_flag=True, help="On the virtual hosts that `up --rehearse --keep` left."
    ),
)


def target_options(verb: Callable[..., object]) -> Callable[..., object]:
    """`-c`, `--local`, `--host`, `--name` and others, passed as one `target: Target`."""

    return passed_as("target", Target, verb, _OPTIONS)


def tell_silent(failures: Mapping[str, RopewayError], screen: Screen) -> None:
    """Say which hosts did not answer, and for each kind of failure what to type for its first."""
    for line in told(failures):
        screen.warn(line)
    hints = {error.what: error.hint for error in reversed([*failures.values()]) if error.hint}
    for hint in hints.values():
        screen.hint(hint)


def reached(target: Target, *, acts: bool) -> AbstractContextManager[Reached]:
    """Connect, and read the labels of the service that `Target.choose` returns. Raises Refused."""
    if target.rehearsal:
        if target.host or target.local:
            raise Refused(
                phrase("`--rehearsal` has hosts of its own"),
                hint=phrase("leave one of the two out"),
            )
        kept = kept_rehearsal()
        return reach_by_spec(kept.connected, kept.spec, target.name, None)
    mention_kept()
    connect = current_call().connect or connected
    if target.spec is not None:
        return reach_by_spec(connect, target.spec, target.name, target.ssh_config)
    choose = functools.partial(target.choose, acts=acts)
    return reach_by_host(connect, remote_host(target.host or ""), choose, target.ssh_config)
