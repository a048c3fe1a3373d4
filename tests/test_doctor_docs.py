"""docs/doctor.md names every check, and its session is what the command prints."""

import ast
import re
from pathlib import Path

from ropeway.cli.main import exit_code
from ropeway.doctor.checks import CAUSES
from ropeway.sim.faults import FAULTS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")


def checks_in_source() -> set[str]:
    """Every text in doctor/ that has the form of a check's name and begins a finding or a row."""
    found = set()
    for path in (ROOT / "src" / "ropeway" / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                first = node.args[0]
                found |= {first.value} if isinstance(first, ast.Constant) else set()
            if isinstance(node, ast.Tuple) and len(node.elts) == 6:
                first = node.elts[0]
                if isinstance(first, ast.Constant) and str(first.value).startswith("host-"):
                    found.add(first.value)
    return found


def test_every_check_is_in_the_table_and_no_other():
    table = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE))
    assert table == checks_in_source()


def test_every_fault_and_every_cause_names_a_check_that_exists():
    known = checks_in_source()
    assert {fault.check for fault in FAULTS.values()} <= known
    assert set(CAUSES) | {cause for causes in CAUSES.values() for cause in causes} <= known


def test_the_session_is_what_the_command_prints(capsys):
    session = PAGE.split("```console\n")[1].split("```")[0]
    command, _, shown = session.partition("\n")
    exit_code(command.removeprefix("$ ropeway ").split())
    said = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert said.strip() == shown.strip()
