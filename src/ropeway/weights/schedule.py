"""Who sends what to whom next. Pure: a board in, transfers out.

One copy of a model is F pieces over one link. A host sends one piece and receives one at a time: a
second stream over the same link would only halve both. If every host that has a piece passes it on
while the next ones arrive, N hosts need the time of F + ⌈log₂ N⌉ − 1 pieces when all pieces are
equal, which is the optimum (Mundinger, Weber, Weiss: Optimal scheduling of peer-to-peer file
dissemination, 2008). A tree that passes on the whole model needs F · ⌈log₂ N⌉, a chain F + N − 2.

The optimum needs a fixed pattern and hosts of equal speed. Chosen here is what comes within a few
pieces of it and does not mind hosts that are slow, fail, or have half of it already: whenever a
host falls idle, the piece that the fewest have goes first. So the source sends every piece once
before any of them a second time, and the last pieces spread by doubling.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush


@dataclass(frozen=True, order=True)
class Transfer:
    """One piece, by its number, from a host to another."""

    sender: str
    receiver: str
    piece: int


@dataclass(frozen=True)
class Board:
    """What is where, and what is under way.

    sizes    bytes of each piece, by its number
    has      host → pieces that it can pass on
    wants    host → pieces that it is still to get, those under way included
    running  the transfers under way
    ending   those that are about to end: a run of rsync costs a login, and the next one's is done
             while the last bytes of this one are on their way
    barred   (sender, receiver) that are not tried again
    """

    sizes: tuple[int, ...]
    has: Mapping[str, frozenset[int]]
    wants: Mapping[str, frozenset[int]]
    running: frozenset[Transfer] = frozenset()
    ending: frozenset[Transfer] = frozenset()
    barred: frozenset[tuple[str, str]] = frozenset()

    @property
    def complete(self) -> bool:
        return not any(self.wants.values())

    def begin(self, transfer: Transfer) -> "Board":
        return replace(self, running=self.running | {transfer})

    def end(self, transfer: Transfer, *, arrived: bool) -> "Board":
        """The transfer is over; when the piece arrived, its receiver can pass it on."""
        over = {transfer}
        board = replace(self, running=self.running - over, ending=self.ending - over)
        return board.gain(transfer.receiver, transfer.piece) if arrived else board

    def soon_over(self, host: str) -> "Board":
        """What this host is receiving has arrived in a moment."""
        to_it = frozenset(one for one in self.running if one.receiver == host)
        return replace(self, ending=self.ending | to_it) if len(to_it) == 1 else self

    def gain(self, host: str, piece: int) -> "Board":
        """A host has a piece now. Of a host that has failed nobody keeps account."""
        if host not in self.wants:
            return self
        return replace(
            self,
            has={**self.has, host: self.has.get(host, frozenset()) | {piece}},
            wants={**self.wants, host: self.wants.get(host, frozenset()) - {piece}},
        )

    def lose(self, host: str, piece: int) -> "Board":
        """What a host took for the piece is not it."""
        if host not in self.wants:
            return self
        return replace(
            self,
            has={**self.has, host: self.has.get(host, frozenset()) - {piece}},
            wants={**self.wants, host: self.wants.get(host, frozenset()) | {piece}},
        )

    def bar(self, sender: str, receiver: str) -> "Board":
        """This sender does not reach this receiver."""
        return replace(self, barred=self.barred | {(sender, receiver)})

    def without(self, host: str) -> "Board":
        """A host has failed: it neither gets nor gives any more. What runs there still ends."""
        return replace(
            self,
            has={name: held for name, held in self.has.items() if name != host},
            wants={name: wanted for name, wanted in self.wants.items() if name != host},
        )


def choose(board: Board) -> tuple[Transfer, ...]:
    """The transfers to begin now: one to each host and one from each, beside what is ending."""
    chosen: list[Transfer] = []
    copies = Counter(one.piece for one in board.running)
    for held in board.has.values():
        copies.update(held)
    while best := _best(board, copies):
        chosen.append(best)
        copies[best.piece] += 1
        board = board.begin(best)
    return tuple(chosen)


def _best(board: Board, copies: Mapping[int, int]) -> Transfer | None:
    """The rarest piece that can go, to whom lacks most, from whom can give least else.

    Among equally rare pieces the largest: what is small fills the gaps at the end.
    """
    sending = _busy(board, [(one, one.sender) for one in board.running])
    receiving = _busy(board, [(one, one.receiver) for one in board.running])
    senders = {host: held for host, held in board.has.items() if held and host not in sending}
    coming = {(one.receiver, one.piece) for one in board.running}
    receivers = {
        host: frozenset(piece for piece in want if (host, piece) not in coming)
        for host, want in board.wants.items()
        if want and host not in receiving
    }
    if not senders or not receivers:
        return None
    wanted = frozenset().union(*receivers.values())
    offered = frozenset().union(*senders.values())
    for piece in sorted(wanted & offered, key=lambda one: (copies[one], -board.sizes[one], one)):
        pairs = [
            (len(held), -len(want), sender, receiver)
            for sender, held in senders.items()
            if piece in held
            for receiver, want in receivers.items()
            if piece in want and sender != receiver and (sender, receiver) not in board.barred
        ]
        if pairs:
            *_, sender, receiver = min(pairs)
            return Transfer(sender, receiver, piece)
    return None


def _busy(board: Board, at: Sequence[tuple[Transfer, str]]) -> set[str]:
    """Hosts with a transfer that is not about to end, or with two of any kind."""
    count = Counter(host for _, host in at)
    return {host for one, host in at if one not in board.ending or count[host] > 1}


# A transfer that failed is tried once more: a link that was away for a moment is no reason to go
# another way. A host to which everybody fails is given up before everybody has tried.
_TRIES, _TRIES_TO_REACH = 2, 6


@dataclass(frozen=True)
class Faults:
    """Failures in a row: of a sender with a receiver, and of anybody with a receiver."""

    pairs: Mapping[tuple[str, str], int]
    receivers: Mapping[str, int]

    @classmethod
    def none(cls) -> "Faults":
        return cls({}, {})

    def after(self, transfer: Transfer, *, arrived: bool) -> "Faults":
        pair, receiver = (transfer.sender, transfer.receiver), transfer.receiver
        return Faults(
            {**self.pairs, pair: 0 if arrived else self.pairs.get(pair, 0) + 1},
            {**self.receivers, receiver: 0 if arrived else self.receivers.get(receiver, 0) + 1},
        )

    def bars(self, transfer: Transfer) -> bool:
        """Whether this sender is not to try this receiver again."""
        return self.pairs.get((transfer.sender, transfer.receiver), 0) >= _TRIES

    def gives_up(self, receiver: str) -> bool:
        """Whether nobody is."""
        return self.receivers.get(receiver, 0) >= _TRIES_TO_REACH


def simulate(
    board: Board, seconds: Callable[[Transfer], float]
) -> Iterator[tuple[float, float, Transfer]]:
    """Every transfer as (begin, end, transfer) in the order of its begin, if none fails."""
    ends: list[tuple[float, Transfer]] = []
    now = 0.0
    while True:
        for transfer in choose(board):
            board = board.begin(transfer)
            end = now + seconds(transfer)
            heappush(ends, (end, transfer))
            yield now, end, transfer
        if not ends:
            return
        now, transfer = heappop(ends)
        board = board.end(transfer, arrived=True)
