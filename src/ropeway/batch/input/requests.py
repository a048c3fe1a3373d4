"""What a line is: a request of OpenAI's Batch API, or columns that become one.

A request's body is kept as it came, byte for byte. Columns become a body by joining pieces of JSON,
so that a text is neither decoded nor encoded, and a number is written as the input has it.

Columns are `prompt`; or what `--template` names; or for chat a whole conversation in `messages`,
for embeddings `input`. `custom_id`, where there is one, names the row. Chat is the API unless the
user says otherwise: models that are served have learnt their chat template, and what they answer to
a bare text is rarely wanted. `image` or `images` are paths from the input's folder, or URLs. The
input may be by strangers, and so may be the server: only files under that folder, or under the one
that the user names, are pictures of it.
"""

import os
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ropeway.batch.input.parts import Part, printable, quoted
from ropeway.batch.input.pictures import HEAD, picture_type
from ropeway.batch.input.source import Fault, Item
from ropeway.batch.input.template import CHAT, COMPLETIONS, EMBEDDINGS, PROMPT_KEY, Form
from ropeway.batch.input.tokens import PICTURE, value_tokens
from ropeway.errors import Refused
from ropeway.outside import is_file
from ropeway.phrases import joined, phrase
from ropeway.suggest import did_you_mean

_PICTURE_COLUMNS = ("image", "images")
# And what the JSON in them begins with: a text; a conversation, token ids, several texts.
_PROMPT_COLUMNS: dict[str, dict[str, bytes | tuple[bytes, ...]]] = {
    CHAT: {"prompt": (b'"', b"["), "messages": b"["},
    COMPLETIONS: {"prompt": (b'"', b"[")},
    EMBEDDINGS: {"input": (b'"', b"["), "prompt": b'"'},
}
_DEFAULT_OF_COMPLETIONS = 16  # tokens of an answer, in OpenAI's API and vLLM's
_MOST_COLUMNS, _COLUMNS_SHOWN = 200, 20
_BATCH_LINE = '{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {…}}'
_USER = b'[{"role":"user","content":%b}]'


class Kind(StrEnum):
    """What the lines of an input are. All of them are the same."""

    REQUESTS = "requests"
    COLUMNS = "columns"


class Request(Struct, gc=False):
    """A line that can be sent.

    name      its own; "" where it has none
    core      the body; of columns, the value of the prompt in it
    text      what its prompt begins with
    tokens    estimate of the prompt's, and `fewest`: a bound of it
    answer    the most tokens of all its answers; -1 where there is no limit
    pictures  whether files are sent with it, which `core` has the paths of
    """

    name: str
    path: str
    core: bytes
    text: bytes
    tokens: int
    fewest: int
    answer: int
    model: str = ""
    pictures: bool = False


class _Line(Struct, gc=False):
    custom_id: str
    method: str
    url: str
    body: Raw


class _Body(Struct, gc=False):
    model: str | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    truncate_prompt_tokens: int | None = None
    messages: Raw | UnsetType = UNSET
    prompt: Raw | UnsetType = UNSET
    input: Raw | UnsetType = UNSET


_read_line = msgspec.json.Decoder(_Line).decode
# Servers take `"256"` for 256 too.
_read_body = msgspec.json.Decoder(_Body, strict=False).decode
_read_columns = msgspec.json.Decoder(dict[str, Raw]).decode
_text_of = msgspec.json.Decoder(str).decode


