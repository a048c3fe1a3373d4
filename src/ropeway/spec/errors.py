"""pydantic's complaints about a spec, as lines a reader can act on."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ropeway.spec.yaml import Document, Problem, dotted

Path = tuple[str | int, ...]

OUR_KIND = "ropeway"


@dataclass(frozen=True)
class Fault:
    """Broken by a rule of ours. `at` is the path from the mapping whose field was checked."""

    at: Path
    text: str
    hint: str | None = None


@dataclass(frozen=True)
class Schema:
    """What hints draw on.

    keys   each mapping's dotted path, without list indices → its keys
    flags  engine flag → the key of ours that stands for it
    """

    keys: Mapping[str, tuple[str, ...]]
    flags: Mapping[str, str]


def broken(*faults: Fault) -> PydanticCustomError:
    """What a validator raises: one or more faults that keep their own place in the file."""
    told = "; ".join(f"`{dotted(fault.at)}` {fault.text}" for fault in faults)
    # pydantic fills {braces} of the template from the context
    plain = told.replace("{", "(").replace("}", ")").removeprefix("`` ")
    return PydanticCustomError(OUR_KIND, plain, {"faults": faults})


def spec_problems(error: ValidationError, document: Document, schema: Schema) -> list[Problem]:
    """Every complaint with its line, dotted path, and a hint where there is a likely cure."""
    return [
        problem
        for detail in error.errors(include_url=False)
        for problem in _problems(detail, document, schema)
    ]


def schema_keys(root: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Every mapping of the schema and its keys: `{"": ("name", …), "cluster.local": …}`.

    Lists have no index here: the items of `cluster.hosts` are found under `cluster.hosts`.
    """
    return {dotted(path): tuple(model.model_fields) for path, model in _models((), root)}


def close_to(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` was most likely meant to be."""
    folded = word.lower().replace("-", "_")
    by_fold = {name.lower().replace("-", "_"): name for name in known}
    found = difflib.get_close_matches(folded, by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def shown(value: object) -> str:
    """The value as an error line shows it: text in quotes, long things cut short."""
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return f"`{text}`" if len(text) <= 60 else f"`{text[:56]}…`"
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
        return f"`{text}`" if len(text) <= 60 else "a number of many digits"
    return _kind(value)


def _problems(detail: ErrorDetails, document: Document, schema: Schema) -> list[Problem]:
    path = tuple(part for part in detail["loc"] if part != "[key]")
    if detail["type"] == OUR_KIND:
        faults: Sequence[Fault] = detail["ctx"]["faults"]
        return [_problem(path[:-1] + fault.at, fault, document) for fault in faults]
    if detail["type"] == "extra_forbidden":
        fault = Fault((), "is not a key of the spec", _key_hint(path, schema))
    elif detail["type"] == "literal_error":
        fault = _choice_fault(detail)
    elif detail["type"] == "value_error":
        return [Problem(document.line_of(path), f"`{dotted(path)}`: {detail['ctx']['error']}")]
    else:
        fault = _plain_fault(detail, path)
    return [_problem(path, fault, document)]


def _problem(path: Path, fault: Fault, document: Document) -> Problem:
    subject = f"`{dotted(path)}`" if path else "the spec"
    return Problem(document.line_of(path), f"{subject} {fault.text}", fault.hint)


def _plain_fault(detail: ErrorDetails, path: Path) -> Fault:
    kind, limits, value = detail["type"], detail.get("ctx", {}), detail["input"]
    # a value of `env` may be a secret
    seen = _kind(value) if "env" in path[:-1] else shown(value)
    match kind:
        case "missing":
            return Fault((), "is missing")
        case "int_type" | "int_from_float" | "int_parsing_size":
            return Fault((), f"must be a whole number, not {seen}", _unquoted(value))
        case "float_type":
            return Fault((), f"must be a number, not {seen}", _unquoted(value))
        case "bool_type":
            return Fault((), f"must be true or false, not {seen}")
        case "string_type":
            scalar = isinstance(value, int | float)
            return Fault((), f"must be text, not {seen}", "put it in quotes" if scalar else None)
        case "tuple_type":
            return Fault((), f"must be a list, not {seen}")
        case "model_type" | "model_attributes_type" | "dict_type":
            form = "a name like `TP2×PP2+EP` or a mapping" if _is_layout(path) else "a mapping"
            return Fault((), f"must be {form}, not {seen}")
        case "greater_than_equal":
            return Fault((), f"must be at least {_limit(limits['ge'])}, not {seen}")
        case "greater_than":
            return Fault((), f"must be more than {_limit(limits['gt'])}, not {seen}")
        case "less_than_equal":
            return Fault((), f"must be at most {_limit(limits['le'])}, not {seen}")
        case "less_than":
            return Fault((), f"must be less than {_limit(limits['lt'])}, not {seen}")
    return Fault((), f"is wrong: {detail['msg'][:1].lower()}{detail['msg'][1:]}")


def _limit(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) and number > 99_999 else f"{number:g}"


def _is_layout(path: Path) -> bool:
    return path[-1:] == ("layout",) or path[-2:-1] == ("layouts",)


def _choice_fault(detail: ErrorDetails) -> Fault:
    expected = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "`")
    value = detail["input"]
    known = [name.strip("` ") for name in expected.split(",")]
    meant = close_to(value, known) if isinstance(value, str) else None
    hint = f"did you mean `{meant}`?" if meant else None
    return Fault((), f"must be one of {expected}, not {shown(value)}", hint)


def _key_hint(path: Path, schema: Schema) -> str | None:
    """Where an unknown key was most likely meant to go."""
    names = [part for part in path if isinstance(part, str)]
    here, key = dotted(names[:-1]), names[-1]
    if ours := schema.flags.get(key.replace("_", "-")):
        return f"did you mean `{ours}`?"
    if meant := close_to(key, schema.keys[here]):
        return f"did you mean `{meant}`?"
    if homes := [home for home, keys in schema.keys.items() if key in keys and not _twin(home)]:
        places = " or ".join(f"`{home}`" if home else "the top" for home in homes)
        return f"`{key}` belongs under {places}"
    if here == "serve":
        return "an engine's own flag goes under `serve.engine_args`"
    return "keys here are " + ", ".join(f"`{name}`" for name in schema.keys[here])


def _twin(home: str) -> bool:
    """`layouts` holds the same keys as `layout`; naming one is enough."""
    return home.endswith("layouts")


def _unquoted(value: object) -> str | None:
    looks_like_one = isinstance(value, str) and value.replace(".", "", 1).isdigit()
    return "remove the quotes" if looks_like_one else None


def _kind(value: object) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def _models(
    path: tuple[str, ...], model: type[BaseModel]
) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    yield path, model
    for key, info in model.model_fields.items():
        if inner := _inner_model(info.annotation):
            yield from _models((*path, key), inner)


def _inner_model(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner_model, get_args(annotation))), None)
