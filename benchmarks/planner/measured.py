"""Public measurements as questions: what a line of the CSV says, and what has to be assumed.

A line that does not say enough is not guessed at: `question` raises NotComparable with the reason.
"""

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ropeway.engines.ascend_memory import engine_memory
from ropeway.errors import ModelError, Refused
from ropeway.hardware import CHIPS, Chip, chip_named
from ropeway.models.known import known
from ropeway.models.quantisation import CACHE_ENDING, precision_named
from ropeway.models.shape import ModelShape
from ropeway.plan.estimate import Flow, Forecast, flow, output_rate
from ropeway.plan.load import Load
from ropeway.plan.machine import (
    EngineTraits,
    Machine,
    ascend,
    released,
    stored_constants,
    traits,
)
from ropeway.plan.memory import MemoryNeeds, memory
from ropeway.plan.question import MeasurementSetup, Question
from ropeway.spec.model import Layout

NUMBERS = (
    "npus", "nodes", "tp", "pp", "ep", "dp", "input_len", "output_len", "concurrency",
    "output_tok_s", "total_tok_s", "ttft_ms", "tpot_ms", "prefix_hit", "max_num_seqs",
    "max_num_batched_tokens",
)  # fmt: skip
TEXTS = (
    "model", "dtype_quant", "hardware", "request_rate", "engine", "version", "source_url",
    "pd_disagg", "spec_decode", "date", "quality", "notes",
)  # fmt: skip

# Measurements that the constants were fitted to, as `Measurement.as_row` gives them, in the order
# of src/ropeway/plan/measurements.json; fit.py writes both.
ROWS = Path(__file__).with_name("rows.json")

# The two-host report publishes neither lengths nor the tokens of a step. Those are what
# docs/planning.md works out by hand; its release does not cut prompts.
_REPORT = "https://www.zouht.com/4119.html"
_LENGTHS, _BUDGETS = {_REPORT: (400, 600)}, {_REPORT: 8192}
# Length of the runs of fixed-rate sweeps that say no number of requests: with 300 s, the output
# that they report for long answers is what ends in time.
_WINDOW = 300.0
_ASSUMED_OUTPUT = 1024
_BUDGET = 4096
_IMAGE_TOKENS = 600
_REUSED = 0.7
# How rows name the tests of vllm-ascend. They send 4 requests for each client in 142 of 165 cases
# that have a figure (tests/e2e/*.yaml of vllm-ascend at 182b75ea).
CI = "aisbench"
_REQUESTS_PER_CLIENT = 4
# The months in which torchair went (#4814) and whole graphs became the default (#9572).
_TORCHAIR_ENDS = 12.0
_WHOLE_GRAPHS = 17.9
# Draft tokens that are kept, as a share of the chance to keep the one before: from published
# acceptance of DeepSeek-V3's MTP head (0.85 for the first) and EAGLE-3.
_ACCEPTANCE = {"mtp": 0.75, "eagle": 0.62, "dflash": 0.72}


class NotComparable(Exception):
    """Raised for a line that does not say enough to be predicted; the message names what lacks."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the CSV. Numbers are None where the cell is blank; `line` is its number."""

    line: int
    numbers: Mapping[str, float | None]
    texts: Mapping[str, str]

    def number(self, name: str) -> float | None:
        return self.numbers[name]

    def text(self, name: str) -> str:
        return self.texts[name]

    @property
    def key(self) -> str:
        """A text that is the same for two lines with the same configuration in one document."""
        parts = [self.texts[name] for name in TEXTS if name not in ("notes", "quality", "date")]
        parts += [f"{self.numbers[name] or 0:g}" for name in NUMBERS]
        return "|".join(parts)

    @property
    def source(self) -> str:
        """The URL of the document it comes from, without the commit.

        One configuration of the nightly, the weekly and other test runs is one document.
        """
        url = re.sub(r"/(blob|tree|raw)/[0-9a-f]{7,40}/", "/", self.texts["source_url"])
        return re.sub(r"/tests/e2e/.*/", "/tests/e2e/", url)

    @property
    def author(self) -> str:
        """Who published it: a site or repository; of vllm-ascend its tests, its docs, each thread.

        Documents of one author resemble each other in chips, flags and ways of counting.
        """
        place = self.source.split("://")[-1].split("/")
        folder = place[3] if place[1:3] == ["vllm-project", "vllm-ascend"] else ""
        if folder in ("pull", "issues"):
            return "/".join(place)
        return "/".join([*place[:3], folder]).rstrip("/") if "github" in place[0] else place[0]

    def as_row(self) -> dict[str, str | float]:
        """Return the cells that are not blank, by column: what `fitted_measurements` reads."""
        texts = {name: self.texts[name] for name in TEXTS if self.texts[name]}
        numbers = {name: value for name in NUMBERS if (value := self.numbers[name]) is not None}
        return {**texts, **numbers}


