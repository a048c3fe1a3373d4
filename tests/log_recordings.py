"""Recorded logs, and what each of them says, checked by eye.

`recordings/logs/INDEX.tsv` gives the source of each; `NAME.json` holds the diagnosis and the
entries, without fields that are None.
"""

from facts_recordings import RECORDINGS, Recordings

LOGS = RECORDINGS / "logs"
_ALL = Recordings(LOGS)
recorded, text_of, expected_of = _ALL.names, _ALL.text_of, _ALL.expected_of
