"""What lines become: requests (`batch.forms`, `.settings`), of so many tokens (`batch.tokens`)."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.batch.input.requests import Kind, Reader, Request
from ropeway.batch.input.source import Fault, Item
from ropeway.batch.input.template import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    Form,
    make_form,
    parse_settings,
    parse_template,
)
from ropeway.batch.input.tokens import PICTURE, Spread, text_tokens, value_tokens
from ropeway.errors import Refused

BODY = b'{"model": "m",  "messages":[{"role":"user","content":"a"}], "x": 1.10, "y": 1%b}' % (
    b"0" * 30
)


def batch_line(body: bytes = BODY, **keys: str) -> bytes:
    """A line of OpenAI's Batch API."""
    said = {"custom_id": "a", "method": "POST", "url": CHAT, **keys}
    return json.dumps(said).encode()[:-1] + b', "body": ' + body + b"}"


def request_of(item: Item, form: Form | None = None) -> Request:
    request = Reader(form or Form()).read(item)
    assert isinstance(request, Request), request
    return request


def body_of(item: Item, form: Form, sample: int = 0) -> Any:
    reader = Reader(form)
    request = reader.read(item)
    assert isinstance(request, Request), request
    return json.loads([*reader.bodies(request)][sample])


def fault_of(item: Item, form: Form | None = None) -> Fault:
    fault = Reader(form or Form()).read(item)
    assert isinstance(fault, Fault), fault
    return fault


def content(body: Any) -> Any:
    return body["messages"][0]["content"]


def test_a_body_is_kept_byte_for_byte() -> None:
    reader = Reader(Form(samples=2))
    request = reader.read(b"  " + batch_line() + b" \r")
    assert isinstance(request, Request)
    assert list(reader.bodies(request)) == [BODY, BODY]
    assert (request.name, request.path, request.model) == ("a", CHAT, "m")


@pytest.mark.parametrize(
    ("line", "kind", "says"),
    [
        (batch_line(url="/v1/responses"), "url", "/v1/responses"),
        (batch_line(url=f"http://127.0.0.1{CHAT}"), "url", "http"),
        (batch_line(method="GET"), "method", "GET"),
        (batch_line(b'{"messages": [], "stream": true}'), "stream", "stream"),
        (batch_line(b'{"model": "m"}'), "body", "`messages`"),
        (batch_line(b'{"messages": [], "max_tokens": "many"}'), "body", "max_tokens"),
        (batch_line(b'{"messages": [], "model": 5}'), "body", "model"),
        (batch_line(b"[]"), "body", "array"),
        (batch_line(b'"text"'), "body", "str"),
        (batch_line()[:-3], "json", "cannot be read"),
        (batch_line(b'{"messages": ["\\ud83d"]}'), "json", "cannot be read"),
        (batch_line(b'{"messages": %b}' % (b"[" * 100_000 + b"]" * 100_000)), "json", "end"),
        (b'{"url": "/v1/embeddings", "method": "POST", "body": {}}', "line", "custom_id"),
        (batch_line().replace(b'"a"', b"5", 1), "line", "custom_id"),
        (b"[" + batch_line() + b"]", "json", "array"),
        (b"{", "json", "cannot be read"),
        (b"NaN", "json", "cannot be read"),
        (b'{"prompt": 5}', "column", "its `prompt` is no prompt: 5"),
        (b'{"prompt": ["a"]}', "column", '["a"]'),
        (b'{"messages": "a"}', "column", "`messages`"),
        (b'{"custom_id": [], "prompt": "a"}', "line", "custom_id"),
        (b"{}", "column", "`prompt`"),
    ],
)
def test_a_line_that_cannot_be_sent_says_why(line: bytes, kind: str, says: str) -> None:
    fault = fault_of(line)
    assert fault.kind == kind
    assert says in fault.what


def test_what_servers_take_is_no_fault() -> None:
    for body in (
        b'{"messages": [], "stream": false, "max_tokens": null, "n": 3, "max_tokens": "256"}',
        b'{"messages": [{"role": "user", "content": 5}], "other": {"deep": [1e999]}}',
    ):
        assert request_of(batch_line(body)).core == body
    embeddings = batch_line(b'{"input": ["a", "b"]}', url=EMBEDDINGS)
    assert request_of(embeddings).answer == 0
    assert request_of(batch_line(b'{"prompt": "a"}', url=COMPLETIONS)).answer == 16


def test_the_longest_answer_counts_all_of_a_requests_samples() -> None:
    both = b'{"messages": [], "n": 3, "max_tokens": 7, "max_completion_tokens": 5}'
    assert request_of(batch_line(both)).answer == 15
    assert request_of(batch_line()).answer == -1
    form = make_form(settings=["max_tokens=8", "n=2"])
    assert request_of(b'{"prompt": "a"}', form).answer == 16


