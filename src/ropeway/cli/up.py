"""`ropeway up`: bring the model up and leave it running."""

from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.bench.record import new_run_dir
from ropeway.cli.bringup import bring_up, deployment_for, read_spec, stand, with_flags
from ropeway.cli.call import current_call
from ropeway.cli.options import config_option, dry_run_option, screen_options
from ropeway.cli.service import checked_name
from ropeway.launch.local.steps import dry_run as script_of
from ropeway.report.console import Screen
from ropeway.spec import dump_spec


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@click.option("--name", callback=checked_name, help="Name of the service, in place of the spec's.")
@click.option("--model", help="Checkpoint name or model folder, in place of the spec's.")
@click.option("--layout", help="Parallel layout, in place of the spec's: `TP2×PP2+EP`, `tp4`.")
@click.option("--port", type=click.IntRange(1, 65_535), help="In place of `serve.port`.")
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
    dry_run: bool,
    screen: Screen,
) -> None:
    """Bring the model up in one parallel layout and serve it.

    It is up when it has generated a token. It then runs on without us; `ropeway down` ends it.
    When the start fails or is interrupted, everything that was started is undone.

    \b
    Example:
      ropeway up --local --layout tp2,pp2,ep
    """
    spec = with_flags(
        read_spec(config, local=local), name=name, model=model, layout=layout, port=port
    )
    ground = stand(spec, screen)
    folder = new_run_dir(Path("runs"), "up", datetime.now(UTC))
    deployment = deployment_for(ground, spec.serve.layout, folder)
    script = script_of(deployment, ground.engine)
    if dry_run:
        screen.answer(script)
        screen.result({"script": script, "layout": str(deployment.layout)})
        return
    screen.detail(script)
    folder.mkdir(parents=True)
    current_call().folder = folder
    seconds = bring_up(ground, deployment, screen)
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
