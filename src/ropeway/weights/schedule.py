"""Who sends which piece to whom next. Pure: a swarm's state in, transfers out.

One copy of a model is F pieces over one link. A host sends one piece and receives one at a time: a
second stream over the same link would only halve both. If every host that has a piece passes it on
while the next ones arrive, N hosts need the time of F + ⌈log₂ N⌉ − 1 pieces when all pieces are
equal, which is the optimum (Mundinger, Weber, Weiss: Optimal scheduling of peer-to-peer file
dissemination, 2008). A tree that passes on the whole model needs F · ⌈log₂ N⌉, a chain F + N − 2.

The optimum needs a fixed pattern and hosts of equal speed. The rule used here comes within a few
pieces of it and copes with hosts that are slow, fail, or have half of the model already: whenever a
host falls idle, the piece that the fewest hosts have goes first. So the source sends every piece
once before it sends any of them twice, and the last pieces spread by doubling.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush


@dataclass(frozen=True, order=True)
class Transfer:
    """One piece, by its number, on its way from one host to another."""

    sender: str
    receiver: str
    piece: int


@dataclass(frozen=True)
class SwarmState:
    """Which host has which pieces, and which transfers are under way.

    sizes    bytes of each piece, by its number
    has      host → pieces that it can pass on
    wants    host → pieces that it is still to receive, including those under way
    running  the transfers under way
    ending   those of them that are about to end: starting rsync costs a login, which the next
             transfer can do while the last bytes of this one arrive
    barred   pairs (sender, receiver) that are not retried
    """

    sizes: tuple[int, ...]
    has: Mapping[str, frozenset[int]]
    wants: Mapping[str, frozenset[int]]
    running: frozenset[Transfer] = frozenset()
    ending: frozenset[Transfer] = frozenset()
    barred: frozenset[tuple[str, str]] = frozenset()

    def begin(self, transfer: Transfer) -> "SwarmState":
        return replace(self, running=self.running | {transfer})

    def end(self, transfer: Transfer, *, arrived: bool) -> "SwarmState":
        """Finish a transfer; if the piece arrived, its receiver can now pass it on."""
        finished = {transfer}
        state = replace(self, running=self.running - finished, ending=self.ending - finished)
        return state.gain(transfer.receiver, transfer.piece) if arrived else state

    def mark_ending(self, host: str) -> "SwarmState":
        """Note that the one transfer to this host is about to end."""
        incoming = frozenset(one for one in self.running if one.receiver == host)
        return replace(self, ending=self.ending | incoming) if len(incoming) == 1 else self

    def gain(self, host: str, piece: int) -> "SwarmState":
        """Note that a host has a piece; a host that has failed is ignored."""
        if host not in self.wants:
            return self
        has = self.has.get(host, frozenset()) | {piece}
        return self._with(host, has, self.wants[host] - {piece})

    def lose(self, host: str, piece: int) -> "SwarmState":
        """Note that what a host has of a piece is wrong, so that it is to be sent again."""
        if host not in self.wants:
            return self
        has = self.has.get(host, frozenset()) - {piece}
        return self._with(host, has, self.wants[host] | {piece})

    def _with(self, host: str, has: frozenset[int], wants: frozenset[int]) -> "SwarmState":
        return replace(self, has={**self.has, host: has}, wants={**self.wants, host: wants})

    def bar(self, sender: str, receiver: str) -> "SwarmState":
        """Note that this sender cannot reach this receiver."""
        return replace(self, barred=self.barred | {(sender, receiver)})

    def without(self, host: str) -> "SwarmState":
        """Remove a host that has failed; its running transfers still have to end."""
        return replace(
            self,
            has={name: pieces for name, pieces in self.has.items() if name != host},
            wants={name: pieces for name, pieces in self.wants.items() if name != host},
        )


def choose_transfers(state: SwarmState) -> tuple[Transfer, ...]:
    """Return the transfers to begin now: at most one to and one from each host.

    Transfers that are about to end do not count.
    """
    chosen: list[Transfer] = []
    copies = Counter(transfer.piece for transfer in state.running)
    for pieces in state.has.values():
        copies.update(pieces)
    while best := _best(state, copies):
        chosen.append(best)
        copies[best.piece] += 1
        state = state.begin(best)
    return tuple(chosen)


def _best(state: SwarmState, copies: Mapping[int, int]) -> Transfer | None:
    """Return the best transfer that can begin now.

    The rarest piece goes first, among equally rare ones the largest: small pieces fill the gaps at
    the end. It comes from the host with the fewest pieces to offer and goes to the one that lacks
    the most.
    """
    sending = _busy(state, [(transfer, transfer.sender) for transfer in state.running])
    receiving = _busy(state, [(transfer, transfer.receiver) for transfer in state.running])
    senders = {host: pieces for host, pieces in state.has.items() if pieces and host not in sending}
    incoming = {(transfer.receiver, transfer.piece) for transfer in state.running}
    receivers = {
        host: frozenset(piece for piece in pieces if (host, piece) not in incoming)
        for host, pieces in state.wants.items()
        if pieces and host not in receiving
    }
    if not senders or not receivers:
        return None
    missing = frozenset().union(*receivers.values())
    offered = frozenset().union(*senders.values())
    for piece in sorted(missing & offered, key=lambda one: (copies[one], -state.sizes[one], one)):
        pairs = [
            (len(offer), -len(lack), sender, receiver)
            for sender, offer in senders.items()
            if piece in offer
            for receiver, lack in receivers.items()
            if piece in lack and sender != receiver and (sender, receiver) not in state.barred
        ]
        if pairs:
            *_, sender, receiver = min(pairs)
            return Transfer(sender, receiver, piece)
    return None


def _busy(state: SwarmState, ends: Sequence[tuple[Transfer, str]]) -> set[str]:
    """Return the hosts with a transfer that is not about to end, or with two of any kind."""
    count = Counter(host for _, host in ends)
    return {host for one, host in ends if one not in state.ending or count[host] > 1}


# A transfer that failed is tried once more: a link that was away for a moment is no reason to take
# another way. A host that nobody seems to reach is given up before every sender has tried.
_TRIES, _TRIES_TO_REACH = 2, 6


@dataclass(frozen=True)
class Faults:
    """Consecutive failures: of each (sender, receiver), and of each receiver with any sender."""

    counts: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    def after(self, transfer: Transfer, *, arrived: bool) -> "Faults":
        ends: tuple[tuple[str, ...], ...] = (
            (transfer.sender, transfer.receiver),
            (transfer.receiver,),
        )
        counts = {end: 0 if arrived else self.counts.get(end, 0) + 1 for end in ends}
        return Faults({**self.counts, **counts})

    def bars(self, transfer: Transfer) -> bool:
        """Return whether this sender should stop trying to reach this receiver."""
        return self.counts.get((transfer.sender, transfer.receiver), 0) >= _TRIES

    def gives_up(self, receiver: str) -> bool:
        """Return whether no sender should try this receiver any more."""
        return self.counts.get((receiver,), 0) >= _TRIES_TO_REACH


def simulate(
    state: SwarmState, seconds: Callable[[Transfer], float]
) -> Iterator[tuple[float, float, Transfer]]:
    """Yield every transfer as (begin, end, transfer), in the order of their begin, if none fails.

    seconds  how long a transfer takes
    """
    ends: list[tuple[float, Transfer]] = []
    now = 0.0
    while True:
        for transfer in choose_transfers(state):
            state = state.begin(transfer)
            end = now + seconds(transfer)
            heappush(ends, (end, transfer))
            yield now, end, transfer
        if not ends:
            return
        now, transfer = heappop(ends)
        state = state.end(transfer, arrived=True)
