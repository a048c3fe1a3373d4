"""Values put into a spec file: what `plan --write` and `tune --write` share."""

from collections.abc import Sequence
from pathlib import Path

from ropeway.errors import SpecError
from ropeway.hosts.local import replace_file
from ropeway.phrases import joined, phrase
from ropeway.report.console import Screen
from ropeway.spec.editing import Edit, apply_edits, reasoned_keys
from ropeway.spec.file import SpecFile, changes
from ropeway.spec.model import Spec, parse_spec


def write_into_spec(
    screen: Screen, config: Path, file: SpecFile, after: Spec, edits: Sequence[Edit]
) -> list[dict[str, object]]:
    """Make the edits in the file, and say what has changed; return that.

    after  what the file is to say then. Raises SpecError where it cannot be edited to say that,
           Refused where it cannot be written.
    """
    text = apply_edits(file.text, edits)
    if parse_spec(text, str(config)).as_json() != after.as_json():
        raise SpecError(
            phrase("the file cannot be edited without spoiling the way it is written"),
            where=str(config),
            evidence=[f"{'.'.join(edit.path)}: {edit.value}" for edit in edits],
            hint=phrase("put these values into it by hand"),
        )
    replace_file(config.resolve(), text.encode())
    rows = changes(file.spec, edits)
    for row in rows:
        before, after_ = (row[name] or phrase("blank") for name in ("before", "after"))
        screen.say(phrase("{key}: {before} → {after}", key=row["key"], before=before, after=after_))
    said = "wrote {file}" if rows else "{file} holds this choice already"
    screen.say(phrase(said, file=config))
    given = [edit for edit in edits if edit.why and edit.value is not None]
    missing = [edit.path for edit in given if edit.path not in reasoned_keys(text, edit.by)]
    if bare := dict.fromkeys(section for section, _ in missing):
        screen.say(
            phrase(
                "without the reasons: between the braces of {sections} comments have no room",
                sections=joined((f"`{section}`" for section in sorted(bare)), ", "),
            )
        )
    return rows
