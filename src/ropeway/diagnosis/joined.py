"""Join lines that were one: parts that Kubernetes cut, and a JSON object over several lines."""

import re

from ropeway.diagnosis.wrapped import unwrapped

# `2025-12-15T11:45:16.1Z stderr P the first 16 KiB`; the last part has F (full) in place of P.
_PART = re.compile(r"(?P<head>\d{4}-\S{1,40} (?P<stream>std(?:out|err)) )(?P<tag>[FP]) ")
_LONGEST = 100_000
# What stands in a text where lines may have to be joined.
_SIGNS = (" stdout P ", " stderr P ", "{\n", "{\r\n")


class Joined:
    """What is kept of lines that were one, until their end comes."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._object: list[str] = []
        self._size = 0

    def awaits(self, text: str, start: int, end: int) -> bool:
        """Return whether lines of text[start:end] may have to be joined."""
        return bool(self._parts or self._object) or any(
            text.find(sign, start, end) >= 0 for sign in _SIGNS
        )

    def whole(self, line: str) -> str | None:
        """Return what to judge in place of this line: nothing while more is to come, all where it
        is the end. None for a line by itself.
        """
        if part := _PART.match(line):
            return self._whole_part(part)
        return self._whole_object(line.rstrip())

    def _whole_part(self, part: re.Match[str]) -> str | None:
        before = self._parts.pop(part["stream"], "")
        if part["tag"] == "F" and not before:
            return None
        whole = (before or f"{part['head']}F ") + part.string[part.end() :].rstrip("\r")
        if part["tag"] == "F" or len(whole) > _LONGEST:
            return whole
        self._parts[part["stream"]] = whole
        return ""

    def _whole_object(self, line: str) -> str | None:
        """Lines of an object are judged by themselves too: only its end is known for one."""
        if line == "{":
            self._object, self._size = [line], 0
            return None
        if not self._object:
            return None
        self._object.append(line)
        self._size += len(line) + 1
        if line != "}" and self._size < _LONGEST:
            return None
        whole, self._object = "\n".join(self._object), []
        read = unwrapped(whole)
        return None if read == [whole] else whole
