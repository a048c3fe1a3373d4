"""`ropeway up`: bring the model up and leave it running."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
from click.core import ParameterSource

from ropeway.bench.record import new_run_dir
from ropeway.cli.bringup import bring_up, deployment_for, read_spec, start_context, with_flags
from ropeway.cli.call import current_call
from ropeway.cli.options import config_option, dry_run_option, screen_options, yes_option
from ropeway.cli.rehearsal import rehearsal, rehearsed_spec, take_down_again
from ropeway.cli.target import checked_name
from ropeway.cli.up_hosts import Options, up_hosts
from ropeway.errors import Refused
from ropeway.launch.local.steps import dry_run as script_of
from ropeway.report.console import Screen
from ropeway.spec.model import Spec, dump_spec


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@click.option("--name", callback=checked_name, help="Name of the service, in place of the spec's.")
@click.option("--model", help="Checkpoint name or model folder, in place of the spec's.")
@click.option("--layout", help="Parallel layout, in place of the spec's: `TP2×PP2+EP`, `tp4`.")
@click.option("--port", type=click.IntRange(1, 65_535), help="In place of `serve.port`.")
@click.option("--ssh-config", metavar="FILE", help="Read in place of ~/.ssh/config.")
@click.option("--rehearse", metavar="FLEET", help="On virtual hosts: `2x8-910B4`; then down.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[:HOST[:NPU]]",
    help="With --rehearse: what goes wrong; may be given several times.",
)  # fmt: skip
@yes_option
@dry_run_option
@screen_options
def up(
    *,
    config: Path,
    local: bool,
    name: str | None,
    model: str | None,
    layout: str | None,
    port: int | None,
    ssh_config: str | None,
    rehearse: str | None,
    faults: Sequence[str],
    yes: bool,
    dry_run: bool,
    screen: Screen,
) -> None:
    """Bring the model up in one parallel layout and serve it.

    It is up when it has generated a token. It then runs on without us, and on real hosts comes back
    by itself after a crash or a reboot; `ropeway down` ends it. When the start fails or is
    interrupted, everything that was started is undone. Called again with another spec, it shows
    what differs, asks, and replaces what changed.

    \b
    Example:
      ropeway up --local --layout tp2,pp2,ep
      ropeway up --dry-run >commands.sh
      ropeway up --rehearse 64x8-910B4 --fault never-joins:host7
    """
    if faults and rehearse is None:
        raise Refused("`--fault` is for virtual hosts", hint="add `--rehearse 2x8-910B4`")
    virtual = rehearsal(rehearse, faults) if rehearse else None
    spec = rehearsed_spec(virtual, _named(config)) if virtual else read_spec(config, local=local)
    spec = with_flags(spec, name=name, model=model, layout=layout, port=port)
    folder = new_run_dir(Path("runs"), "up", datetime.now(UTC))
    options = Options(folder, dry_run, yes, ssh_config)
    if virtual:
        current_call().connect = virtual.connected
        up_hosts(spec, options, screen)
        if not dry_run:
            take_down_again(virtual, spec, screen)
    elif not spec.cluster.is_local:
        up_hosts(spec, options, screen)
    else:
        _up_local(spec, folder, screen, dry_run=dry_run)


def _named(config: Path) -> Path | None:
    """Return the spec file, if somebody named it."""
    source = click.get_current_context().get_parameter_source("config")
    return config if source is not ParameterSource.DEFAULT else None


def _up_local(spec: Spec, folder: Path, screen: Screen, *, dry_run: bool) -> None:
    """Bring the service up on this machine."""
    context = start_context(spec, screen)
    deployment = deployment_for(context, spec.serve.layout, folder)
    script = script_of(deployment)
    if dry_run:
        screen.answer(script)
        screen.result({"script": script, "layout": str(deployment.layout)})
        return
    screen.detail(script)
    folder.mkdir(parents=True)
    current_call().folder = folder
    seconds = bring_up(context, deployment, screen)
    (folder / "spec.yaml").write_text(dump_spec(spec), encoding="utf-8")
    (folder / "commands.sh").write_text(script + "\n", encoding="utf-8")
    screen.answer(f"{deployment.served_name} is up at {deployment.url}")
    screen.hint(f"ropeway chat --url {deployment.url}\nropeway down --name {deployment.service}")
    screen.result(
        {
            "name": deployment.service,
            "url": deployment.url,
            "model": deployment.served_name,
            "layout": str(deployment.layout),
            "start_seconds": round(seconds, 1),
            "folder": str(folder),
        }
    )
