"""Turns pydantic's complaints about a spec into lines that a reader can act on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ropeway.outside import UNSEEN
from ropeway.phrases import joined, phrase
from ropeway.spec.secret_text import without_secrets
from ropeway.spec.yaml import Document, Problem, dotted
from ropeway.suggest import did_you_mean

Path = tuple[str | int, ...]

OUR_KIND = "ropeway"
GIVE_KEY = phrase(
    "set it in the shell that runs `ropeway`, as `export ROPEWAY_API_KEY=…`, and write "
    "`serve.api_key_env: ROPEWAY_API_KEY`"
)


@dataclass(frozen=True)
class Fault:
    """A broken rule of ours. `at` is the path from the mapping whose field was checked."""

    at: Path
    text: str
    hint: str | None = None


def broken(*faults: Fault) -> PydanticCustomError:
    """Return what a validator raises: faults that keep their own places in the file."""
    text = "; ".join(f"`{dotted(fault.at)}` {fault.text}" for fault in faults)
    # pydantic fills {braces} of the template from the context
    template = text.replace("{", "(").replace("}", ")").removeprefix("`` ")
    return PydanticCustomError(OUR_KIND, template, {"faults": faults})


def spec_problems(
    error: ValidationError, document: Document, root: type[BaseModel], flags: Mapping[str, str]
) -> list[Problem]:
    """Return every complaint with its line, dotted path, and a hint where a cure is likely.

    In the order of the lines, but what is missing stands last where a key is misspelt, for it may
    only follow from that. Hints name keys of `root`, and those that `flags` has for the flags of an
    engine.
    """
    problems: list[tuple[bool, Problem]] = []
    details = error.errors(include_url=False)
    misspelt = [detail for detail in details if detail["type"] == "extra_forbidden"]
    for detail in (*misspelt, *(detail for detail in details if detail not in misspelt)):
        path = _path(detail)
        if detail["type"] == "extra_forbidden":
            hint = _key_hint(path, schema_keys(root), flags)
            found = [_problem(path, Fault((), "is not a key of the spec", hint), document)]
        elif detail["type"] == "literal_error":
            fault = _choice_fault(detail)
            if path == ("model", "name") and _has_real_hosts(document):
                fault = _directory_fault(detail["input"])
            found = [_problem(path, fault, document)]
        elif detail["type"] == "value_error":
            hint = next(iter(detail["ctx"]["error"].args[1:]), None)
            found = [Problem(document.line_of(path), _of_value(detail), hint)]
        else:
            found = [_problem(at, fault, document) for at, fault in _faults(detail)]
        follows = bool(misspelt) and detail["type"] == "missing"
        problems += [(follows, problem) for problem in found]
    problems.sort(key=lambda item: (item[0], item[1].line))
    return [problem for _, problem in problems]


def first_unseen(text: str) -> str:
    """Return the first character that nobody would see, as `U+001B`; "" without any."""
    found = UNSEEN.search(text)
    return f"U+{ord(found[0]):04X}" if found else ""


def unseen_faults(data: object) -> list[Fault]:
    """Return every text of a spec that has such a character: it would look other than it runs."""
    return [
        Fault(
            path,
            phrase("has the character {name}, which nobody sees", name=name),
            "remove it: what is printed must be what runs",
        )
        for path, text in _texts((), data)
        if (name := first_unseen(text))
    ]


# Whose rules of their own read the names of their entries too.
_READ_BY_NAME = (("serve", "engine_args"), ("serve", "env"))


def secret_faults(data: object) -> list[Fault]:
    """Return every text of a spec that has a secret in it, as a token in a URL."""
    return [
        Fault(path, "holds a secret, and would be visible to others", "remove it from the spec")
        for path, text in _texts((), data)
        if path[:2] not in _READ_BY_NAME and without_secrets(text) != text
    ]


def _texts(path: Path, value: object) -> Iterator[tuple[Path, str]]:
    """Yield all texts with their places; that of a mapping's key is the mapping's own."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield path, str(key)
            yield from _texts((*path, str(key)), item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts((*path, index), item)


def schema_keys(root: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    """Return every mapping of the schema and its keys: `{"": ("name", …), "cluster.local": …}`.

    Lists have no index here: the items of `cluster.hosts` are found under `cluster.hosts`.
    """
    return {dotted(path): tuple(model.model_fields) for path, model in _models((), root)}


def shown(value: object) -> str:
    """Return the value as an error line shows it: text in quotes, long things truncated."""
    if isinstance(value, str):
        text = json.dumps(without_secrets(value), ensure_ascii=False)
        return f"`{text}`" if len(text) <= 60 else f"`{text[:56]}…`"
    if isinstance(value, bool | int | float):
        text = json.dumps(value)
        return f"`{text}`" if len(text) <= 60 else "a number of many digits"
    return _kind(value)


def fault_lines(error: ValidationError) -> list[str]:
    """Return every complaint about a part of a spec that came from no file."""
    lines: list[str] = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "value_error":
            lines.append(_of_value(detail))
        else:
            lines += [_line(at, fault) for at, fault in _faults(detail)]
    return lines


def _path(detail: ErrorDetails) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _of_value(detail: ErrorDetails) -> str:
    """Return what a validator of ours says of a single value: the first of its error's arguments.

    The second, where there is one, is a hint.
    """
    why = detail["ctx"]["error"].args[0]
    return phrase("`{key}`: {fault}", key=dotted(_path(detail)), fault=why)


def _faults(detail: ErrorDetails) -> list[tuple[Path, Fault]]:
    """Return what is wrong, each with its place: rules of ours, or a kind of pydantic's."""
    path = _path(detail)
    if detail["type"] == OUR_KIND:
        faults: Sequence[Fault] = detail["ctx"]["faults"]
        return [(path[:-1] + fault.at, fault) for fault in faults]
    return [(path, _plain_fault(detail, path))]


def _line(path: Path, fault: Fault) -> str:
    subject = f"`{dotted(path)}`" if path else "the spec"
    return phrase("{subject} {fault}", subject=subject, fault=fault.text)


def _problem(path: Path, fault: Fault, document: Document) -> Problem:
    return Problem(document.line_of(path), _line(path, fault), fault.hint)


# What people write a secret into that should be named there.
_MAY_HOLD_KEY = {"api_key_env", "secret_env"}
# What each kind of pydantic's complaints says of `{value}`, limits formatted by their own names.
_COMPLAINTS = {
    "missing": "is missing",
    "int_type": "must be a whole number, not {value}",
    "int_from_float": "must be a whole number, not {value}",
    "int_parsing_size": "must be a whole number, not {value}",
    "float_type": "must be a number, not {value}",
    "bool_type": "must be true or false, not {value}",
    "string_type": "must be text, not {value}",
    "tuple_type": "must be a list, not {value}",
    "dict_type": "must be a mapping, not {value}",
    "model_type": "must be a mapping, not {value}",
    "model_attributes_type": "must be a mapping, not {value}",
    "layout": "must be a name like `TP2×PP2+EP` or a mapping, not {value}",
    "greater_than_equal": "must be at least {ge}, not {value}",
    "greater_than": "must be more than {gt}, not {value}",
    "less_than_equal": "must be at most {le}, not {value}",
    "less_than": "must be less than {lt}, not {value}",
}


def _plain_fault(detail: ErrorDetails, path: Path) -> Fault:
    kind, value = detail["type"], detail["input"]
    if kind.startswith("model_") and (path[-1:] == ("layout",) or path[-2:-1] == ("layouts",)):
        kind = "layout"
    complaint = _COMPLAINTS.get(kind)
    if complaint is None:
        return Fault(
            (),
            phrase("is wrong: {message}", message=detail["msg"][:1].lower() + detail["msg"][1:]),
        )
    context = detail.get("ctx", {})
    limits = {name: _limit(context[name]) for name in ("ge", "gt", "le", "lt") if name in context}
    hidden = "env" in path[:-1] or not _MAY_HOLD_KEY.isdisjoint(path)
    visible = _kind(value) if hidden else shown(value)
    return Fault((), phrase(complaint, value=visible, **limits), _quotes_hint(kind, value))


def _quotes_hint(kind: str, value: object) -> str | None:
    if kind == "string_type" and isinstance(value, int | float):
        return "put it in quotes"
    number = isinstance(value, str) and value.replace(".", "", 1).isdigit()
    return "remove the quotes" if number and kind.startswith(("int_", "float_")) else None


def _limit(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) and number > 99_999 else f"{number:g}"


def _choice_fault(detail: ErrorDetails) -> Fault:
    expected = str(detail["ctx"]["expected"]).replace(" or ", ", ").replace("'", "`")
    value = detail["input"]
    known = [name.strip("` ") for name in expected.split(",")]
    hint = did_you_mean(value, known) if isinstance(value, str) else None
    text = phrase("must be one of {expected}, not {value}", expected=expected, value=shown(value))
    return Fault((), text, hint)


def _has_real_hosts(document: Document) -> bool:
    cluster = document.data.get("cluster")
    return isinstance(cluster, Mapping) and "local" not in cluster


def _directory_fault(name: object) -> Fault:
    """Say that real hosts have the model in a directory: its name says nothing of where that is."""
    folder = str(name).rstrip("/").rpartition("/")[2] if isinstance(name, str) else "my-model"
    text = phrase(
        "is for the small models of `cluster.local`, and these hosts are real: {name}",
        name=shown(name),
    )
    path = f"`path: /data/{folder}`"
    return Fault((), text, phrase("give its directory on the hosts instead: {path}", path=path))


def _key_hint(
    path: Path, keys: Mapping[str, tuple[str, ...]], flags: Mapping[str, str]
) -> str | None:
    """Return where an unknown key was most likely meant to go."""
    names = [part for part in path if isinstance(part, str)]
    here, key = dotted(names[:-1]), names[-1]
    ours = flags.get(key.replace("_", "-"), "")
    if ours == "serve.api_key_env":
        return GIVE_KEY
    if (own := ours.rpartition(".")[2]) in keys[here]:
        return phrase("did you mean {names}?", names=f"`{own}`")
    if meant := did_you_mean(key, keys[here]):
        return meant
    if ours:
        return phrase("did you mean {names}?", names=f"`{ours}`")
    # `layouts` holds the same keys as `layout`; naming one is enough.
    homes = [home for home, names in keys.items() if key in names and home[-7:] != "layouts"]
    if homes:
        places = joined(
            (phrase("under `{home}`", home=home) if home else "at the top level" for home in homes),
            " or ",
        )
        return phrase("`{key}` belongs {places}", key=key, places=places)
    if here == "serve":
        return "an engine's own flag goes under `serve.engine_args`"
    names_here = joined((f"`{name}`" for name in keys[here]), ", ")
    return phrase("keys here are {names}", names=names_here)


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
