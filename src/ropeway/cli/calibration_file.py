"""Where the constants of this machine are kept: one file in the user's cache folder."""

import json
import os
from pathlib import Path

from ropeway.checkpoints.fetch import default_root
from ropeway.errors import HostError, Refused
from ropeway.hosts.local import replace_file
from ropeway.plan.calibration import Calibration, parse_calibration


def calibration_path() -> Path:
    """Beside the checkpoints."""
    return default_root(os.environ).parent / "calibration.json"


def write_calibration(found: Calibration, path: Path) -> None:
    """Keep it, whole or not at all. Raises HostError when it cannot be written."""
    text = json.dumps(found.as_json(), indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"cannot make `{path.parent}`: {error.strerror}") from None
    replace_file(path, text.encode())


def read_calibration(path: Path) -> Calibration | None:
    """What was kept; None when nothing was. Raises Refused when it cannot be read."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot read `{path}`: {(error.strerror or str(error)).lower()}") from None
    return parse_calibration(text, str(path))
