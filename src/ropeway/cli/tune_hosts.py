"""`tune` on hosts: settings brought up there one after another, under one lock.

    place_of ─ local_place     this machine (tune_local.py)
             ├ _rehearsed      virtual hosts, and an endpoint that answers for them
             └ hosts_place     hosts over SSH

Each trial is a start as `up` makes one, without the checks of `doctor`, which come once. What ends
the search, and not only a trial: a host that does not answer, a lock that somebody else has taken.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click

from ropeway.bench.compare import NOTES
from ropeway.bench.record import recorded
from ropeway.bench.served import Served
from ropeway.bench.trials import HostsGone, not_the_setting
from ropeway.cli.call import current_call
from ropeway.cli.hosts_start import agree, keep_start, locking, save_log, take_down
from ropeway.cli.layout_choice import planned, request_of
from ropeway.cli.options import passed_as, ssh_config_option, with_options, yes_option
from ropeway.cli.rehearsal import rehearsal_of, rehearsal_options
from ropeway.cli.start_checks import check_before_start, skip_before_start
from ropeway.cli.tune_local import Place, Searched, around, local_place
from ropeway.doctor.start import asked_before
from ropeway.endpoint.address import Endpoint
from ropeway.errors import (
    CheckFailed,
    EndpointError,
    HostError,
    LaunchError,
    Refused,
    RopewayError,
    SshError,
)
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.hosts.forwarding import check_forwarding, forwarded, is_reached
from ropeway.hosts.ssh import SshHost
from ropeway.launch import up as launching
from ropeway.launch.checks import check_dropped_hosts
from ropeway.launch.clock import SYSTEM_CLOCK
from ropeway.launch.labels import Reached, look
from ropeway.launch.lock import Lock, current_author
from ropeway.launch.rollout import Service
from ropeway.launch.up import Caller, Preparation, check_spec, prepare
from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.candidate import PlanRequest
from ropeway.report.console import Screen
from ropeway.report.progress import Step
from ropeway.sim.faults import FAULTS, LAUNCH_FAULTS
from ropeway.sim.launching import Rehearsal
from ropeway.sim.machine import Fleet
from ropeway.sim.virtual_endpoint import VirtualEndpoint
from ropeway.spec.model import Layout, Spec
from ropeway.spec.setting import Setting
from ropeway.spec.types import is_loopback
from ropeway.units import counted

Way = Callable[[Service, Host], AbstractContextManager[tuple[str, str]]]
"""Opens the way from here to a service whose endpoint is on a host: URL and model's name."""


@dataclass(frozen=True)
class HostFlags:
    """What the command line says of hosts."""

    ssh_config: str | None
    skip_checks: bool
    yes: bool
    rehearse: str | None
    faults: Sequence[str]

    def check_writes(self, *, write: bool, local: bool) -> None:
        """Raise Refused where a result is to be written and is not one for a spec."""
        if write and local:
            raise Refused(
                phrase("`--write` puts the best into a spec, and `--local` has none"),
                hint=phrase("write one first: `ropeway init`"),
            )
        if write and self.rehearse is not None:
            raise Refused(
                phrase("`--write` puts the best into a spec, and the speed in a rehearsal is made"
                       " up"),
                hint=phrase("leave one of the two out"),
            )  # fmt: skip


