"""`up` on real hosts: facts, checks, the image, what changes, the start."""

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

from ropeway.engines.named_paths import named_paths
from ropeway.errors import HostError, Refused
from ropeway.facts.containers import fix_of_engine
from ropeway.facts.gather import Answers, ask, facts_from
from ropeway.facts.host import HostFacts
from ropeway.facts.question import Parsed, Question
from ropeway.facts.questions import questions
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Hosts, run_on_all, run_on_parts, select
from ropeway.launch import checks
from ropeway.launch.attempt import start, undone_when_interrupted
from ropeway.launch.clock import SYSTEM_CLOCK, Clock
from ropeway.launch.complete import Inputs, complete, family_of, release_for
from ropeway.launch.container_start import ContainerStart, run_argv
from ropeway.launch.docker import remove_argv
from ropeway.launch.dry_run import dry_run
from ropeway.launch.images import Images, derived_name, image_name, images_of
from ropeway.launch.labels import ServiceContainer, list_argv, newest, read_containers
from ropeway.launch.lock import Author, Lock, audited
from ropeway.launch.rollout import Rollout, Service
from ropeway.launch.served_model import ServedModel, served_model
from ropeway.models.task import came_words
from ropeway.phrases import joined, phrase
from ropeway.spec.engine_flags import config_overrides
from ropeway.spec.model import Spec
from ropeway.units import counted

_FACTS_SECONDS = 120.0
# Until the first token of 30 to 235 billion weights, by start-up logs in vllm-ascend's issues; only
# the progress line uses it.
_EXPECTED_START = 180.0
_OWN_CONTAINERS = "ropeway-containers"
_PATHS = "ropeway-paths"


class Step(Protocol):
    """Something that takes a while; report/progress.py has one."""

    def update(self, activity: str) -> None: ...

    def ok(self, verdict: str = "") -> None: ...


class Narrator(Protocol):
    """Whoever tells the user what is going on; report/console.py's Screen is one."""

    def step(
        self, name: str, expected_seconds: float | None = None
    ) -> AbstractContextManager[Step]: ...

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


@dataclass(frozen=True)
class Caller:
    """What `up` needs of whoever calls it.

    variables    our environment: secrets come from it
    check        examines the hosts before the service is started; returns what speaks against that
                 without forbidding it, and raises CheckFailed for the rest
    confirm      returns when a service that runs is to be replaced; else it raises. It gets what
                 differs between the specs, and which containers, as `2 of 4 containers`
    on_commands  gets all that will be done, as one shell script, just before it is done
    save_log     keeps the log of a start that failed; see ContainerStart
    """

    narrator: Narrator
    variables: Mapping[str, str]
    check: "Callable[[Preparation, Service], Sequence[str]]"
    confirm: Callable[[Sequence[checks.Difference], str], None]
    on_commands: Callable[[str], None]
    save_log: Callable[[str, str], str]
    clock: Clock = SYSTEM_CLOCK


@dataclass(frozen=True)
class Outcome:
    """A service that is up.

    seconds  how long it took; None where nothing had to be changed
    notes    what spoke against the start without forbidding it
    """

    service: Service
    seconds: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """What is known before anything changes: the spec, its hosts, what they have, the model.

    running  the service's containers that are there already
    paths    host's name → what it has of the files that flags point into
    notes    what was chosen for the spec, and what speaks against its layout
    """

    spec: Spec
    hosts: Hosts
    facts: Mapping[str, HostFacts]
    running: tuple[ServiceContainer, ...]
    model: ServedModel
    notes: tuple[str, ...] = ()
    paths: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def rollout(self, image: str, versions: Mapping[str, str] | None = None) -> Rollout:
        """Complete the service with this image. `versions` are those in it, once it is there."""
        inputs = Inputs(self.facts, versions or {}, image, self.model)
        service = complete(self.spec, tuple(self.hosts), inputs)
        named = checks.named_path_notes(Rollout(service), self.paths)
        notes = tuple(dict.fromkeys((*self.notes, *service.notes, *named)))
        return Rollout(replace(service, notes=notes))

    @cached_property
    def base_image(self) -> str:
        """The image of the spec; the one that runs may be derived from it."""
        release = release_for(self.spec, {}, "")
        family = family_of(self.spec, tuple(self.facts.values()), [])
        return image_name(release, family, self.spec.runtime)


