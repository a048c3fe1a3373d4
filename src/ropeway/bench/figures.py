"""The figures of a run: what was measured, and how much of it is the load generator's own."""

from dataclasses import asdict, dataclass, field

from ropeway.phrases import Phrase


@dataclass(frozen=True)
class Quantiles:
    """Mean and quantiles of a set of durations, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Steady:
    """Figures of the time in which the load was what was asked for, seconds from the start.

    It begins when as many requests have ended as there are clients, so that what the opening burst
    waited for is over, and ends when the last request is sent, since fewer and fewer are in flight
    from then on. Latencies are of the requests sent in it, rates of what arrived in it.

    concurrency  requests in flight, on average
    """

    begins_s: float
    ends_s: float
    requests: int
    output_tokens_per_s: float
    requests_per_s: float
    concurrency: float
    ttft_s: Quantiles | None
    tpot_s: Quantiles | None
    e2e_s: Quantiles | None


@dataclass(frozen=True)
class Failures:
    """Requests that failed in one way: what the first one said, and how long they took."""

    message: str
    duration_s: Quantiles


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    requests       sent in all: completed + failed (`errors`, counted by kind) + unfinished
    duration_s     from the first request sent to the last one ended
    input_tokens   of the completed requests, template included, as the server counted
    output_tokens  of completed and unfinished requests: the tokens that arrived in `duration_s`
    counted        whether the server counted every completed request's tokens itself; otherwise
                   they are counted by pieces of the stream, which can be too few
    concurrency    requests in flight, on average over `duration_s`
    ttft_s, tpot_s, e2e_s
                   of the completed requests (tpot: of those with two tokens or more); None when
                   there are none
    wait_s         from when a completed request was due until it was sent; None: closed loop
    due_ttft_s, due_e2e_s
                   of the completed requests from when they were due; None: closed loop
    failures       what the first failure of each kind said, and how long they took from sending
    due_per_s, sent_per_s
                   requests that were due and that were sent, by the second; None: closed loop
    late           requests sent 50 ms or more after they were due: where they are many, the rate
                   that was asked for was not reached
    steady         figures of the steady part; None: too few requests were sent in it
    """

    requests: int
    completed: int
    errors: dict[str, int]
    unfinished: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    counted: bool
    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: Quantiles | None
    tpot_s: Quantiles | None
    e2e_s: Quantiles | None
    concurrency: float = 0.0
    wait_s: Quantiles | None = None
    due_ttft_s: Quantiles | None = None
    due_e2e_s: Quantiles | None = None
    failures: dict[str, Failures] = field(default_factory=dict)
    steady: Steady | None = None
    due_per_s: float | None = None
    sent_per_s: float | None = None
    late: int = 0

    @property
    def failed(self) -> int:
        """The number of requests that failed."""
        return sum(self.errors.values())


@dataclass(frozen=True)
class Late:
    """Quantiles of how late we were, in seconds."""

    p50: float
    p99: float
    longest: float


@dataclass(frozen=True)
class Calibration:
    """How far our figures were from the truth, of an endpoint on this machine that knows it.

    clients       requests in flight
    requests      that were answered
    ttft_s, tpot_s  of one request, in seconds
    """

    clients: int
    requests: int
    ttft_s: Late
    tpot_s: Late


@dataclass(frozen=True)
class OwnShare:
    """What the load generator says of itself.

    processes  that sent
    cpu        cores that the busiest of them used, at most 1
    waited     share of the time for which one of them was ready to run and had no processor
    sent_late  requests: from when they were due, and a client was free, until they were sent
    read_late  pieces of answers: from when the kernel had them until we read them; not in any
               latency, since their times are those of the kernel, but in what followed from them
    calibration  how wrong latencies were where the truth is known; None: that was not measured
    """

    processes: int
    cpu: float
    waited: float
    sent_late: Late
    read_late: Late
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Figures:
    """What a run measured, what of it is the load generator's own, and why it may be wrong."""

    summary: Summary
    own: OwnShare
    doubts: tuple[Phrase, ...]

    def as_json(self) -> dict[str, object]:
        """Return plain data: `summary`, `own_share`, `doubts`."""
        doubts = [str(doubt) for doubt in self.doubts]
        return {"summary": asdict(self.summary), "own_share": asdict(self.own), "doubts": doubts}
