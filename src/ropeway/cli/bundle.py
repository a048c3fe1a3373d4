"""`ropeway bundle`: everything that support would ask for, in one file."""

import os
import sys
import zipfile
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import click

from ropeway.cli.bug_report import package_versions
from ropeway.cli.files import writing
from ropeway.cli.options import lang_option, screen_options
from ropeway.cli.target import Target, reached, target_options
from ropeway.durable import write_whole
from ropeway.errors import Exit, Refused
from ropeway.facts.bundle import ERROR, member_of
from ropeway.facts.redaction import redact, secret_values
from ropeway.launch.bundle import bundle_parts, secret_names
from ropeway.phrases import joined, phrase
from ropeway.report.console import Screen
from ropeway.units import counted


@click.command()
@target_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="The file to write.  [default: ropeway-bundle-NAME-TIME.zip]",
)  # fmt: skip
@lang_option
@screen_options
@click.pass_context
def bundle(ctx: click.Context, *, target: Target, output: Path | None, screen: Screen) -> None:
    """Collect spec, facts, logs and versions of a service into one file, without secrets.

    Hidden are the secrets of the spec (`api_key_env`, `secret_env`) whose variables are set here,
    those of this shell's variables that are named like secrets, and what is called or looks like
    one. Nothing else is promised: a secret with no such name or look stays, and so do prompts, if
    they are in logs. Look through the file before you hand it on. `ropeway doctor --bundle FILE`
    examines the hosts from it.

    Exit code 0: every host answered. 1: some did not; the file has what the others say.

    \b
    Example:
      ropeway bundle -o for-support.zip
    """
    here = "here everything is in `runs/`"
    target.check_remote(Refused("bundle is for services on real hosts", hint=here))
    if output is not None and output.exists():
        raise Refused("the file exists", where=str(output), hint="name another one")
    with (
        reached(target, acts=False) as service,
        screen.step(phrase("ask {hosts}", hosts=counted(len(service.hosts), "host"))) as step,
    ):
        name = service.name or "nothing"
        path = output or Path(f"ropeway-bundle-{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip")
        versions = ("versions.txt", "\n".join(package_versions()))
        parts = dict((versions, *bundle_parts(service)))
        named = secret_names(service)
        known = secret_values(sys.argv[1:], os.environ, named)
        unset = sorted(name for name in named if not os.environ.get(name))
        silent = [host for host in service.hosts if member_of(host) not in parts]
        hosts = counted(len(service.hosts), "host")
        answered = phrase(
            "{n} of {hosts} answered", n=len(service.hosts) - len(silent), hosts=hosts
        )
        (step.fail if silent else step.ok)(answered)
    for host in silent:
        screen.warn(phrase("{host}: {reason}", host=host, reason=parts[member_of(host, ERROR)]))
    content = BytesIO()
    with zipfile.ZipFile(content, "x", zipfile.ZIP_DEFLATED) as archive:
        for part, text in parts.items():
            archive.writestr(part, redact(text, known))
    with writing(path):
        write_whole(path, content.getvalue(), mode=0o600)
    if unset:
        screen.warn(
            phrase(
                "{names} not set here, so their values could not be looked for",
                names=joined(unset, ", "),
            )
        )
    screen.answer(phrase("wrote {path}; look through it before you hand it on", path=path))
    screen.result({"name": service.name, "file": str(path), "files": list(parts)})
    ctx.exit(Exit.NO if silent else Exit.OK)