def check_spec(spec: Spec, variables: Mapping[str, str] | None) -> None:
    """Raise Refused for what real hosts rule out beyond the spec's own rules.

    variables  our environment, which must have the secrets of the spec; None where none is used
    """
    path = spec.model.path
    if spec.engine != "vllm-ascend":
        raise Refused(
            phrase(
                "`{engine}` is the engine of virtual hosts, and these are real", engine=spec.engine
            ),
            where="serve.engine",
            hint=phrase("remove the line, or write `cluster: {{local: {{hosts: 2, npus: 2}}}}`"),
        )
    if path is None:
        raise Refused(
            phrase(
                "`{model}` is a model for rehearsals, which real hosts do not have",
                model=spec.model.name,
            ),
            where="model.name",
            hint=phrase("name the model's directory on the hosts: `model: {{path: /data/…}}`"),
        )
    if not path.startswith("/"):
        raise Refused(
            phrase(
                "`{path}` is not an absolute path, and hosts have other working directories",
                path=path,
            ),
            where="model.path",
            hint=phrase("write it from the root: `/data/…`"),
        )
    if variables is not None:
        checks.check_secrets(spec, variables)


def prepare(
    spec: Spec,
    every: Sequence[Host],
    narrator: Narrator,
    *,
    may_fail: bool,
    asked: frozenset[str] = frozenset(),
) -> Preparation:
    """Ask all hosts what they have. With `may_fail` those that do not answer are left out.

    `asked` are the keys of questions to each NPU, which take seconds.
    """
    with narrator.step(phrase("ask {hosts}", hosts=counted(len(every), "host"))) as step:
        outcomes = run_on_all(every, lambda host: _ask(host, spec, may_fail, asked))
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        for outcome in failed:
            if not may_fail:
                assert outcome.error is not None
                raise outcome.error
            narrator.warn(
                phrase(
                    "{host}: {error}; what it has is assumed",
                    host=outcome.host.name, error=outcome.error and outcome.error.what,
                )
            )  # fmt: skip
        step.ok(phrase("{n} answered", n=len(every) - len(failed)))
    answers = {one.host.name: one.result for one in outcomes if one.result is not None}
    facts = {name: facts for name, (facts, _, _) in answers.items()}
    return Preparation(
        spec,
        {host.name: host for host in every},
        facts,
        tuple(container for _, containers, _ in answers.values() for container in containers),
        served_model(
            spec.model.path or "",
            facts,
            config_overrides(spec.serve.engine_args),
            spec.model.config,
        ),
        paths={name: paths for name, (_, _, paths) in answers.items() if paths is not None},
    )


def dry_run_script(preparation: Preparation, author: Author) -> tuple[str, Service]:
    """Return all that `up` would do, as a shell script, and the service. Nothing is asked."""
    base = preparation.base_image
    derived = derived_name(f"unknown id of {base}", preparation.spec.runtime)
    rollout = preparation.rollout(derived or base)
    return dry_run(rollout, base, author), rollout.service


def up(preparation: Preparation, lock: Lock, caller: Caller) -> Outcome:
    """Bring the service up, to its first token, under a lock that is held.

    What runs of it already is kept where it is as the spec wants it, and else replaced, after
    `caller.confirm`. Raises what `attempt.start` raises; then what was started is gone again.
    """
    spec, base, running = preparation.spec, preparation.base_image, preparation.running
    checks.check_dropped_hosts(spec, running)
    draft = preparation.rollout(base)
    for container in draft.containers:
        run_argv(draft, container, lock.author)  # before anything of what runs is removed
    own_containers = frozenset(container.name for container in running)
    checks.check_hosts(
        draft,
        preparation.facts,
        fetching=_fetching(preparation, draft.service),
        own_containers=own_containers,
        own_ports=frozenset((one.host, port) for one in running for port in one.ports),
    )
    checks.check_named_paths(draft, preparation.paths)
    warnings = caller.check(preparation, draft.service)
    rollout = _with_image(preparation, draft.service, caller)
    changes = checks.changes(rollout, running)
    if running and not changes.start and not changes.remove:
        return Outcome(rollout.service, None)
    if running:
        count = phrase(
            "{n} of {containers}",
            n=len(changes.start),
            containers=counted(len(changes.start | changes.keep), "container"),
        )
        caller.confirm(checks.differences(newest(running).spec, spec), count)
    notes = (*rollout.service.notes, *warnings)
    for note in notes:  # before the start: some are reasons to press Ctrl-C
        loud = note in rollout.service.replicas[0].release.notes
        tell = caller.narrator.warn if loud else caller.narrator.say
        tell(note if loud else phrase("note: {note}", note=note))
    for note in checks.privileged_others(rollout, preparation.facts, own_containers):
        caller.narrator.warn(note)
    caller.on_commands(dry_run(rollout, base, lock.author))
    attempt = ContainerStart(
        rollout=rollout,
        hosts=select(preparation.hosts, rollout.containers_by_host),
        lock=lock,
        secrets=_secret_values(rollout, caller.variables),
        save_log=caller.save_log,
        only=changes.start,
        clock=caller.clock,
    )
    audit = audited(attempt.hosts.values(), lock.author, spec.name, "up", caller.narrator.warn)
    engines = spec.serve.layout.times(spec.serve.replicas)
    step = caller.narrator.step(phrase("start {engines}", engines=engines), _EXPECTED_START)
    began = time.monotonic()
    with undone_when_interrupted(attempt), audit, step as telling:
        lock.ensure_held()
        _remove((one for one in running if one.name in changes.remove), preparation)
        start(attempt, telling.update)
        telling.ok(came_words(rollout.service.task))
    return Outcome(rollout.service, time.monotonic() - began, notes)


