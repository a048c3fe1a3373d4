"""`ropeway bundle`: everything that support would ask for, in one file."""

import json
import os
import re
import sys
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import click

from ropeway.cli.bug_report import package_versions, without_secrets
from ropeway.cli.files import writing
from ropeway.cli.options import screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.errors import Refused, RopewayError
from ropeway.facts.bundle import ERROR, SPEC, member_of
from ropeway.facts.questions import questions
from ropeway.facts.transcript import Transcript, ask_for_transcript
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.local import write_whole
from ropeway.launch.labels import Reached
from ropeway.launch.lock import read_audit
from ropeway.launch.logs import recent_lines
from ropeway.report.console import Screen
from ropeway.spec.model import dump_spec
from ropeway.spec.secret_words import SECRET_WORDS

_LOG_LINES = 20_000
_FACTS_SECONDS = 120.0
# What a secret looks like wherever it is, beside the values that we know: `API_KEY=…`,
# `"token": "…"`, and the words that OpenAI's and Hugging Face's begin with. The numbers of tokens
# in a model's config.json are not secrets.
_LIKE_A_SECRET = re.compile(
    rf"(?i)((?:{SECRET_WORDS})(?!(?<=token)[\"']\s*:\s*\d+\s*[,}}])"
    r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]{6,}"
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

    Look through it before you hand it on: prompts may be in logs. `ropeway doctor --bundle FILE`
    examines the hosts from it.

    \b
    Example:
      ropeway bundle -o for-support.zip
    """
    if not target.is_remote:
        raise Refused("bundle is for services on real hosts", hint="here everything is in `runs/`")
    if output is not None and output.exists():
        raise Refused("the file exists", where=str(output), hint="name another one")
    with reached(target) as service, screen.step(f"ask {len(service.hosts)} hosts") as step:
        name = service.name or "nothing"
        path = output or Path(f"ropeway-bundle-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip")
        parts = list(_parts(service))
        named = _secret_names(service)
        step.ok(f"{len(parts)} files")
    content = BytesIO()
    with zipfile.ZipFile(content, "x", zipfile.ZIP_DEFLATED) as archive:
        for part, text in parts:
            archive.writestr(part, redact(text, named))
    with writing(path):
        write_whole(path, content.getvalue())
    screen.answer(f"wrote {path}; look through it before you hand it on")
    screen.result({"file": str(path), "files": [part for part, _ in parts]})


def redact(text: str, named: Collection[str] = ()) -> str:
    """Return the text without secrets: those we know by value, and what looks like one.

    `named`: environment variables that hold secrets, whatever they are called
    """
    plain = without_secrets(text, sys.argv[1:], os.environ)
    for value in sorted((os.environ.get(name, "") for name in named), key=len, reverse=True):
        plain = plain.replace(value, "***") if value else plain
    return _LIKE_A_SECRET.sub(lambda match: f"{match[1] or ''}***", plain)


def _secret_names(service: Reached) -> frozenset[str]:
    """Return the variables that the service's secrets come from."""
    serves = [container.spec.serve for container in service.containers]
    names = {name for serve in serves for name in (*serve.secret_env, serve.api_key_env) if name}
    return frozenset(names)


def _parts(service: Reached) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file."""
    yield "versions.txt", "\n".join(package_versions())
    failures = {name: str(error) for name, error in service.failures.items()}
    yield "failures.json", _json(failures)
    yield "containers.json", _json([asdict(container) for container in service.containers])
    for container in service.containers[:1]:
        yield SPEC, dump_spec(container.spec)
    path = next((container.spec.model.path for container in service.containers), None)
    every_question = questions(model_path=path, runtime=service.runtime)

    def ask(host: Host) -> tuple[Transcript, str]:
        return ask_for_transcript(host, every_question, timeout=_FACTS_SECONDS), read_audit(host)

    for outcome in run_on_all(service.every, ask):
        name = outcome.host.name
        if outcome.result is None:
            yield member_of(name, ERROR), str(outcome.error)
            continue
        transcript, audit = outcome.result
        yield member_of(name), transcript.as_text()
        yield f"{name}/audit.log", audit
    for container in service.containers:
        try:
            lines = recent_lines(service, (container,), _LOG_LINES)
        except RopewayError as error:
            yield f"{container.host}/{container.name}.error.txt", str(error)
        else:
            text = "".join(f"{line.time} {line.text}\n" for line in lines)
            yield f"{container.host}/{container.name}.log", text


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)