@cache
def fitted_measurements() -> tuple[Measurement, ...]:
    """Return the measurements that the constants were fitted to, in the order of ROWS."""
    rows = json.loads(ROWS.read_text(encoding="utf-8"))["rows"]
    return tuple(
        Measurement(
            0,
            {name: row.get(name) for name in NUMBERS},
            {name: row.get(name, "") for name in TEXTS},
        )
        for row in rows
    )


def read_measurements(text: str, where: str) -> tuple[list[Measurement], list[tuple[int, str]]]:
    """Return the lines of a CSV, and the number and the problem of each that cannot be read.

    Columns may be missing and cells blank. Raises Refused when the text is not such a table.
    """
    try:
        rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff")), strict=True)
        header = {name.strip().lower() for name in rows.fieldnames or ()}
        if missing := [name for name in ("model", "hardware") if name not in header]:
            raise Refused(
                f"no column `{'`, `'.join(missing)}` in the table",
                where=where,
                hint=f"the first line names the columns: {', '.join(TEXTS[:3] + NUMBERS)} …",
            )
        measurements: list[Measurement] = []
        broken: list[tuple[int, str]] = []
        for row in rows:
            cells = {
                key.strip().lower(): (value or "").strip()
                for key, value in row.items()
                if isinstance(key, str) and not isinstance(value, list)
            }
            if None in row:
                broken.append((rows.line_num, "has more cells than the header has columns"))
                continue
            try:
                numbers = {name: _number(cells.get(name, ""), name) for name in NUMBERS}
            except ValueError as problem:
                broken.append((rows.line_num, str(problem)))
                continue
            texts = {name: cells.get(name, "") for name in TEXTS}
            measurements.append(Measurement(rows.line_num, numbers, texts))
    except csv.Error as problem:
        raise Refused(f"cannot be read as CSV: {problem}", where=where) from None
    if not measurements and not broken:
        raise Refused("the table has no lines", where=where)
    return measurements, broken


def _number(text: str, name: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"`{name}` is `{text}`, which is not a number") from None
    if not 0 <= value < 1e15:
        raise ValueError(f"`{name}` is `{text}`, which is out of range")
    return value


def kind_of(row: Measurement) -> str:
    """Return `core` (plain serving by vLLM-Ascend, all of it stated), or why the row is not."""
    stated = all(row.number(name) for name in ("tp", "input_len", "output_len"))
    if row.text("engine") not in ("vLLM-Ascend", ""):
        return f"engine {row.text('engine')}"
    if row.text("pd_disagg"):
        return "disaggregated prefill"
    if row.text("spec_decode"):
        return "speculative decoding"
    if row.number("prefix_hit"):
        return "prefix cache"
    if not stated or not (row.number("concurrency") or row.text("request_rate")):
        return "not all stated"
    return "core" if row.text("quality") in ("A", "B", "") else "second hand"


def kv_bits_named(scheme: str) -> int:
    """Bits per number of the KV cache in a scheme's name: 8 in `w8a8c8`, 16 where it says none."""
    ending = CACHE_ENDING.search(scheme.lower())
    return int(ending[1]) if ending else 16


