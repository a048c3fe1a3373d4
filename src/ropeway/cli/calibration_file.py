"""Where the constants of this machine are kept: one file in the user's cache folder."""

import json
import os
from pathlib import Path

from ropeway.checkpoints.fetch import default_root
from ropeway.errors import Refused
from ropeway.plan.calibration import Calibration, parse_calibration


def calibration_path() -> Path:
    """Beside the checkpoints."""
    return default_root(os.environ).parent / "calibration.json"


def write_calibration(found: Calibration, path: Path) -> None:
    """Keep it, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
    part.replace(path)


def read_calibration(path: Path) -> Calibration | None:
    """What was kept; None when nothing was. Raises Refused when it cannot be read."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    return parse_calibration(text, str(path))
