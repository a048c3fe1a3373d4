"""`ropeway init`: write an annotated spec, for this machine or for hosts."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from ropeway.cli.files import writing
from ropeway.cli.init_hosts import spec_of_hosts
from ropeway.cli.options import lang_option, remote_host, screen_options, ssh_config_option
from ropeway.durable import write_whole
from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.model import DEFAULT_FILE, parse_spec
from ropeway.spec.samples import hosts_sample_text, sample_text


@click.command()
@lang_option
@screen_options
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_FILE)
@click.option(
    "--host", "addresses", multiple=True, metavar="HOST",
    help="A host of the cluster, as `user@address:port`: asked what it has; give it once for each.",
)  # fmt: skip
@click.option(
    "--model", "model_path", metavar="DIR",
    help="With --host: the model's directory on the hosts, for the plan's choice of layout.",
)  # fmt: skip
@ssh_config_option
@click.option("--hosts-sample", is_flag=True, help="The sample for hosts; no host is asked.")
@click.option("--force", is_flag=True, help="Overwrite an existing FILE.")
def init(
    *,
    screen: Screen,
    file: Path,
    addresses: Sequence[str],
    model_path: str | None,
    ssh_config: str | None,
    hosts_sample: bool,
    force: bool,
) -> None:
    """Write an annotated spec to FILE (by default ropeway.yaml).

    Without flags it is a sample that serves a small model on this machine. With `--host` it is for
    these hosts: they are asked over SSH for their NPUs and interfaces, and for the model, whose
    layout is then planned as `ropeway plan --write` does it. Nothing on them is changed.

    \b
    Example:
      ropeway init
      ropeway init --host root@192.168.0.11 --host root@192.168.0.12
    """
    if model_path and not addresses:
        raise Refused(
            phrase("`--model` is looked for on hosts, and there is no `--host`"),
            hint=phrase("for a small model on this machine: `model.name` in the sample"),
        )
    if hosts_sample and addresses:
        raise Refused(
            phrase("`--hosts-sample` asks no host"), hint=phrase("leave one of the two out")
        )
    if file.exists() and not force:
        raise _exists(file)
    option = "" if str(file) == DEFAULT_FILE else f" --config {shlex.quote(str(file))}"
    if addresses:
        hosts = tuple(map(remote_host, addresses))
        text, spec = spec_of_hosts(hosts, model_path, ssh_config, screen)
    else:
        text = hosts_sample_text() if hosts_sample else sample_text()
        spec = parse_spec(text, "the sample")
    _write(file, text, force)
    if spec.cluster.is_local:
        then = phrase("bring it up with `ropeway up{option}`", option=option)
    elif model_path:
        then = phrase("next: `ropeway doctor{option}`, then `ropeway up{option}`", option=option)
    else:
        then = phrase(
            "put in what is missing, such as `model.path`, then `ropeway plan{option} --write`",
            option=option,
        )
    screen.answer(phrase("wrote {file}; {then}", file=file, then=then))
    screen.result({"file": str(file), "spec": spec.as_json()})


def _write(file: Path, text: str, force: bool) -> None:
    """Write the file, whole or not at all. Raises Refused when it exists and `force` is false, or
    on an error."""
    if file.exists() and not force:  # while the hosts were asked
        raise _exists(file)
    with writing(file):
        write_whole(file, text.encode())


def _exists(file: Path) -> Refused:
    return Refused(
        phrase("the file exists already; it was not changed"),
        where=str(file),
        hint=phrase("choose another name, or overwrite it with `--force`"),
    )
