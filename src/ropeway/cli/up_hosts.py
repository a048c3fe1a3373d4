"""How `ropeway up` on hosts is reported; launch/up.py does it."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from ropeway.cli.call import current_call
from ropeway.hosts.connect import connected
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.author import current_author
from ropeway.launch.clock import SYSTEM_CLOCK
from ropeway.launch.lock import locked
from ropeway.launch.service import Service
from ropeway.launch.up import (
    Caller,
    Outcome,
    Preparation,
    Replacement,
    check_spec,
    prepare,
    script_of,
    up,
)
from ropeway.report.console import Screen
from ropeway.spec.model import Spec, dump_spec


@dataclass(frozen=True)
class Options:
    """What the command line says beside the spec. `folder` is where this run keeps its files."""

    folder: Path
    dry_run: bool = False
    yes: bool = False
    ssh_config: str | None = None


def up_hosts(spec: Spec, options: Options, screen: Screen) -> None:
    """Bring the spec's service up on its hosts, or say what that would be."""
    check_spec(spec, os.environ)
    author = current_author()
    connect = current_call().connect or connected
    with (
        interruptible(),
        connect(spec.cluster, ssh_config=options.ssh_config) as hosts,
        ExitStack() as stack,
    ):
        if options.dry_run:
            preparation = prepare(spec, hosts, screen, may_fail=True)
            _show_script(preparation, *script_of(preparation, author), screen)
            return
        with screen.step(f"lock {len(hosts)} hosts") as step:
            lock = stack.enter_context(locked(hosts, author))
            step.ok()
        preparation = prepare(spec, hosts, screen, may_fail=False)
        outcome = up(preparation, lock, _caller(spec, options, screen))
        _show_outcome(outcome, options.folder, screen)


def _caller(spec: Spec, options: Options, screen: Screen) -> Caller:
    def confirm(replacement: Replacement) -> None:
        lines = map(str, replacement.differences)
        screen.say("\n".join(lines) or "the spec is the same; what runs differs from it")
        count = f"{replacement.starting} of {replacement.containers} containers"
        question = f"replace {count} of `{replacement.service}`?"
        if not options.yes and not click.confirm(question, err=True):
            raise click.Abort

    def keep(script: str) -> None:
        """Keep what this run is about in its folder."""
        options.folder.mkdir(parents=True)
        current_call().folder = options.folder
        (options.folder / "spec.yaml").write_text(dump_spec(spec), encoding="utf-8")
        (options.folder / "commands.sh").write_text(f"{script}\n", encoding="utf-8")

    def save_log(name: str, text: str) -> str:
        path = options.folder / f"{name.replace('/', '-')}.log"
        path.write_text(text, encoding="utf-8")
        return str(path)

    clock = current_call().clock or SYSTEM_CLOCK
    return Caller(screen, os.environ, confirm, keep, save_log, clock)


def _show_script(preparation: Preparation, script: str, service: Service, screen: Screen) -> None:
    screen.write(f"{script}\n")
    screen.result(
        {
            "script": script,
            "layout": str(preparation.spec.serve.layout),
            "release": service.replicas[0].release.version,
            "assumed": list(service.assumed),
            "notes": list(service.notes),
        }
    )


def _show_outcome(outcome: Outcome, folder: Path, screen: Screen) -> None:
    service = outcome.service
    if outcome.seconds is None:
        screen.answer(f"`{service.name}` is up already, and as the spec wants it")
        screen.result({"name": service.name, "url": service.url, "changed": []})
        return
    replica = service.replicas[0]
    screen.answer(f"{replica.served_name} is up at {service.url}")
    if service.url.startswith("http://127."):
        port, head = service.spec.serve.port, service.head.name
        screen.hint(
            f"it listens on the loopback of {head}; from here:\n"
            f"ssh -N -L {port}:127.0.0.1:{port} {head}"
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
            "start_seconds": round(outcome.seconds, 1),
            "folder": str(folder),
            "notes": list(service.notes),
        }
    )
