"""The load that a forecast is for: how long requests are, and how many come."""

from dataclasses import dataclass, replace
from math import ceil, isfinite

from ropeway.errors import Refused
from ropeway.phrases import Phrase, phrase

_ROUND_CONTEXT = 1024


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind. `spec.model.Workload` is what the user writes; this adds what only
    measurements have.

    input_tokens, output_tokens  of one request
    clients       closed loop: this many requests are always in flight. Either this or `rate`
    rate          open loop: requests/s that arrive, however many are in flight
    requests      of the whole run; None is a run so long that its ends do not count
    window        s in which requests arrive, and in which they must end to count; None as above
    prefix_hit    share of the input whose keys and values are cached already
    draft_tokens  speculative decoding: tokens guessed in each step, 0 without
    accepted      draft tokens that a step keeps on average
    """

    input_tokens: int
    output_tokens: int
    clients: int | None = None
    rate: float | None = None
    requests: int | None = None
    window: float | None = None
    prefix_hit: float = 0.0
    draft_tokens: int = 0
    accepted: float = 0.0

    def __post_init__(self) -> None:
        """Raise Refused for an impossible load."""
        if (self.clients is None) == (self.rate is None):
            raise Refused(phrase("a load needs either clients or a rate"))
        for name in ("input_tokens", "output_tokens", "clients", "requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise _out_of_range(name, value, phrase("at least 1"))
        for name in ("rate", "window"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and isfinite(value)):
                raise _out_of_range(name, value, phrase("a number above 0"))
        if not 0 <= self.prefix_hit < 1:
            raise _out_of_range("prefix_hit", self.prefix_hit, phrase("at least 0 and below 1"))
        if not 0 <= self.accepted <= self.draft_tokens:
            most = phrase("from 0 to {most}", most=self.draft_tokens)
            raise _out_of_range("accepted", self.accepted, most)

    def share(self, replicas: int) -> "Load":
        """Return the load of one of so many replicas, between which a router divides it."""
        if replicas == 1:
            return self
        return replace(
            self,
            clients=self.clients and max(1, round(self.clients / replicas)),
            rate=self.rate and self.rate / replicas,
            requests=self.requests and max(1, round(self.requests / replicas)),
        )

    @property
    def tokens(self) -> int:
        """Tokens of one request, prompt and answer together."""
        return self.input_tokens + self.output_tokens


def whole_context(tokens: int) -> int:
    """Return a request's tokens, rounded up so that a chat template fits too."""
    return ceil(tokens / _ROUND_CONTEXT) * _ROUND_CONTEXT


def _out_of_range(name: str, value: float, allowed: Phrase) -> Refused:
    return Refused(
        phrase("`{name}` is {value}: it must be {allowed}", name=name, value=value, allowed=allowed)
    )
