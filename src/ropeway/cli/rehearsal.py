"""Rehearsals: which virtual hosts `--rehearse` means, and what `up` does with them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from click.core import ParameterSource

from ropeway.cli.bringup import SpecFlags, read_spec
from ropeway.cli.call import current_call
from ropeway.cli.completion import one_of
from ropeway.cli.options import with_options
from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.launch.labels import look
from ropeway.launch.running import take_down
from ropeway.phrases import joined, phrase
from ropeway.report.console import Screen
from ropeway.sim.faults import FAULTS, with_faults
from ropeway.sim.keeper import keep
from ropeway.sim.launching import Rehearsal, rehearsal_spec
from ropeway.sim.machine import Fleet, has_size, parse_fleet, sound_fleet
from ropeway.sim.own_hosts import own_fleet
from ropeway.sim.virtual_engine import Pace
from ropeway.spec.model import Spec
from ropeway.units import counted

# Quick enough to watch, slow enough to see the steps; a real engine takes minutes.
_PACE = Pace(latency=0.05, pull=3.0, begin=0.5, join=0.5, start=6.0)
_MOST_SECONDS = 30  # that a virtual engine may take


def rehearsal_options(
    faults: Callable[[], Iterable[str]],
) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`--rehearse` and `--fault`: `rehearse: str | None`, empty without FLEET, and `faults`.

    faults  those that the verb plays
    """

    def check(ctx: click.Context, _param: click.Parameter, given: Sequence[str]) -> Sequence[str]:
        if given and ctx.params.get("rehearse") is None:
            raise Refused(
                phrase("`{flag}` is for virtual hosts", flag="--fault"),
                hint=phrase("add `--rehearse`"),
            )
        return given

    options = [
        click.option(
            "--rehearse", metavar="[FLEET]", is_flag=False, flag_value="", is_eager=True,
            help="On virtual hosts, those of the spec. FLEET `910B4` gives them that chip;"
            " `2x8-910B4` makes hosts up instead.",
        ),
        click.option(
            "--fault", "faults", multiple=True, metavar="NAME[:HOST[:NPU]]", callback=check,
            help="With --rehearse: what is wrong there; may be given several times.",
            shell_complete=one_of(faults),
        ),
    ]  # fmt: skip
    return lambda verb: with_options(verb, options)


def own_spec(rehearse: str, config: Path, screen: Screen) -> Spec | None:
    """Return the spec whose hosts are rehearsed; None where FLEET makes hosts up.

    Raises Refused or SpecError.
    """
    verb = click.get_current_context().command_path
    source = click.get_current_context().get_parameter_source("config")
    if has_size(rehearse) or (rehearse and not _names_chip(rehearse)):
        parse_fleet(rehearse)
        if source is not ParameterSource.DEFAULT:
            raise Refused(
                phrase(
                    "the hosts are those of `{config}` or those of `{fleet}`, not both",
                    config=config,
                    fleet=rehearse,
                ),
                hint=phrase(
                    "the spec's: `{verb} -c {config} --rehearse`\n"
                    "made up: `{verb} --rehearse {fleet}`",
                    verb=verb,
                    config=config,
                    fleet=rehearse,
                ),
            )
        if config.exists():
            screen.say(
                phrase(
                    "`{config}` is not read; `--rehearse` without a size rehearses its hosts",
                    config=config,
                )
            )
        return None
    spec = read_spec(
        config, without=phrase("make hosts up: `{verb} --rehearse 2x8-910B4`", verb=verb)
    )
    if spec.cluster.is_local:
        raise Refused(
            phrase("`cluster.local` needs no rehearsal: it runs on this machine"),
            where=str(config),
            hint=phrase("`ropeway up`, or make hosts up: `{verb} --rehearse 2x8-910B4`", verb=verb),
        )
    return spec


def refuse_unchecked(faults: Sequence[str]) -> None:
    """Raise Refused for faults of hosts in a start that does not look for them."""
    if hidden := [fault for fault in faults if fault.partition(":")[0] in FAULTS]:
        raise Refused(
            phrase("`--skip-checks` with `--fault {fault}` is not played", fault=hidden[0]),
            evidence=(phrase("how an engine ends on such hosts cannot be told beforehand"),),
            hint=phrase("leave one of the two out"),
        )


