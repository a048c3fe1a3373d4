"""What the logs of the engine and of CANN say, as data: entries, start-up milestones, throughput,
and the table of links that HCCL prints when a rank does not answer.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.log_lines import LogEntry, read_entries


@dataclass(frozen=True)
class LevelCount:
    """How many entries have this level; None stands for those that name none."""

    level: str | None
    count: int


@dataclass(frozen=True)
class ProcessStart:
    """What one process said while it started. What it did not say is None.

    process      `EngineCore_DP0`, `Worker_TP0`; None where the log has one process only
    blocks       of the KV cache, on the NPU and (2025 and before) on the CPU
    concurrency  requests of `concurrency_tokens` tokens that the KV cache holds at once
    """

    process: str | None = None
    pid: int | None = None
    host: str | None = None
    model: str | None = None
    world_rank: int | None = None
    world_size: int | None = None
    dp_rank: int | None = None
    pp_rank: int | None = None
    tp_rank: int | None = None
    ep_rank: int | None = None
    ep_size: int | None = None
    local_experts: int | None = None
    global_experts: int | None = None
    load_seconds: float | None = None
    weights_gb: float | None = None
    available_memory_bytes: int | None = None
    total_memory_bytes: int | None = None
    available_kv_gib: float | None = None
    npu_blocks: int | None = None
    cpu_blocks: int | None = None
    kv_cache_tokens: int | None = None
    concurrency_tokens: int | None = None
    concurrency: float | None = None
    compile_seconds: float | None = None
    capture_seconds: float | None = None
    capture_gib: float | None = None
    init_seconds: float | None = None


@dataclass(frozen=True)
class Throughput:
    """One of the lines that vLLM writes every ten seconds. `engine` is the data-parallel rank."""

    line: int
    time: str | None
    engine: int | None
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    running: int | None
    waiting: int | None
    kv_cache_percent: float | None
    prefix_hit_percent: float | None


@dataclass(frozen=True)
class EngineLog:
    """A log of vLLM.

    version      of vLLM, as the log says it
    url          where the server says it listens
    ready_line   `Application startup complete.`; failed_line: `EngineCore failed to start.`
    """

    first_time: str | None
    last_time: str | None
    version: str | None
    plugin: str | None
    url: str | None
    ready_line: int | None
    failed_line: int | None
    levels: tuple[LevelCount, ...]
    starts: tuple[ProcessStart, ...]
    throughput: tuple[Throughput, ...]
    entries: tuple[LogEntry, ...]


@dataclass(frozen=True)
class Link:
    """A row of HCCL's LINK_ERROR_INFO: `source` waited for `destination`."""

    line: int
    destination: str
    destination_rank: int
    source: str
    source_rank: int
    destination_port: int | None = None
    source_port: int | None = None
    role: str | None = None
    status: str | None = None
    tls: str | None = None


@dataclass(frozen=True)
class HcclRank:
    """A rank that joined a communicator, from HCCL's SetupAgent lines."""

    line: int
    rank: int
    rank_size: int | None
    group: str | None
    server: str | None
    device: int | None
    device_ip: str | None


@dataclass(frozen=True)
class HcclSetting:
    """A variable as HCCL took it; `by` is `environment` or `default`."""

    name: str
    value: str
    by: str


@dataclass(frozen=True)
class Plog:
    """A log of CANN (`plog-*.log`), or several after one another."""

    first_time: str | None
    last_time: str | None
    pids: tuple[int, ...]
    modules: tuple[str, ...]
    levels: tuple[LevelCount, ...]
    settings: tuple[HcclSetting, ...]
    ranks: tuple[HcclRank, ...]
    links: tuple[Link, ...]
    entries: tuple[LogEntry, ...]


