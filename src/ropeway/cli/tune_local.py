"""`tune` on this machine: settings of the local cluster, brought up one after another."""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ropeway.bench.compare import NOTES
from ropeway.bench.served import Served
from ropeway.bench.trials import Serve
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.bringup import start_context
from ropeway.cli.measure import serving
from ropeway.errors import Refused
from ropeway.launch.local.process_start import refuse_second
from ropeway.phrases import Phrase, phrase
from ropeway.plan.calibration import calibration_path, read_calibration
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.request import LOCAL_ENGINE, request_for
from ropeway.plan.tuning import planned_starts, reach_of, starts_with, steps
from ropeway.report.console import Screen
from ropeway.spec.model import Layout, Spec
from ropeway.spec.setting import Setting


@dataclass(frozen=True)
class Searched:
    """What is searched: the spec's own setting, those named or the plan's best, all around them.

    layouts  those named; empty: the plan's
    most     settings to begin with
    varied   what is varied (`plan.tuning.VARIED`)
    """

    spec: Spec
    layouts: tuple[Layout, ...]
    most: int
    varied: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where settings are tried: on virtual hosts or real ones.

    starts  the settings to begin with
    steps   returns those that are one step away from one
    notes   what one must know of it to judge the figures
    """

    engine: str
    hardware: str
    starts: Sequence[Setting]
    steps: Callable[[Setting], Iterable[Setting]]
    serve: Serve
    notes: tuple[str, ...] = ()


def local_place(searched: Searched, screen: Screen) -> Place:
    """Return this machine as the place. Raises Refused."""
    spec = searched.spec
    refuse_second(spec.name)
    context = start_context(spec, screen)
    calibration = read_calibration(calibration_path(default_root(os.environ)))
    if calibration is None:
        raise Refused(
            phrase("the search begins with the plan's best, and this machine was not measured"),
            hint="ropeway calibrate --local",
        )
    request = request_for(spec, context.shape, LOCAL_ENGINE, calibration.machine)

    def serve(setting: Setting, folder: Path) -> AbstractContextManager[Served]:
        tried = replace(context, spec=setting.over(spec))
        return serving(tried, setting.layout, folder, screen)

    starts, nearby, notes = around(searched, request)
    return Place(context.engine_version, context.hardware, starts, nearby, serve, (*notes, *NOTES))


def around(
    searched: Searched, request: PlanRequest
) -> tuple[Sequence[Setting], Callable[[Setting], Iterable[Setting]], tuple[Phrase, ...]]:
    """Return the settings to begin with, the function of steps, and notes. Raises Refused."""
    spec = searched.spec
    own = Setting.of(spec) if spec.serve.has_layout and not searched.layouts else None
    starts: list[Setting] = [own] if own else []
    notes: tuple[Phrase, ...] = ()
    if own is None or "layout" in searched.varied:
        planned, notes = planned_starts(spec, request, searched.layouts)
        starts = starts_with(own, planned, searched.most)
    if not starts:
        raise Refused(
            phrase("there is no setting to begin with: by the planner's figures nothing fits"),
            hint="ropeway plan --all",
        )
    return starts, partial(steps, reach=reach_of(spec, request, searched.varied)), notes
