"""Prompts of a given length, the same for one seed, that share no beginning unless it is asked for.

A shared beginning is answered from the engine's prefix cache and flatters the figures, so each
prompt is a random row of short common words. Such words are one token each in the tokenizers
in use; where the server offers `/tokenize` this is checked, and the lengths are exact.
"""

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from ropeway.bench.workloads.spool import Spool
from ropeway.phrases import phrase

WORDS: tuple[str, ...] = tuple(
    """
    time year people way day man thing woman life child world school state family student group
    country problem hand part place case week company system program question work government
    number night point home water room mother area money story fact month lot right study book
    eye job word business issue side kind head house service friend father power hour game line
    end member law car city community name president team minute idea body information back parent
    face level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education foot boy age policy music market sense
    nation plan college interest death experience effect use class control care field role effort
    light voice table paper space ground form event matter center couple site project
    base star board wall wind road river green black white small large early young
    good new first last long great little own other old high different next public same able
    """.split()  # noqa: SIM905 (270 quotes and commas would hide the words)
)
"""Common English nouns and adjectives, each a single token in the large byte-level vocabularies."""

Counter = Callable[[str], Awaitable[int | None]]
"""Tokens of a one-message chat with this text, template included; None when it is unknown."""

_FIRST_WORDS = 16


@dataclass(frozen=True)
class Recipe:
    """How to write prompts of `words` words that have a known number of tokens.

    tokens   what the server will count for each prompt, chat template included
    first    words that a prompt may begin with; `rest`: the words that may follow
    exact    whether the server's tokenizer confirmed `tokens`; otherwise it is an estimate
    own      the user's own prompts, which are sent in place of words
    """

    tokens: int
    words: int
    first: tuple[str, ...]
    rest: tuple[str, ...]
    exact: bool
    own: Spool | None = None

    @property
    def overhead(self) -> int:
        """Tokens that a prompt has besides its words."""
        return self.tokens - self.words

    def __str__(self) -> str:
        return phrase(
            "random words, exactly {n} tokens, no shared beginning"
            if self.exact
            else "random words, about {n} tokens, no shared beginning",
            n=self.tokens,
        )


def random_prompts(recipe: Recipe, total: int, seed: str) -> Iterator[str]:
    """Yield `total` prompts, each made when it is needed, so that a million cost no memory."""
    return (random_prompt(recipe, seed, number) for number in range(total))


def random_prompt(
    recipe: Recipe,
    seed: str,
    number: int,
    lengths: tuple[int, int] | None = None,
    beginning: str = "",
) -> str:
    """Return a prompt, decided by `seed` and `number`.

    lengths    the least and the most tokens, beginning not included; None: those of the recipe
    beginning  what stands before it
    """
    chance = random.Random(f"prompt {seed} {number}")
    words = recipe.words
    if lengths:
        words = max(1, chance.randint(*lengths) - recipe.overhead)
    if beginning:
        return " ".join([beginning, *chance.choices(recipe.rest, k=words)])
    rest = chance.choices(recipe.rest, k=words - 1)
    return " ".join([chance.choice(recipe.first), *rest])


def random_beginning(recipe: Recipe, seed: str, number: int, tokens: int) -> str:
    """Return a beginning of so many tokens for several prompts to share."""
    chance = random.Random(f"beginning {seed} {number}")
    rest = chance.choices(recipe.rest, k=tokens - 1)
    return " ".join([chance.choice(recipe.first), *rest])


async def find_recipe(tokens: int, count: Counter) -> Recipe:
    """Find the recipe for prompts of `tokens` tokens, checked against the server's tokenizer.

    The chat template takes its share of `tokens`; when it alone is longer, prompts have one word
    and `Recipe.tokens` is their true length. Takes about 20 calls of `count` when the words
    are single tokens, and a few more for each that is not. Raises ValueError unless `tokens` ≥ 1.
    """
    if tokens < 1:
        raise ValueError(f"a prompt has at least one token, not {tokens}")
    guess = Recipe(tokens, tokens, WORDS, WORDS, exact=False)
    shortest = await count(WORDS[0])
    if shortest is None:
        return guess
    first = [word for word in WORDS[:_FIRST_WORDS] if await count(word) == shortest]
    rest = await _single_tokens(first[0], WORDS, shortest, count) if first else []
    if not rest:  # or the server counts the same text differently each time
        return guess
    words = max(1, tokens - shortest + 1)
    recipe = Recipe(shortest + words - 1, words, tuple(first), tuple(rest), exact=True)
    sample = random_prompts(recipe, 3, seed="sample")
    if any([await count(text) != recipe.tokens for text in sample]):
        return guess
    return recipe


async def _single_tokens(
    before: str, words: Sequence[str], shortest: int, count: Counter
) -> list[str]:
    """Return those of the words that are one token each after another word, found by halving.

    Every word is at least one token, so if n words add n tokens, each of them is a single token.
    """
    counted = await count(" ".join([before, *words]))
    if counted == shortest + len(words):
        return list(words)
    if len(words) == 1 or counted is None:
        return []
    middle = len(words) // 2
    left = await _single_tokens(before, words[:middle], shortest, count)
    return left + await _single_tokens(before, words[middle:], shortest, count)
