"""Answers that must fit a schema (`batch.check`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from ropeway.batch.input.requests import Kind, Reader, Request
from ropeway.batch.input.template import CHAT, EMBEDDINGS, Form
from ropeway.batch.sending import check
from ropeway.batch.sending.check import read_check
from ropeway.errors import Refused

OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def check_of(folder: Path, schema: Any) -> check.Check:
    path = folder / "schema.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return read_check(path)


def fault(folder: Path, schema: Any, *choices: Any) -> str:
    found = check_of(folder, schema).fault(json.dumps({"choices": choices}).encode())
    return "" if found is None else str(found)


def says(content: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content}}


@pytest.mark.parametrize(
    ("choice", "wrong"),
    [
        (says('{"n": 1}'), ""),
        ({"text": '{"n": 1}'}, ""),
        (says([{"type": "text", "text": '{"n"'}, {"type": "text", "text": ": 1}"}]), ""),
        (says('{"n": "1"}'), "$.n: '1' is not of type 'integer'"),
        (says('{"n": 1'), "is no JSON"),
        (says(None), "is no JSON"),
        (says(7), "is no JSON"),
        (says([7, {"type": "image_url"}]), "is no JSON"),
        ({"message": '{"n": 1}'}, "is no JSON"),
        ({"message": None}, "is no JSON"),
        (says("[" * 100_000), "is no JSON"),
        (says('{"n": 1' + "0" * 50 + "}"), "is no JSON"),
    ],
)
def test_whatever_an_answer_holds_it_fits_or_does_not(
    tmp_path: Path, choice: Any, wrong: str
) -> None:
    found = fault(tmp_path, OBJECT, says('{"n": 0}'), choice)
    assert wrong in found
    assert bool(wrong) == bool(found)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "1e999", "-1e999"])
def test_a_number_without_multiples_does_not_fit(tmp_path: Path, text: str) -> None:
    assert fault(tmp_path, {"multipleOf": 0.5}, says(text))


@pytest.mark.parametrize("body", [b'{"choices": [{"text": 1e999}]}', b"[" * 10_000])
def test_an_answer_that_cannot_be_read_does_not_fit(tmp_path: Path, body: bytes) -> None:
    assert check_of(tmp_path, OBJECT).fault(body) is not None


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("[]", "no JSON object"),
        ("{", "Expecting"),
        ({"type": "nothing"}, "is not valid"),
        ({"$schema": 5}, "`$schema` is no text"),
        ({"$schema": {}}, "`$schema` is no text"),
        ({"pattern": "("}, "is not a 'regex'"),
        ({"$ref": "#/$defs/away"}, "`#/$defs/away` leads out of it"),
        ({"items": {"anyOf": [{"$ref": "#/x"}, {}]}, "x": {"not": {"$ref": "#y"}}}, "`#y`"),
        ({"properties": {"a": {"$ref": "http://127.0.0.1:1/s.json"}}}, "127.0.0.1"),
        ({"$ref": "other.json"}, "`other.json`"),
        ({"$ref": "#/x", "x": 5}, "no schema"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "$ref": 5}, "`5`"),
        ({"$defs": {"a": {"$schema": "http://json-schema.org/draft-04/schema#",
                          "definitions": {"b": False}}}}, "bool"),
        ({"$ref": "#"}, "refers to itself"),
        ({"$defs": {"a": {"$ref": "#/$defs/a"}}, "anyOf": [{"$ref": "#/$defs/a"}]}, "itself"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_refused(tmp_path: Path, schema: Any, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        check_of(tmp_path, schema)
    assert reason in caught.value.what
    assert caught.value.where == f"{tmp_path}/schema.json"


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"},
        {"$id": "http://127.0.0.1/a", "items": {"$ref": "b"}, "$defs": {"b": {"$id": "b"}}},
        {"items": {"$ref": "#b"}, "$defs": {"b": {"$anchor": "b", "type": "array"}}},
        {"properties": {"$ref": {"type": "string"}}, "enum": [[[]], {"$ref": "#/away"}]},
        {"items": {"$dynamicRef": "#t"}, "$dynamicAnchor": "t", "type": "array"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "#/definitions/b"},
         "definitions": {"b": {"type": "array"}}},
    ],
)  # fmt: skip
def test_a_schema_may_refer_to_what_is_in_it(tmp_path: Path, schema: Any) -> None:
    assert fault(tmp_path, schema, says("[[]]")) == ""


def test_a_slow_pattern_does_not_hold_all_rows_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "_MOST_S", 0.1)
    slow = fault(tmp_path, {"pattern": "^(a+)+$"}, says(json.dumps("a" * 60 + "b")))
    assert "takes too long" in slow
    assert fault(tmp_path, {"pattern": "^(a+)+$"}, says('"aaa"')) == ""


def test_bodies_of_their_own_are_sent_as_they_are_and_checked(tmp_path: Path) -> None:
    reader = Reader(check_of(tmp_path, OBJECT).in_form(Form()))
    body = b'{"messages": []}'
    line = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":%b}' % body
    request = reader.read(line)
    assert isinstance(request, Request)
    assert (reader.kind, [*reader.bodies(request)]) == (Kind.REQUESTS, [body])


@pytest.mark.parametrize("own", [{}, {"response_format": {"type": "json_object"}}])
def test_the_engine_is_told_the_schema_unless_a_setting_says_otherwise(
    tmp_path: Path, own: dict[str, Any]
) -> None:
    reader = Reader(check_of(tmp_path, OBJECT).in_form(Form(CHAT, settings=own)))
    request = reader.read(b'{"prompt": "a"}')
    assert isinstance(request, Request)
    told = json.loads(next(reader.bodies(request)))["response_format"]
    ours = {"type": "json_schema", "json_schema": {"name": "answer", "schema": OBJECT}}
    assert told == own.get("response_format", ours)
    with pytest.raises(Refused, match="answers of text"):
        check_of(tmp_path, OBJECT).in_form(Form(EMBEDDINGS))