def parse_engine_log(text: str) -> Reading[EngineLog]:
    """The log of `vllm serve`, of a worker or of another program on NPUs, or an excerpt of one."""
    entries, cut = _read(text)
    starts = _starts(entries)
    throughput = tuple(filter(None, map(read_throughput, entries)))
    ready, failed = _line_of(entries, _READY), _line_of(entries, _FAILED)
    if not (starts or throughput or ready or failed or any(_has_head(entry) for entry in entries)):
        return Reading.unknown(text)
    value = EngineLog(
        *_span(entries),
        version=_first(entries, _VERSION),
        plugin=_first(entries, _PLUGIN),
        url=_first(entries, _URL),
        ready_line=ready,
        failed_line=failed,
        levels=_levels(entries),
        starts=starts,
        throughput=throughput,
        entries=entries,
    )
    return Reading.of(value, cut=cut)


def parse_plog(text: str) -> Reading[Plog]:
    """A log of CANN. Lines of another kind between its lines are entries without a module."""
    entries, cut = _read(text)
    if not any(_is_cann(entry) for entry in entries):
        return Reading.unknown(text)
    value = Plog(
        *_span(entries),
        pids=tuple(sorted({entry.pid for entry in entries if entry.pid is not None})),
        modules=tuple(sorted({entry.module for entry in entries if entry.module})),
        levels=_levels(entries),
        settings=tuple(filter(None, map(_setting, entries))),
        ranks=tuple(filter(None, map(_rank, entries))),
        links=tuple(filter(None, map(read_link, entries))),
        entries=entries,
    )
    return Reading.of(value, cut=cut)


def read_throughput(entry: LogEntry) -> Throughput | None:
    """The figures of an `Avg prompt throughput` line; None for another line."""
    found = _THROUGHPUT.search(entry.message)
    if not found:
        return None
    figures = {
        key: float(value)
        for key, value in _FIGURE.findall(entry.message[found.end() :])
    }  # fmt: skip
    running, waiting = figures.get("Running"), figures.get("Waiting", figures.get("Pending"))
    return Throughput(
        line=entry.line,
        time=entry.time,
        engine=int(found["engine"]) if found["engine"] else None,
        prompt_tokens_per_s=float(found["prompt"]),
        generation_tokens_per_s=float(found["generation"]),
        running=None if running is None else int(running),
        waiting=None if waiting is None else int(waiting),
        kv_cache_percent=figures.get("GPU KV cache usage", figures.get("KV cache usage")),
        prefix_hit_percent=figures.get("Prefix cache hit rate"),
    )


def read_link(entry: LogEntry) -> Link | None:
    """A row of LINK_ERROR_INFO, in its old form (no ports) or its new one; None for other lines."""
    found = _LINK.search(entry.message)
    if not found:
        return None
    cells = [cell.strip() for cell in found["rest"].split("|")]
    ports = (
        int(found["port"]) if found["port"] else None,
        int(cells.pop(0)) if found["port"] and cells and cells[0].isdecimal() else None,
    )
    role, status, tls = [*cells, "", "", ""][:3]
    return Link(
        entry.line,
        found["to"],
        int(found["to_rank"]),
        found["by"],
        int(found["by_rank"]),
        *ports,
        role or None,
        status or None,
        tls if tls in ("ENABLE", "DISABLE", "UNKNOWN") else None,
    )


def _read(text: str) -> tuple[tuple[LogEntry, ...], bool]:
    """The entries, and whether there are more than are read."""
    entries = tuple(islice(read_entries(text), _MOST_ENTRIES + 1))
    return entries[:_MOST_ENTRIES], len(entries) > _MOST_ENTRIES


def _starts(entries: Iterable[LogEntry]) -> tuple[ProcessStart, ...]:
    """The milestones of each process, in the order in which they began to speak."""
    starts: dict[tuple[str | None, int | None, str | None], ProcessStart] = {}
    for entry in entries:
        said: dict[str, Any] = {}
        for pattern in _MILESTONES:
            if found := pattern.search(entry.message):
                said |= {key: _value(key, text) for key, text in found.groupdict().items() if text}
        if said:
            key = (entry.process, entry.pid if entry.tags else None, entry.host)
            starts[key] = replace(starts.get(key, ProcessStart(*key)), **said)
    return tuple(starts.values())


