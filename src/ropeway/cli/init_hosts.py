"""A spec from what hosts say, with the plan's choice of layout: where facts and plan meet."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from ropeway.cli.call import current_call
from ropeway.errors import Refused
from ropeway.facts.described import cluster_of
from ropeway.facts.gather import gather
from ropeway.facts.host import HostFacts
from ropeway.facts.questions import questions
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import run_on_all_or_raise
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.complete import release_for
from ropeway.launch.served_model import served_model
from ropeway.phrases import phrase
from ropeway.plan.choice import plan_for_new, with_task
from ropeway.plan.writing import edits, written
from ropeway.report.console import Screen
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.errors import fault_lines
from ropeway.spec.model import Spec, parse_spec
from ropeway.spec.samples import filled, with_edits
from ropeway.units import counted

_SECONDS = 120.0


def spec_of_hosts(
    hosts: Sequence[RemoteHost], model_path: str | None, ssh_config: str | None, screen: Screen
) -> tuple[str, Spec]:
    """Return the text of a spec for these hosts, and the spec; planned, if the model is known.

    Raises HostError when a host cannot be asked, CheckFailed when none has the model, Refused when
    nothing fits.
    """
    facts = _ask(hosts, model_path, ssh_config, screen)
    text = filled(cluster_of(dict(zip(facts, hosts, strict=True)), facts), model_path)
    spec = parse_spec(text, "the new spec")
    if model_path is None:
        return text, spec
    shape = served_model(model_path, facts).shape
    started = with_task(spec, shape)
    plan = plan_for_new(started, shape, release_for(spec, {}, "").version)
    after = written(started, plan)
    if plan.chosen:
        screen.say(phrase("{name}: {why}", name=plan.chosen.name, why=plan.why))
    for name, host in facts.items():
        if host.model and host.model.fault:
            screen.warn(
                phrase(
                    "{host}: {path} {fault}; see `ropeway model push`",
                    host=name,
                    path=model_path,
                    fault=host.model.fault,
                )
            )
    return with_edits(text, edits(spec, after, plan)), after


def _ask(
    hosts: Sequence[RemoteHost], model_path: str | None, ssh_config: str | None, screen: Screen
) -> Mapping[str, HostFacts]:
    """Return the facts of each host, in the order given. Raises HostError."""
    connect = current_call().connect or connected
    asked = [one for one in questions(model_path=model_path) if one.each is None]
    try:
        cluster = Cluster(hosts=tuple(hosts))
    except ValidationError as error:
        raise Refused(phrase("these hosts are no cluster"), evidence=fault_lines(error)) from None
    with (
        interruptible(),
        connect(cluster, ssh_config=ssh_config) as every,
        screen.step(phrase("ask {hosts}", hosts=counted(len(every), "host"))) as step,
    ):
        found = run_on_all_or_raise(
            {host.name: host for host in every},
            lambda host: gather(host, asked, timeout=_SECONDS),
        )
        step.ok()
    return found
