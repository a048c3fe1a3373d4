"""The trials of `tune` as they are made: each is brought up, asked, measured, and kept.

Its folder holds `search.json`, what is searched and under which load; `trials.jsonl`, a line for
each trial; and a folder for each, with its logs and raw timings.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ropeway.bench.record import (
    SCHEMA,
    folder_name,
    holds_a_run,
    new_folder,
    recorded,
    write_json,
)
from ropeway.bench.rounds import Round
from ropeway.bench.served import Rounds, Served
from ropeway.bench.tuning import (
    Next,
    Trial,
    best_of,
    figure_of,
    is_enough,
    next_trial,
    scatter_of,
)
from ropeway.errors import (
    CheckFailed,
    EndpointError,
    HostError,
    LaunchError,
    LayoutError,
    Refused,
    RopewayError,
    reason_of,
)
from ropeway.outside import is_there, parse_json, read_bounded
from ropeway.phrases import joined, phrase
from ropeway.spec.setting import Setting
from ropeway.units import counted

Ended = Literal["complete", "time limit", "interrupted", "hosts gone", "not recorded"]
Serve = Callable[[Setting, Path], AbstractContextManager[Served]]
"""Brings a setting up, with its logs in the folder, and takes it down at the end.

Raises LayoutError or Refused when it cannot run, LaunchError or HostError when it does not start,
CheckFailed when the hosts do not allow it, HostsGone when nothing can be tried there any more, any
other RopewayError when what comes of it cannot be kept.
"""


class HostsGone(Exception):
    """Ends a search: its hosts do not answer, or are no longer ours. `error` says why."""

    def __init__(self, error: RopewayError) -> None:
        super().__init__(error.what)
        self.error = error


@contextmanager
def not_the_setting() -> Iterator[None]:
    """Let what is refused inside the block end the search: it is not the setting's fault."""
    try:
        yield
    except Refused as error:
        raise RopewayError(
            error.what, where=error.where, evidence=error.evidence, hint=error.hint
        ) from error


_SEARCH, _TRIALS = "search.json", "trials.jsonl"
# Without a search beside them they are of something else.
_FOREIGN = (_TRIALS, "tuning.json", "conditions.json")
_LONGEST = 2**26


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other searches out of a folder inside the block. Raises Refused where one is running."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Refused(
            phrase("another search is running in this directory"),
            where=str(folder),
            hint=phrase("wait until it has ended, or give `--out` another directory"),
        ) from None
    finally:
        os.close(handle)


