"""A load test as flags ask for it: what goes together, and what follows from what is not said."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

from ropeway.batch.input.parts import STDIN
from ropeway.batch.input.template import make_form
from ropeway.bench.arrivals import parse_arrivals, trace_length
from ropeway.bench.goals import Goals
from ropeway.bench.load_test import LoadTest
from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.spec.model import REQUESTS_PER_CLIENT, Spec, Workload

_OF_FILES = {"template": "--template", "settings": "--set"}
_MADE = ("input_tokens", "prefixes", "prefix_tokens", "turns", "images", "image_size")


@dataclass(frozen=True, kw_only=True)
class LoadFlags:
    """The flags of a load test; see their help and `LoadTest`.

    input_tokens, output_tokens  the least and the most
    requests                     None: not said
    typed                        names of those that the user typed; the others have defaults
    """

    clients: int
    requests: int | None
    duration_s: float | None
    rate: float | None
    arrivals: str
    input_tokens: tuple[int, int]
    output_tokens: tuple[int, int]
    prefixes: int
    prefix_tokens: int
    turns: int
    images: int
    image_size: tuple[int, int]
    files: tuple[str, ...]
    template: str | None
    settings: tuple[str, ...]
    seed: int
    temperature: float
    warmup: int
    ignore_eos: bool
    time_limit_s: float | None
    goals: Goals | None = None
    typed: frozenset[str] = frozenset()


def said_by_spec(workload: Workload, typed: Collection[str]) -> dict[str, Any]:
    """Return what a spec says of a load where these flags were typed: its requests are those of its
    own number of clients."""
    left_out = {*typed, *(["requests"] if "clients" in typed else [])}
    said = workload.model_dump()
    return {name: value for name, value in said.items() if name not in left_out}


def over_spec(flags: LoadFlags, workload: Workload) -> LoadFlags:
    """Return the flags with what a spec says in place of their defaults."""
    said = said_by_spec(workload, flags.typed)
    for name in ("input_tokens", "output_tokens"):
        if name in said:
            said[name] = (said[name], said[name])
    return replace(flags, **said)


def under(spec: Spec, load: LoadTest) -> Spec:
    """Return the spec with this load as its workload."""
    same = {name: getattr(load, name) for name in Workload.model_fields}
    same["requests"] = load.requests or REQUESTS_PER_CLIENT * load.clients
    return spec.model_copy(update={"workload": spec.workload.model_copy(update=same)})


def over_load(flags: LoadFlags, load: LoadTest) -> LoadTest:
    """Return a load that was measured, with what was typed in place of its own.

    Raises Refused where that contradicts itself.
    """
    before = _flags_of(load)
    typed = {name: getattr(flags, name) for name in flags.typed}
    if "requests" in typed:
        typed.setdefault("duration_s", None)
    asked = replace(before, **typed, typed=flags.typed)
    kept: dict[str, Any] = {"fresh": load.fresh, "prompts": load.prompts}
    # These were not typed so, but found when the prompts were made.
    for name, found in (
        ("files", ("files_sha256",)),
        ("input_tokens", ("input_tokens", "input_range")),
        ("output_tokens", ("output_tokens", "output_range")),
    ):
        if getattr(asked, name) == getattr(before, name):
            kept |= {field: getattr(load, field) for field in found}
    return replace(load_of(asked), **kept)


def _flags_of(load: LoadTest) -> LoadFlags:
    """Return the flags that ask for a load."""
    same = {
        field.name: getattr(load, field.name)
        for field in fields(LoadFlags)
        if hasattr(load, field.name)
    }
    lengths = {
        "input_tokens": load.input_range or (load.input_tokens, load.input_tokens),
        "output_tokens": load.output_range or (load.output_tokens, load.output_tokens),
    }
    return LoadFlags(**same | lengths | {"requests": load.requests or None})


def load_of(flags: LoadFlags) -> LoadTest:
    """Return the load test that flags ask for. Raises Refused where they contradict each other."""
    _check_prompts(flags)
    follows_trace = parse_arrivals(flags.arrivals).kind == "trace"
    return LoadTest(
        input_tokens=sum(flags.input_tokens) // 2,
        output_tokens=sum(flags.output_tokens) // 2,
        clients=flags.clients,
        requests=_requests(flags),
        seed=flags.seed,
        temperature=flags.temperature,
        rate=None if follows_trace else flags.rate,
        ignore_eos=flags.ignore_eos,
        warmup=flags.warmup,
        time_limit_s=flags.time_limit_s,
        input_range=_range(flags.input_tokens),
        output_range=_range(flags.output_tokens),
        prefixes=flags.prefixes,
        prefix_tokens=flags.prefix_tokens,
        turns=flags.turns,
        images=flags.images,
        image_size=flags.image_size,
        files=flags.files,
        template=flags.template,
        settings=flags.settings,
        arrivals=flags.arrivals,
        duration_s=flags.duration_s,
        goals=flags.goals,
    )


def _check_prompts(flags: LoadFlags) -> None:
    """Raise Refused for flags of prompts that do not go together."""
    if bool(flags.prefixes) != bool(flags.prefix_tokens):
        raise Refused(
            phrase("shared beginnings need `--prefixes` and `--prefix-tokens`"),
            hint=phrase("give both: how many there are, and how long each is"),
        )
    if not flags.files:
        words = [f"`{flag}`" for name, flag in _OF_FILES.items() if name in flags.typed]
        if words:
            raise Refused(
                phrase("{flags} is for prompts of your own", flags=joined(words, ", ")),
                hint=phrase("name their file: `--prompts FILE`"),
            )
        return
    made = [f"`--{name.replace('_', '-')}`" for name in _MADE if name in flags.typed]
    if made:
        raise Refused(
            phrase("{flags} is for random prompts", flags=joined(made, ", ")),
            hint=phrase("leave it out: the prompts of `--prompts` are sent as they are"),
        )
    if STDIN in flags.files:
        raise Refused(
            phrase("prompts are not read from standard input"),
            hint=phrase("write them into a file: `--prompts FILE`"),
        )
    if "model" in make_form(settings=flags.settings).settings:
        raise Refused(
            phrase("`--set model` would measure another model"), hint=phrase("name it: `--model`")
        )


def _requests(flags: LoadFlags) -> int:
    """Return how many requests are sent; 0: as many as begin in time. Raises Refused."""
    asked = flags.requests if "requests" in flags.typed else None
    way = parse_arrivals(flags.arrivals)
    if flags.duration_s is not None and asked is not None:
        raise Refused(
            phrase(
                "{flags} contradict each other",
                flags=joined(("`--duration`", "`--requests`"), ", "),
            ),
            hint=phrase("leave one of the two out"),
        )
    if way.kind == "trace" and "rate" in flags.typed:
        raise Refused(
            phrase("a trace has times of its own, and `--rate` is none of them"),
            hint=phrase("leave one of the two out"),
        )
    if way.kind in ("constant", "burst") and flags.rate is None:
        raise Refused(
            phrase("`--arrivals {way}` needs `--rate`", way=flags.arrivals),
            hint=phrase("give the requests per second: `--rate 10`"),
        )
    most = trace_length(way.file) * flags.turns if way.kind == "trace" else None
    if most is not None and asked is not None and asked > most:
        raise Refused(
            phrase(
                "the trace has {most:,} requests, and {asked:,} are asked for",
                most=most,
                asked=asked,
            ),
            where=str(way.file),
        )
    if flags.duration_s is not None:
        return 0
    each = REQUESTS_PER_CLIENT * flags.turns
    return asked or most or flags.requests or flags.clients * each


def _range(lengths: tuple[int, int]) -> tuple[int, int] | None:
    least, most = lengths
    return lengths if least < most else None
