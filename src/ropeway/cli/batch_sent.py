"""What a batch job in a container is asked and given: its words, its inputs, its key."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from click.core import ParameterSource

from ropeway.batch.input.parts import STDIN, Part, Shape, find_parts
from ropeway.batch.sending.limits import Limits
from ropeway.cli.batch_options import BatchFlags, BatchRequest, as_words
from ropeway.cli.batch_run import at_once, order_of
from ropeway.endpoint.address import Endpoint
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.errors import Refused
from ropeway.hosts.base import Host
from ropeway.hosts.pieces import Content, content_of, send_file
from ropeway.launch.detached import HEAD_FILES, DetachedJob, Place, mounted_folder
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.types import check_key
from ropeway.units import counted, format_bytes

_HEAD = "head:"
_TOLD_EVERY_S = 5.0


@dataclass(frozen=True)
class Input:
    """An input as the job names it, and the file of this machine that is sent for it, if any."""

    word: str
    source: Path | None = None
    content: Content | None = None


def send_job(request: BatchRequest, job: DetachedJob, host: Host, screen: Screen) -> DetachedJob:
    """Bring a job's inputs onto its host; return the job as it is to be started there.

    Of the endpoint that is asked for the job uses only the name of the key's variable, and the
    time-out. Raises Refused, with nothing sent, or HostError; then the same command goes on
    sending.
    """
    inputs, flags, endpoint, model = (
        request.inputs, request.flags, request.endpoints[0], request.model
    )  # fmt: skip
    order_of(inputs, flags, flags.out or Path(f"{job.name}.jsonl"))
    files = {} if flags.check is None else {"check.json": flags.check.read_bytes()}
    key = _key(job.place, endpoint)
    seen = [mounted_folder(one.removeprefix(_HEAD)) for one in inputs if one.startswith(_HEAD)]
    with TemporaryDirectory() as copies:
        found = _inputs(inputs, flags, Path(copies), screen)
        _send(found, host, job.folder, screen)
    words = [*(one.word for one in found), *_words(flags, job)]
    words += ["--timeout", str(endpoint.timeout_s), *(["--model", model] if model else [])]
    words += ["--key-env", KEY_VARIABLE] if key else []
    return replace(
        job,
        argv=("batch", *words),
        once=("--retry-errors",) if flags.retry_errors else (),
        seen=tuple(dict.fromkeys(seen)),
        key=key,
        files=files,
    )


def _words(flags: BatchFlags, job: DetachedJob) -> list[str]:
    """Return the flags as the container is given them whenever it starts: with its own files, and
    no spec."""
    name, place = job.name, job.place
    words = ["-o", f"{name}.jsonl", "--errors", f"{name}.errors.jsonl"]
    words += ["--html", f"{name}.html"] if flags.html is not None else []
    words += ["--check", "check.json"] if flags.check is not None else []
    words += [word for url in place.urls for word in ("--url", url)]
    hosts = place.spec.cluster.host_count
    price = None if flags.price is None else flags.price * hosts
    at_first = flags.at_first or at_once(place.spec) or Limits.start
    return [*words, *as_words(replace(flags, price=price, at_first=at_first, retry_errors=False))]


def _inputs(names: Sequence[str], flags: BatchFlags, copies: Path, screen: Screen) -> list[Input]:
    """Return the inputs in their order, each file that is to be sent with its hash.

    A file's name on the head has its hash in it: so another one is never taken for it. Raises
    Refused.
    """
    shape = Shape(flags.kind) if flags.kind else None
    found: list[Input | Part] = []
    for number, name in enumerate(names):
        if name == STDIN:
            raise Refused(
                phrase("standard input cannot be sent to the head"),
                hint=phrase("write it into a file first, so that sending it can go on"),
            )
        if name.startswith(_HEAD):
            found.append(Input(f"{HEAD_FILES}{name.removeprefix(_HEAD)}"))
        elif "://" in name:
            found.append(Input(name))
        else:
            folder = copies / str(number)
            folder.mkdir(0o700)
            found += find_parts([name], folder, sys.stdin.buffer, shape)
    if not any(isinstance(one, Part) for one in found):
        return [one for one in found if isinstance(one, Input)]
    with screen.step(phrase("read what is to be sent")):
        return [one if isinstance(one, Input) else _to_send(Path(one.path)) for one in found]


def _to_send(path: Path) -> Input:
    content = content_of(path)
    return Input(f"inputs/{content.digest[:16]}-{path.name}", path, content)


def _send(inputs: Sequence[Input], host: Host, folder: str, screen: Screen) -> None:
    """Send the files that are not on the head yet. Raises HostError."""
    make = ("mkdir", "-p", "-m", "700", "--", folder, f"{folder}/inputs")
    host.run(make).check(phrase("cannot make the job's folder"), where=host.name)
    files = [one for one in inputs if one.content is not None and one.source is not None]
    if not files:
        return
    with screen.step(phrase("send {files} to {host}", files=counted(len(files), "file"),
                            host=host.name)) as step:  # fmt: skip

        def tell(sent: int, size: int) -> None:
            step.tick(f"{format_bytes(sent)} of {format_bytes(size)}", log_every_s=_TOLD_EVERY_S)

        for one in files:
            assert one.source is not None and one.content is not None
            send_file(host, one.source, f"{folder}/{one.word}", one.content, tell)


def _key(place: Place, endpoint: Endpoint) -> str | None:
    """Return the service's key, from the variable that the flag names, else from its spec's.

    Raises Refused where it is not set.
    """
    source = click.get_current_context().get_parameter_source("key_env")
    given = source is ParameterSource.COMMANDLINE
    variable = endpoint.key_name if given else place.spec.serve.api_key_env
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise Refused(
            phrase("the service asks for a key, and `{name}` is not set", name=variable),
            hint=phrase(
                "`export {name}=…`, or name another variable with `--key-env`", name=variable
            ),
        )
    check_key(key, variable)
    return key
