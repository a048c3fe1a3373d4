"""`ropeway up` on real hosts: facts, image, checks, what changes, start."""

import getpass
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.cli.bringup import interruptible
from ropeway.cli.call import current_call
from ropeway.errors import ModelError, Refused, RopewayError
from ropeway.facts.gather import gather
from ropeway.facts.host import HostFacts
from ropeway.facts.questions import questions
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all, run_on_all_or_raise, select
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.changes import Changes, changes, differences
from ropeway.launch.checks import check_hosts
from ropeway.launch.complete import Known, complete, family_of, release_for
from ropeway.launch.containers import secret_names
from ropeway.launch.docker import remove_argv
from ropeway.launch.dry_run import dry_run
from ropeway.launch.image import derived_name, image_name
from ropeway.launch.images import ensure_derived, ensure_image, versions
from ropeway.launch.labels import Author, Found
from ropeway.launch.lock import Lock, audit, locked
from ropeway.launch.service import Service
from ropeway.launch.start import Job, start, survey, undo
from ropeway.models import ModelShape, read_directory_shape, read_shape
from ropeway.models.known import known
from ropeway.report.console import Screen
from ropeway.spec.model import Spec, dump_spec

_FACTS_SECONDS = 120.0
# Until the first token of 30 to 235 billion weights, by start-up logs in vllm-ascend's issues; only
# the progress line uses it.
_EXPECTED_START = 180.0


@dataclass(frozen=True)
class Asked:
    """What the command line says beside the spec. `folder` is where this run keeps its files."""

    folder: Path
    dry_run: bool = False
    yes: bool = False
    ssh_config: str | None = None


@dataclass(frozen=True)
class _Ground:
    """What a start stands on: the spec, its hosts and what they have, the model."""

    spec: Spec
    hosts: Hosts
    facts: Mapping[str, HostFacts]
    shape: ModelShape
    scheme: str | None

    def service(self, image: str, found: Mapping[str, str] | None = None) -> Service:
        """Complete with this image. `found`: the versions in it, once it is there."""
        seen = Known(self.facts, found or {}, image, self.shape, self.scheme)
        return complete(self.spec, tuple(self.hosts), seen)

    def base_image(self) -> str:
        """The image that was asked for; what runs may be derived from it."""
        release = release_for(self.spec, {}, "")
        family = family_of(self.spec, tuple(self.facts.values()), [])
        return image_name(release, family, self.spec.runtime)


def up_hosts(spec: Spec, asked: Asked, screen: Screen) -> None:
    """Bring the spec's service up on its hosts, or say what that would be."""
    _check_spec(spec)
    me = author()
    with (
        interruptible(),
        (current_call().connect or connected)(spec.cluster, ssh_config=asked.ssh_config) as every,
        ExitStack() as stack,
    ):
        if not asked.dry_run:
            with screen.step(f"lock {len(every)} hosts") as step:
                lock = stack.enter_context(locked(every, me))
                step.ok()
        hosts = {host.name: host for host in every}
        facts = _facts(spec, every, screen, may_fail=asked.dry_run)
        ground = _Ground(spec, hosts, facts, *_model(spec, hosts, facts))
        if asked.dry_run:
            _show(ground, me, screen)
        else:
            _up(ground, lock, asked, screen)


def author() -> Author:
    """Us, for locks, labels and the audit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Author(f"{user}@{socket.gethostname()}", secrets.token_hex(6), now)


def _up(ground: _Ground, lock: Lock, asked: Asked, screen: Screen) -> None:
    """From facts to a service that generates tokens."""
    spec, base = ground.spec, ground.base_image()
    draft = ground.service(base)
    running = tuple(
        one
        for several in survey(ground.hosts, spec.runtime.command, spec.name).values()
        for one in several
    )
    check_hosts(
        draft,
        ground.facts,
        fetching=_fetching(ground, draft, base),
        replaced=frozenset(one.name for one in running),
        freed=frozenset(port for one in running for port in one.ports),
    )
    service = _with_image(ground, draft, base, screen)
    what = changes(service, running)
    if not _agreed(spec, running, what, asked, screen):
        return
    for note in service.notes:  # before anything is started: some are reasons to press Ctrl-C
        screen.say(f"note: {note}")
    _keep(asked.folder, spec, dry_run(service, base, lock.author))
    mine = select(ground.hosts, {site.name: site for site in service.sites})
    job = Job(
        service=service,
        hosts=mine,
        lock=lock,
        secrets=_values(service),
        save=lambda name, text: _save(asked.folder, name, text),
        only=what.start,
    )
    step = screen.step(f"start {spec.serve.layout}", _EXPECTED_START)
    writing = audited(mine.values(), lock.author, spec.name, "up", screen.warn)
    with _all_or_nothing(job), writing, step:
        lock.check()
        _remove(running, what, ground.hosts, spec)
        start(job, step.update)
        step.ok("the first token is there")
    _tell(service, asked.folder, step.seconds, screen)


@contextmanager
def _all_or_nothing(job: Job) -> Iterator[None]:
    """Ctrl-C between the start's end and our word that it is up: it means the start."""
    try:
        yield
    except KeyboardInterrupt:
        with uninterrupted():
            undone = undo(job)
        if undone is not None:
            raise undone from None
        raise


