"""One host's answers to all questions, parsed and joined into `HostFacts`."""

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar, cast

from ropeway.facts import containers, model_directory
from ropeway.facts.ascend import driver, hccn, npu_cards, npu_smi
from ropeway.facts.host import (
    Docker,
    HostFacts,
    ModelFiles,
    Npu,
    NpuProcess,
    Optical,
    Roce,
    Unread,
    Vnic,
)
from ropeway.facts.linux import limits, network, ping, system
from ropeway.facts.question import Parsed, Question, ToolError
from ropeway.facts.script import NOT_FOUND, TIMED_OUT, Answer, Pings
from ropeway.facts.transcript import Transcript, ask_for_transcript
from ropeway.hosts.base import Host
from ropeway.phrases import phrase

T = TypeVar("T")

# Counters of `-stat -g` that say that something goes wrong; the rest count traffic.
_ERROR_COUNTERS = ("err", "bad", "fcs", "crc", "drop", "discard", "out_of_order", "rty")
# What `cat` says of a path that is not there, also behind the count of `uniq -c`; the script speaks
# English everywhere.
_NO_FILE = re.compile(r"(?:[0-9]+ )?[\w.-]+: .{1,4000}: No such file or directory")


@functools.lru_cache(maxsize=4096)
def _parsed(parse: Callable[[str], Parsed[object]], text: str) -> Parsed[object]:
    """Parse each distinct text once: most NPUs of most hosts say the same."""
    return parse(text)


class Answers:
    """What a host answered, by question and number; parsed when it is looked up.

    asked   keys of the questions that were put
    unread  the answers that gave no value, or not all of one
    """

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._answers = {(answer.key, answer.number): answer for answer in answers}
        self.asked = frozenset(key for key, _ in self._answers)
        self.unread: list[Unread] = []

    def __getitem__(self, place: Question[T] | tuple[Question[T], int | None]) -> T | None:
        """Return the value of `answers[QUESTION]`, or with the NPU or device, of
        `answers[QUESTION, 3]`. None when it is not known."""
        question, number = place if isinstance(place, tuple) else (place, None)
        return self.parsed(question, number).value

    def numbers(self, question: Question[object]) -> tuple[int, ...]:
        """Return the NPUs or devices that answered this question, sorted."""
        keys = self._answers.keys()
        return tuple(sorted(n for key, n in keys if key == question.key and n is not None))

    def parsed(self, question: Question[T], number: int | None = None) -> Parsed[T]:
        """Return an answer as its parser reads it; what gives no whole value is put down in
        `unread`."""
        answer = self._answers.get((question.key, number))
        parsed = self._parsed(question, answer)
        if question.key in self.asked and (why := _gap(question, answer, parsed)) is not None:
            self.unread.append(Unread(question.key, parsed.state, why, number))
        return parsed

    def _parsed(self, question: Question[T], answer: Answer | None) -> Parsed[T]:
        if answer is None:
            return Parsed.absent()
        if answer.exit_code == TIMED_OUT:
            return Parsed.failed(ToolError("timeout", "it did not answer in time"), answer.text)
        if not answer.text.strip() or _NO_FILE.fullmatch(answer.text.strip()):
            return Parsed.absent(answer.text)
        return cast(Parsed[T], _parsed(question.parse, answer.text))


def _gap(question: Question[T], answer: Answer | None, parsed: Parsed[T]) -> str | None:
    """Return why an answer does not say all that was asked; None when it does."""
    if parsed.state == "ok":
        return None
    if parsed.error is not None:
        answers = ("not-configured", "unsupported") if question.optional else ("not-configured",)
        return None if parsed.error.kind in answers else parsed.error.message
    if parsed.state != "absent":
        lines = parsed.unparsed or (parsed.text.strip()[:80],)
        return phrase("not understood: `{line}`", line=lines[0])
    if question.optional:
        return None
    if answer is not None and answer.exit_code == NOT_FOUND:
        return "not found"
    return "no such file or directory" if parsed.text.strip() else "no output"