def virtual_fleet(
    rehearse: str, spec: Spec | None, faults: Sequence[str], screen: Screen, *, launch: bool
) -> Fleet:
    """Return the hosts of the spec, or those that FLEET makes up, with faults; say what they are.

    Raises Refused.
    """
    fleet = own_fleet(spec, rehearse) if spec else sound_fleet(*parse_fleet(rehearse))
    fleet = with_faults(fleet, faults, launch=launch)
    screen.rehearsal = True
    screen.say(phrase("rehearsal: {fleet}; nothing happens to real ones", fleet=fleet.title))
    return fleet


def _names_chip(text: str) -> bool:
    try:
        chip_named(text)
    except Refused:
        return False
    return True


@dataclass(frozen=True)
class Stage:
    """Where `up` acts in a rehearsal.

    url  of the endpoint that stays; None for a rehearsal that ends with the verb
    """

    url: str | None

    def tell(self, name: str, url: str, screen: Screen) -> None:
        """Say that the service is up."""
        if self.url is None:
            screen.answer(
                phrase(
                    "rehearsal: {name} came up; on real hosts it would be at {url}",
                    name=name,
                    url=url,
                )
            )
            return
        screen.answer(
            phrase(
                "rehearsal: {name} is up on virtual hosts; {url} answers for it",
                name=name,
                url=self.url,
            )
        )
        screen.hint(
            phrase(
                "ropeway status --rehearsal\nropeway logs --rehearsal\nropeway chat --rehearsal\n"
                "ropeway down --rehearsal\nit ends by itself an hour after the last command"
            )
        )


def rehearsed_spec(
    rehearse: str, config: Path, flags: SpecFlags, faults: Sequence[str], screen: Screen
) -> tuple[Spec, Fleet, bool]:
    """Return the service to rehearse, its hosts with the faults of a start, and whether both are
    made up. Raises Refused or SpecError."""
    own = own_spec(rehearse, config, screen)
    own = flags.over(own) if own else None
    fleet = virtual_fleet(rehearse, own, faults, screen, launch=True)
    return own or flags.over(rehearsal_spec(fleet)), fleet, own is None


def rehearsal_of(spec: Spec, fleet: Fleet) -> tuple[Spec, Rehearsal]:
    """Return the hosts as they come to life, and the spec as it is brought up there."""
    images = [image.name for machine in fleet.machines for image in machine.images]
    serve = spec.serve.model_copy(
        update={"start_timeout": min(spec.serve.start_timeout, _MOST_SECONDS)}
    )
    update: dict[str, object] = {"serve": serve}
    if images and images[0] != fleet.image:  # a fault of the image: it is the one that was meant
        update["runtime"] = spec.runtime.model_copy(update={"image": images[0]})
    return spec.model_copy(update=update), Rehearsal(fleet, _PACE)


def rehearse_up(
    spec: Spec,
    fleet: Fleet,
    up: Callable[[Spec, Stage], None],
    screen: Screen,
    *,
    faults: Sequence[str],
    keeps: bool,
    dry_run: bool,
) -> None:
    """Bring the service up on virtual hosts, and end it there, or leave it to a process."""
    spec, virtual = rehearsal_of(spec, fleet)
    if dry_run or not keeps:
        current_call().connect = virtual.connected
        up(spec, Stage(None))
        if not dry_run:
            _tell_harmless(faults, screen)
            _take_down_again(virtual, spec, screen)
        return
    kept = keep(virtual, spec)
    current_call().connect = kept.connected
    try:
        up(spec, Stage(kept.url))
    except BaseException:
        kept.end()
        raise
    _tell_harmless(faults, screen)


def _tell_harmless(faults: Sequence[str], screen: Screen) -> None:
    """Say that the faults, if any, did not keep a service from coming up."""
    if faults:
        screen.warn(
            phrase(
                "it came up in spite of {faults}: this start takes no harm from it",
                faults=joined(faults, ", "),
            )
        )


def _take_down_again(virtual: Rehearsal, spec: Spec, screen: Screen) -> None:
    """Take the service of a rehearsal down."""
    with (
        virtual.connected(spec.cluster) as every,
        screen.step(phrase("take `{name}` down again", name=spec.name)) as step,
    ):
        count = take_down(look(every, spec.runtime.command, spec.name))
        containers, hosts = counted(count, "container"), counted(len(every), "virtual host")
        step.ok(phrase("{containers} on {hosts}", containers=containers, hosts=hosts))
