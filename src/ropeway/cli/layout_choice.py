"""What the planner says before `up`: a layout where the spec names none, and whether it fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ropeway.errors import LayoutError, Refused
from ropeway.hardware import Chip
from ropeway.launch.complete import chip_of, release_for
from ropeway.launch.up import Preparation
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.plan.calibration import calibration_path, read_calibration
from ropeway.plan.choice import Choice, choice, local_choice, room
from ropeway.plan.layout import problems
from ropeway.spec.model import Layout, Spec
from ropeway.units import format_bytes

# What the sample of `ropeway init` has for two virtual hosts.
_SAMPLE = Layout(tensor=2, pipeline=2, expert=True)


def planned(preparation: Preparation) -> Preparation:
    """Return the preparation with a layout that fits, as far as that can be told.

    Raises LayoutError for one that does not fit, Refused where none does or the chip is not known.
    """
    spec, shape = preparation.spec, preparation.model.shape
    chip = chip_of(spec, tuple(preparation.facts.values()))
    version = release_for(spec, {}, "").version
    notes: list[str] = []
    if _is_blank(spec):
        if chip is None:
            raise Refused(
                phrase("`serve.layout` is blank, and which chip the hosts have is not known"),
                where="cluster.chip",
                hint=phrase("write `chip: 910B4` below `cluster`, or name a layout"),
            )
        chosen = choice(spec, shape, chip, version)
        _check_key(chosen)
        spec = chosen.spec
        notes += _said(chosen)
    if chip is None:
        notes.append(phrase("whether it fits was not checked: `cluster.chip` is not known"))
    else:
        notes += _fit_notes(spec, shape, chip, version)
    return replace(preparation, spec=spec, notes=tuple(notes))


def planned_locally(spec: Spec, shape: ModelShape, checkpoints: Path) -> tuple[Spec, Sequence[str]]:
    """Return a spec of this machine with a layout, and notes on it.

    It is the plan's choice where this machine's speed was measured, else the sample's. Raises
    Refused where that cannot run.
    """
    if not _is_blank(spec):
        return spec, ()
    calibration = read_calibration(calibration_path(checkpoints))
    if calibration is not None:
        chosen = local_choice(spec, shape, calibration.machine)
        return chosen.spec, _said(chosen)
    if reasons := problems(_SAMPLE, shape, spec.cluster):
        raise Refused(
            phrase("`serve.layout` is blank, and the sample's {layout} cannot run", layout=_SAMPLE),
            where="serve.layout",
            evidence=reasons,
            hint=phrase("name a layout, or have one chosen after `ropeway calibrate --local`"),
        )
    note = phrase(
        "layout {layout}, as in the sample: the speed of this machine was not measured"
        " (`ropeway calibrate --local`)",
        layout=_SAMPLE,
    )
    serve = spec.serve.model_copy(update={"layout": _SAMPLE})
    return spec.model_copy(update={"serve": serve}), (note,)


def _check_key(chosen: Choice) -> None:
    """Raise Refused where the choice needs a key, and the spec names none."""
    serve = chosen.spec.serve
    if serve.replicas > 1 and chosen.candidate.hosts > 1 and not serve.api_key_env:
        raise Refused(
            phrase("the plan's choice for a blank `serve.layout` needs `serve.api_key_env`"),
            where="serve.layout",
            evidence=(chosen.why,),
            hint=phrase(
                "`serve.api_key_env` names the environment variable that holds a key: replicas on"
                " several hosts are reached over the network\nor name a layout; `ropeway plan"
                " --all` lists those of one engine"
            ),
        )


def _fit_notes(spec: Spec, shape: ModelShape, chip: Chip, version: str) -> list[str]:
    """Say that a layout fits by less than the figures may be off. Raises LayoutError where it does
    not fit."""
    found = room(spec, shape, chip, version)
    if not found.fits:
        raise LayoutError(
            phrase(
                "{layout} does not fit: {missing} are missing on an NPU of {chip}",
                layout=spec.serve.layout, missing=format_bytes(-found.spare), chip=chip.name,
            ),
            where="serve.layout",
            evidence=(found.words,),
            hint=phrase(
                "`ropeway plan` shows what fits; a shorter `serve.context` needs less, and a higher"
                " `serve.memory` gives more"
            ),
        )  # fmt: skip
    if not found.tight:
        return []
    return [
        phrase(
            "{layout} fits by {spare} an NPU, and such figures may be off by {error}",
            layout=spec.serve.layout,
            spare=format_bytes(found.spare),
            error=format_bytes(found.error),
        )
    ]


def _is_blank(spec: Spec) -> bool:
    return "layout" not in spec.serve.model_fields_set


def _said(chosen: Choice) -> list[str]:
    return [phrase("layout: the plan's choice, {why}", why=chosen.why), *chosen.doubts]
