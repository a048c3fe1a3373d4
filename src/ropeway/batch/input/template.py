"""What the user adds to rows without a body: a template for the prompt, and settings."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ropeway.errors import Refused
from ropeway.outside import MOST_DEPTH
from ropeway.phrases import phrase
from ropeway.spec.secret_shapes import is_secret

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
APIS = {"chat": CHAT, "completions": COMPLETIONS, "embeddings": EMBEDDINGS}
"""The path of each API that takes batches, by the word that `--api` has for it."""
PROMPT_KEY = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
"""Where the body of a request has its prompt, for each of them."""

_OURS = {*PROMPT_KEY.values(), "stream", "stream_options"}
_PIECE = re.compile(r"(\{\{|\}\}|\{[^{}]*\}|[{}])")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt with the names of columns in it.

    texts    what stands before, between and after them, as the inside of a JSON string
    columns  their names, one fewer than texts
    """

    texts: tuple[bytes, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Form:
    """How rows without a body become requests.

    settings  what each body gets, by key
    model     of bodies for which the settings name none
    samples   how often each row is asked; with `seed` among the settings, the next sample has the
              next seed, for with the same one all answers would be the same
    pictures  whether the columns `image` and `images` are sent
    pictures_from  a folder besides the input's under which their files may be
    schema    that answers must fit; the engine is told where the settings say nothing of it
    """

    path: str = CHAT
    template: Template | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 1
    pictures: bool = True
    model: str = ""
    pictures_from: Path | None = None
    schema: Mapping[str, Any] | None = None

    def heads(self) -> tuple[bytes, ...]:
        """Return for each sample how its body begins, up to the value of the prompt."""
        seed = self.settings.get("seed")
        ours: dict[str, Any] = {"model": self.model} if self.model else {}
        if self.schema is not None:
            wanted = {"name": "answer", "schema": self.schema}
            ours["response_format"] = {"type": "json_schema", "json_schema": wanted}
        heads = []
        for number in range(self.samples):
            settings = ours | dict(self.settings)
            if isinstance(seed, int):
                settings["seed"] = seed + number
            body = msgspec.json.encode({**settings, PROMPT_KEY[self.path]: 0})
            heads.append(body.removesuffix(b"0}"))
        return tuple(heads)


def make_form(
    path: str = CHAT,
    template: str | None = None,
    settings: Iterable[str] = (),
    samples: int = 1,
    *,
    pictures: bool = True,
    pictures_from: Path | None = None,
) -> Form:
    """Return the form that flags ask for. Raises Refused."""
    read = parse_template(template) if template is not None else None
    return Form(
        path, read, parse_settings(settings), samples, pictures, pictures_from=pictures_from
    )


def parse_template(text: str) -> Template:
    """Read `Translate: {text}`, where `{{` and `}}` are braces. Raises Refused."""
    texts, columns = [""], []
    for number, piece in enumerate(_PIECE.split(text)):
        if number % 2 == 0 or piece in ("{{", "}}"):
            texts[-1] += piece if number % 2 == 0 else piece[0]
        elif len(piece) == 1:
            raise Refused(
                phrase("a brace in `--template` stands alone: `{brace}`", brace=piece),
                hint="write a column as `{name}`, and a brace that is meant twice: `{{`, `}}`",
            )
        else:
            columns.append(piece[1:-1])
            texts.append("")
    if not columns:
        raise Refused(
            "`--template` names no column: every row would be the same",
            hint='write the names of columns in braces: `--template "Translate: {text}"`',
        )
    return Template(tuple(_inner_json(piece) for piece in texts), tuple(columns))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Read `max_tokens=256`, `model=name`, `chat_template_kwargs.enable_thinking=false`.

    A value is JSON where it can be read as such, and else text; the model is always text. Dots in a
    key lead into objects. Raises Refused.
    """
    read: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or len(path) > MOST_DEPTH:
            raise Refused(
                phrase("`--set {setting}` is no setting", setting=setting),
                hint="write it like `--set max_tokens=256`",
            )
        if any(is_secret(name, text) for name in path):
            raise Refused(
                phrase("`--set {key}` is a secret, and would be visible to others", key=key),
                hint=phrase(
                    "`--key-env` names the variable of a server's key; else write bodies with it"
                ),
            )
        if path[0] in _OURS:
            raise Refused(
                phrase("`--set {key}` is not for users: each row has its own", key=path[0])
                if path[0] in PROMPT_KEY.values()
                else "a batch keeps whole answers, and streams none",
                hint=phrase("leave `--set {key}` out", key=key),
            )
        place = read
        for name in path[:-1]:
            inner = place.setdefault(name, {})
            if not isinstance(inner, dict):
                raise _twice(key)
            place = inner
        if path[-1] in place:
            raise _twice(key)
        place[path[-1]] = text if path == ["model"] else _value(text)
    return read


def _value(text: str) -> Any:
    try:
        value = msgspec.json.decode(text.encode())
    except (ValueError, RecursionError):  # no JSON; half of a character
        value = text
    try:
        msgspec.json.encode(value)
    except ValueError:
        raise Refused("a setting is not UTF-8 text", hint="check the terminal's locale") from None
    return value


def _twice(key: str) -> Refused:
    return Refused(phrase("`--set {key}` is given twice", key=key), hint="give it once")


def _inner_json(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)[1:-1]
    except ValueError:
        raise Refused(
            "`--template` is not UTF-8 text", hint="check the terminal's locale"
        ) from None