def _check_spec(spec: Spec) -> None:
    """What real hosts ask of a spec beyond its own rules. Raises Refused."""
    path, serve = spec.model.path, spec.serve
    if spec.engine != "vllm-ascend":
        raise Refused(
            f"`{spec.engine}` is the engine of virtual hosts, and these are real",
            where="serve.engine",
            hint="remove the line, or write `cluster: {local: {hosts: 2, npus: 2}}`",
        )
    if path is None:
        raise Refused(
            f"`{spec.model.name}` is a model for rehearsals, which real hosts do not have",
            where="model.name",
            hint="name the model's directory on the hosts: `model: {path: /data/…}`",
        )
    if not path.startswith("/"):
        raise Refused(
            f"`{path}` is no absolute path, and hosts have other working directories",
            where="model.path",
            hint="write it from the root: `/data/…`",
        )
    for key, names in (
        ("serve.api_key_env", (serve.api_key_env,) if serve.api_key_env else ()),
        ("serve.secret_env", serve.secret_env),
    ):
        if missing := [name for name in names if not os.environ.get(name)]:
            raise Refused(
                f"`{key}` names `{missing[0]}`, which is not set",
                hint=f"export {missing[0]}=…",
            )


def _facts(
    spec: Spec, hosts: Sequence[Host], screen: Screen, *, may_fail: bool
) -> Mapping[str, HostFacts]:
    """What each host has. With `may_fail` those that do not answer are left out."""
    asked = questions(model_path=spec.model.path, npus=False, runtime=spec.runtime.command)
    with screen.step(f"ask {len(hosts)} hosts") as step:
        outcomes = run_on_all(hosts, lambda host: gather(host, asked, timeout=_FACTS_SECONDS))
        failed = [one for one in outcomes if one.error is not None]
        for one in failed:
            if not may_fail:
                assert one.error is not None
                raise one.error
            screen.warn(f"{one.host.name}: {one.error}; what it has is assumed")
        step.ok(f"{len(hosts) - len(failed)} answered")
    return {one.host.name: one.result for one in outcomes if one.result is not None}


def _model(
    spec: Spec, hosts: Hosts, facts: Mapping[str, HostFacts]
) -> tuple[ModelShape, str | None]:
    """The model's shape and its quantisation, from the first host that has it; without any host,
    from this machine or the models that are known."""
    path = spec.model.path or ""
    for name, host in facts.items():
        if host.model is not None and host.model.there:
            where = f"{name}:{path}/config.json"
            try:
                config = json.loads(hosts[name].get(f"{path}/config.json"))
            except ValueError as error:
                raise ModelError(f"is no JSON: {error}", where=where) from None
            return read_shape(config, where=where), host.model.scheme
    if facts:
        raise ModelError(
            "no host has the model",
            where=path,
            evidence=tuple(
                f"{name}: {host.model.problem if host.model else 'not asked'}"
                for name, host in facts.items()
            ),
            hint="put it on one of them; `ropeway model push` then copies it to the others",
        )
    return (read_directory_shape(Path(path)) if Path(path).is_dir() else known(path)), None


def _fetching(ground: _Ground, draft: Service, image: str) -> frozenset[str]:
    """The hosts that will fetch it: those that take part and lack it, where that is allowed."""
    runtime = ground.spec.runtime
    if runtime.pull == "never" and not runtime.archive:
        return frozenset()
    engines = {site.name: ground.facts[site.name].docker for site in draft.sites}
    return frozenset(
        name
        for name, one in engines.items()
        if one is None or image not in {each.name for each in one.images}
    )


def _with_image(ground: _Ground, draft: Service, base: str, screen: Screen) -> Service:
    """The service as the image that is there wants it."""
    runtime = ground.spec.runtime
    mine = select(ground.hosts, {site.name: site for site in draft.sites})
    with screen.step(f"image {base}") as step:
        ids = ensure_image(mine, runtime, base, step.update)
        image = ensure_derived(mine, runtime, base, ids, step.update)
        found = versions(mine, runtime, image)
        step.ok(", ".join(f"{name} {version}" for name, version in list(found.items())[:3]))
    return ground.service(image, found)


