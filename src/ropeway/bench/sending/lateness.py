"""How late we were: durations counted in classes, so that a million cost no more than one."""

import math
from collections import Counter

_PER_OCTAVE = 8


class Lateness:
    """Durations in nanoseconds, each known to a twelfth of itself."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.longest = 0

    def add(self, duration: int) -> None:
        """Count one; one below a microsecond counts as that."""
        if duration > self.longest:
            self.longest = duration
        self._counts[int(math.log2(duration) * _PER_OCTAVE) if duration > 1000 else 0] += 1

    def merge(self, other: "Lateness") -> None:
        """Count all that another has counted."""
        self._counts += other._counts
        self.longest = max(self.longest, other.longest)

    def quantile_s(self, share: float) -> float:
        """Return the seconds that so large a share of all is below or at; 0 without any."""
        left = share * self._counts.total()
        for place, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                middle = 2 ** ((place + 0.5) / _PER_OCTAVE) if place else 0.0
                return min(middle, self.longest) / 1e9
        return 0.0