def ask(
    host: Host, questions: Iterable[Question[object] | Pings], *, timeout: float
) -> tuple[Answer, ...]:
    """Put the questions to a host, in one round trip. Raises HostError."""
    return ask_for_transcript(host, questions, timeout=timeout).answers()


def gather(
    host: Host, questions: Iterable[Question[object] | Pings], *, timeout: float = 300.0
) -> HostFacts:
    """Return everything about a host but its clock. Raises HostError when it cannot be asked."""
    return facts_of(ask_for_transcript(host, questions, timeout=timeout))


def facts_of(transcript: Transcript) -> HostFacts:
    """Return what the host that printed this is known to be. Pure."""
    return facts_from(transcript.name, transcript.address, Answers(transcript.answers()))


def clock_of(answers: Iterable[Answer], started: float) -> float | None:
    """Return the seconds that a host's clock is ahead; `started`: our time when it was asked."""
    epoch = Answers(answers)[ping.CLOCK]
    return epoch - started if epoch is not None else None


def facts_from(name: str, address: str, answers: Answers) -> HostFacts:
    """Join the answers of one host. Pure."""
    facts = HostFacts(name=name, address=address)
    for part in (_system, _network, _ascend):
        facts = part(facts, answers)
    return replace(
        facts,
        docker=_docker(answers),
        model=_model(answers),
        npus=_npus(answers),
        asked=answers.asked,
        unread=tuple(dict.fromkeys(answers.unread)),
    )


def _system(facts: HostFacts, answers: Answers) -> HostFacts:
    kernel = answers[system.KERNEL]
    memory = answers[system.MEMORY]
    user = answers[system.USER_ID]
    shm = (answers[limits.SHM] or {}).get("/dev/shm")
    images = next(iter((answers[containers.DISK] or {}).values()), None)
    limit = answers[limits.LIMITS]
    sysctl = answers[limits.SYSCTL]
    return replace(
        facts,
        os=answers[system.OS_RELEASE],
        kernel=kernel.release if kernel else None,
        architecture=kernel.machine if kernel else None,
        hypervisor=answers[system.HYPERVISOR] or None,
        memory_bytes=memory.total_bytes if memory else None,
        shm_bytes=shm.size_bytes if shm else None,
        disk_free_bytes=images.available_bytes if images else None,
        home=answers[system.HOME],
        root=user == 0 if user is not None else None,
        governor=answers[system.GOVERNOR],
        hugepages=answers[system.HUGEPAGES],
        nofile=limit.nofile if limit else None,
        memlock_bytes=limit.memlock_bytes if limit else None,
        numa_balancing=sysctl.numa_balancing if sysctl else None,
        port_range=sysctl.local_ports if sysctl else None,
        reserved_ports=sysctl.reserved_ports if sysctl else frozenset(),
    )


def _network(facts: HostFacts, answers: Answers) -> HostFacts:
    ports = answers[network.SS] or dict.fromkeys(answers[network.PROC_NET_TCP] or ())
    processes = answers[system.PROCESSES] or {}
    return replace(
        facts,
        nics=answers[network.NICS] or (),
        default_nic=answers[network.DEFAULT_NIC] or None,
        own_address=answers[network.OWN_NAME] or None,
        ports=ports,
        raylets=tuple(pid for pid, program in processes.items() if program == "raylet"),
    )


def _docker(answers: Answers) -> Docker:
    parsed = answers.parsed(containers.ENGINE)
    engine = parsed.value
    problem = parsed.error.message if parsed.error else None
    if parsed.state == "absent":
        problem = "it is not installed"
    elif engine and engine.version is None:
        problem = problem or "the daemon does not answer"
    return Docker(
        engine.version if engine else None,
        problem,
        answers[containers.IMAGES] or (),
        answers[containers.CONTAINERS] or (),
        engine.name if engine else None,
    )


