"""What is said when the disk does not take a file of a job."""

import errno
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ropeway.errors import RopewayError, reason_of
from ropeway.phrases import phrase
from ropeway.units import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)


def cannot_write(
    path: Path, error: OSError, *, evidence: Sequence[str] = (), hint: str
) -> RopewayError:
    """Return the error that says why a file cannot be written, and what room there is."""
    lines = list(evidence)
    if error.errno in _FULL:
        with suppress(OSError):
            free = format_bytes(shutil.disk_usage(path.parent).free)
            lines = [phrase("{free} of disk are free there", free=free), *lines]
    return RopewayError(
        phrase("the batch job's file cannot be written: {reason}", reason=reason_of(error)),
        where=str(path),
        evidence=lines,
        hint=hint,
    )
