"""Stores that pyarrow opens by a URL, such as `s3://bucket/folder`."""

import importlib
import re
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.units import format_seconds

_BUCKET = "https://{bucket}.s3.amazonaws.com"
_ASKING_S = 10.0
_REGION = re.compile(r"[a-z0-9-]+")


def library(name: str) -> Any:
    """Return a package of the extra `batch`; it is imported where it is needed only."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(
            phrase("this needs the package {name}", name=name.partition(".")[0]),
            hint='pip install "ropeway[batch]"',
        ) from None


def open_store(text: str) -> tuple[Any, str]:
    """Return the store of a URL, and the path in it.

    Raises OSError and ValueError, and Refused where a bucket's region cannot be found out. Left to
    itself the library asks Amazon for that, for minutes where no network leads there.
    """
    url = urlsplit(text)
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
