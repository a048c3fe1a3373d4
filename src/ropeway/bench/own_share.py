"""How much of what was measured is the load generator itself, and whether that is too much."""

from collections.abc import Sequence

from ropeway.bench.figures import Calibration, Late, OwnShare, Summary
from ropeway.bench.load_test import LoadTest
from ropeway.bench.sending.lateness import Lateness
from ropeway.bench.sending.worker import Share
from ropeway.phrases import Phrase, phrase
from ropeway.units import format_seconds

# A process that works for so large a share of its time has requests waiting for it.
_FULL = 0.85
# One that waits for a processor for so large a share of the time is kept from its work by others.
_KEPT = 0.1
# Requests that leave later than this, and than a share of what an answer takes, leave too late.
_LATE_S, _LATE_SHARE = 0.005, 0.1
# A latency that is wrong by more than this, and than a share of itself, says little.
_WRONG_S, _WRONG_SHARE = 0.003, 0.05
# Below this share of the rate that was due, the rate was not reached.
REACHED = 0.97


def own_share(shares: Sequence[Share], calibration: Calibration | None = None) -> OwnShare:
    """Return what all processes say together, and what was found before they sent."""
    sent, read, first = Lateness(), Lateness(), Lateness()
    for share in shares:
        sent.merge(share.sent_late)
        read.merge(share.read_late)
        first.merge(share.first_early)
    return OwnShare(
        processes=len(shares),
        cpu=max((share.cpu / share.seconds for share in shares if share.seconds), default=0.0),
        waited=max((one.waited / one.seconds for one in shares if one.seconds), default=0.0),
        sent_late=_late(sent),
        read_late=_late(read),
        calibration=calibration,
        repeated=sum(share.repeated for share in shares),
        first_early=_late(first),
    )


def doubts(own: OwnShare, summary: Summary, load: LoadTest) -> tuple[Phrase, ...]:
    """Return why the figures are not to be trusted; empty when they are."""
    found = own_doubts(own, summary, load)
    due, sent = summary.due_per_s, summary.sent_per_s
    if due is not None and sent is not None and sent < REACHED * due:
        busy = summary.late_busy > summary.late / 2
        values = {"sent": sent, "due": due, "clients": load.clients}
        found.append(
            phrase(
                "{sent:.3g} requests/s were sent where {due:.3g} were due: all {clients:,} clients"
                " were busy",
                **values,
            )
            if busy
            else phrase(
                "{sent:.3g} requests/s were sent where {due:.3g} were due, with clients free:"
                " connections had to be made first, or the load generator was late",
                **values,
            )
        )
    return tuple(found)


def own_doubts(own: OwnShare, summary: Summary, load: LoadTest) -> list[Phrase]:
    """Return those doubts that are the load generator's own fault, whatever the server did.

    What was found with more clients than the load has says nothing of it.
    """
    found = []
    answer_s = summary.e2e_s.p50 if summary.e2e_s else 0.0
    if own.cpu > _FULL:
        found.append(
            phrase(
                "the load generator was full: it used {cpu:.0%} of a core; give it another with"
                " `--processes {more}`",
                cpu=own.cpu,
                more=own.processes + 1,
            )
        )
    if own.waited > _KEPT:
        found.append(
            phrase(
                "the load generator was kept waiting for {share:.0%} of the time: others had the"
                " processors of this machine",
                share=own.waited,
            )
        )
    if own.sent_late.p99 > max(_LATE_S, _LATE_SHARE * answer_s):
        found.append(
            phrase(
                "one request in a hundred was sent {late} or more after it could have been",
                late=format_seconds(own.sent_late.p99),
            )
        )
    ttft_s = summary.ttft_s.p50 if summary.ttft_s else 0.0
    if own.first_early.p99 > max(_WRONG_S, _WRONG_SHARE * ttft_s):
        found.append(
            phrase(
                "one TTFT in a hundred may be too long by {early} or more: the load generator read"
                " its token late, together with later ones",
                early=format_seconds(own.first_early.p99),
            )
        )
    known = own.calibration
    wrong_s = known.ttft_s.p99 if known and known.clients <= load.clients else 0.0
    if wrong_s > max(_WRONG_S, _WRONG_SHARE * ttft_s):
        found.append(
            phrase(
                "against an endpoint on this machine one TTFT in a hundred was wrong by {wrong}"
                " or more",
                wrong=format_seconds(wrong_s),
            )
        )
    return found


def _late(lateness: Lateness) -> Late:
    return Late(
        lateness.quantile_s(0.5), lateness.quantile_s(0.99), lateness.longest / 1_000_000_000
    )
