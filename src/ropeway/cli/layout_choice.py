"""What the planner says before `up`: where what is known of hosts and machine meets the plan."""

from dataclasses import replace
from pathlib import Path

from ropeway.errors import Refused
from ropeway.launch.complete import chip_of, release_for
from ropeway.launch.up import Preparation
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.plan.calibration import calibration_path, read_calibration
from ropeway.plan.candidate import PlanRequest
from ropeway.plan.choice import with_layout, with_local_layout
from ropeway.plan.request import request_for_hosts
from ropeway.spec.model import Spec


def planned(preparation: Preparation) -> Preparation:
    """Return the preparation with a layout that fits, as far as that can be told.

    Raises LayoutError for one that does not fit, Refused where none does or the chip is not known.
    """
    spec = preparation.spec
    chip = chip_of(spec, tuple(preparation.facts.values()))
    version = release_for(spec, {}, "").version
    spec, notes = with_layout(spec, preparation.model.shape, chip, version)
    return replace(preparation, spec=spec, notes=notes)


def request_of(preparation: Preparation) -> PlanRequest:
    """Return what is asked of the planner for these hosts. Raises Refused without a known chip."""
    spec = preparation.spec
    chip = chip_of(spec, tuple(preparation.facts.values()))
    if chip is None:
        raise Refused(
            phrase("the search begins with the plan's best, and which chip the hosts have is not"
                   " known"),
            where="cluster.chip",
            hint=phrase("write `chip: 910B4` below `cluster`"),
        )  # fmt: skip
    version = release_for(spec, {}, "").version
    return request_for_hosts(spec, preparation.model.shape, chip, version)


def planned_locally(
    spec: Spec, shape: ModelShape, checkpoints: Path
) -> tuple[Spec, tuple[str, ...]]:
    """Return a spec of this machine with a layout, and notes on it. Raises Refused.

    `checkpoints` is the folder of fetched models, beside which the calibration lies.
    """
    named = spec.serve.has_layout
    calibration = None if named else read_calibration(calibration_path(checkpoints))
    return with_local_layout(spec, shape, calibration.machine if calibration else None)
