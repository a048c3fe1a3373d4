"""What is asked of a served model: how long requests are, and how many come."""

from dataclasses import dataclass
from math import isfinite

from ropeway.errors import Refused


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one kind, over all replicas.

    input_tokens, output_tokens  of one request
    clients      closed loop: so many requests are always under way. Exactly one of this and `rate`
    rate         open loop: requests/s that arrive, whatever becomes of them
    requests     of the whole run; None is a run long enough for its ends not to count
    window       s for which requests arrive and are counted, if they end in it; None as above
    prefix_hit   share of the input whose keys and values are cached already
    draft_tokens speculative decoding: tokens guessed in each step, 0 without
    accepted     of these, tokens that a step keeps on average
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
        """Raises Refused for a load that cannot be."""
        if (self.clients is None) == (self.rate is None):
            raise Refused("a load needs clients or a rate, exactly one of them")
        for name in ("input_tokens", "output_tokens", "clients", "requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Refused(f"{name.replace('_', ' ')} {value}: must be at least 1")
        for name in ("rate", "window"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and isfinite(value)):
                raise Refused(f"{name} {value}: must be above 0")
        if not 0 <= self.prefix_hit < 1:
            raise Refused(f"prefix hit {self.prefix_hit}: must be at least 0 and below 1")
        if not 0 <= self.accepted <= self.draft_tokens:
            raise Refused(f"{self.accepted} accepted of {self.draft_tokens} draft tokens")