class Reader:
    """Makes requests of lines. What the lines are is told by the first that can be read.

    check_files  whether a picture that is away is a fault; else it is missed when it is sent
    streams      whether bodies may ask for a stream
    """

    def __init__(
        self,
        form: Form,
        kind: Kind | None = None,
        *,
        check_files: bool = True,
        streams: bool = False,
    ) -> None:
        self.form = form
        self._check_files, self._streams = check_files, streams
        self.kind = kind
        self.unused: tuple[str, ...] = ()
        """Columns of the first record that nothing is made of."""
        self._folder = _whole(Path())
        self._also = _whole(form.pictures_from) if form.pictures_from else self._folder
        self._file = ""
        self._names: Sequence[str] = ()
        self._missing: tuple[str, tuple[str, ...], str | None] | None = None
        self._heads = form.heads()
        settings = form.settings
        self._model = str(settings.get("model", form.model))
        limit = settings.get("max_completion_tokens", settings.get("max_tokens"))
        count = settings.get("n", 1)
        self._answer = _answer(form.path, *(v if type(v) is int else None for v in (limit, count)))
        used = form.template.columns if form.template else _PROMPT_COLUMNS[form.path]
        pictured = form.pictures and form.path == CHAT
        self._pictured = frozenset(_PICTURE_COLUMNS if pictured else ())
        self._used = {*used, "custom_id", *self._pictured}

    def begin(self, part: Part) -> None:
        """Note which file comes next."""
        self._folder = _whole(part.folder)
        self._file = part.name
        self._names = ()

    def wanted(self, names: Sequence[str]) -> Sequence[str]:
        """Return which columns of a table are to be read."""
        self._names = names
        self.unused = self.unused or tuple(name for name in names if name not in self._used)
        return [name for name in names if name in self._used]

    def read(self, item: Item) -> Request | Fault:
        """Return the request that a line is. Raises Refused where the flags do not go with it."""
        if isinstance(item, Fault):
            return item
        try:
            if self.kind is None:
                self._decide(item)
            if self.kind is Kind.REQUESTS:
                return self._request(item)
            return self._columns(item)
        except _Unusable as error:
            return replace(error.fault, name=_name_in(item))
        except RecursionError:
            return Fault("json", phrase("the line has brackets without end"))
        except ValueError as error:
            return _not_json(item, error)

    def bodies(self, request: Request) -> Iterator[bytes]:
        """Yield the bodies of a request's samples, each when it is needed."""
        if self.kind is Kind.REQUESTS:
            return repeat(request.core, self.form.samples)
        return (b"%b%b}" % (head, request.core) for head in self._heads)

    def _decide(self, item: Item) -> None:
        keys = item if isinstance(item, dict) else _read_columns(cast(bytes, item))
        if not isinstance(item, bytes) or not _is_request(keys):
            self.kind = Kind.COLUMNS
            self.unused = self.unused or tuple(name for name in keys if name not in self._used)
            return
        if self.form.template or self.form.settings:
            flag = "--template" if self.form.template else "--set"
            raise Refused(
                phrase(
                    "`{flag}` is for rows without a body: bodies are sent as they are", flag=flag
                ),
                where=self._file,
                hint=phrase("leave `{flag}` out, or write it into the bodies", flag=flag),
            )
        self.kind = Kind.REQUESTS

    def _request(self, item: Item) -> Request:
        if not isinstance(item, bytes):
            raise _mixed()
        try:
            line = _read_line(item)
        except msgspec.ValidationError as error:
            keys = _read_columns(item)
            if not _is_request(keys):
                raise _mixed() from None
            raise _Unusable(
                "line",
                phrase("the line is no request: {why}", why=str(error)),
                phrase("a line is like {line}", line=_BATCH_LINE),
            ) from None
        key = PROMPT_KEY.get(line.url)
        if key is None:
            raise _Unusable("url", phrase("its `url` is `{url}`", url=line.url[:100]),
                            phrase("a batch takes {urls}",
                                   urls=joined(PROMPT_KEY, ", ")))  # fmt: skip
        if line.method != "POST":
            raise _Unusable("method", phrase("its `method` is `{method}`, not POST",
                                             method=line.method[:100]))  # fmt: skip
        core = bytes(line.body)
        try:
            body = _read_body(core)
        except msgspec.ValidationError as error:
            raise _Unusable(
                "body", phrase("its `body` is no request: {why}", why=str(error))
            ) from None
        if body.stream and not self._streams:
            raise _Unusable("stream", phrase("its `body` asks for a stream"),
                            phrase("take `stream` out: a batch keeps whole answers"))  # fmt: skip
        if body.seed is not None and self.form.samples > 1:
            raise _Unusable("seed", phrase("its `body` has a seed: all samples would be the same"),
                            phrase("take `seed` out, or ask once, without `-n`"))  # fmt: skip
        raw = getattr(body, key)
        if raw is UNSET:
            raise _Unusable("body", phrase("its `body` has no `{key}`", key=key))
        text = bytes(raw)
        tokens, fewest = value_tokens(text)
        limit = body.max_completion_tokens
        answer = _answer(line.url, body.max_tokens if limit is None else limit, body.n)
        if body.truncate_prompt_tokens is not None:
            fewest = 0
        return Request(
            line.custom_id, line.url, core, text, tokens, fewest, answer, body.model or ""
        )

    def _columns(self, item: Item) -> Request:
        columns: Any = item if isinstance(item, dict) else _read_columns(cast(bytes, item))
        if isinstance(item, bytes) and _is_request(columns):
            raise _mixed()
        path = self.form.path
        pictures: Sequence[bytes] = ()
        prompt = self._prompt(columns)
        tokens, fewest = value_tokens(prompt)
        if not self._pictured.isdisjoint(columns):
            pictures = self._pictures(columns)
            tokens += PICTURE * len(pictures)
        if path != CHAT:
            core = prompt
        elif pictures:
            core = _with_pictures(prompt, pictures)
        else:
            core = prompt if prompt.startswith(b"[") else _USER % prompt
        name = columns.get("custom_id")
        return Request(
            "" if name is None else _name(bytes(name)),
            path, core, core, tokens, fewest, self._answer, self._model,
            any(url.startswith(b'"file:') for url in pictures),
        )  # fmt: skip

    def _prompt(self, columns: Any) -> bytes:
        """Return the prompt's JSON."""
        template = self.form.template
        if template is not None:
            pieces = [b'"', template.texts[0]]
            for name, text in zip(template.columns, template.texts[1:], strict=True):
                value = columns.get(name)
                if value is None:
                    raise self._no_column(name, columns)
                pieces += [_inside(bytes(value), name), text]
            return b"".join([*pieces, b'"'])
        path = self.form.path
        for name, starts in _PROMPT_COLUMNS[path].items():
            value = columns.get(name)
            prompt = b"null" if value is None else bytes(value)
            if prompt != b"null":  # a column that other rows have is null in a table
                talk = path == CHAT and prompt.startswith(b"[")
                if not prompt.startswith(starts) or (talk and b'"role"' not in prompt):
                    start = prompt[:40].decode(errors="replace")
                    what = phrase("its `{name}` is no prompt: {start}", name=name, start=start)
                    raise _Unusable("column", what)
                return prompt
        names = _PROMPT_COLUMNS[path]
        null = next((name for name in names if name in columns), None)
        if null is not None:
            raise _Unusable("column", phrase("its `{name}` is null", name=null))
        raise self._no_column(next(iter(names)), columns)

    def _no_column(self, name: str, columns: Any) -> "_Unusable":
        # To look for the nearest takes long, and all lines may be alike.
        names = tuple(self._names or columns)[:_MOST_COLUMNS]
        if self._missing is None or self._missing[:2] != (name, names):
            self._missing = (name, names, _column_hint(name, names, self.form))
        return _Unusable(
            "column", phrase("there is no column `{name}`", name=name), self._missing[2]
        )

    def _pictures(self, columns: Any) -> Sequence[bytes]:
        """Return the JSON of each picture's URL."""
        urls = []
        for column in _PICTURE_COLUMNS:
            found = msgspec.json.decode(bytes(columns.get(column, b"null")))
            # CSV has an empty text where nothing is.
            listed = found if isinstance(found, list) else [found] if found else []
            urls += [msgspec.json.encode(self._url(picture, column)) for picture in listed]
        return urls

    def _url(self, picture: Any, column: str) -> str:
        data = None
        if isinstance(picture, dict):  # as data sets in Parquet have it
            data, picture = picture.get("bytes"), picture.get("path")
        if isinstance(data, str):
            kind = picture_type(_start_of(data))
            if kind is None:
                raise _Unusable("picture", phrase("its `{name}` holds no picture", name=column))
            return f"data:{kind};base64,{data}"
        if not isinstance(picture, str) or not picture:
            raise _Unusable("picture", phrase("its `{name}` is neither path nor URL", name=column))
        if picture.startswith(("http://", "https://", "data:")):
            return picture
        if picture.startswith("file://"):
            picture = os.fsdecode(unquote_to_bytes(picture.removeprefix("file://")))
        return self._file_url(picture)

    def _file_url(self, name: str) -> str:
        path = self._folder / name
        if "\0" in name or (self._check_files and not is_file(path)):
            raise _Unusable(
                "picture", phrase("there is no picture `{path}`", path=printable(str(path)))
            )
        path = _whole(path)
        if not any(path.is_relative_to(folder) for folder in (self._folder, self._also)):
            raise _Unusable(
                "picture",
                phrase(
                    "the picture `{path}` is not under the input's folder",
                    path=printable(str(path)),
                ),
                phrase("allow it: `--pictures-from {folder}`", folder=quoted(str(path.parent))),
            )
        return path.as_uri()


