"""`ropeway` as a user types it, on virtual hosts that live as long as the test."""

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from json_documents import read_document
from ropeway.cli.call import Call
from ropeway.cli.main import exit_code
from ropeway.hosts.child import sleep_cancellable
from ropeway.launch.clock import Clock
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.launching import Rehearsal, rehearsal_spec
from ropeway.sim.machine import Fleet, LaunchFaults, sound_fleet
from ropeway.sim.virtual_engine import Pace
from ropeway.spec.model import Serve, Spec, dump_spec

# By a clock that jumps; nothing but the `sleep` of scripts takes any time.
QUICK = Pace()
_YIELD_SECONDS = 1e-4  # of real time: the others get their turn, and a cancelled token is noticed


class JumpingClock(Clock):
    """A clock on which no time is lost: whoever sleeps moves it on at once.

    What several threads sleep at the same time adds up.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """See Clock.now."""
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        sleep_cancellable(_YIELD_SECONDS)
        with self._lock:
            self._now += seconds


class Cluster:
    """Virtual hosts, a folder with a spec, and the verbs."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], fleet: Fleet) -> None:
        self.folder = folder
        self.fleet = fleet
        self.spec = rehearsal_spec(sound_fleet(len(fleet.machines), 8, fleet.machines[0].kind))
        self.virtual = Rehearsal(fleet, QUICK, clock=JumpingClock())
        self.out = self.err = ""
        self._capsys = capsys

    def serve(self, **changes: Any) -> None:
        """Change keys of `serve` in the spec; a layout by its name."""
        data = {**self.spec.as_json()["serve"], **changes}  # type: ignore[dict-item]
        self.write(self.spec.model_copy(update={"serve": Serve.model_validate(data)}))

    def write(self, spec: Spec) -> None:
        """Take this spec from now on."""
        self.spec = spec
        (self.folder / "ropeway.yaml").write_text(dump_spec(spec))

    def change(self, section: str, **changes: Any) -> None:
        """Change keys of another section of the spec."""
        part = getattr(self.spec, section).model_copy(update=changes)
        self.write(self.spec.model_copy(update={section: part}))

    def pace(self, **changes: float) -> None:
        """Change how long things take. Before anything runs."""
        self.virtual = Rehearsal(self.fleet, replace(QUICK, **changes), clock=JumpingClock())

    def run(self, *args: str, spec: bool = True) -> int:
        """Return the exit code of a verb; its outputs are in `out` and `err` then."""
        if spec and not (self.folder / "ropeway.yaml").exists():
            self.write(self.spec)
        call = Call(connect=self.virtual.connected, clock=self.virtual.clock)
        code = exit_code(args, call=call)
        self.out, self.err = self._capsys.readouterr()
        return code

    def fails(self, code: int, *words: str) -> None:
        """Check that `up` ends with this code, says all of these words, and leaves nothing."""
        assert self.run("up") == code
        for text in words:
            assert text in self.error
        assert self.remains() == []

    @property
    def error(self) -> str:
        """The error as it was told, without the lines of progress before it."""
        return self.err[self.err.index("error: ") :]

    def json(self, *args: str) -> Any:
        """The JSON document of a verb, whatever its exit code."""
        self.run(*args, "--json")
        return read_document(self.out)

    def containers(self) -> dict[str, str]:
        """Name → id, of all hosts."""
        return {
            one.name: one.id
            for machine in self.fleet.machines
            for one in self.virtual.state(machine.name).engine.every
        }

    def remains(self) -> list[str]:
        """See `remains`."""
        return remains(self.virtual)

    def logs(self) -> dict[str, str]:
        """Name → text of all files in this folder's runs."""
        return {
            str(path.relative_to(self.folder)): path.read_text()
            for path in self.folder.glob("runs/*/*")
        }

    def last_audit(self, host: str = "host1") -> dict[str, str]:
        """Return the last entry of a host's audit log."""
        text = self.virtual.state(host).files["/var/lib/ropeway/audit.log"]
        entry: dict[str, str] = json.loads(text.splitlines()[-1])
        return entry


def remains(virtual: Rehearsal) -> list[str]:
    """What a service has left on any machine: containers, folders, files, locks."""
    remains = []
    for name in (machine.name for machine in virtual.fleet.machines):
        state = virtual.state(name)
        state.settle()
        own = (f"{state.base}/holder", f"{state.base}/audit.log")
        files = [path for path in state.files if path.startswith(f"{state.base}/")]
        remains += [f"{name}: {len(state.late)} commands"] if state.late else []
        remains += [f"{name}: container {one}" for one in state.engine.by_name]
        remains += [f"{name}: folder {folder}" for folder in state.folders]
        remains += [f"{name}: {path}" for path in files if path not in own]
        remains += [f"{name}: locked"] if state.lock.locked() else []
    return remains


def fleet_with(*faults: str, size: str = "2x8-910B4", **in_launch: LaunchFaults) -> Fleet:
    """A sound fleet with faults by name (`disk-full:host2`), or with those of a launch by host."""
    fleet = faulty_fleet(size, faults, launch=True)
    names = [machine.name for machine in fleet.machines]
    for host, found in in_launch.items():
        index = names.index(host)
        fleet = fleet.with_machine(index, replace(fleet.machines[index], faults=found))
    return fleet


Make = Callable[..., Cluster]


@pytest.fixture
def cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Make:
    """A function that makes a Cluster, given a Fleet (a sound one of two hosts if not)."""
    monkeypatch.chdir(tmp_path)
    return lambda fleet=None: Cluster(tmp_path, capsys, fleet or fleet_with())
