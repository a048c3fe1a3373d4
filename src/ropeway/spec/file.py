"""A spec as it stands in its file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ropeway.spec.editing import Edit
from ropeway.spec.model import Spec, parse_spec
from ropeway.spec.yaml import load_yaml, read_text


@dataclass(frozen=True)
class SpecFile:
    """A spec with the name and the text of its file."""

    name: str
    text: str
    spec: Spec

    def places(self) -> dict[str, str]:
        """Return where each key of a section stands: `serve.context` → `ropeway.yaml:24`."""
        lines = load_yaml(self.text, self.name).lines
        return {key: f"{self.name}:{line}" for key, line in lines.items() if key.count(".") == 1}


def read_spec_file(path: Path) -> SpecFile:
    """Read and validate a spec. Raises SpecError."""
    text = read_text(path)
    return SpecFile(path.name, text, parse_spec(text, str(path)))


def changes(before: Spec, edits: Iterable[Edit]) -> list[dict[str, object]]:
    """Return key, old and new value of every edit that changes something.

    The old value is None where the file leaves it blank, whatever the default.
    """
    rows = []
    for edit in edits:
        section, key = edit.path
        was_set = key in getattr(before, section).model_fields_set
        old = section_of(before, section).get(key) if was_set else None
        if old != edit.value:
            rows.append({"key": f"{section}.{key}", "before": old, "after": edit.value})
    return rows


def section_of(spec: Spec, name: str) -> dict[str, object]:
    """Return a section of the spec as plain data."""
    section = spec.as_json()[name]
    assert isinstance(section, dict)
    return section
