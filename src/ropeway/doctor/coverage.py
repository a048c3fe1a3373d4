"""What the checks did not see, so that nothing is called ok that nobody looked at.

A host that does not answer, a command that is missing, fails or prints what we cannot read, and a
ping that was not sent leave a gap in every check that needs them. A subject is ok only without one.
"""

import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Finding, Location, Unchecked, format_locations
from ropeway.doctor.rule import Check, Gap
from ropeway.facts.containers import with_engine
from ropeway.facts.host import HostFacts, Unread
from ropeway.facts.question import Question
from ropeway.facts.questions import SECOND_ROUND
from ropeway.phrases import phrase


def unchecked(
    subject: str, checks: Iterable[Check], cluster: Cluster, findings: Sequence[Finding]
) -> Unchecked | None:
    """Return what of a subject was not seen; None when everything was.

    A host on which a check found something was seen by it, whatever it did not answer.
    """
    reasons: dict[str, dict[str, None]] = {}
    partly = False
    for check in checks:
        if not check.reads:
            continue
        hit = {
            place.host
            for finding in findings
            if finding.check == check.id
            for place in finding.locations
        }
        everywhere, blind = False, set[str]()
        for gap in _gaps(check, cluster):
            hosts = [host for host in gap.hosts if host not in hit]
            everywhere |= not gap.hosts
            blind.update(hosts)
            if hosts or not gap.hosts:
                reasons.setdefault(gap.why, {}).update(dict.fromkeys(hosts))
        partly |= not everywhere and len(blind) < len(cluster.names)
    if not reasons:
        return None
    return Unchecked(subject, partly, tuple(_reason(why, hosts) for why, hosts in reasons.items()))


def _reason(why: str, hosts: Iterable[str]) -> str:
    places = [Location(host) for host in hosts]
    return phrase("{hosts}: {why}", hosts=format_locations(places), why=why) if places else why


def _gaps(check: Check, cluster: Cluster) -> Iterator[Gap]:
    lacking = tuple(check.lacking(cluster))
    yield from lacking
    if any(not gap.hosts for gap in lacking):
        return
    known = {host.name: host for host in cluster.hosts}
    for name in cluster.names:
        why = _gap(check, known[name], cluster) if name in known else phrase("no answer")
        if why is not None:
            yield Gap(why, (name,))


def _gap(check: Check, host: HostFacts, cluster: Cluster) -> str | None:
    """Return why a host's answers are not all that a check reads."""
    for need in check.reads:
        questions = need if isinstance(need, tuple) else (need,)
        whys = [_why(question, host, cluster) for question in questions]
        if None not in whys:
            return whys[0]
    return None


def _why(question: Question[object], host: HostFacts, cluster: Cluster) -> str | None:
    """Return why a host gave no whole answer to a question, or None."""
    if question in SECOND_ROUND:
        return None  # `Check.lacking` knows of those
    if question.key not in host.asked:
        if question.optional:
            return None
        return phrase("{command} was not run", command=_command(question, None, cluster))
    unread = cluster.unread[host.name].get(question.key)
    if unread is None:
        return None
    command = _command(question, unread, cluster)
    return phrase("{command}: {why}", command=command, why=unread.why)


def _command(question: Question[object], unread: Unread | None, cluster: Cluster) -> str:
    """Return the command as it was run; for a snippet of shell, which is long, its key."""
    if question.argv[0] == "sh":
        return question.key
    argv = with_engine(question, cluster.requirements.runtime).argv
    if unread is not None and unread.state == "absent" and unread.why == "not found":
        argv = argv[:1]
    number = "N" if unread is None or unread.number is None else str(unread.number)
    words = takewhile(lambda word: word != "--format", argv)
    return f"`{shlex.join(number if word == 'N' else word for word in words)}`"