def question_of(
    row: Measurement, constants: Mapping[str, float] | None = None
) -> tuple[Question, tuple[str, ...]]:
    """Return the row's question and what was assumed. Raises NotComparable for what is missing."""
    notes: list[str] = []
    shape = _shape(row)
    chip = chip_of(row, notes)
    engine = engine_of(row, shape)
    layout, npus_per_host = _layout(row, shape, chip, notes)
    load = _load(row, notes)
    if "small max_num_seqs" in row.text("notes") and not row.number("max_num_seqs"):
        raise NotComparable("requests queued at a limit of sequences that is not stated")
    sequences = int(row.number("max_num_seqs") or 256)
    if scheme := row.text("dtype_quant"):
        try:
            shape = replace(shape, precision=precision_named(scheme, shape))
        except ModelError as problem:
            raise NotComparable(problem.what) from None
    question = Question(
        shape=shape,
        layout=layout,
        machine=ascend(chip, engine, constants),
        load=load,
        npus_per_host=npus_per_host,
        max_sequences=max(1, sequences),
        max_batched_tokens=_budget(row),
        kv_bits=kv_bits_named(scheme),
        setup=MeasurementSetup(
            source=row.source,
            method=row.text("spec_decode").split(":")[0],
            split=bool(row.text("pd_disagg")) or "decode-only" in row.text("notes"),
            readers=_readers(row),
        ),
    )
    constants = constants or stored_constants()["constants"]
    question = replace(question, machine=with_images(row, question.machine, constants))
    question = replace(question, kv_tokens=_kv_tokens(question, chip, engine, notes))
    try:
        rate = float(row.text("request_rate") or "inf")
    except ValueError:
        rate = float("inf")
    return rate_limited(question, rate), tuple(notes)


def _budget(row: Measurement) -> int:
    """Return the largest number of tokens in a step."""
    stated = row.number("max_num_batched_tokens") or 0
    if stated >= 1024:  # smaller numbers in the column are of decode instances, or misprints
        return int(stated)
    return _BUDGETS.get(row.source, _BUDGET)


def rate_limited(question: Question, rate: float) -> Question:
    """Return the question with clients replaced by an arrival rate where that is what limits.

    `rate` is the requests/s at which a load generator lets its clients in at most.
    """
    state = flow(question)
    if state.rate * question.layout.data <= rate:
        return question
    return replace(question, load=replace(question.load, clients=None, rate=rate))


def _kv_tokens(
    question: Question, chip: Chip, engine: EngineTraits, notes: list[str]
) -> int | None:
    """Return the tokens the engine would have cache for; None where our count leaves none."""
    release = engine.version if engine.version[:2] == "0." else "0.18.0"
    needs = MemoryNeeds(
        engine=engine_memory(release, engine.graph, chip.family),
        context=question.load.input_tokens + question.load.output_tokens,
        max_sequences=question.max_sequences,
        max_batched_tokens=question.max_batched_tokens,
        kv_bits=question.kv_bits,
    )
    room = memory(question.shape, question.layout, chip.hbm_bytes, needs)
    if room.kv_tokens < question.load.input_tokens:
        notes.append("by our count the cache is too small for one request; it ran all the same")
        return None
    return room.kv_tokens


def with_images(row: Measurement, machine: Machine, constants: Mapping[str, float]) -> Machine:
    """Return the machine, busy with an image for each request where the row has images."""
    if "vision" not in row.text("notes"):
        return machine
    return replace(machine, request=machine.request + constants["image"])


def with_constants(
    row: Measurement, question: Question, constants: Mapping[str, float]
) -> Question:
    """Return the row's question on a machine of these constants."""
    machine = ascend(chip_of(row, []), engine_of(row, question.shape), constants)
    return replace(question, machine=with_images(row, machine, constants))


def plain_figures(question: Question, state: Flow) -> dict[str, float]:
    """Return what arithmetic alone predicts, in the units of `measured_figures`."""
    return {"output": output_rate(question, state), "tpot": state.tpot, "ttft": state.ttft}


def forecast_figures(
    forecast: Forecast,
) -> dict[str, tuple[float, float | None, float | None]]:
    """Return each figure of a forecast with the ends of its interval; TTFT has no interval."""
    return {
        "output": (forecast.output_tokens_per_s, forecast.output_low, forecast.output_high),
        "tpot": (forecast.tpot_s, forecast.tpot_low, forecast.tpot_high),
        "ttft": (forecast.ttft_s, None, None),
    }


def measured_figures(row: Measurement, question: Question) -> dict[str, float]:
    """Return what was measured: output tokens/s, seconds per token and to the first token.

    Where prompts alone are read, the rate of requests stands in for the output.
    """
    figures: dict[str, float] = {}
    load = question.load
    output, total = row.number("output_tok_s"), row.number("total_tok_s")
    if output:
        figures["output"] = output
    elif total and load.output_tokens == 1:
        figures["output"] = total / (load.input_tokens + 1)
    if (tpot := row.number("tpot_ms")) and load.output_tokens > 1:
        figures["tpot"] = tpot / 1e3
    reads = question.setup.readers is not None or not question.setup.split
    if (ttft := row.number("ttft_ms")) and reads:
        figures["ttft"] = ttft / 1e3
    return figures