@dataclass
class Trials:
    """A search under way. What was measured stays, whatever comes later.

    sent     the load
    folder   of the whole search
    confirm  whether it ends with second trials of its best and of what it began with
    measured trials so far, in their order
    gone     why the search ended before its time: its hosts, or what could not be sent or kept
    """

    sent: Rounds
    folder: Path
    confirm: bool = True
    measured: list[Trial] = field(default_factory=list)
    gone: RopewayError | None = None

    def take_up(self, search: Mapping[str, object]) -> None:
        """Begin in the folder, or go on with what an earlier search measured there.

        search  what is searched and how, which an earlier search must have had too. Raises Refused
                where it had not, where the folder holds something else, or cannot be read.
        """
        path = self.folder / _SEARCH
        if not is_there(path):
            if any(is_there(self.folder / name) for name in _FOREIGN):
                raise holds_a_run(self.folder)
            with recorded(self.folder):
                write_json(path, search)
            return
        before = _read(path)
        now: dict[str, object] = json.loads(json.dumps({"schema": SCHEMA, **search}))
        unlike = [name for name in now if before.get(name) != now[name]]
        if unlike:
            raise Refused(
                phrase("the search in this directory was another one"),
                where=str(path),
                evidence=[
                    phrase("`{name}` was {old}, and is {new}", name=name,
                           old=_short(before.get(name)), new=_short(now[name]))
                    for name in unlike
                ],
                hint=phrase("give the same spec and flags to go on, or `--out` another directory"),
            )  # fmt: skip
        self.measured = list(_kept(self.folder / _TRIALS))

    def run(
        self,
        starts: Sequence[Setting],
        steps: Callable[[Setting], Iterable[Setting]],
        serve: Serve,
        limit_s: float | None = None,
    ) -> Ended:
        """Make trials until the search is at its end, or another would exceed the limit.

        limit_s  seconds from now. An interrupt ends it too, hosts that are gone, and a load that
                 cannot be sent or recorded; then the trial under way is given up, unless it has all
                 its rounds.
        """
        began = time.monotonic()
        try:
            while (following := self.following(starts, steps)) is not None:
                longest = max((trial.seconds for trial in self.measured), default=0.0)
                if limit_s is not None and time.monotonic() - began + longest > limit_s:
                    return "time limit"
                self._tell(following, starts)
                self._measure(following, serve)
        except KeyboardInterrupt:
            return "interrupted"
        except HostsGone as gone:
            self.gone = gone.error
            return "hosts gone"
        except RopewayError as error:
            self.gone = error
            return "not recorded"
        return "complete"

    def following(
        self, starts: Sequence[Setting], steps: Callable[[Setting], Iterable[Setting]]
    ) -> Next | None:
        """Return what is measured next; None when the search has come to its end."""
        return next_trial(starts, steps, self.measured, confirm=self.confirm)

    def _measure(self, following: Next, serve: Serve) -> None:
        """Bring a setting up, measure it, and keep the trial. One that fails is a trial too.

        What ends the search while the setting is taken down comes after that: its rounds are whole.
        """
        setting, confirms = following
        # A trial that was given up has left its folder.
        name = f"{len(self.measured) + 1:02d}-{folder_name(setting.layout)}"
        folder, began = new_folder(self.folder, name), time.monotonic()
        # Nobody chooses among those that confirm, so that they get all rounds.
        best = None if confirms else best_of(self.measured)
        rounds: list[Round] = []
        trial = Trial(setting=setting, confirms=confirms, folder=str(folder))
        whole = False
        try:
            with serve(setting, folder) as served:
                trial = replace(trial, start_s=served.start_s, answer=self.sent.ask(served))
                self._send(served, trial, best, rounds)
                whole = True
        except (LayoutError, Refused) as error:
            trial = self._failed(trial, (error.what, *error.evidence))
            whole = True
        except (LaunchError, EndpointError, HostError, CheckFailed) as error:
            trial = self._failed(trial, (error.what, *error.evidence[:1]))
            whole = True
        finally:
            if whole:
                figures, seconds = self._figures(rounds), time.monotonic() - began
                self._keep(replace(trial, figures=figures, rounds=tuple(rounds), seconds=seconds))

    def _send(self, served: Served, trial: Trial, best: Trial | None, rounds: list[Round]) -> None:
        """Add rounds until they are enough, in comparison with the best if there is one.

        Raises EndpointError after one with failures, so that who serves can say whether hosts are
        the cause.
        """
        assert trial.folder
        scatter, most = scatter_of(self.measured), self.sent.rounds
        while not is_enough(self._figures(rounds), best, scatter, most):
            own = Path(trial.folder) / f"round-{len(rounds) + 1}"
            with not_the_setting():
                rounds.append(self.sent.send(served, str(trial.setting.words), len(rounds), own))
            if failed := rounds[-1].failed:
                requests = counted(failed, "request")
                raise EndpointError(
                    phrase("{requests} failed", requests=requests), where=served.endpoint.url
                )

    def _failed(self, trial: Trial, why: Iterable[str]) -> Trial:
        trial = replace(trial, error=joined(why))
        self.sent.screen.warn(phrase("{setting}: {why}", setting=trial.setting.words,
                                     why=trial.error))  # fmt: skip
        return trial

    def _figures(self, rounds: Iterable[Round]) -> tuple[float, ...]:
        return tuple(figure_of(one, self.sent.load.goals) for one in rounds)

    def _tell(self, following: Next, starts: Sequence[Setting]) -> None:
        setting, confirms = following
        number, best = len(self.measured) + 1, best_of(self.measured)
        place = phrase("a step from the best")
        if confirms:
            place = phrase("a second time, to confirm")
        elif setting in starts:
            place = phrase("{n} of {all} that the search begins with", n=number, all=len(starts))
        self.sent.screen.say(
            phrase(
                "trial {number} ({place}): {setting}; the best so far: {best}",
                number=number,
                place=place,
                setting=setting.words,
                best=best.setting.words if best else "–",
            )
        )

    def _keep(self, trial: Trial) -> None:
        path, line = self.folder / _TRIALS, json.dumps(trial.as_json(), ensure_ascii=False) + "\n"
        self.measured.append(trial)
        with recorded(path), path.open("ab") as file:
            file.write(line.encode(errors="backslashreplace"))


def _kept(path: Path) -> Iterator[Trial]:
    """Yield the trials of a record; a line that was cut off when its process ended is none.

    Raises Refused.
    """
    if not is_there(path):
        return
    try:
        lines = read_bounded(path, _LONGEST)
        whole = lines[: lines.rfind(b"\n") + 1]
        if whole != lines:
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            yield Trial.from_json(parse_json(line))
    except OSError as error:
        why = reason_of(error)
    except (KeyError, TypeError, ValueError, Refused) as error:
        why = str(error.args[0]) if error.args else str(error)
    else:
        return
    raise Refused(phrase("these are no trials of `ropeway tune`: {why}", why=why), where=str(path))


def _read(path: Path) -> dict[str, object]:
    try:
        document = parse_json(read_bounded(path, _LONGEST))
        if isinstance(document, dict):
            return document
        why: str = phrase("it is no mapping")
    except OSError as error:
        why = reason_of(error)
    except ValueError as error:
        why = str(error)
    raise Refused(phrase("this is no search of `ropeway tune`: {why}", why=why), where=str(path))


def _short(value: object) -> str:
    """Return a value for people, and of a long one its beginning."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
