"""Which row goes where next: a bounded window of the input, in groups that share a prefix.

A replica keeps to one group until it is empty, and a prefix to the replica that has read it, so
that its cache is read and not filled again. A replica without work takes whole groups from another.
"""

import heapq
from collections import OrderedDict, deque
from collections.abc import Iterable

from ropeway.batch.rows import Row

# Prefixes whose replica is remembered: as many blocks as a router remembers; the oldest go.
_MOST_OWNERS = 65536

# Prefixes in their order. The first of a plain dict is found behind all that were taken before it.
_Shelf = OrderedDict[int, None]


class Window:
    """Rows that are read and not yet sent. `slots`: how many all replicas take at once.

    most_rows   that wait here
    most_bytes  of rows that have no outcome, those in flight included: what bounds the memory.
                One row may be larger than all of it
    dedupe      rows with the same request are sent once: see `settle`
    """

    def __init__(self, most_rows: int, most_bytes: int, *, dedupe: bool = False) -> None:
        self.slots = 1
        self.exhausted = False
        self._most_rows, self._most_bytes = most_rows, most_bytes
        self._rows = self._bytes = 0
        self._groups: dict[int, deque[Row]] = {}
        self._owners: OrderedDict[int, int] = OrderedDict()
        self._mine: dict[int, _Shelf] = {}
        self._free: _Shelf = OrderedDict()
        self._front: deque[Row] = deque()
        self._suspects: deque[Row] = deque()
        self._later: list[tuple[float, int, Row]] = []
        self._longest: list[Row] = []
        self._ahead: set[int] = set()
        self._tokens = 0
        self._leaders: dict[tuple[str, bytes], int] | None = {} if dedupe else None
        self._followers: dict[int, list[Row]] = {}

    @property
    def room(self) -> int:
        """The bytes that may be read; none where enough rows wait."""
        return max(0, self._most_bytes - self._bytes) if self._rows < self._most_rows else 0

    @property
    def suspected(self) -> bool:
        """Whether rows with which an engine died wait to be sent."""
        return bool(self._suspects)

    def __len__(self) -> int:
        return self._rows

    def add(self, rows: Iterable[Row]) -> None:
        """Take rows that were read."""
        for row in rows:
            self._rows += 1
            self._bytes += len(row.body)
            if self._leaders is not None:
                leader = self._leaders.setdefault((row.path, row.body), row.ordinal)
                if leader != row.ordinal:
                    self._followers.setdefault(leader, []).append(row)
                    continue
            prefix = row.prefix
            self._tokens += row.tokens
            group = self._groups.get(prefix)
            if group is None:
                self._groups[prefix] = deque((row,))
                self._shelf(self._owners.get(prefix))[prefix] = None
            else:
                group.append(row)

    def close(self) -> None:
        """Note that nothing more will be added: what is here is the rest."""
        self.exhausted = True
        waiting = (row for group in self._groups.values() for row in group)
        self._longest = sorted(waiting, key=lambda row: row.tokens)

    def take(self, replica: int, now: float, *, suspects: bool = True) -> Row | None:
        """Return the next row for a replica, None if there is none now.

        suspects  whether it may be one that was in flight when an engine died
        """
        row = self._returned(now, suspects) or self._last_long()
        if row is None:
            prefix = self._choose(replica)
            if prefix is None:
                return None
            row = self._pop(prefix)
        self._rows -= 1
        return row

    def give_back(self, row: Row) -> None:
        """Take a row that its replica has not worked on: it goes in front."""
        self._rows += 1
        self._front.append(row)

    def suspect(self, row: Row) -> None:
        """Take a row that was in flight when an engine died."""
        self._rows += 1
        self._suspects.append(row)

    def later(self, row: Row, due: float) -> None:
        """Take a row that is to be sent again, but not before `due`."""
        self._rows += 1
        heapq.heappush(self._later, (due, row.ordinal, row))

    def forget(self, replica: int) -> None:
        """Note that a replica has lost its cache: its groups are for anyone."""
        self._free.update(self._mine.pop(replica, OrderedDict()))
        for prefix in [prefix for prefix, who in self._owners.items() if who == replica]:
            del self._owners[prefix]

    def settle(self, row: Row) -> list[Row]:
        """Note that a row has its outcome, and return those for which the same request stands."""
        self._bytes -= len(row.body)
        if self._leaders is None:
            return []
        if self._leaders.get((row.path, row.body)) == row.ordinal:
            del self._leaders[row.path, row.body]
        followers = self._followers.pop(row.ordinal, [])
        for follower in followers:
            self._rows -= 1
            self._bytes -= len(follower.body)
        return followers

    def _returned(self, now: float, suspects: bool) -> Row | None:
        if self._later and self._later[0][0] <= now:
            return heapq.heappop(self._later)[2]
        if self._front:
            return self._front.popleft()
        return self._suspects.popleft() if suspects and self._suspects else None

    def _last_long(self) -> Row | None:
        """Return the longest row, when it takes as long as all the rest do side by side.

        Sent later, it would be what everyone waits for at the end; sent sooner, groups would be
        torn for nothing.
        """
        while self._longest:
            row = self._longest[-1]
            if row.ordinal in self._ahead:  # its group had it already
                self._ahead.discard(self._longest.pop().ordinal)
                continue
            if row.tokens * self.slots < self._tokens:
                return None
            self._longest.pop()
            self._ahead.add(row.ordinal)
            self._tokens -= row.tokens
            return row
        return None

    def _choose(self, replica: int) -> int | None:
        mine = self._shelf(replica)
        while True:
            prefix = next(iter(mine), None)
            if prefix is None:
                if self._free:
                    prefix, _ = self._free.popitem(last=False)
                    self._own(prefix, replica)
                else:
                    prefix = self._steal(replica)
            if prefix is None or self._clean(prefix):
                return prefix

    def _steal(self, replica: int) -> int | None:
        """Return a group of the replica that has most; its only one is shared, not taken."""
        victim = max(self._mine, key=lambda other: len(self._mine[other]))
        shelf = self._mine[victim]
        prefix = next(reversed(shelf), None)
        if prefix is not None and len(shelf) > 1:
            del shelf[prefix]
            self._own(prefix, replica)
        return prefix

    def _own(self, prefix: int, replica: int) -> None:
        self._shelf(replica)[prefix] = None
        self._owners[prefix] = replica
        if len(self._owners) > _MOST_OWNERS:
            self._owners.popitem(last=False)

    def _clean(self, prefix: int) -> bool:
        """Drop rows that went ahead of their group; return whether one is left."""
        group = self._groups[prefix]
        while group and group[0].ordinal in self._ahead:
            self._ahead.discard(group.popleft().ordinal)
        if not group:
            self._drop(prefix)
        return bool(group)

    def _pop(self, prefix: int) -> Row:
        group = self._groups[prefix]
        row = group.popleft()
        self._tokens -= row.tokens
        if self._longest:
            self._ahead.add(row.ordinal)
        if not group:
            self._drop(prefix)
        return row

    def _drop(self, prefix: int) -> None:
        del self._groups[prefix]
        owner = self._owners.get(prefix)
        for shelf in self._mine.values() if owner is None else (self._mine[owner],):
            shelf.pop(prefix, None)

    def _shelf(self, replica: int | None) -> _Shelf:
        if replica is None:
            return self._free
        shelf = self._mine.get(replica)
        if shelf is None:
            shelf = self._mine[replica] = OrderedDict()
        return shelf
