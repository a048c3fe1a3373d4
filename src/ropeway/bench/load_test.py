"""The description of a load test, made from flags or from the spec's `workload`."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from ropeway import __version__
from ropeway.bench.prompts import Recipe, random_prompts
from ropeway.errors import Refused
from ropeway.phrases import phrase

NOT_STATED = "not stated"
MEASURED = "measured here"


@dataclass(frozen=True, kw_only=True)
class LoadTest:
    """What is sent to an endpoint, and how fast; the same for every layout of a comparison.

    input_tokens   of each prompt, chat template included; `prompts` says whether that is exact
    output_tokens  the longest answer
    clients        requests in flight at most
    requests       counted requests in all
    rate           requests per second (Poisson, from `seed`); None: as fast as answers come
    ignore_eos     make every answer `output_tokens` long (understood by vLLM and its relatives)
    warmup         requests sent first, with prompts of their own, and not counted
    time_limit_s   stop after this many seconds, warm-up not included
    prompts        what the prompts are, for people
    fresh          of several measurements with the same seed each has another number here, and so
                   other prompts: the engine's prefix cache knows those of the ones before
    """

    input_tokens: int
    output_tokens: int
    clients: int
    requests: int
    seed: int = 0
    temperature: float = 0.0
    rate: float | None = None
    ignore_eos: bool = True
    warmup: int = 4
    time_limit_s: float | None = None
    prompts: str = "random words, no shared beginning"
    fresh: int = 0

    def with_recipe(self, recipe: Recipe) -> "LoadTest":
        """Return this test with the length that prompts of the recipe really have."""
        return replace(self, input_tokens=recipe.tokens, prompts=str(recipe))

    def counted_prompts(self, recipe: Recipe) -> Iterator[str]:
        """Return the prompts that are measured."""
        return random_prompts(recipe, self.requests, self._lot)

    def warmup_prompts(self, recipe: Recipe) -> Iterator[str]:
        """Return the prompts that are sent first.

        No test of any seed counts one of them: the engine's prefix cache would know it already.
        """
        return random_prompts(recipe, self.warmup, f"{self._lot} warm-up")

    @property
    def _lot(self) -> str:
        return f"{self.seed} {self.fresh}" if self.fresh else str(self.seed)

    def check_fits(self, model: str, context: int | None) -> None:
        """Raise Refused when a request would be longer than the context that is served.

        context  in tokens; None: the server does not say
        """
        length = self.input_tokens + self.output_tokens
        if context is not None and length > context:
            raise Refused(
                phrase(
                    "{input_tokens:,} input and {output_tokens:,} output tokens make {length:,}; "
                    "`{model}` is served with a context of {context:,}",
                    input_tokens=self.input_tokens,
                    output_tokens=self.output_tokens,
                    length=length,
                    model=model,
                    context=context,
                ),
                hint="lower `--input-tokens` or `--output-tokens`, or serve with a longer context",
            )


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A load test, where and when it was run: without them its figures mean nothing.

    started_at  ISO 8601 with its offset
    ropeway     the version that measured
    label       how the figures came about, as the reports name it
    """

    load: LoadTest
    url: str
    model: str
    layout: str = NOT_STATED
    engine: str = NOT_STATED
    hardware: str = NOT_STATED
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ropeway: str = __version__
    label: str = MEASURED

    def as_json(self) -> Mapping[str, object]:
        """Return plain data, the load test as `load`."""
        return asdict(self)
