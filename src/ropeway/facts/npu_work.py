"""What the NPUs of a host do at the moment: one command, asked while something else runs."""

from ropeway.errors import HostError
from ropeway.facts.ascend.npu_smi import Work, parse_work
from ropeway.facts.gather import Answers, ask
from ropeway.facts.question import Question
from ropeway.hosts.base import Host
from ropeway.phrases import phrase

# It takes seconds where many processes hold NPUs.
_LIMIT_S = 8
WORK = Question("npu-smi-work", ("npu-smi", "info"), parse_work, limit=_LIMIT_S)


def npu_work(host: Host) -> tuple[Work, ...]:
    """Return what each chip of a host does. Raises HostError where it does not say so."""
    answers = Answers(ask(host, (WORK,), timeout=_LIMIT_S + 2))
    parsed = answers.parsed(WORK)
    if parsed.value is None:
        why = answers.unread[0].why if answers.unread else phrase("no output")
        raise HostError(phrase("npu-smi says nothing of its NPUs: {why}", why=why), where=host.name)
    return parsed.value
