"""Whether an answer fits a JSON schema that the user gives."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from ropeway.batch.parts import library
from ropeway.batch.settings import CHAT, COMPLETIONS, Form
from ropeway.errors import Refused, reason_of
from ropeway.outside import parse_json, read_bounded
from ropeway.phrases import Phrase, phrase

_MOST = 2**20
_SHOWN = 200


@dataclass(frozen=True)
class Check:
    """A schema, and what tells whether a value fits it."""

    schema: dict[str, Any]
    validator: Any

    def in_form(self, form: Form) -> Form:
        """Return the form with the schema in it, so that the engine generates what fits.

        Rows with a body of their own are sent as they are. Raises Refused for embeddings.
        """
        if form.path not in (CHAT, COMPLETIONS):
            raise Refused(phrase("`--check` is for answers of text"))
        if "response_format" in form.settings:
            return form
        wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}}
        return replace(form, settings={**form.settings, "response_format": wanted})

    def fault(self, body: bytes) -> Phrase | None:
        """Return why an answer does not fit, by its first choice that does not; None if all do."""
        for choice in msgspec.json.decode(body).get("choices") or ():
            text = choice.get("text")
            if text is None:
                text = (choice.get("message") or {}).get("content")
            try:
                value = parse_json(text or "")
            except ValueError:
                return phrase("the answer is no JSON: {start}", start=(text or "")[:_SHOWN])
            wrong = next(self.validator.iter_errors(value), None)
            if wrong is not None:
                return phrase(
                    "the answer does not fit the schema: {path}: {why}",
                    path=wrong.json_path,
                    why=wrong.message[:_SHOWN],
                )
        return None


def read_check(path: Path) -> Check:
    """Read a schema. Raises Refused."""
    jsonschema = library("jsonschema")
    try:
        schema = parse_json(read_bounded(path, _MOST))
        if not isinstance(schema, dict):
            raise ValueError(phrase("it is no JSON object"))
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except OSError as error:
        reason = reason_of(error)
    except ValueError as error:
        reason = str(error)
    except jsonschema.SchemaError as error:
        reason = error.message[:_SHOWN]
    else:
        return Check(schema, kind(schema))
    raise Refused(phrase("the schema cannot be used: {reason}", reason=reason), where=str(path))
