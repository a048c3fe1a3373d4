"""`ropeway diagnose`: name the cause of a failure from the logs of all ranks."""

from dataclasses import asdict

import click

from ropeway.cli.options import lang_option, screen_options
from ropeway.diagnosis.decide import diagnose_blocks
from ropeway.diagnosis.failure_table import table_data, table_page
from ropeway.diagnosis.log_files import WHERE_LOGS_ARE, blocks_of, find_logs, name_of, size_of
from ropeway.errors import Exit, Refused
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.report.diagnosis import diagnosis_view
from ropeway.units import format_bytes

# Reading more than this takes seconds, so the user is told.
_LARGE_BYTES = 200_000_000


@click.command()
@click.argument("logs", metavar="LOG…", nargs=-1)
@click.option("--table", is_flag=True, help="Print all known failures, as Markdown.")
@lang_option
@screen_options
@click.pass_context
def diagnose(ctx: click.Context, *, logs: tuple[str, ...], table: bool, screen: Screen) -> None:
    """Find the line of the logs that says why a start or a run failed.

    LOG is a file (also .gz, .bz2, .xz), a directory such as ~/ascend/log or that of a run, a pipe,
    or - for stdin.
    Give the logs of all hosts together: the cause is often in the log of another rank.

    Exit code 0: no line reports a failure. 1: one does, whether its cause is known or not. 2: a
    log does not exist or cannot be read, or all are empty.

    \b
    Example:
      ropeway diagnose runs/2026-01-31T10-12-00Z-up
      ropeway diagnose engine.log host2/plog --json
      ropeway diagnose --table
    """
    if bool(logs) == table:
        raise click.UsageError("give either LOG… or --table", ctx)
    if table:
        screen.answer(table_page(screen.language).rstrip())
        screen.result(table_data())
        return
    unread: list[str] = []
    paths = find_logs(logs, unread)
    places = len(paths) + len(unread)
    size = sum(map(size_of, paths))
    if size > _LARGE_BYTES:
        screen.say(f"reading {len(paths)} logs, {format_bytes(size)}")
    diagnosis = diagnose_blocks(
        (name_of(path), blocks_of(path, unread, screen.say)) for path in paths
    )
    for failure in unread:
        screen.warn(failure)
    if unread and diagnosis.verdict == "healthy":
        raise Refused(
            phrase(
                "{unread} of {logs} logs could not be read to the end",
                unread=len(unread),
                logs=places,
            ),
            evidence=unread[:5],
            hint="what could be read reports no failure",
        )
    if not any(log.characters for log in diagnosis.logs):
        names = ", ".join(log.name for log in diagnosis.logs[:5])
        raise Refused(phrase("there is nothing to read"), where=names, hint=WHERE_LOGS_ARE)
    screen.answer(diagnosis_view(diagnosis, screen.language))
    screen.result({**asdict(diagnosis), "unread": unread})
    ctx.exit(Exit.OK if diagnosis.verdict == "healthy" else Exit.NO)
