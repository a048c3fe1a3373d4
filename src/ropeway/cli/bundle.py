"""`ropeway bundle`: everything that somebody who helps would ask for, in one file."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.cli.bug_report import package_versions, without_secrets
from ropeway.cli.options import screen_options
from ropeway.cli.target import Reached, Target, reached, target_options
from ropeway.errors import Refused, RopewayError
from ropeway.facts.gather import gather
from ropeway.facts.questions import questions
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.launch.life import past
from ropeway.launch.lock import read_audit
from ropeway.report.console import Screen
from ropeway.spec.model import dump_spec

_LOG_LINES = 20_000
_FACTS_SECONDS = 120.0
# What a secret looks like wherever it stands, beside the values that we know: `API_KEY=…`,
# `"token": "…"`, and the words that OpenAI's and Hugging Face's begin with.
_LIKE_A_SECRET = re.compile(
    r"(?i)((?:api[_-]?key|token|secret|passw(?:or)?d)[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]{6,}"
    r"|\b(?:sk|hf)[-_][A-Za-z0-9_-]{16,}"
)


@click.command()
@target_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="The file to write.  [default: ropeway-bundle-NAME-TIME.zip]",
)  # fmt: skip
@screen_options
def bundle(*, target: Target, output: Path | None, screen: Screen) -> None:
    """Collect spec, facts, logs and versions of a service into one file, without secrets.

    Look through it before you hand it on: prompts may stand in logs.

    \b
    Example:
      ropeway bundle -o for-support.zip
    """
    if not target.is_remote:
        raise Refused("bundle is for services on real hosts", hint="here everything is in `runs/`")
    if output is not None and output.exists():
        raise Refused("the file is there already", where=str(output), hint="name another one")
    with reached(target) as seen, screen.step(f"ask {len(seen.hosts)} hosts") as step:
        name = seen.name or "nothing"
        path = output or Path(f"ropeway-bundle-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip")
        parts = list(_parts(seen))
        named = _secret_names(seen)
        step.ok(f"{len(parts)} files")
    with zipfile.ZipFile(path, "x", zipfile.ZIP_DEFLATED) as archive:
        for part, text in parts:
            archive.writestr(part, without_trace(text, named))
    screen.answer(f"wrote {path}; look through it before you hand it on")
    screen.result({"file": str(path), "files": [part for part, _ in parts]})


def without_trace(text: str, named: Collection[str] = ()) -> str:
    """The text without secrets: those we know by value, and what looks like one.

    `named`: environment variables that hold secrets, whatever they are called
    """
    plain = without_secrets(text, sys.argv[1:], os.environ)
    for value in sorted((os.environ.get(name, "") for name in named), key=len, reverse=True):
        plain = plain.replace(value, "***") if value else plain
    return _LIKE_A_SECRET.sub(lambda found: f"{found[1] or ''}***", plain)


def _secret_names(seen: Reached) -> frozenset[str]:
    """The variables that the service's secrets come from."""
    serves = [one.spec.serve for one in seen.state.found]
    names = {name for serve in serves for name in (*serve.secret_env, serve.api_key_env) if name}
    return frozenset(names)


def _parts(seen: Reached) -> Iterator[tuple[str, str]]:
    """Name and text of each file."""
    yield "versions.txt", "\n".join(package_versions())
    yield "failures.json", _json({name: str(error) for name, error in seen.state.failures.items()})
    yield "containers.json", _json([asdict(one) for one in seen.state.found])
    for one in seen.state.found[:1]:
        yield "spec.yaml", dump_spec(one.spec)
    path = next((one.spec.model.path for one in seen.state.found), None)
    asked = questions(model_path=path, runtime=seen.runtime)

    def ask(host: Host) -> tuple[object, str]:
        return gather(host, asked, timeout=_FACTS_SECONDS), read_audit(host)

    for outcome in run_on_all(seen.every, ask):
        if outcome.result is None:
            yield f"{outcome.host.name}/error.txt", str(outcome.error)
            continue
        facts, audit = outcome.result
        yield f"{outcome.host.name}/facts.json", _json(facts)
        yield f"{outcome.host.name}/audit.log", audit
    for one in seen.state.found:
        try:
            lines = past(seen.hosts, seen.runtime, (one,), _LOG_LINES)
        except RopewayError as error:
            yield f"{one.host}/{one.name}.error.txt", str(error)
        else:
            text = "".join(f"{line.time} {line.text}\n" for line in lines)
            yield f"{one.host}/{one.name}.log", text


def _json(value: object) -> str:
    data = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps(data, indent=2, default=_plain, ensure_ascii=False)


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