def _ask(
    host: Host, spec: Spec, may_fail: bool, asked: frozenset[str]
) -> tuple[HostFacts, tuple[ServiceContainer, ...], frozenset[str] | None]:
    """Ask a host for its facts, the service's containers, and which files of those that flags
    point into it has (None where it did not say), in one round trip."""
    runtime = spec.runtime.command
    paths = [one.path for one in named_paths(spec.serve.engine_args, spec.serve.env)]
    lines = (
        *(
            question
            for question in questions(model_path=spec.model.path, runtime=runtime)
            if question.each is None or question.key in asked
        ),
        Question(_OWN_CONTAINERS, list_argv(runtime, spec.name), Parsed.of, limit=60),
        *([Question(_PATHS, ("ls", "-1dL", "--", *paths), Parsed.of)] if paths else ()),
    )
    answers = ask(host, lines, timeout=_FACTS_SECONDS)
    facts = facts_from(host.name, host.address, Answers(answers))
    by_key = {answer.key: answer for answer in answers}
    listed = by_key.get(_PATHS)
    there = None
    if listed is not None and listed.exit_code in (0, 1, 2):  # 1 and 2: some are missing
        there = frozenset(paths) & frozenset(listed.text.splitlines())
    own = by_key.get(_OWN_CONTAINERS)
    if own is not None and own.exit_code == 0:
        return facts, read_containers(own.text, host.name), there
    if may_fail:
        return facts, (), there
    raise HostError(
        phrase("`{command}` does not answer", command=runtime),
        where=host.name,
        evidence=tuple(own.text.strip().splitlines()[-3:]) if own else (),
        hint=fix_of_engine(runtime),
    )


def _fetching(preparation: Preparation, draft: Service) -> frozenset[str]:
    """Return the hosts that will fetch the image: those that take part and do not have it."""
    runtime = preparation.spec.runtime
    if runtime.pull == "never" and not runtime.archive:
        return frozenset()
    present = images_of(preparation.facts)
    return frozenset(
        site.name for site in draft.sites if draft.image not in present.get(site.name, {})
    )


def _with_image(preparation: Preparation, draft: Service, caller: Caller) -> Rollout:
    """Bring the image onto the hosts, and complete the service for the versions that it has."""
    base = preparation.base_image
    hosts = select(preparation.hosts, {site.name: site for site in draft.sites})
    present = images_of(preparation.facts)
    images = Images(hosts, preparation.spec.runtime, present, caller.clock)
    with caller.narrator.step(phrase("image {image}", image=base)) as step:
        ids = images.ensure(base, step.update)
        image = images.ensure_derived(base, ids, step.update)
        versions = images.versions(image)
        step.ok(joined((f"{name} {version}" for name, version in list(versions.items())[:3]), ", "))
    return preparation.rollout(image, versions)


def _remove(replaced: Iterable[ServiceContainer], preparation: Preparation) -> None:
    def remove(host: Host, containers: Sequence[ServiceContainer]) -> None:
        names = [container.name for container in containers]
        argv = remove_argv(preparation.spec.runtime.command, names)
        host.run(argv, timeout=120.0).check(phrase("cannot remove what runs"), where=host.name)

    run_on_parts(preparation.hosts, replaced, remove)


def _secret_values(rollout: Rollout, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets of all containers, generated tokens among them, as ContainerStart has
    them. Nobody but the hosts sees them."""
    sources = {
        name: source
        for container in rollout.containers
        for name, source in container.secrets.items()
    }
    return {
        source or name: variables[source] if source else secrets.token_hex(32)
        for name, source in sources.items()
    }
