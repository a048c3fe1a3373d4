"""A server's own words about what went wrong."""

import json

LONGEST_REFUSAL = 2**16
"""Bytes that are kept of an answer in which a server may say what went wrong."""

LONGEST_WORDS = 400
"""Characters that are shown of it."""


def server_words(body: object) -> str:
    """Return the server's message, in any of the usual shapes; shortened."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error", body)
    message = error.get("message") if isinstance(error, dict) else error
    if not message and "detail" in body:
        message = body["detail"]
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return " ".join(text.split())[:LONGEST_WORDS] if message else ""
