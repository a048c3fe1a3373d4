"""docs/doctor.md names every check, and its session is what the command prints."""

import re
from pathlib import Path

from ropeway.cli.main import exit_code
from ropeway.doctor.checks import CAUSES, GROUPS
from ropeway.sim.faults import FAULTS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")


CHECKS = {check.id for checks in GROUPS.values() for check in checks}


def test_every_check_is_in_the_table_and_no_other():
    table = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert table == CHECKS


def test_every_fault_and_every_cause_names_a_check_that_exists():
    assert len(FAULTS) >= 30
    assert {fault.check for fault in FAULTS.values()} <= CHECKS
    assert set(CAUSES) | {cause for causes in CAUSES.values() for cause in causes} <= CHECKS


def test_the_session_is_what_the_command_prints(capsys):
    session = PAGE.split("```console\n")[1].split("```")[0]
    command, _, shown = session.partition("\n")
    exit_code(command.removeprefix("$ ropeway ").split())
    output = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert output.strip() == shown.strip()
