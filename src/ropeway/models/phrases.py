"""English sentences that remember how they were made, so that a page can show them in Chinese.

A Phrase is a `str`, so code that prints or stores it needs to know nothing of this. `translated`
makes it again from the other language's template, its values translated too.
"""

from collections.abc import Iterable, Mapping

_SEPARATOR = "; "


class Phrase(str):
    """Text with its template and the values in it; without a template, a list of `parts`."""

    template: str = ""
    values: Mapping[str, object] = {}
    parts: tuple[str, ...] = ()


def phrase(template: str, /, **values: object) -> Phrase:
    """Return `template` with the values formatted into it, as `str.format` does."""
    text = Phrase(template.format(**values))
    text.template, text.values = template, values
    return text


def joined(parts: Iterable[str]) -> Phrase:
    """Return the parts as one text, separated by semicolons."""
    items = tuple(parts)
    if len(items) == 1 and isinstance(items[0], Phrase):
        return items[0]
    text = Phrase(_SEPARATOR.join(items))
    text.parts = items
    return text


def translated(text: object, table: Mapping[str, str]) -> object:
    """Return a text in the language of `table`, which has a template for each English one.

    Text that is not in the table, and values other than text, stay as they are.
    """
    if isinstance(text, Phrase) and text.template:
        values = {name: translated(value, table) for name, value in text.values.items()}
        return table.get(text.template, text.template).format(**values)
    if isinstance(text, Phrase) and text.parts:
        separator = table.get(_SEPARATOR, _SEPARATOR)
        return separator.join(str(translated(part, table)) for part in text.parts)
    return table.get(text, text) if isinstance(text, str) else text


def count(number: int, singular: str, plural: str) -> Phrase:
    """Return `1 host` or `2 hosts`, from `{n:,} host` and `{n:,} hosts`."""
    return phrase(singular if number == 1 else plural, n=number)