def test_all_lines_are_of_the_kind_of_the_first() -> None:
    plain, request = b'{"prompt": "a"}', batch_line()
    for first, second in ((plain, request), (request, plain), (request, {"prompt": b'"a"'})):
        reader = Reader(Form())
        assert isinstance(reader.read(first), Request)
        fault = reader.read(second)
        assert isinstance(fault, Fault)
        assert fault.kind == "mixed"
    # What cannot be read decides nothing.
    reader = Reader(Form())
    assert isinstance(reader.read(b"broken"), Fault)
    assert isinstance(reader.read(request), Request)


@pytest.mark.parametrize("form", [make_form(template="{a}"), make_form(settings=["n=1"])])
def test_flags_that_would_change_a_body_are_refused(form: Form) -> None:
    with pytest.raises(Refused, match="rows without a body"):
        Reader(form).read(batch_line())


def test_a_prompt_becomes_a_chat_unless_another_api_is_wanted() -> None:
    line = '{"prompt": "\\u4e2d \\"文\\"", "custom_id": 7, "note": 1}'.encode()
    form = make_form(settings=["model=m"])
    expected = {"model": "m", "messages": [{"role": "user", "content": '中 "文"'}]}
    assert body_of(line, form) == expected
    assert request_of(line, form).name == "7"
    assert body_of(line, make_form(COMPLETIONS)) == {"prompt": '中 "文"'}
    assert body_of(line, make_form(EMBEDDINGS)) == {"input": '中 "文"'}
    assert body_of(b'{"prompt": [1, 2]}', make_form(COMPLETIONS)) == {"prompt": [1, 2]}
    assert body_of(b'{"input": "a", "prompt": "b"}', make_form(EMBEDDINGS)) == {"input": "a"}


def test_a_conversation_is_kept_but_a_prompt_goes_first() -> None:
    messages = b'[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]'
    assert request_of(b'{"messages": ' + messages + b"}").core == messages
    assert content(body_of(b'{"messages": ' + messages + b', "prompt": "p"}', Form())) == "p"
    assert request_of(b'{"prompt": ' + messages + b"}").core == messages


def test_a_template_takes_texts_as_they_are_and_numbers_as_they_are_written() -> None:
    form = make_form(template='{{"{a}"}}\n{b c}: {d.e}, {f}')
    line = b'{"a": "q\\"\\u00e9\\\\", "b c": 1.10, "d.e": {"x": ["y"]}, "f": true, "z": 1}'
    assert content(body_of(line, form)) == '{"q"é\\"}\n1.10: {"x": ["y"]}, true'
    huge = b'{"a": "", "b c": 1%b, "d.e": 1e999, "f": -0}' % (b"0" * 6000)
    assert content(body_of(huge, form)) == '{""}\n1' + "0" * 6000 + ": 1e999, -0"


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c d"]), st.text(max_size=20)), st.text(max_size=9)
)
def test_a_template_is_filled_as_python_would(columns: dict[str, str], text: str) -> None:
    columns = {**dict.fromkeys(("a", "b", "c d"), ""), **columns}
    template = text.replace("{", "{{").replace("}", "}}") + "{a}-{c d}{b}"
    line = json.dumps(columns).encode()
    expected = f"{text}{columns['a']}-{columns['c d']}{columns['b']}"
    assert content(body_of(line, make_form(template=template))) == expected


@pytest.mark.parametrize("template", ["{", "a } b", "{a", "no column", "{{a}}", "\udc80{a}"])
def test_a_template_that_means_nothing_is_refused(template: str) -> None:
    with pytest.raises(Refused):
        parse_template(template)


def test_a_column_that_is_away_is_named_with_the_nearest() -> None:
    form = make_form(template="{txet}")
    fault = fault_of(b'{"text": "a", "id": 1}', form)
    assert (fault.kind, fault.what) == ("column", "there is no column `txet`")
    assert fault.hint == "did you mean `text`?"
    reader = Reader(form)
    assert list(reader.wanted(["text", "id"])) == []
    again = reader.read({})
    assert isinstance(again, Fault)
    assert again.hint == fault.hint
    plain = fault_of(b'{"question": "a", "id": 1}')
    assert '--template "{question}"' in str(plain.hint)
    assert "is null" in fault_of(b'{"txet": null}', form).what


def test_columns_of_which_nothing_is_made_are_known() -> None:
    reader = Reader(make_form(template="{a}"))
    reader.read(b'{"a": "x", "max_tokens": 5, "custom_id": "1"}')
    assert reader.unused == ("max_tokens",)


