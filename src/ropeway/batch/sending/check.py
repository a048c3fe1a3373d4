"""Whether an answer fits a JSON schema that the user gives."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from ropeway.batch.input.template import CHAT, COMPLETIONS, Form
from ropeway.batch.stores import library
from ropeway.errors import Refused, reason_of
from ropeway.outside import parse_json, read_bounded
from ropeway.phrases import Phrase, phrase

_MOST = 2**20
_SHOWN = 200
_MOST_S = 1.0
# Of each kind: a schema that refers to itself without end shows it with any of them.
_ANY: tuple[Any, ...] = (None, True, 1, "a", [0], {"a": 0})


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
        return replace(form, schema=self.schema)

    def fault(self, body: bytes) -> Phrase | None:
        """Return why an answer does not fit, by its first choice that does not; None if all do."""
        try:
            choices = msgspec.json.decode(body).get("choices") or ()
        except (msgspec.DecodeError, RecursionError) as error:
            return phrase("the answer cannot be checked: {why}", why=str(error))
        for text in map(_text, choices):
            try:
                value = parse_json(text)
            except ValueError:
                return phrase("the answer is no JSON: {start}", start=text[:_SHOWN])
            try:
                with _in_time():
                    wrong = next(self.validator.iter_errors(value), None)
            except _odd() as error:
                why = str(error)[:_SHOWN] or type(error).__name__
                return phrase("the answer cannot be checked: {why}", why=why)
            if wrong is not None:
                return phrase(
                    "the answer does not fit the schema: {path}: {why}",
                    path=wrong.json_path,
                    why=wrong.message[:_SHOWN],
                )
        return None


def make_check(schema: dict[str, Any]) -> Check:
    """Return the check for a schema that is one."""
    kind = library("jsonschema").validators.validator_for(schema)
    return Check(schema, kind(schema, registry=library("referencing").Registry()))


def read_check(path: Path) -> Check:
    """Read a schema. Raises Refused, for one too of which a part is elsewhere: none is fetched."""
    jsonschema = library("jsonschema")
    try:
        schema = parse_json(read_bounded(path, _MOST))
        if not isinstance(schema, dict):
            raise ValueError(phrase("it is no JSON object"))
        if not isinstance(schema.get("$schema", ""), str):
            raise ValueError(phrase("its `$schema` is no text"))
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
        _resolve(schema, kind.META_SCHEMA["$schema"])
        check = make_check(schema)
        with _in_time():
            for value in _ANY:
                next(check.validator.iter_errors(value), None)
    except jsonschema.SchemaError as error:
        reason = error.message[:_SHOWN]
    except RecursionError:
        reason = phrase("it refers to itself without end")
    except _odd() as error:
        reason = str(error)[:_SHOWN]
    except OSError as error:
        reason = reason_of(error)
    else:
        return check
    raise Refused(phrase("the schema cannot be used: {reason}", reason=reason), where=str(path))


def _resolve(schema: dict[str, Any], dialect: str) -> None:
    """Raise ValueError for a reference to what is not in the schema."""
    referencing = library("referencing")
    kind = library("referencing.jsonschema").specification_with(dialect)
    root = kind.create_resource(schema)
    left, seen = [(root, referencing.Registry().resolver_with_root(root))], set()
    while left:
        place, resolver = left.pop()
        if id(place.contents) in seen:
            continue
        seen.add(id(place.contents))
        if isinstance(place.contents, bool):
            continue
        if not isinstance(place.contents, dict):
            raise ValueError(phrase("a `$ref` in it leads to what is no schema"))
        for ref in filter(None, map(place.contents.get, ("$ref", "$dynamicRef"))):
            try:
                found = resolver.lookup(ref)
            except (referencing.exceptions.Unresolvable, ValueError, AttributeError):
                raise ValueError(
                    phrase("its `$ref` to `{ref}` leads out of it", ref=str(ref)[:_SHOWN])
                ) from None
            left.append((kind.create_resource(found.contents), found.resolver))
        left += [(inner, resolver.in_subresource(inner)) for inner in place.subresources()]


def _odd() -> tuple[type[Exception], ...]:
    """Return what odd schemas and odd answers make of the library: NaN has no multiples."""
    unknown = library("jsonschema").exceptions.UnknownType
    away = library("referencing").exceptions.Unresolvable
    return (ValueError, ArithmeticError, TypeError, LookupError, AttributeError, RecursionError,
            TimeoutError, unknown, away)  # fmt: skip


def _text(choice: Any) -> str:
    """Return the text of a choice; "" where it has none, such as where it calls a tool."""
    text = choice.get("text")
    if text is None:
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else None
    if isinstance(text, list):  # in parts
        texts = [part.get("text") for part in text if isinstance(part, dict)]
        text = "".join(one for one in texts if isinstance(one, str))
    return text if isinstance(text, str) else ""


@contextmanager
def _in_time() -> Iterator[None]:
    """Raise TimeoutError in what takes too long.

    A pattern such as `(a+)+$` looks for hours, in the loop that all rows are sent from; of the
    regular expressions of Python only a signal stops one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TimeoutError(phrase("a pattern of the schema takes too long"))

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, _MOST_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
