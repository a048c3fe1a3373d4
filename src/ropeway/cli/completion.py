"""What the shell offers after a flag; the flags themselves are click's."""

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def one_of(names: Callable[[], Iterable[str]]) -> Offer:
    """Offer those of these names that begin with what was typed; of a path, what lies there."""

    def offer(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
        if typed.startswith((".", "/", "~")):
            return [CompletionItem(typed, type="file")]
        fitting = (name for name in names() if name.lower().startswith(typed.lower()))
        return [CompletionItem(name) for name in fitting]

    return offer