def _agreed(
    spec: Spec, running: Iterable[Found], what: Changes, asked: Asked, screen: Screen
) -> bool:
    """Whether to go on: at once when nothing runs; else the difference is shown first."""
    before = list(running)
    if not before:
        return True
    if not what.start and not what.remove:
        screen.answer(f"`{spec.name}` is up already, and as the spec wants it")
        screen.result({"name": spec.name, "url": before[0].url, "changed": []})
        return False
    changed = differences(before[0].spec, spec)
    screen.say("\n".join(map(str, changed)) or "the spec is the same; what runs differs from it")
    told = f"replace {len(what.start)} of {len(what.start | what.keep)} containers"
    if asked.yes or click.confirm(f"{told} of `{spec.name}`?", err=True):
        return True
    raise click.Abort


def _remove(running: Iterable[Found], what: Changes, hosts: Hosts, spec: Spec) -> None:
    """Take away what is replaced."""
    gone = group_by_host(one for one in running if one.name in what.remove)

    def remove(host: Host) -> None:
        argv = remove_argv(spec.runtime.command, [one.name for one in gone[host.name]])
        host.run(argv, timeout=120.0).check("cannot remove what runs", where=host.name)

    run_on_all_or_raise(select(hosts, gone), remove)


def _values(service: Service) -> dict[str, str]:
    """The secrets that its containers get: variables of ours, and a fresh word where one is made
    up. Nobody but the hosts sees them."""
    names = {**secret_names(service, None)}
    for replica in service.replicas:
        names |= secret_names(service, replica)
    return {
        source or name: os.environ[source] if source else secrets.token_hex(32)
        for name, source in names.items()
    }


@contextmanager
def audited(
    hosts: Iterable[Host], me: Author, service: str, verb: str, warn: Callable[[str], None]
) -> Iterator[None]:
    """What comes of it is written down on each host; where that fails, one warning says so."""
    outcome = "interrupted"
    try:
        yield
        outcome = "done"
    except Exception as error:
        outcome = f"failed: {error}"
        raise
    finally:
        written = run_on_all(tuple(hosts), lambda host: audit(host, me, verb, service, outcome))
        if unwritten := [f"{one.host.name}: {_reason(one.error)}" for one in written if one.error]:
            many = f"{len(unwritten)} of {len(written)} hosts"
            warn(f"the audit could not be written on {many}: {'; '.join(unwritten)}")


def _reason(error: RopewayError) -> str:
    """On one line: the last of what the host said, else what is wrong."""
    return next((line for line in reversed(error.evidence) if line.strip()), error.what)


def _keep(folder: Path, spec: Spec, script: str) -> None:
    """What this run was about, for later."""
    folder.mkdir(parents=True)
    current_call().folder = folder
    (folder / "spec.yaml").write_text(dump_spec(spec), encoding="utf-8")
    (folder / "commands.sh").write_text(f"{script}\n", encoding="utf-8")


def _save(folder: Path, name: str, text: str) -> str:
    path = folder / f"{name.replace('/', '-')}.log"
    path.write_text(text, encoding="utf-8")
    return str(path)


def _show(ground: _Ground, me: Author, screen: Screen) -> None:
    base = ground.base_image()
    derived = derived_name(f"unknown id of {base}", ground.spec.runtime)
    service = ground.service(derived or base)
    script = dry_run(service, base, me)
    screen.write(f"{script}\n")
    screen.result(
        {
            "script": script,
            "layout": str(ground.spec.serve.layout),
            "release": service.replicas[0].release.version,
            "assumed": list(service.assumed),
            "notes": list(service.notes),
        }
    )


def _tell(service: Service, folder: Path, seconds: float, screen: Screen) -> None:
    replica = service.replicas[0]
    screen.answer(f"{replica.served_name} is up at {service.url}")
    if service.url.startswith("http://127."):
        port = service.spec.serve.port
        screen.hint(
            f"it listens on the loopback of {service.head.name}; from here:\n"
            f"ssh -N -L {port}:127.0.0.1:{port} {service.head.name}"
        )
    screen.hint(f"ropeway chat --url {service.url}\nropeway down --name {service.name}")
    screen.result(
        {
            "name": service.name,
            "url": service.url,
            "model": replica.served_name,
            "layout": str(replica.layout),
            "replicas": len(service.replicas),
            "release": replica.release.version,
            "image": service.image,
            "start_seconds": round(seconds, 1),
            "folder": str(folder),
            "notes": list(service.notes),
        }
    )
