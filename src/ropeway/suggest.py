"""What a word that we do not know was most likely meant to be: for every "did you mean"."""

from collections.abc import Iterable
from difflib import SequenceMatcher

from ropeway.phrases import Phrase, joined, phrase

_ALIKE = 0.6  # of 1, from which two words are taken for one with a slip
_ALIKE_END = 0.9  # the same of their last words
_PART = 3  # letters from which a part of a word says which word


def nearest(word: str, known: Iterable[str], most: int = 1) -> tuple[str, ...]:
    """Return the known words that `word` was most likely meant to be, the likeliest first.

    A beginning (`qwen3-30b`) goes first, then a part or nearly the same last word, then what only
    differs in a few letters.
    """
    folded = _fold(word)
    last = folded.rpartition("-")[2]
    found = []
    for name in known:
        other = _fold(name)
        alike = _likeness(other, folded)
        short, long = sorted((folded, other), key=len)
        part = len(short) >= _PART and (long.startswith(short) + (short in long))
        if part or alike >= _ALIKE:
            same_end = _likeness(other.rpartition("-")[2], last) >= _ALIKE_END
            found.append((-part or -same_end, -alike, name))
    return tuple(name for _, _, name in sorted(found)[:most])


def did_you_mean(word: str, known: Iterable[str], most: int = 1) -> Phrase | None:
    """Return the question with the likeliest of the known words; None when none is near."""
    names = [f"`{name}`" for name in nearest(word, known, most)]
    return phrase("did you mean {names}?", names=joined(names, " or ")) if names else None


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _fold(word: str) -> str:
    """Leave out case and a model's organisation, which people leave out too."""
    return word.rstrip("/").rpartition("/")[2].lower().replace("_", "-")
