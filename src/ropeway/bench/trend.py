"""Whether latency rose while a load was steady. Pure."""

import math
from collections.abc import Iterable

from ropeway.bench.figures import Trend

# Means that the line is laid through, and the fewest that say anything.
_MEANS, _FEWEST = 10, 5


def trend_of(points: Iterable[tuple[float, float]], begins: float, ends: float) -> Trend | None:
    """Return the straight line through latencies; None when too much of the time has none.

    points  (moment, latency) in seconds; those outside of `begins` to `ends` do not count
    """
    if ends <= begins:
        return None
    length = (ends - begins) / _MEANS
    sums, counts = [0.0] * _MEANS, [0] * _MEANS
    for moment, latency in points:
        if begins <= moment < ends and not math.isnan(latency):
            place = min(int((moment - begins) / length), _MEANS - 1)
            sums[place] += latency
            counts[place] += 1
    means = [
        ((place + 0.5) * length, total / count)
        for place, (total, count) in enumerate(zip(sums, counts, strict=True))
        if count
    ]
    return _line(means) if len(means) >= _FEWEST else None


def _line(points: list[tuple[float, float]]) -> Trend:
    """Return the line of least squares."""
    count = len(points)
    middle_x = math.fsum(x for x, _ in points) / count
    middle_y = math.fsum(y for _, y in points) / count
    spread = math.fsum((x - middle_x) ** 2 for x, _ in points)
    slope = math.fsum((x - middle_x) * (y - middle_y) for x, y in points) / spread
    first = middle_y - slope * middle_x
    rest = math.fsum((y - first - slope * x) ** 2 for x, y in points)
    return Trend(slope, math.sqrt(rest / (count - 2) / spread), first)
