"""Which service a verb takes when several run, or when nobody has named one."""

import io
from pathlib import Path

import click
import pytest

from ropeway.cli.target import Target
from ropeway.errors import Refused
from ropeway.report.console import Screen
from ropeway.spec.model import dump_spec, local_spec


def target(*, local: bool = False, host: str | None = None, name: str | None = None) -> Target:
    return Target(Path("ropeway.yaml"), local, host, name, None)


@pytest.fixture(autouse=True)
def _down(tmp_path, monkeypatch):
    """The verb that asks, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    with click.Context(click.Command("down"), info_name="ropeway down"):
        yield


def at_terminal(monkeypatch, typed: str) -> io.StringIO:
    """Type this at a terminal; return what it shows."""
    stdin, stderr = io.StringIO(typed), io.StringIO()
    for name, stream in (("stdin", stdin), ("stderr", stderr)):
        monkeypatch.setattr(stream, "isatty", lambda: True)
        monkeypatch.setattr(f"sys.{name}", stream)
    return stderr


def test_the_only_one_is_enough_to_read_and_not_to_act():
    assert target().choose(["a"], acts=False) == "a"
    assert target().choose([], acts=True) is None
    with pytest.raises(Refused) as caught:
        target().choose(["a"], acts=True)
    assert caught.value.hint == "ropeway down --name a"
    for acts in (False, True):
        with pytest.raises(Refused) as caught:
            target(host="root@h").choose(["a", "b"], acts=acts)
        assert caught.value.evidence == ("a", "b")
        assert caught.value.hint == (
            "ropeway down --name a --host root@h\nropeway down --name b --host root@h"
        )


def test_a_name_the_spec_and_the_built_in_spec_say_which():
    assert target(name="b").choose(["a"], acts=True) == "b"
    assert target(local=True).choose(["a"], acts=True) == "ropeway"
    Path("ropeway.yaml").write_text(dump_spec(local_spec(name="mine")))
    for acts in (False, True):
        assert target().choose(["a"], acts=acts) == "mine"
    assert target(local=True).choose(["a"], acts=True) == "ropeway", "as `up --local` has it"
    with pytest.raises(Refused):
        target(host="h").choose(["a"], acts=True)


def test_a_terminal_is_asked(monkeypatch):
    shown = at_terminal(monkeypatch, "c\nb\n")
    assert target().choose(["a", "b"], acts=True) == "b"
    assert "which service? (a, b): " in shown.getvalue()


def test_nothing_here_is_not_nothing_on_the_hosts():
    for local in (False, True):
        out, err = io.StringIO(), io.StringIO()
        target(local=local).tell_nothing_runs(Screen(stdout=out, stderr=err))
        assert out.getvalue() == "nothing is running on this machine\n"
        assert ("`--host root@192.168.0.147`" in err.getvalue()) != local
