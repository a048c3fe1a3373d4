"""A spec as it stands in its file."""

from dataclasses import dataclass
from pathlib import Path

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
