"""What a verb printed with `--json`, held to docs/json-schema.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "docs" / "json-schema.json").read_text(encoding="utf-8")
)
_VALIDATOR = Draft202012Validator(SCHEMA)


def read_document(text: str) -> Any:
    """Return the one document in `text`. Raises AssertionError where the schema forbids it."""
    document = json.loads(text)
    errors = list(_VALIDATOR.iter_errors(document))
    assert not errors, "\n".join(_reasons(errors))
    return document


def _reasons(errors: list[ValidationError]) -> Iterator[str]:
    """Yield what is wrong, and of the kinds of documents only with those of the document's verb."""
    for error in errors:
        others = {each.schema_path[0] for each in error.context if list(each.path) == ["verb"]}
        others.add(0)  # a document with an error alone
        ours = [each for each in error.context if each.schema_path[0] not in others]
        for each in ours or [error]:
            yield f"{each.json_path}: {each.message[:300]}"
