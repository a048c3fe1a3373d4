"""Stores that pyarrow opens by a URL, such as `s3://bucket/folder`."""

import importlib
import re
from collections.abc import Iterable
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from ropeway.errors import Refused, reason_of
from ropeway.phrases import phrase
from ropeway.spec.secret_shapes import is_secret
from ropeway.units import format_seconds

_BUCKET = "https://{bucket}.s3.amazonaws.com"
_ASKING_S = 10.0
_REGION = re.compile(r"[a-z0-9-]+")
# `KEY:SECRET@`, also with a `/` in it that should be written `%2F`; not `host:8020/a@b`, and not
# the container of `abfs://container@account`.
_KEYS = re.compile(r"s3://[^/?]*@|://[^/?]*:(?!\d{1,5}(?:[/?]|$))[^@]*@")


def library(name: str) -> Any:
    """Return a package of the extra `batch`; it is imported where it is needed only."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(
            phrase("this needs the package {name}", name=name.partition(".")[0]),
            hint='pip install "ropeway[batch]"',
        ) from None


def check_no_keys(words: Iterable[str]) -> None:
    """Raise Refused for a URL with keys in it: it is to go to other machines, where all see it."""
    for name in words:
        scheme, is_url, rest = name.partition("://")
        options = parse_qsl(rest.partition("?")[2])
        if is_url and (_KEYS.search(name) or any(is_secret(*pair) for pair in options)):
            raise Refused(
                phrase("the URL has keys in it, which others would see where the job runs"),
                where=f"{scheme.rpartition('=')[2]}://…",
                hint=phrase(
                    "leave them out: a store's keys belong into the environment of the machines"
                    " that read it"
                ),
            )


def without_keys(text: str) -> str:
    """Return a URL without keys and options, for people.

    A `/` in a key, which is written `%2F`, ends what seems to be the host: then what is before the
    last `@` is not shown.
    """
    scheme, _, rest = text.partition("?")[0].partition("://")
    host, slash, path = rest.partition("/")
    if "@" not in host and ":" in host and scheme != "hdfs":  # which has ports, and no keys
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def store_fault(error: Exception, text: str) -> str:
    """Return why the store of a URL fails, in a line without its keys."""
    line, netloc = reason_of(error).partition("\n")[0], read_url(text).netloc
    for told, shown in ((text, without_keys(text)), (netloc, netloc.rpartition("@")[2])):
        line = line.replace(told, shown).replace(told.lower(), shown)
    return line


def store_faults() -> tuple[type[Exception], ...]:
    """Return what the library raises where a store cannot be opened or asked."""
    return (OSError, ValueError, library("pyarrow").ArrowException)


def read_url(text: str) -> SplitResult:
    """Return the pieces of a URL. Raises Refused where it is none, or its keys are cut."""
    why: str | None = phrase("it has a NUL") if "%00" in text else None
    try:
        url = urlsplit(text)
        if url.scheme == "s3" and ":" in url.netloc and "@" not in url.netloc:
            why = phrase("a `/` in its key is written `%2F`")
    except ValueError as error:
        why = str(error)
    if why is not None:
        what = phrase("the URL cannot be used: {why}", why=why)
        raise Refused(what, where=without_keys(text))
    return url


def open_store(text: str) -> tuple[Any, str]:
    """Return the store of a URL, and the path in it.

    Raises `store_faults`, and Refused where a bucket's region cannot be found out. Left to itself
    the library asks Amazon for that, for minutes where no network leads there.
    """
    url = read_url(text)
    bucket = url.netloc.rpartition("@")[2]
    told = parse_qs(url.query).keys() & {"region", "endpoint_override"}
    if url.scheme == "s3" and bucket and not told:
        options = [url.query] if url.query else []
        url = url._replace(query="&".join([*options, f"region={_region(bucket)}"]))
        text = urlunsplit(url)
    store, path = library("pyarrow.fs").FileSystem.from_uri(text)
    return store, path


def _region(bucket: str) -> str:
    """Return where a bucket is, which Amazon tells everyone. Raises Refused."""
    said: SimpleQueue[str | Exception] = SimpleQueue()

    def ask() -> None:
        try:
            request = Request(_BUCKET.format(bucket=bucket), method="HEAD")
            with urlopen(request, timeout=_ASKING_S) as response:
                headers = response.headers
        except HTTPError as error:  # also those are told that may not see it
            headers = error.headers
        except (OSError, ValueError, HTTPException) as error:
            said.put(error)
            return
        said.put(headers.get("x-amz-bucket-region", ""))

    Thread(target=ask, daemon=True).start()  # to look up a name takes what it takes
    try:
        answer = said.get(timeout=_ASKING_S)
    except Empty:
        answer = TimeoutError(phrase("no answer within {time}", time=format_seconds(_ASKING_S)))
    if isinstance(answer, str) and _REGION.fullmatch(answer):
        return answer
    why = phrase("Amazon knows none")
    if isinstance(answer, Exception):
        why = getattr(answer, "reason", answer.args[-1])
    raise Refused(
        phrase("the bucket's region cannot be found out: {why}", why=why),
        where=f"s3://{bucket}",
        hint=phrase(
            "name it, `s3://{bucket}/…?region=eu-west-1`, or a store of your own, "
            "`?endpoint_override=http://host:9000`",
            bucket=bucket,
        ),
    )
