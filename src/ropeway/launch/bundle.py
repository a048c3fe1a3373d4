"""All that hosts say of a service, for somebody who helps from afar."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from ropeway.errors import RopewayError
from ropeway.facts.bundle import ERROR, SPEC, member_of
from ropeway.facts.questions import questions
from ropeway.facts.transcript import Transcript, ask_for_transcript
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.launch.labels import Reached, newest
from ropeway.launch.lock import read_audit
from ropeway.launch.logs import recent_lines
from ropeway.spec.model import dump_spec

_LOG_LINES = 20_000
_FACTS_SECONDS = 120.0


def secret_names(service: Reached) -> frozenset[str]:
    """Return the variables that the service's secrets come from."""
    serves = [container.spec.serve for container in service.containers]
    names = {name for serve in serves for name in (*serve.secret_env, serve.api_key_env) if name}
    return frozenset(names)


def bundle_parts(service: Reached) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file that says what runs, and on what. Secrets are in them."""
    failures = {name: str(error) for name, error in service.failures.items()}
    yield "failures.json", _json(failures)
    yield "containers.json", _json([asdict(container) for container in service.containers])
    spec = newest(service.containers).spec if service.containers else None
    if spec is not None:
        yield SPEC, dump_spec(spec)
    path = spec.model.path if spec is not None else None
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
