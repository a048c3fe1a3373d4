"""What `tune` may change of a spec: a `Setting`, read from one and put into one."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ropeway.phrases import Phrase, joined, phrase
from ropeway.spec.editing import Edit
from ropeway.spec.engine_flags import batched_tokens, flag_value, sets_flag
from ropeway.spec.file import section_of
from ropeway.spec.model import Layout, Spec

Graph = Literal["eager", "piecewise", "full_decode_only"]

_BATCHED = "max-num-batched-tokens"
_EAGER, _COMPILATION = "enforce-eager", "compilation-config"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a model is served, as far as that is searched. A None is left to the engine.

    max_sequences   that run at once in one data-parallel rank
    batched_tokens  of one step, at most
    memory          fraction of each NPU's HBM
    graph           steps run without graphs, or with graphs of this kind
    """

    layout: Layout
    replicas: int = 1
    max_sequences: int | None = None
    batched_tokens: int | None = None
    memory: float | None = None
    graph: Graph | None = None

    @classmethod
    def of(cls, spec: Spec) -> "Setting":
        """Return the setting that a spec has."""
        serve = spec.serve
        return cls(
            layout=serve.layout,
            replicas=serve.replicas,
            max_sequences=serve.max_sequences,
            batched_tokens=batched_tokens(serve.engine_args),
            memory=serve.memory,
            graph="eager" if flag_value(serve.engine_args, _EAGER) is True else None,
        )

    def over(self, spec: Spec) -> Spec:
        """Return the spec with this setting in it. What both have alike stays as it is written."""
        old, args = Setting.of(spec), dict(spec.serve.engine_args)
        if self.batched_tokens != old.batched_tokens:
            args = _with(args, _BATCHED, self.batched_tokens)
        if self.graph != old.graph:
            args = _with(args, _EAGER, True if self.graph == "eager" else None)
            mode = self.graph.upper() if self.graph and self.graph != "eager" else None
            args = _with(args, _COMPILATION, {"cudagraph_mode": mode} if mode else None)
        update: dict[str, object] = {
            name: value
            for name in ("layout", "replicas", "max_sequences", "memory")
            if (value := getattr(self, name)) != getattr(old, name) or name == "layout"
        }
        if args != spec.serve.engine_args:
            update["engine_args"] = args
        return spec.model_copy(update={"serve": spec.serve.model_copy(update=update)})

    def edits(self, spec: Spec, why: str) -> list[Edit]:
        """Return the edits that put this setting into the file of a spec, with the reason."""
        before, after = (section_of(one, "serve") for one in (spec, self.over(spec)))
        keys = ("max_sequences", "replicas", "memory", "engine_args")
        changed = [key for key in keys if before.get(key) != after.get(key)]
        return [
            Edit(("serve", "layout"), after["layout"], why, "tune"),
            *(Edit(("serve", key), after.get(key), by="tune") for key in changed),
        ]

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(replace(self, layout=str(self.layout)))  # type: ignore[arg-type]

    @property
    def words(self) -> Phrase:
        """The setting for people: `TP2×PP2+EP, 64 sequences, 2,048 tokens a step`."""
        return joined((self.layout.times(self.replicas), *self._limits()), ", ")

    def _limits(self) -> Iterator[Phrase]:
        if self.max_sequences is not None:
            one = self.max_sequences == 1
            yield (
                phrase("one sequence")
                if one
                else phrase("{count:,} sequences", count=self.max_sequences)
            )
        if self.batched_tokens is not None:
            yield phrase("{n:,} tokens a step", n=self.batched_tokens)
        if self.memory is not None:
            yield phrase("{share:.0%} of memory", share=self.memory)
        if self.graph is not None:
            yield phrase("graphs: {mode}", mode=self.graph)


def chooses_graphs(spec: Spec) -> bool:
    """Return whether a spec's flags say already how graphs are compiled."""
    args = spec.serve.engine_args
    return any(sets_flag(key, name) for key in args for name in (_EAGER, _COMPILATION))


def _with(args: dict[str, object], name: str, value: object) -> dict[str, object]:
    """Return the flags with one set, or left out where the value is None."""
    kept = {key: old for key, old in args.items() if not sets_flag(key, name)}
    return kept if value is None else {**kept, name: value}
