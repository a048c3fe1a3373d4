"""Everything that `doctor` asks of a host, as one list. Every command only reads.

tests/test_questions.py holds this list to commands that change nothing: a new question must be put
there too, on purpose.
"""

from collections.abc import Sequence

from ropeway.facts import containers, model_directory
from ropeway.facts.ascend import driver, hccn, npu_cards, npu_smi
from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.question import Question, questions_in
from ropeway.facts.script import Pings

ALL = questions_in(
    system, limits, network, containers, driver, npu_smi, npu_cards, hccn, model_directory, ping
)  # fmt: skip
# Asked once the addresses are known.
SECOND_ROUND: tuple[Question[object], ...] = (ping.CLOCK, ping.PING, hccn.PING)
# Asked with arguments, or in the second round.
_APART = (model_directory.MODEL, model_directory.HASHES, *SECOND_ROUND)


def questions(
    *, model_path: str | None = None, deep: bool = False, runtime: str = "docker"
) -> tuple[Question[object], ...]:
    """Return what to ask every host.

    deep     hash every file of the model too
    runtime  the container engine's command
    """
    asked = [
        containers.with_engine(question, runtime) for question in ALL if question not in _APART
    ]
    if model_path is not None:
        asked.append(model_directory.MODEL.about(model_path))
        if deep:
            asked.append(model_directory.HASHES.about(model_path))
    return tuple(asked)


def pings(
    targets: Sequence[tuple[int, Sequence[str]]], hosts: Sequence[str]
) -> tuple[Question[object] | Pings, ...]:
    """Return the second round: the clock, then other hosts over Ethernet, then RoCE from each NPU.

    targets  device → RoCE addresses; hosts: addresses of other hosts
    """
    return (
        ping.CLOCK,
        *(ping.to(address) for address in hosts),
        *(Pings(device, tuple(addresses)) for device, addresses in targets if addresses),
    )