@cache
def _known(name: str) -> ModelShape | str:
    try:
        return known(name)
    except ModelError as problem:
        return problem.what


def _shape(row: Measurement) -> ModelShape:
    shape = _known(row.text("model"))
    if isinstance(shape, str):
        raise NotComparable(shape)
    return shape


def chip_of(row: Measurement, notes: list[str]) -> Chip:
    """Return the chip that `hardware` names. Raises NotComparable for one we do not know."""
    text = row.text("hardware")
    if named := re.search(r"910[bB]\d(C|-1)?", text):
        return chip_named(named[0] if "64GB" not in text or named[0] != "910B4" else "910B4-1")
    plain = text.lower()
    meant = ""
    if "cloudmatrix" in plain or ("a3" in plain and "a2" not in plain) or "or a3" in plain:
        meant = "910C"
    elif "910b" in plain or "a2" in plain:
        meant = "910B3"
    if meant:
        if meant != "910C" or "or a3" in plain:
            notes.append(f"`{text}` taken as {meant}")
        return next(chip for chip in CHIPS if chip.name == meant)
    try:
        return chip_named(text)
    except Refused as problem:
        raise NotComparable(problem.what) from None


def engine_of(row: Measurement, shape: ModelShape) -> EngineTraits:
    """Return release and graph mode, as far as the row states them.

    DeepSeek's family had a whole graph of its own (torchair) until 0.12. The tests of vllm-ascend
    ask for whole graphs, in 112 of 124 files.
    """
    version, notes = row.text("version"), row.text("notes").lower()
    release = re.search(r"\bv?(0\.\d+(?:\.\d+)?(?:rc\d+)?)", version)
    dated = re.search(r"(20\d\d)-(\d\d)(?:-(\d\d))?", f"{version} {row.text('date')}")
    month = 18.0
    if dated:
        month = (int(dated[1]) - 2025) * 12 + int(dated[2]) + int(dated[3] or 15) / 31
    elif mindie := re.search(r"\b2\.(\d)\.", version):
        month = 6.0 + 3 * int(mindie[1])
    graph = "eager" if "eager" in notes and "+graph" not in notes else None
    if graph is None and "piecewise" in notes:
        graph = "piecewise"
    if row.text("engine") not in ("vLLM-Ascend", ""):
        graph = graph or "full"
        return replace(
            traits("0.18.0", graph), version=version, month=month, name=row.text("engine")
        )
    era = released(release[1]) if release else month
    if graph is None and (CI in notes or (shape.has_latent_cache and era < _TORCHAIR_ENDS)):
        graph = "full"
    if release:
        return traits(release[1], graph)
    name = "0.9.0" if month < 9 else "0.11.0" if month < 12 else "0.13.0"
    name = "0.18.0" if month > 15.5 else name
    name = "0.21.0rc1" if month > _WHOLE_GRAPHS else name
    return replace(traits(name, graph), version=version, month=month)


