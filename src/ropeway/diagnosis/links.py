"""Read the table of links that HCCL prints when a rank does not answer (LINK_ERROR_INFO)."""

import re
from dataclasses import dataclass

from ropeway.diagnosis.log_lines import LogEntry


@dataclass(frozen=True)
class Link:
    """A row of LINK_ERROR_INFO: the rank `source_rank` waited for `destination_rank`.

    destination  IP address of the rank that was waited for
    status       `time out`, `no connect`, …; None where the row is cut off
    """

    destination: str
    destination_rank: int
    source_rank: int
    status: str | None = None


def read_link(entry: LogEntry) -> Link | None:
    """Return the row that this line holds, in the old form or the new one, which has ports.

    None for a line that is not a row, the table's header included.
    """
    row = _LINK.search(entry.message)
    if not row:
        return None
    return Link(
        row["destination"],
        int(row["destination_rank"]),
        int(row["source_rank"]),
        (row["status"] or "").strip() or None,
    )


_ADDRESS = r"[0-9a-fA-F.:]{3,60}(?:%[\w.-]{1,40})?"
# destination(rank) | [port |] source(rank) | [port |] role | status | TLS |
_LINK = re.compile(
    rf"\| {{0,20}}(?P<destination>{_ADDRESS})\((?P<destination_rank>\d{{1,7}})\) {{0,20}}\|"
    r"(?: {0,20}\d{1,12} {0,20}\|)?"
    rf" {{0,20}}{_ADDRESS}\((?P<source_rank>\d{{1,7}})\) {{0,20}}\|"
    r"(?: {0,20}\d{1,12} {0,20}\|)?"
    r"(?:[^|\n]{0,80}\|(?P<status>[^|\n]{0,80}))?"
)
