"""The small files beside the weights: configuration and tokenizer."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON, the same bytes for the same value."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def copy_tokenizer(source: Path, into: Path) -> None:
    """Copy the tokenizer and generation defaults of the source to a derived checkpoint."""
    for name in (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG):
        shutil.copyfile(source / name, into / name)
