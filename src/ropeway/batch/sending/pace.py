"""How many rows a replica works on at once, found while it works.

An engine that is sent too little idles, one that is sent too much throws work away (it preempts
sequences and computes them again) and answers nobody sooner. vLLM says of itself which of the two
it is. The limit rises by steps, and falls by half.
"""

from collections import deque

from ropeway.endpoint.metrics import Reading

# Requests that wait, as a share of those that run: enough for the next step, and no more.
_FEW_WAIT, _MANY_WAIT = 0.05, 0.10
# An engine reads so many prompts in a step and no more. After rows that ended together few run and
# many wait, which is no queue: what an engine can run is the most that ran in so many readings.
_READINGS = 30
# A limit is in use, and so may be judged, when so much of it is in flight.
_IN_USE = 0.9
# Without figures of the engine: a limit that is a quarter higher must bring a third of that.
_HIGHER, _PAYS = 1.25, 1 / 3
_WINDOW_S = 2.0
_HOLD_WINDOWS = 20


class Pace:
    """The limit of one replica, from `start` up to `most`.

    After a cut nothing is judged until no more rows are in flight than the limit: what was sent
    before it would be blamed on it.
    """

    def __init__(self, start: int, most: int) -> None:
        self.most = self._whole = max(1, most)
        self._tasks = 1
        self.limit = max(1, min(start, self.most))
        # What waits between two steps of an engine with short answers is no queue: only what costs
        # work (preemptions, refusals) brings the limit below this.
        self._floor = max(1, self.limit // 2)
        self._step = max(1, self.limit // 8)
        self._ran = deque([float(self.limit)], maxlen=_READINGS)
        self._preemptions: float | None = None
        self._since: float | None = None
        self._rows = self._tokens = 0
        self._before: tuple[int, float] | None = None
        self._hold = 0

    def share(self, tasks: int) -> None:
        """Be one of so many that send to the replica; each has its part of the limit."""
        if tasks == self._tasks:
            return
        grows, self._tasks = self._tasks / tasks, tasks
        self.most = max(1, self._whole // tasks)
        self.limit = max(1, min(self.most, int(self.limit * grows)))
        self._floor, self._step = (max(1, int(n * grows)) for n in (self._floor, self._step))
        self._before = self._since = None

    def halve(self, in_flight: int) -> None:
        """Take half: the replica refused rows, or threw work away."""
        if in_flight <= self.limit:
            self.limit = max(1, min(self.limit, in_flight) // 2)
            self._ran.clear()
            self._cut()

    def read(self, reading: Reading, in_flight: int) -> None:
        """Take what the engine says of itself, every second or so."""
        # A counter that fell is that of an engine that was started again.
        before, now = self._preemptions, reading.preemptions
        preempted = before is not None and now is not None and now > before
        self._preemptions = now
        if preempted:
            self.halve(in_flight)
        elif in_flight <= self.limit:
            self._ran.append(reading.running)
            room = max(self._ran)
            most = max(1.0, _MANY_WAIT * room)
            queue = reading.running + reading.waiting - room
            if queue > most:
                fewer = self.limit - round(queue - most)
                if fewer < self.limit:
                    self.limit = max(min(self._floor, self.limit), fewer)
                    self._cut()
            elif reading.waiting <= _FEW_WAIT * reading.running and self._in_use(in_flight):
                self.limit = min(self.most, self.limit + self._step)

    def answered(self, tokens: int) -> None:
        """Count an answer, for `tick`."""
        self._rows += 1
        self._tokens += tokens

    def tick(self, now: float, in_flight: int) -> None:
        """Judge by answers alone, where the engine says nothing of itself.

        At a limit that suffices, a higher one only makes each answer later: tokens per second stay.
        """
        if self._since is None or not self._in_use(in_flight):
            self._restart(now)
        elif now - self._since >= _WINDOW_S and self._rows >= self.limit:
            rate = self._tokens / (now - self._since)
            self._restart(now)
            if in_flight <= self.limit:
                self._climb(rate)

    def _climb(self, rate: float) -> None:
        if self._hold:
            self._hold -= 1
            return
        if self._before is not None:
            limit, slower = self._before
            needed = 1 + (self.limit / limit - 1) * _PAYS
            if rate < slower * needed:
                self.limit, self._before, self._hold = limit, None, _HOLD_WINDOWS
                return
        higher = min(self.most, max(self.limit + 1, round(self.limit * _HIGHER)))
        self._before = (self.limit, rate) if higher > self.limit else None
        self.limit = higher

    def _cut(self) -> None:
        self._step = max(1, self.limit // 32)
        self._before, self._hold = None, _HOLD_WINDOWS

    def _in_use(self, in_flight: int) -> bool:
        return in_flight >= _IN_USE * self.limit

    def _restart(self, now: float) -> None:
        self._since, self._rows, self._tokens = now, 0, 0
