"""What is said when the disk does not take a file of a job."""

import errno
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.phrases import phrase
from ropeway.units import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)


def cannot_write(
    path: Path, error: OSError, *, evidence: Sequence[str] = (), hint: str
) -> RopewayError:
    """Return the error that says why a file cannot be written, and what room there is."""
    return RopewayError(**_said(path, error), evidence=[*_room(path, error), *evidence], hint=hint)


def cannot_begin(path: Path, error: OSError) -> Refused:
    """Return the refusal of a job one of whose files cannot be written."""
    hint = phrase("nothing was sent")
    return Refused(**_said(path, error), evidence=_room(path, error), hint=hint)


def _said(path: Path, error: OSError) -> dict[str, str]:
    what = phrase("the batch job's file cannot be written: {reason}", reason=reason_of(error))
    return {"what": what, "where": str(path)}


def _room(path: Path, error: OSError) -> list[str]:
    if error.errno in _FULL:
        with suppress(OSError):
            free = format_bytes(shutil.disk_usage(path.parent).free)
            return [phrase("{free} of disk are free there", free=free)]
    return []