def _value(name: str, text: str) -> str | int | float:
    if name == "model":
        return text
    plain = text.replace(",", "")
    return float(plain) if name.endswith(("seconds", "_gb", "_gib", "concurrency")) else int(plain)


def _setting(entry: LogEntry) -> HcclSetting | None:
    found = _SETTING.search(entry.message)
    if not found:
        return None
    return HcclSetting(found["name"], found["value"] + found["unit"], found["by"])


def _rank(entry: LogEntry) -> HcclRank | None:
    if "SetupAgent" not in entry.message:
        return None
    said = dict(_FIELD.findall(entry.message))
    if not said.get("rank", "").isdecimal():
        return None
    size, device = said.get("rankNum", ""), said.get("phydevId", "")
    return HcclRank(
        entry.line,
        int(said["rank"]),
        int(size) if size.isdecimal() else None,
        said.get("identifier"),
        said.get("server"),
        int(device) if device.isdecimal() else None,
        said.get("deviceIp"),
    )


def _span(entries: Sequence[LogEntry]) -> tuple[str | None, str | None]:
    """The times of the first and the last entry that has one."""
    times = [entry.time for entry in entries if entry.time]
    return (times[0], times[-1]) if times else (None, None)


def _levels(entries: Iterable[LogEntry]) -> tuple[LevelCount, ...]:
    counts = Counter(entry.level for entry in entries)
    ordered = sorted(counts.items(), key=lambda item: (item[0] is None, item[0]))
    return tuple(LevelCount(level, count) for level, count in ordered)


def _line_of(entries: Iterable[LogEntry], text: str) -> int | None:
    return next((entry.line for entry in entries if text in entry.message), None)


def _first(entries: Iterable[LogEntry], pattern: re.Pattern[str]) -> str | None:
    return next((found[1] for entry in entries if (found := pattern.search(entry.message))), None)


def _is_cann(entry: LogEntry) -> bool:
    return bool(entry.pid and entry.module and entry.module.isupper())


def _has_head(entry: LogEntry) -> bool:
    headed = entry.level or entry.tags or entry.code or entry.rank is not None
    return bool(headed or _EXCEPTION.match(entry.message))


