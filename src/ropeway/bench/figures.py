"""The figures of a run: what was measured, and how much of it is the load generator's own."""

from collections.abc import Mapping
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
class Goodput:
    """Requests that met every goal (`Goals`).

    met             how many
    share           of all that ended, or had missed a goal by the end of the run
    requests_per_s  of those that met them
    """

    met: int
    share: float
    requests_per_s: float


@dataclass(frozen=True)
class Trend:
    """Where latency went during the steady part, from when requests were due to their end.

    A server that is sent more than it can do lets each request wait longer than the one before,
    however short the wait is when the run ends.

    per_s   seconds of latency that each second added, by a straight line through ten means
    error   its standard error
    first_s  the latency with which that line begins, seconds
    """

    per_s: float
    error: float
    first_s: float


@dataclass(frozen=True)
class Steady:
    """Figures of the time in which the load was what was asked for, seconds from the start.

    It begins when as many requests have ended as there are clients, so that what the opening burst
    waited for is over, and ends when the last request is sent, since fewer and fewer are in flight
    from then on. Latencies are of the requests sent in it, rates of what arrived in it. There is
    none with fewer than 20 requests sent in it, or shorter than these take on average.

    concurrency  requests in flight, on average
    goodput      of the requests sent in it; None: there are no goals
    trend        None: closed loop, or too short
    due, ended   requests that were due in it, and that ended in it, failed ones too; due: None in
                 a closed loop
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
    goodput: Goodput | None = None
    trend: Trend | None = None
    due: int | None = None
    ended: int = 0


@dataclass(frozen=True)
class Failures:
    """Requests that failed in one way: what the first one said, and how long they took."""

    message: str
    duration_s: Quantiles


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    requests       sent in all: completed + failed (`errors`, counted by kind) + unfinished
    begins_s       when the first request was sent, in seconds from the start
    duration_s     from then to when the last one ended
    input_tokens   of the completed requests, template included, as the server counted
    output_tokens  of completed and unfinished requests: the tokens that arrived in `duration_s`
    completed_output_tokens
                   of the completed requests alone
    counted        whether the server counted every completed request's tokens itself; otherwise
                   they are counted by pieces of the stream, which can be too few
    concurrency    requests in flight, on average over `duration_s`
    ttft_s, tpot_s, e2e_s
                   of the completed requests (tpot: of those with two tokens or more); None when
                   there are none
    wait_s         from when a completed request was due until it was sent; None: closed loop
    due_ttft_s, due_e2e_s
                   of the completed requests from when they were due; None: closed loop
    failures       what the first failure of each kind said, and how long they took from sending;
                   what was never sent, since there was no connection: from when it was due
    due_per_s, sent_per_s
                   requests that were due and that were sent, by the second, without the last
                   burst, after which nothing was due; None: closed loop
    late           requests sent 50 ms or more after they were due: where they are many, the rate
                   that was asked for was not reached
    late_busy      those of them for which no client was free for so long; the others waited for a
                   connection to be made, or for the load generator
    steady         figures of the steady part; None: it was too short
    cached_share   of `input_tokens`, those from the server's prefix cache; None: it told of none.
                   A server that tells leaves out what is 0
    goodput        requests that met every goal; None: there are no goals
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
    cached_share: float | None = None
    goodput: Goodput | None = None
    completed_output_tokens: int = 0
    begins_s: float = 0.0
    late_busy: int = 0

    @property
    def ends_s(self) -> float:
        """When the last request ended, in seconds from the start."""
        return self.begins_s + self.duration_s

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
    read_late  pieces of answers: from when the kernel had the last of what we read at once until
               we read it; that is in no latency, since times are those of the kernel, but in what
               followed from them
    calibration  how wrong latencies were where the truth is known; None: that was not measured
    repeated   requests that were sent again, since the server closed their connection within a
               second and said nothing: it had been idle. Their times count from the first sending
    first_early  by how much TTFTs may be too long: first tokens that were read together with later
               ones have the time of the last; since when they can have come is known
    """

    processes: int
    cpu: float
    waited: float
    sent_late: Late
    read_late: Late
    calibration: Calibration | None = None
    repeated: int = 0
    first_early: Late = Late(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Course:
    """A run as a page draws it: a bounded number of points, however many requests there were.

    A run is cut into steps, each with one value in every tuple.

    ends_s        when each step ends, in seconds from the start; it begins where the last one ended
    tokens_per_s  output tokens that arrived
    in_flight     requests, on average
    completed, failed
                  requests that ended, by the second
    spreads       durations of completed requests in seconds, sorted and evenly spaced by rank, the
                  shortest and the longest included; by `ttft`, `tpot`, `e2e`, `due_ttft`, `due_e2e`
    """

    ends_s: tuple[float, ...]
    tokens_per_s: tuple[float, ...]
    in_flight: tuple[float, ...]
    completed: tuple[float, ...]
    failed: tuple[float, ...]
    spreads: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Level:
    """A figure of the server's while the load was sent, over the samples of it."""

    median: float
    largest: float


@dataclass(frozen=True)
class Bounds:
    """What a histogram says of a quantile, in seconds; `most` None: above its largest bound."""

    least: float
    most: float | None


@dataclass(frozen=True)
class EngineTtft:
    """The engines' own time to first token, from a request's arrival in the server, in seconds.

    requests   that got their first token in the run, whoever sent them
    p50, p99   None: it has no distribution
    between_s  our mean less theirs: the network, HTTP, and us; None: they are not known to be of
               the same requests
    """

    requests: int
    mean_s: float
    p50_s: Bounds | None = None
    p99_s: Bounds | None = None
    between_s: float | None = None


@dataclass(frozen=True)
class NpuUse:
    """The NPUs of one host during the run.

    npus     that npu-smi lists
    working  those whose AI cores worked at some moment
    aicore   share of the time in which the AI cores of these worked: the median over the samples of
             their mean, and the largest of one; None: no NPU worked, or it is not told
    hbm_use  the largest share of the memory of one that was in use
    samples  moments at which the host answered, of those at which it was asked: `asked`
    missed   why it did not, the last time
    """

    host: str
    npus: int
    working: int
    aicore: Level | None
    hbm_use: float | None
    samples: int
    asked: int
    missed: str | None = None


@dataclass(frozen=True)
class ServerState:
    """What the server said of itself during the run; None where it did not say it.

    samples      moments at which the engines answered, of those at which they were asked: `asked`
    not_told     why nothing is known of the engines
    running, waiting
                 requests in all engines
    kv_use       share of the KV cache in use, the mean of the engines
    preemptions  and what follows: in the run, whoever sent the requests
    prefix_hits  share of the tokens of prompts that were in the prefix cache
    generation_tokens_per_s
                 over the run's duration
    npus         of the hosts that were asked
    causes       why the figures are what they are, as far as the samples say it
    notes        what is missing, and why
    """

    asked: int = 0
    samples: int = 0
    not_told: str | None = None
    engines: int | None = None
    running: Level | None = None
    waiting: Level | None = None
    kv_use: Level | None = None
    preemptions: int | None = None
    prompt_tokens: int | None = None
    generation_tokens: int | None = None
    generation_tokens_per_s: float | None = None
    prefix_hits: float | None = None
    ttft: EngineTtft | None = None
    npus: tuple[NpuUse, ...] = ()
    causes: tuple[Phrase, ...] = ()
    notes: tuple[Phrase, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        texts = {"causes": [*map(str, self.causes)], "notes": [*map(str, self.notes)]}
        return {**asdict(self), **texts, "not_told": self.not_told and str(self.not_told)}


@dataclass(frozen=True)
class Figures:
    """What a run measured, what of it is the load generator's own, and why it may be wrong.

    course  for a page; None where nothing is to be drawn
    server  None: it was not looked at
    """

    summary: Summary
    own: OwnShare
    doubts: tuple[Phrase, ...]
    course: Course | None = None
    server: ServerState | None = None

    def as_json(self) -> dict[str, object]:
        """Return plain data: `summary`, `own_share`, `doubts`, `server`."""
        return {
            "summary": asdict(self.summary),
            "own_share": asdict(self.own),
            "doubts": [str(doubt) for doubt in self.doubts],
            "server": self.server and self.server.as_json(),
        }
