"""English sentences that remember how they were made, so that they can be shown in Chinese.

A Phrase is a `str`, so code that prints or stores it needs to know nothing of this. `translation`
makes it again from the other language's template, its values translated too.
"""

from collections.abc import Iterable, Mapping


class Phrase(str):
    """Text with its template and the values in it; without a template, a list of `parts`, or its
    Chinese, where that is known already."""

    template: str = ""
    values: Mapping[str, object] = {}
    parts: tuple[str, ...] = ()
    separator: str = ""
    chinese: str = ""


def phrase(template: str, /, **values: object) -> Phrase:
    """Return `template` with the values formatted into it, as `str.format` does."""
    text = Phrase(template.format(**values))
    text.template, text.values = template, values
    return text


def joined(parts: Iterable[str], separator: str = "; ") -> Phrase:
    """Return the parts as one text."""
    items = tuple(parts)
    if len(items) == 1 and isinstance(items[0], Phrase):
        return items[0]
    text = Phrase(separator.join(items))
    text.parts, text.separator = items, separator
    return text


def bilingual(english: str, chinese: str) -> Phrase:
    """Return a text whose Chinese comes with it, and stands in no table."""
    text = Phrase(english)
    text.chinese = chinese
    return text


def count(number: int, singular: str, plural: str) -> Phrase:
    """Return `1 host` or `2 hosts`, from `{n:,} host` and `{n:,} hosts`."""
    return phrase(singular if number == 1 else plural, n=number)


def translation(text: str, table: Mapping[str, str]) -> str | None:
    """Return a text of ours in the language of `table`, which has a template for each English one.

    None when a template of it, however deep, has none there: a text is never half translated.
    Values and parts that are no Phrase come from outside, and stay, unless they are sentences of
    `table`; a single word is looked up nowhere, for it may be a name.
    """
    if not text:
        return ""
    if isinstance(text, Phrase) and text.chinese:
        return text.chinese
    if not isinstance(text, Phrase) or not (text.template or text.parts):
        return table.get(text)
    if text.parts:
        parts = [_inner(part, table) for part in text.parts]
        separator = table.get(text.separator, text.separator)
        return None if None in parts else separator.join(map(str, parts))
    values = {name: _inner(value, table) for name, value in text.values.items()}
    template = table.get(text.template)
    missing = template is None or any(
        value is None and text.values[name] is not None for name, value in values.items()
    )
    return None if missing else str(template).format(**values)


def translated(text: str, table: Mapping[str, str]) -> str:
    """Return the translation, or the text as it is where there is none."""
    shown = translation(text, table)
    return text if shown is None else shown


def _inner(value: object, table: Mapping[str, str]) -> object:
    if isinstance(value, Phrase):
        return translation(value, table)
    return table.get(value, value) if isinstance(value, str) and " " in value else value
