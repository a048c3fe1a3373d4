"""The types that a spec is made of: the base of its models, and checked values."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.spec.errors import Fault, broken, shown
from ropeway.units import exact_bytes, parse_bytes

_MIB = 2**20
# How releases are written, development builds too.
RELEASE_FORM = r"v?\d+\.\d+\.\d+(?:rc\d+)?(?:\.post\d+)?(?:\.dev\d+)?(?:\+[A-Za-z0-9.]+)?"
RELEASE_HINT = phrase(
    "write it as published, like `0.11.0rc0` or `0.18.0`; another build is named by its image, in "
    "`runtime.image`"
)


def release_fault(text: str) -> tuple[str, str] | None:
    """Return why this names no release of vLLM-Ascend, and what to do; None where it does."""
    if re.fullmatch(RELEASE_FORM, text):
        return None
    if tag := re.fullmatch(rf"({RELEASE_FORM})[-_][\w.-]{{1,100}}", text):
        return (
            phrase("{value} is the tag of an image, not a release", value=shown(text)),
            phrase(
                "write `{version}`; the rest belongs into `runtime.image`, the image's whole name",
                version=tag[1],
            ),
        )
    return phrase("{value} is not a release, written like 0.11.0rc0", value=shown(text)), (
        RELEASE_HINT
    )


def check_release(text: str) -> str:
    """Accept what names a release of vLLM-Ascend."""
    if fault := release_fault(text):
        raise ValueError(*fault)
    return text


def without_own_keys(value: object) -> object:
    """Return a mapping without its `x-` keys, which are the user's."""
    if not isinstance(value, Mapping):
        return value
    return {
        key: item
        for key, item in value.items()
        if not (isinstance(key, str) and key.startswith("x-"))
    }


class SpecModel(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_own_keys(cls, value: object) -> object:
        return without_own_keys(value)

    @model_serializer(mode="wrap")
    def _leave_out_blanks(self, write: SerializerFunctionWrapHandler) -> object:
        return {key: value for key, value in write(self).items() if value is not None}


def matching(pattern: str, form: str, *hint: str) -> AfterValidator:
    """Accept text that matches the whole `pattern`; `form` says in words what that is."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(phrase("{value} is not {form}", value=shown(text), form=form), *hint)
        return text

    return AfterValidator(check)


def none_to_empty(value: object) -> object:
    """Replace null, which is what a section of comments alone reads as, by a mapping."""
    return {} if value is None else value


def to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def none_or_tuple(value: object) -> object:
    """Replace null by the empty tuple, a list by its tuple."""
    return () if value is None else to_tuple(value)


def check_faults(find: Callable[[Any], list[Fault]]) -> AfterValidator:
    def check(value: object) -> object:
        if faults := find(value):
            raise broken(*faults)
        return value

    return AfterValidator(check)


def _read_size(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(phrase("{value} is not a size; write one like `4GiB`", value=shown(value)))
    size = parse_bytes(value)
    if size < _MIB:
        raise ValueError(
            phrase("`{value}` is {size} bytes; add the unit, like `4GiB`", value=value, size=size)
        )
    return size


Count = Annotated[int, Field(ge=1, le=65_536)]
Size = Annotated[
    int | None,
    BeforeValidator(_read_size),
    PlainSerializer(lambda size: None if size is None else exact_bytes(size)),
]
Port = Annotated[int, Field(ge=1, le=65_535)]


_HOST_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def _check_address(text: str) -> str:
    """Accept an IP address or a host name; an alias from ~/.ssh/config may have a `_`."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        named = all(_HOST_LABEL.fullmatch(label) for label in labels) and len(text) <= 253
        if not named or labels[-1].isdigit():
            raise ValueError(
                phrase("{value} is neither a host name nor an IP address", value=shown(text))
            ) from None
    return text


def is_loopback(address: str) -> bool:
    """Return whether only the host itself reaches this address: `localhost`, 127.0.0.0/8, ::1."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower().removesuffix(".") == "localhost"


def bracketed(address: str) -> str:
    """Return the address as URLs and `HOST:PORT` have it: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def api_url(address: str, port: int) -> str:
    """Return the base URL of the OpenAI-compatible API that listens at this address.

    Who listens on every interface is found at the loopback of its own host.
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"http://{bracketed(host)}:{port}/v1"


def check_key(key: str, variable: str) -> None:
    """Raise Refused for an API key, from this variable, that no HTTP header can carry."""
    unfit = next((ch for ch in key if not "!" <= ch <= "~"), None)
    if unfit is None:
        return
    what = phrase("a control character")
    if not unfit.isascii():
        what = phrase("a character that is not ASCII")
    elif unfit.isspace():
        what = phrase("a space or a line end")
    raise Refused(
        phrase("the API key in `{name}` has {what} in it", name=variable, what=what),
        hint=phrase("set it anew with `export {name}=…`", name=variable),
    )


Address = Annotated[str, AfterValidator(_check_address)]