def host_flags(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of hosts, passed as one `hosts: HostFlags`."""
    options = (
        ssh_config_option,
        click.option(
            "--skip-checks", is_flag=True, help="Search without `doctor`'s checks of the hosts."
        ),
        yes_option,
    )
    playing = rehearsal_options(lambda: FAULTS | LAUNCH_FAULTS)
    collecting = passed_as("hosts", HostFlags, verb, ())
    return with_options(playing(collecting), options)


@contextmanager
def place_of(
    searched: Searched, flags: HostFlags, fleet: Fleet | None, screen: Screen
) -> Iterator[Place]:
    """Yield the place of the spec: this machine, its hosts, or virtual ones in their stead.

    Raises Refused, and what a start raises before it begins.
    """
    if fleet is not None:
        with _rehearsed(searched, flags, fleet, screen) as place:
            yield place
    elif searched.spec.cluster.is_local:
        yield local_place(searched, screen)
    else:
        with hosts_place(searched, flags, screen) as place:
            yield place


@contextmanager
def hosts_place(
    searched: Searched, flags: HostFlags, screen: Screen, way: Way | None = None
) -> Iterator[Place]:
    """Yield the spec's hosts as the place, locked; take down at the end what is still up.

    way  to the endpoint; None: the service's own URL, or through SSH where that is not reached

    Raises Refused, CheckFailed and HostError before the first trial.
    """
    spec = searched.spec
    check_spec(spec, os.environ)
    connect = current_call().connect or connected
    with (
        connect(spec.cluster, ssh_config=flags.ssh_config) as hosts,
        locking(hosts, current_author(), screen) as lock,
    ):
        asked = frozenset() if flags.skip_checks else asked_before(_over_all(spec))
        preparation = prepare(spec, hosts, screen, may_fail=False, asked=asked)
        check_dropped_hosts(spec, preparation.running)
        request = request_of(preparation)
        starts, nearby, notes = around(searched, request)
        services = _services(preparation, starts)
        if flags.skip_checks:
            skip_before_start(services, screen)
        else:
            for line in check_before_start(preparation, services, screen):
                screen.say(phrase("note: {note}", note=line))
        if way is None:
            way, more = _way_to(services[0], preparation)
            notes = (*notes, *more)
        if preparation.running:
            question = phrase(
                "`{name}` is running: take it down for the search? it stays down afterwards",
                name=spec.name,
            )
            agree(question, screen, yes=flags.yes)
        trying = _Trying(spec, hosts, lock, _Teller(screen), screen, way)
        engine = f"{spec.engine} {services[0].replicas[0].release.version}"
        hardware = _hardware(request, screen)
        try:
            yield Place(engine, hardware, starts, nearby, trying.serve, (*notes, *NOTES[1:]))
        finally:
            trying.end()


@contextmanager
def _rehearsed(
    searched: Searched, flags: HostFlags, fleet: Fleet, screen: Screen
) -> Iterator[Place]:
    """Yield virtual hosts as the place. The endpoint is one, however often they are started."""
    spec, virtual = rehearsal_of(searched.spec, fleet)
    current_call().connect = virtual.connected
    with (
        _answering(virtual, spec) as answers,
        hosts_place(
            replace(searched, spec=spec),
            flags,
            screen,
            lambda _service, _head: nullcontext(answers),
        ) as place,
    ):
        made_up = phrase("a rehearsal: no model runs, and the speed of every setting is made up")
        yield replace(place, notes=(*place.notes[:-1], made_up))


@contextmanager
def _answering(virtual: Rehearsal, spec: Spec) -> Iterator[tuple[str, str]]:
    """Yield URL and model's name of an endpoint that answers while an engine runs there."""
    name = spec.model.served_name or Path(spec.model.path or "").name
    with VirtualEndpoint(virtual, spec.serve.port, name) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever)
        thread.start()
        try:
            yield endpoint.url, endpoint.model
        finally:
            endpoint.shutdown()
            thread.join()