def _column_hint(name: str, names: Sequence[str], form: Form) -> str | None:
    near = did_you_mean(name, names)
    if near or not names:
        return near
    listed = joined((f"`{one}`" for one in names[:_COLUMNS_SHOWN]), ", ")
    if form.template is None:
        return phrase(
            'its columns are {names}; say what is asked of them: `--template "{{{name}}}"`',
            names=listed,
            name=names[0],
        )
    return phrase("its columns are {names}", names=listed)


class _Unusable(Exception):
    """The line cannot be used."""

    def __init__(self, kind: str, what: str, hint: str | None = None) -> None:
        super().__init__(what)
        self.fault = Fault(kind, what, hint)


def _with_pictures(prompt: bytes, urls: Sequence[bytes]) -> bytes:
    if prompt.startswith(b"["):
        raise _Unusable("picture", phrase("pictures go with a prompt, not with `messages`"))
    parts = b"".join(b'{"type":"image_url","image_url":{"url":%b}},' % url for url in urls)
    return _USER % (b'[%b{"type":"text","text":%b}]' % (parts, prompt))


def _is_request(keys: Mapping[str, Any]) -> bool:
    """Say whether a line is a request, though perhaps not a whole one, and no table's record.

    Columns may be called `body` and `url` too; what is in them is another matter.
    """
    body, url = (bytes(keys.get(key, b"")) for key in ("body", "url"))
    return body.startswith(b"{") or url.startswith(b'"/v1/')