def test_settings_are_json_where_they_can_be() -> None:
    given = ["max_tokens=256", "temperature=0", "top_p=0.5", 'stop=["\\n"]', "model=4", "user=a=b",
             "chat_template_kwargs.enable_thinking=false", "chat_template_kwargs.x=1"]  # fmt: skip
    assert parse_settings(given) == {
        "max_tokens": 256, "temperature": 0, "top_p": 0.5, "stop": ["\n"], "model": "4",
        "user": "a=b", "chat_template_kwargs": {"enable_thinking": False, "x": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [["max_tokens"], ["=1"], ["a..b=1"], ["a=1", "a=2"], ["a=1", "a.b=2"], ["a.b=1", "a=2"],
     ["stream=true"], ["messages=[]"], ["user=\udc80"], ['user="\\ud83d"\udc80'],
     ["a." * 3000 + "a=1"]],
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused(settings: list[str]) -> None:
    with pytest.raises(Refused):
        parse_settings(settings)


@pytest.mark.parametrize(
    "setting", ["api_key=hunter2", "vendor.api_key=hunter2", "auth.password=hunter2"]
)
def test_a_secret_is_no_setting(setting: str) -> None:
    with pytest.raises(Refused, match="is a secret") as caught:
        parse_settings([setting])
    assert "hunter2" not in str(caught.value)


def test_samples_have_seeds_of_their_own() -> None:
    form = make_form(settings=["seed=7"], samples=3)
    assert [body_of(b'{"prompt": "a"}', form, n)["seed"] for n in range(3)] == [7, 8, 9]
    assert "seed" not in body_of(b'{"prompt": "a"}', Form(samples=2), 1)
    line = batch_line(b'{"messages": [], "seed": 1}')
    assert fault_of(line, Form(samples=2)).kind == "seed"
    assert request_of(line).core == b'{"messages": [], "seed": 1}'


@pytest.mark.parametrize("table", [False, True])
def test_a_column_that_is_null_is_none(table: bool) -> None:
    talk = [{"role": "user", "content": "a"}]
    record = {"prompt": None, "messages": talk}
    as_table = {name: msgspec.json.encode(value) for name, value in record.items()}
    assert content(body_of(as_table if table else json.dumps(record).encode(), Form())) == "a"
    assert fault_of(b'{"prompt": null, "x": 1}').what == "its `prompt` is null"


def test_tokens_are_estimated_by_script() -> None:
    assert text_tokens(b"a" * 400) == 101
    chinese = "中文" * 100
    assert text_tokens(chinese.encode()) == text_tokens(json.dumps(chinese)[1:-1].encode()) == 141
    assert text_tokens(("я" * 100).encode()) == 51
    assert text_tokens(("😀" * 100).encode()) == 71
    assert value_tokens(b"[1, 2, 3]") == (3, 0)
    picture = json.dumps(
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 10**6}}],
            }
        ]
    ).encode()
    tokens, fewest = value_tokens(picture)
    assert PICTURE < tokens < PICTURE + 50
    assert fewest < 50


@given(st.lists(st.integers(0, 10**6), min_size=1), st.floats(0, 1))
def test_a_spread_knows_sum_and_quantiles(numbers: list[int], share: float) -> None:
    spread = Spread()
    for number in numbers:
        spread.add(number)
    assert spread.count == len(numbers)
    assert spread.total == pytest.approx(sum(numbers), rel=1 / 2048)
    assert spread.most == pytest.approx(max(numbers), rel=1 / 2048)
    exact = next(n for n in sorted(numbers) if sum(m <= n for m in numbers) >= share * len(numbers))
    assert spread.quantile(share) == pytest.approx(exact, rel=1 / 2048)


WORDS = [
    "custom_id",
    "method",
    "url",
    "body",
    "prompt",
    "messages",
    "model",
    "stream",
    "image",
    "n",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from([CHAT, "POST", "file://x", "data:x"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
LINES = st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6).map(json.dumps)
BYTES = st.binary(max_size=40) | LINES.map(str.encode) | VALUES.map(json.dumps).map(str.encode)


@given(st.lists(BYTES, max_size=4), st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS]), st.booleans())
def test_whatever_a_line_is_it_is_a_request_or_a_fault(
    lines: list[bytes], path: str, template: bool
) -> None:
    reader = Reader(make_form(path, "{prompt}{n}" if template else None))
    for line in lines:
        try:
            request = reader.read(line)
        except Refused:
            assert template
            return
        if isinstance(request, Request) and line.isascii():
            for body in reader.bodies(request):
                assert isinstance(json.loads(body), dict)
                assert request.tokens >= 0 <= request.fewest


@pytest.mark.parametrize("line", [
    b'{"title": "a", "body": "b"}',
    b'{"title": "a", "url": "http://a", "method": "GET", "body": null}',
    {"title": b'"a"', "body": b'"b"', "url": b'"/v1/x"'},
])  # fmt: skip
def test_columns_may_be_called_as_the_keys_of_a_request(line: Any) -> None:
    reader = Reader(make_form(template="{title}"))
    for _ in range(2):
        request = reader.read(line)
        assert isinstance(request, Request)
        assert b'"a"' in request.core
    assert reader.kind is Kind.COLUMNS