_EXCEPTION = re.compile(
    r"(?:Traceback \(most recent call last\)|[A-Za-z_][\w.]{1,120}(?:Error|Exception)):"
)
_READY = "Application startup complete"
_FAILED = "EngineCore failed to start"
_VERSION = re.compile(
    r"(?:vLLM (?:API )?server version|LLM engine \(v?|\bversion) ?(\d+\.\d+[\w.+-]{0,40})"
)
_PLUGIN = re.compile(r"Platform plugin (\w{1,40}) is activated")
_URL = re.compile(
    r"(?:Starting vLLM (?:API )?server(?: \d+)? on|Uvicorn running on) (http\S{3,200})"
)
# vLLM 0.7 to 0.32 and vllm-ascend 0.7 to 0.30; a name that repeats is a later wording of the same.
_MILESTONES = tuple(
    re.compile(pattern)
    for pattern in (
        r"Starting to load model (?P<model>\S{1,300}?)\.\.\.",
        r"rank (?P<world_rank>\d{1,6}) in world size (?P<world_size>\d{1,6}) is assigned as"
        r" DP rank (?P<dp_rank>\d{1,6}), PP rank (?P<pp_rank>\d{1,6}),"
        r"(?: PCP rank \d{1,6},)? TP rank (?P<tp_rank>\d{1,6})"
        r"(?:, EP rank (?P<ep_rank>\d{1,6}))?",
        r"\[EP Rank (?P<ep_rank>\d{1,6})/(?P<ep_size>\d{1,6})\].{0,80}"
        r" experts: (?P<local_experts>\d{1,6})/(?P<global_experts>\d{1,6})",
        r"Loading weights took (?P<load_seconds>[\d.]{1,12}) seconds",
        r"(?:Loading model weights|Model loading) took (?P<weights_gb>[\d.]{1,12}) Gi?B",
        r"Available memory: (?P<available_memory_bytes>\d{1,16}),"
        r" total memory: (?P<total_memory_bytes>\d{1,16})",
        r"Available KV cache memory: (?P<available_kv_gib>-?[\d.]{1,12}) GiB",
        r"# (?:npu|NPU|GPU|gpu|CPU) blocks: (?P<npu_blocks>\d{1,12}), # CPU blocks:"
        r" (?P<cpu_blocks>\d{1,12})",
        r"num_gpu_blocks is: (?P<npu_blocks>\d{1,12})",
        r"KV cache size: (?P<kv_cache_tokens>[\d,]{1,20}) tokens",
        r"Maximum concurrency for (?P<concurrency_tokens>[\d,]{1,20}) tokens per request:"
        r" (?P<concurrency>[\d.]{1,12})x",
        r"torch\.compile takes (?P<compile_seconds>[\d.]{1,12}) s in total",
        r"Graph capturing finished in (?P<capture_seconds>[\d.]{1,12}) secs, took"
        r" (?P<capture_gib>[\d.]{1,12}) GiB",
        r"init engine \([^)]{0,80}\) took (?P<init_seconds>[\d.]{1,12}) s",
    )
)
# `Avg gereration throughput` is how one version spells it.
_THROUGHPUT = re.compile(
    r"(?:Engine (?P<engine>\d{1,6}): )?Avg prompt throughput: (?P<prompt>[\d.]{1,12}) tokens/s,"
    r" Avg ge\w{1,20} throughput: (?P<generation>[\d.]{1,12}) tokens/s"
)
_FIGURE = re.compile(r"(?<=, )([A-Z][\w ]{2,40}): (\d{1,12}(?:\.\d{1,6})?)")
_LINK = re.compile(
    r"\| {0,20}(?P<to>[0-9a-fA-F.:]{3,60}(?:%[\w.-]{1,40})?)\((?P<to_rank>\d{1,7})\) {0,20}\|"
    r"(?: {0,20}(?P<port>\d{1,12}) {0,20}\|)?"
    r" {0,20}(?P<by>[0-9a-fA-F.:]{3,60}(?:%[\w.-]{1,40})?)\((?P<by_rank>\d{1,7})\) {0,20}\|"
    r"(?P<rest>[^\n]{0,200})"
)
_SETTING = re.compile(
    r"(?P<name>HCCL_[A-Z_]{3,60})(?: is)? set by (?P<by>environment|default)(?: variable)? to"
    r" \[(?P<value>[^\]]{0,200})\](?P<unit>\w{0,2})"
)
_FIELD = re.compile(r"(\w{3,20}) ?\[([^\[\]]{0,200})\]")


def _recognise_engine(text: str) -> float:
    """How much of the beginning is vLLM's; the lines that only vLLM writes say it at once."""
    entries = list(islice(read_entries(text[:_GLANCE]), 60))
    if any(_READY in entry.message or read_throughput(entry) for entry in entries):
        return 0.9
    named = any(pattern.search(entry.message) for entry in entries for pattern in _MILESTONES)
    failed = any(entry.code or _EXCEPTION.match(entry.message) for entry in entries)
    ours = sum(bool(entry.tags) or ".py:" in (entry.source or "") for entry in entries)
    dated = sum(bool(entry.time and entry.level) and not _is_cann(entry) for entry in entries)
    count = max(len(entries), 1)
    return max(0.85 * named, 0.5 * failed, 0.8 * ours / count, 0.5 * dated / count)


def _recognise_plog(text: str) -> float:
    entries = list(islice(read_entries(text[:_GLANCE]), 60))
    ours = sum(_is_cann(entry) and not entry.tags for entry in entries)
    return 0.95 * ours / max(len(entries), 1)


_GLANCE = 20_000
# A second's work. Nobody reads more as JSON; `ropeway diagnose` takes logs of any size.
_MOST_ENTRIES = 50_000

OUTPUTS: tuple[Output[Any], ...] = (
    Output("engine-log", "docker logs ropeway-HOST", parse_engine_log, _recognise_engine),
    Output("plog", "cat ~/ascend/log/debug/plog/plog-*.log", parse_plog, _recognise_plog),
)