def _mixed() -> _Unusable:
    return _Unusable(
        "mixed",
        phrase("this line is of another kind than the first"),
        phrase("either all lines have a `body`, or none has one"),
    )


def _not_json(item: Item, error: ValueError) -> Fault:
    start = item.lstrip()[:1] if isinstance(item, bytes) else b""
    hint = None
    if start == b"[" or item == b"{":
        hint = phrase("each line is an object of its own: `jq -c '.[]'` makes lines of an array")
    return Fault("json", phrase("the line cannot be read: {why}", why=_why(str(error))), hint)


def _why(error: str) -> str:
    """Return what msgspec says of a line, as a sentence that has its Chinese, where it is known."""
    if found := re.match(r"JSON is malformed: .*\(byte (\d+)\)$", error):
        return phrase("it is not JSON at byte {byte}", byte=found[1])
    if error == "Input data was truncated":
        return phrase("it is JSON that ends too early")
    if found := re.fullmatch(r"Expected `object`, got `(\w+)`", error):
        return phrase("it is `{kind}` in JSON, and no object", kind=found[1])
    return error


def _answer(path: str, limit: int | None, count: int | None) -> int:
    if path == EMBEDDINGS:
        return 0
    if limit is None and path == COMPLETIONS:
        limit = _DEFAULT_OF_COMPLETIONS
    return -1 if limit is None or limit < 0 else limit * max(1, count or 1)


def _name(value: bytes) -> str:
    if value.startswith((b"{", b"[")):
        raise _Unusable("line", phrase("its `custom_id` is neither text nor a number"))
    if value.startswith(b'"'):
        return _text_of(value)
    return "" if value == b"null" else value.decode()


def _name_in(item: Item) -> str:
    """Return the name of a line that cannot be used; "" where it has none that can be read."""
    try:
        columns = _read_columns(item) if isinstance(item, bytes) else cast(Any, item)
        return _name(bytes(columns.get("custom_id", b"null")))
    except (_Unusable, ValueError, RecursionError):
        return ""


def _inside(value: bytes, name: str) -> bytes:
    """Return a value as a part of a JSON string."""
    if value.startswith(b'"'):
        return value[1:-1]
    if value == b"null":
        raise _Unusable("column", phrase("its `{name}` is null", name=name))
    if value.startswith((b"{", b"[")):
        return msgspec.json.encode(value.decode())[1:-1]
    return value


def _whole(path: Path) -> Path:
    """Return a path without links in it. What the system refuses to look at stays as it is."""
    return Path(os.path.realpath(path))


def _start_of(data: str) -> bytes:
    try:
        return b64decode(data[: 2 * HEAD])
    except ValueError:
        return b""