class _Teller:
    """The screen of many starts: a note that each of them has is told once."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._told: set[str] = set()

    def step(
        self, name: str, expected_seconds: float | None = None
    ) -> AbstractContextManager[Step]:
        """See launch.up.Narrator."""
        return self._screen.step(name, expected_seconds)

    def say(self, text: str) -> None:
        """See launch.up.Narrator."""
        self._once(text, self._screen.say)

    def warn(self, text: str) -> None:
        """See launch.up.Narrator."""
        self._once(text, self._screen.warn)

    def _once(self, text: str, tell: Callable[[str], None]) -> None:
        if text not in self._told:
            self._told.add(text)
            tell(text)


@dataclass
class _Trying:
    """Brings settings of a service up on its hosts, and takes them down again.

    _left      a start may have left something there
    _replaced  the service ran before the search, and was taken down for it
    """

    spec: Spec
    hosts: Sequence[Host]
    lock: Lock
    teller: _Teller
    screen: Screen
    way: Way
    _left: bool = field(default=False, init=False)
    _replaced: bool = field(default=False, init=False)

    @contextmanager
    def serve(self, setting: Setting, folder: Path) -> Iterator[Served]:
        """See bench.trials.Serve."""
        spec = setting.over(self.spec)
        with recorded(folder):
            folder.mkdir(0o700, parents=True, exist_ok=True)
        try:
            preparation = self._cleared(spec)
        except HostError as error:
            raise HostsGone(error) from error
        try:
            with self._up(planned(preparation), folder) as served:
                yield served
        except (LaunchError, HostError, EndpointError) as error:
            self._check_hosts(error)
            raise

    def end(self) -> None:
        """Take down what a trial could not, and say what is down that ran before.

        Where that is interrupted, say by which command it goes on.
        """
        try:
            if self._left and ((found := self._reached()).containers or found.failures):
                self._take_down()
        except KeyboardInterrupt:
            if self._left:
                self._say_left()
            raise
        finally:
            self._say_replaced()

    def _say_left(self) -> None:
        name, hosts = self.spec.name, self.hosts
        self.screen.warn(phrase("`{name}` may still be up: taking it down was interrupted",
                                name=name))  # fmt: skip
        commands = dict.fromkeys(f"ropeway down --name {name} {one.as_flags}" for one in hosts)
        self.screen.hint(joined((phrase("this finishes it:"), *commands), "\n"))

    def _say_replaced(self) -> None:
        if self._replaced:
            self.screen.warn(
                phrase(
                    "`{name}`, which ran before the search, is down; `ropeway up` starts it again",
                    name=self.spec.name,
                )
            )

    def _cleared(self, spec: Spec) -> Preparation:
        """Ask the hosts, and take down what runs there of the service. Raises HostError."""
        self.lock.ensure_held()
        preparation = prepare(spec, self.hosts, self.teller, may_fail=False)
        if not preparation.running:
            self._left = False
            return preparation
        self._replaced = self._replaced or not self._left
        take_down(self._reached(), self.lock, self.screen)
        return prepare(spec, self.hosts, self.teller, may_fail=False)

    @contextmanager
    def _up(self, preparation: Preparation, folder: Path) -> Iterator[Served]:
        """Bring a setting up, and take it down whatever happens. Raises what `up` raises."""
        spec = preparation.spec
        caller = Caller(
            self.teller,
            os.environ,
            check=lambda _preparation, _service: (),
            confirm=lambda _differences, _count: None,  # nothing of it runs
            on_commands=partial(_keep_start, folder, spec),
            save_log=partial(save_log, folder, self.screen),
            clock=current_call().clock or SYSTEM_CLOCK,
        )
        self._left = True
        outcome = None
        try:
            outcome = launching.up(preparation, self.lock, caller)
            head = preparation.hosts[outcome.service.head.name]
            with self.way(outcome.service, head) as (url, model):
                variable = spec.serve.api_key_env
                key = os.environ.get(variable) if variable else None
                endpoint = Endpoint(url, key, variable or Endpoint.key_name)
                yield Served(endpoint, model, outcome.seconds or 0.0)
        finally:
            if outcome is not None:  # else `up` has undone it
                self._take_down()

    def _check_hosts(self, error: RopewayError) -> None:
        """Raise HostsGone where hosts are the cause of this error, and not the setting."""
        if isinstance(error, SshError):
            raise HostsGone(error) from error
        try:
            self.lock.ensure_held()
        except HostError as gone:
            gone.evidence = (*gone.evidence, error.what)
            gone.hint = joined(filter(None, (gone.hint, error.hint)), "\n") or None
            raise HostsGone(gone) from error

    def _take_down(self) -> None:
        """Take the service down. Where that fails it is said, and tried again before the next."""
        try:
            take_down(self._reached(), self.lock, self.screen)
            self._left = False
        except HostError as error:
            where, what = error.where or self.spec.name, error.what
            self.screen.warn(phrase("{host}: {reason}", host=where, reason=what))
            if error.hint:
                self.screen.hint(error.hint)

    def _reached(self) -> Reached:
        return look(self.hosts, self.spec.runtime.command, self.spec.name)


def _keep_start(folder: Path, spec: Spec, script: str) -> None:
    """Write what a start is about. Raises RopewayError, which ends the search."""
    with not_the_setting():
        keep_start(folder, spec, script)


def _over_all(spec: Spec) -> Spec:
    """Return the spec with a layout over all its NPUs: what such a start asks, any other may."""
    every = Layout(tensor=sum(host.npus for host in spec.cluster.hosts or ()))
    return spec.model_copy(update={"serve": spec.serve.model_copy(update={"layout": every})})


def _services(preparation: Preparation, starts: Sequence[Setting]) -> tuple[Service, ...]:
    """Return the service under each setting that the hosts have room for.

    Raises the first refusal where there is none.
    """
    services, refusals = [], []
    for setting in starts:
        own = replace(preparation, spec=setting.over(preparation.spec))
        try:
            services.append(own.rollout(own.base_image).service)
        except (Refused, CheckFailed) as error:
            refusals.append(error)
    if not services:
        raise refusals[0]
    return tuple(services)


def _way_to(service: Service, preparation: Preparation) -> tuple[Way, tuple[Phrase, ...]]:
    """Return how a service is reached, and what one must know of that. Raises HostError."""
    head = preparation.hosts[service.head.name]
    address, port = _address(service)
    if not isinstance(head, SshHost) or (not is_loopback(address) and is_reached(address, port)):
        return _direct, ()
    check_forwarding(head, address, port)
    note = phrase(
        "requests went through the SSH connection to {host}: times to the first token contain that"
        " way, and it may carry fewer tokens a second than the engine makes; a `serve.address` that"
        " this machine reaches avoids both",
        host=head.name,
    )
    return _through_ssh, (note,)


@contextmanager
def _direct(service: Service, _head: Host) -> Iterator[tuple[str, str]]:
    yield service.url, service.replicas[0].served_name


@contextmanager
def _through_ssh(service: Service, head: Host) -> Iterator[tuple[str, str]]:
    assert isinstance(head, SshHost)
    with forwarded(head, *_address(service)) as port:
        yield f"http://127.0.0.1:{port}/v1", service.replicas[0].served_name


def _address(service: Service) -> tuple[str, int]:
    parts = urlsplit(service.url)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port


def _hardware(request: PlanRequest, screen: Screen) -> str:
    hosts = request.cluster.hosts or ()
    return phrase(
        "{hosts}, {npus} of {chip}",
        hosts=counted(len(hosts), "virtual host" if screen.rehearsal else "host"),
        npus=counted(sum(host.npus for host in hosts), "NPU"),
        chip=request.chip.name if request.chip else "?",
    )