def _layout(
    row: Measurement, shape: ModelShape, chip: Chip, notes: list[str]
) -> tuple[Layout, int]:
    npus = row.number("npus")
    tensor, pipeline = row.number("tp"), row.number("pp") or 1
    data, expert = row.number("dp"), row.number("ep")
    if npus and "packages" in row.text("hardware"):
        npus *= 2
    if not tensor:
        if not npus:
            raise NotComparable("neither the layout nor the number of NPUs is stated")
        tensor = 1.0
        if npus > 1:
            if not shape.experts or row.text("engine").startswith("vLLM"):
                raise NotComparable("the layout is not stated")
            notes.append("layout not stated: data and expert parallel over all NPUs assumed")
        data = npus / pipeline
        expert = data
    if row.text("engine") == "SGLang (Ascend CI)" and (data or 1) > 1 and npus == tensor:
        tensor = max(1.0, tensor / (data or 1))  # data parallel attention within the tensor ranks
    if npus and not row.text("pd_disagg"):
        data = max(1.0, npus // (tensor * pipeline))
    data = data or 1
    try:
        layout = Layout(
            tensor=int(tensor), pipeline=int(pipeline), data=int(data),
            expert=bool(shape.experts and (expert or 1) > 1),
        )  # fmt: skip
    except ValueError:
        raise NotComparable("the layout is impossible") from None
    nodes = row.number("nodes") or 1
    if npus and nodes > 1 and "packages" not in row.text("hardware"):
        return layout, max(1, int(npus // nodes))
    return layout, chip.npus_per_host


def _readers(row: Measurement) -> Layout | None:
    """Return the layout of the NPUs that read prompts: TP8, DP4 of `P:2node tp8dp4 D:2node …`."""
    match = re.search(r"\bP:\d+node tp(\d+)dp(\d+)", row.text("pd_disagg"))
    if not match:
        return None
    expert = (row.number("ep") or 1) > 1
    return Layout(tensor=int(match[1]), data=int(match[2]), expert=expert)


def _load(row: Measurement, notes: list[str]) -> Load:
    remarks = row.text("notes").lower()
    inputs, outputs = _lengths(row, notes)
    hit = (row.number("prefix_hit") or 0) / 100
    if not hit and "prefix reuse" in remarks:
        hit = _REUSED
        notes.append(f"prompts share a prefix: {_REUSED:.0%} of each assumed to be cached")
    draft, accepted = _drafts(row.text("spec_decode"), notes)
    clients, rate = row.number("concurrency"), row.text("request_rate")
    plain = Load(
        inputs, outputs, clients=1, prefix_hit=min(hit, 0.999),
        requests=_requests(remarks, clients), draft_tokens=draft, accepted=accepted,
    )  # fmt: skip
    if rate == "inf" and not clients and plain.requests:
        clients = float(plain.requests)
    if clients and clients >= 1:
        return replace(plain, clients=int(clients))
    try:
        speed = float(rate)
    except ValueError:
        speed = float("inf")
    if not rate or not 0 < speed < 1e9:
        raise NotComparable("neither concurrency nor request rate is stated")
    window = None
    if "fixed request rate" in remarks and plain.requests is None:
        window = _WINDOW
        notes.append(f"length of the run not stated: {_WINDOW:.0f} s assumed")
    return replace(plain, clients=None, rate=speed, window=window)


def _requests(remarks: str, clients: float | None) -> int | None:
    """Return how many requests a run sends in all; None where nothing says it."""
    stated = re.search(r"(?<![-\d])(\d+) (?:vision )?(?:prompts|requests)", remarks)
    if stated and int(stated[1]):
        return int(stated[1])
    if CI in remarks and clients and clients >= 1:
        return int(clients) * (_REQUESTS_PER_CLIENT if clients > 1 else 1)
    return None


def _lengths(row: Measurement, notes: list[str]) -> tuple[int, int]:
    inputs, outputs = row.number("input_len"), row.number("output_len")
    remarks = row.text("notes").lower()
    if not inputs and not outputs:
        assumed = _LENGTHS.get(row.source)
        if not assumed and row.number("concurrency") == 1:
            assumed = (_ASSUMED_OUTPUT, _ASSUMED_OUTPUT)
        if not assumed:
            raise NotComparable("neither input nor output length is stated")
        notes.append(f"lengths not stated: {assumed[0]} and {assumed[1]} assumed")
        return assumed
    if not inputs:
        raise NotComparable("the input length is not stated")
    if not outputs:
        outputs = _ASSUMED_OUTPUT
        notes.append(f"output length not stated: {outputs} assumed")
    if "vision" in remarks and inputs < 300:
        inputs += _IMAGE_TOKENS
        notes.append(f"images not counted in the input: {_IMAGE_TOKENS} tokens assumed")
    return max(1, int(inputs)), max(1, int(outputs))


def _drafts(text: str, notes: list[str]) -> tuple[int, float]:
    """Return the draft tokens of a step, and how many of them are accepted on average."""
    if not text:
        return 0, 0.0
    method = next((name for name in _ACCEPTANCE if name in text), "mtp")
    number = re.search(r":(\d+)", text)
    draft = int(number[1]) if number else 1 if method == "mtp" else 3
    keep = _ACCEPTANCE[method]
    accepted = sum(keep**place for place in range(1, draft + 1))
    notes.append(f"{accepted:.2f} of {draft} draft tokens assumed to be kept")
    return draft, accepted