def _ascend(facts: HostFacts, answers: Answers) -> HostFacts:
    parsed = answers.parsed(npu_smi.TABLE)
    table, package = parsed.value, answers[driver.DRIVER]
    ports = [answers.parsed(hccn.IP, number) for number in answers.numbers(hccn.IP)]
    return replace(
        facts,
        has_npu_smi=parsed.state != "absent",
        npu_problem=parsed.error,
        has_hccn_tool=any(port.state != "absent" for port in ports) if ports else None,
        devices=answers[driver.DEVICES] or (),
        paths=answers[driver.PATHS] or frozenset(),
        pci_devices=answers[driver.PCI],
        hccn_conf=answers[hccn.CONF],
        driver=(package and package.version) or (table.driver_version if table else None),
        firmware=answers[driver.FIRMWARE],
        firmware_range=package.firmware if package else None,
        cann=answers[driver.CANN],
    )


def _npus(answers: Answers) -> tuple[Npu, ...]:
    table = answers[npu_smi.TABLE]
    if table is None:
        return ()
    mapping = answers[npu_cards.MAPPING] or {}
    alive = (answers[system.PROCESSES] or {}).keys()
    npus = []
    for number, chip in enumerate(table.chips):
        numbers = (chip.phy_id, chip.device, mapping.get((chip.npu, chip.chip)), number)
        device = next(number for number in numbers if number is not None)
        processes = tuple(
            NpuProcess(holder.pid, holder.name, holder.pid in alive if alive else None)
            for holder in table.processes
            if holder.npu == chip.npu and holder.chip in (None, chip.chip)
        )
        npus.append(replace(_npu(answers, chip, device), processes=processes))
    return tuple(npus)


def _npu(answers: Answers, chip: npu_smi.Chip, device: int) -> Npu:
    health = (answers[npu_cards.HEALTH, chip.npu] or ())[chip.chip or 0 :]
    ecc = (answers[npu_cards.ECC, chip.npu] or ())[chip.chip or 0 :]
    return Npu(
        device=device,
        npu=chip.npu,
        chip=chip.chip,
        name=chip.name,
        health=chip.health or (health[0].status if health else None),
        errors=health[0].error_codes if health else (),
        hbm_mb=chip.hbm_total_mb or chip.memory_total_mb,
        hbm_used_mb=chip.hbm_used_mb if chip.hbm_total_mb else chip.memory_used_mb,
        temperature_c=chip.temperature_c,
        ecc_double=ecc[0] if ecc else None,
        firmware=answers[npu_cards.FIRMWARE, chip.npu],
        roce=_roce(answers, device),
    )


def _roce(answers: Answers, device: int) -> Roce:
    own = answers.parsed(hccn.IP, device)
    return Roce(
        address=own.value.address if own.value else None,
        netmask=own.value.netmask if own.value else None,
        problem=own.error,
        gateway=answers[hccn.GATEWAY, device],
        detect=answers[hccn.NETDETECT, device],
        link=answers[hccn.LINK, device],
        health=answers[hccn.NET_HEALTH, device],
        tls=answers[hccn.TLS, device],
        switch_port=answers[hccn.LLDP, device],
        optical=answers[hccn.OPTICAL, device] or Optical(),
        link_downs=answers[hccn.LINK_STAT, device],
        errors={
            name: count
            for name, count in (answers[hccn.STAT, device] or {}).items()
            if count and any(word in name for word in _ERROR_COUNTERS)
        },
        vnic=answers[hccn.VNIC, device] or Vnic(),
    )


def _model(answers: Answers) -> ModelFiles | None:
    parsed = answers.parsed(model_directory.MODEL)
    if parsed.value is not None:
        return replace(parsed.value, hashes=answers[model_directory.HASHES] or {})
    if model_directory.MODEL.key not in answers.asked:
        return None
    problem = parsed.error.message if parsed.error else None
    if parsed.state != "absent":
        problem = problem or parsed.text.strip() or None
    return ModelFiles("", there=False, problem=problem)
