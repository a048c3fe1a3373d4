"""Which flags `vllm serve` has in each release of vLLM-Ascend, and what replaced others.

vllm_flags.json holds the flags of the real argument parsers, one parser for each vLLM that a
release is built on (scripts/parse-serve-lines; docs/versions.md). The plug-in adds `ascend` to the
choices of `--quantization` and no flag (vllm_ascend/platform.py, pre_register_and_update).
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

from ropeway.engines.ascend_layouts import FINEGRAINED
from ropeway.engines.ascend_names import flags_with, is_plugins, sections_of
from ropeway.engines.ascend_releases import Release, changes, in_runs, later_than, runs_in_words
from ropeway.engines.vllm import drafts_with_mtp
from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.spec.engine_flags import flag_name, flag_settings, positive, tokens_of, whole
from ropeway.spec.errors import shown
from ropeway.suggest import did_you_mean

# What to do about a flag that was removed, without dashes; any other is to be left out.
_INSTEAD: Mapping[str, str] = changes()["flags_instead"]
_SETTINGS_INSTEAD: Mapping[str, str] = changes()["settings_instead"]
_VARIABLES = ("ascend_", "hccl_", "pytorch_npu_", "vllm_")
# These follow from the layout, the hosts and their order, and differ from node to node.
_OURS = {
    "data-parallel-external-lb", "data-parallel-hybrid-lb", "data-parallel-rank",
    "data-parallel-rpc-port", "data-parallel-start-rank",
    "headless", "master-addr", "master-port", "nnodes", "node-rank",
}  # fmt: skip

# vLLM's short forms, which have one dash, and so cannot stand in `serve.engine_args`.
_LONG = {
    "ac": "attention-config",
    "asc": "api-server-count",
    "cc": "compilation-config",
    "dc": "diffusion-config",
    "dcp": "decode-context-parallel-size",
    "pcp": "prefill-context-parallel-size",
    "q": "quantization",
    "sc": "speculative-config",
}
# Whose choices a plug-in adds to: `ascend`, a parser or a cache of its own.
_ADDED_TO = ("quantization", "kv-cache-dtype")
# Counts of which the parser takes any, and the engine none below 1 (vllm/config of 0.32.0).
# Below 1 there is no server (run_headless of entrypoints/cli/serve.py), no block (v1/core).
_ABOVE_ZERO = (
    "api-server-count", "block-size", "dp-sync-interval", "elastic-ep-max-dp-size", "max-loras",
    "max-num-batched-tokens", "num-gpu-blocks-override", "offload-num-in-group",
    "prefill-schedule-interval", "replayssm-buffer-len", "stream-interval",
)  # fmt: skip
# Numbers of which the parser takes any, and the engine none below 0 (vllm/config, since 0.9.0).
_FROM_ZERO = ("cpu-offload-gb",)
# `int | None`, of which the recorded parsers do not say what they take beside `None` (vllm/config).
_WHOLE_OR_NONE = ("max-cpu-loras", "max-parallel-loading-workers", "num-gpu-blocks-override")
# Outside of the parser's group (vllm/entrypoints/cli/serve.py).
_MORE_OF_SERVER = ("api-server-count", "asc", "grpc")


def exists(flag: str, release: Release) -> bool:
    """Whether `vllm serve` of this release has the flag (`--max-model-len`)."""
    return flag in flags(release.vllm)


def is_given(engine_args: Mapping[str, object], name: str) -> bool:
    """Whether `serve.engine_args` has this flag, and not as `false`."""
    return any(flag_name(key) == name and value is not False for key, value in engine_args.items())


def features(engine_args: Mapping[str, object]) -> frozenset[str]:
    """Return which of a model's uses the flags ask for, that rules of releases know.

    lora, speculative, mtp (the model's own layers draft), whole-encoder (on each NPU, or none) and
    finegrained-8 (a size in `finegrained_tp_config`).
    """
    sizes = flag_settings(engine_args, "additional-config").get("finegrained_tp_config")
    finegrained = map(positive, sizes.values() if isinstance(sizes, Mapping) else ())
    given = {_plain(name): value for name, value in engine_args.items() if value is not False}
    asked = {
        "lora": not given.keys().isdisjoint(("enable-lora", "lora-modules")),
        "speculative": "speculative-config" in given,
        "mtp": drafts_with_mtp(engine_args),
        "whole-encoder": given.get("mm-encoder-tp-mode") == "data"
        or not given.keys().isdisjoint(
            ("enable-multimodal-encoder-data-parallel", "language-model-only")
        ),
    }
    return frozenset(
        (
            *(name for name, wanted in asked.items() if wanted),
            *(f"{FINEGRAINED}{size}" for size in finegrained if size),
        )
    )


def of_server(name: str, release: Release) -> bool:
    """Whether a user's flag is one of the HTTP server, which a follower (`--headless`) has not.

    A follower would refuse some (`--api-server-count`), become a server by others (`--grpc`), and
    look for files of the rest on its own host. With all beginnings that the parser completes.
    """
    plain = _plain(name).removeprefix("no-")
    known = [flag.lstrip("-") for flag in flags(release.vllm)]
    full = {plain} if plain in known else {flag for flag in known if flag.startswith(plain)}
    return bool(full) and full <= _server_flags()


def check(engine_args: Mapping[str, object], release: Release) -> None:
    """Refuse a user's flag that this release does not have. Raises Refused, with what to do."""
    for name, value in engine_args.items():
        if fault := _fault(name, value, release):
            what, evidence, hint = fault
            raise Refused(
                phrase("`{name}` {what}", name=name, what=what),
                where=f"serve.engine_args, vLLM-Ascend {release.version}",
                evidence=(evidence,),
                hint=hint,
            )


def notes(engine_args: Mapping[str, object], release: Release) -> tuple[str, ...]:
    """Return a note for each of a user's flags that a later release no longer has."""
    return tuple(
        phrase(
            "`{name}` was removed in vLLM-Ascend {removed}; {instead}",
            name=name,
            removed=removed,
            instead=_instead(_plain(name)),
        )
        for name in engine_args
        if exists(f"--{_plain(name)}", release)
        and (removed := _first_later(f"--{_plain(name)}", release, has_it=False))
    )


@cache
def flags(vllm: str) -> frozenset[str]:
    """Return all flags of `vllm serve` in this vLLM with their dashes, short and negative ones too.

    Raises ValueError for a vLLM that no known release is built on.
    """
    versions = _data()["versions"]
    return frozenset(flag for flag, runs in _table().items() if in_runs(vllm, runs, versions))


def _plain(name: str) -> str:
    """Return `compilation-config` of `compilation_config.mode`, a form that vLLM's parser takes."""
    return flag_name(name.partition(".")[0])


def _completed(written: str, release: Release) -> bool:
    """Whether the parser completes it to the one flag that begins so; never a removed flag.

    (`--device` would otherwise be completed to `--device-ids`.)
    """
    if written in _table():
        return False
    return sum(flag.startswith(written) for flag in flags(release.vllm)) == 1


def _fault(name: str, value: object, release: Release) -> tuple[str, str, str] | None:
    """Return what is wrong with a flag, how we know, and what to do; None when nothing is."""
    plain = _plain(name)
    if plain.removeprefix("no-") in _OURS:
        hint = "remove it; `serve.layout` and `serve.backend` decide"
        return "is set on each host by Ropeway", "it follows from the layout", hint
    written = f"--no-{plain}" if value is False else f"--{plain}"
    if exists(written, release):
        return _value_fault(name, value, release)
    if exists(f"-{plain}", release):
        evidence = phrase("vLLM {vllm} has `{flag}`", vllm=release.vllm, flag=f"-{plain}")
        meant = did_you_mean(_LONG[plain], [_LONG[plain]]) if plain in _LONG else None
        hint = meant or "write its long name: `vllm serve --help=all`"
        return "is the short form of a flag", evidence, hint
    if _completed(written, release):
        return None
    if written in _table():
        runs = runs_in_words(_table()[written])
        hint = _instead(plain) if _is_past(written, release) else _later(written, release)
        evidence = phrase("vLLM {runs} has it, and this is {vllm}", runs=runs, vllm=release.vllm)
        return "is not a flag of this release", evidence, hint
    if written.startswith("--no-") and exists(f"--{plain}", release):
        evidence = phrase("`vllm serve` has no `{flag}`", flag=written)
        return "cannot be false", evidence, "remove it, or give a value"
    known = flags(release.vllm)
    hint = (
        place(plain, release)
        or did_you_mean(plain, [flag[2:] for flag in known if flag.startswith("--")])
        or "remove it"
    )
    evidence = phrase(
        "vLLM {vllm} has {n} flags, and this is not one", vllm=release.vllm, n=len(known)
    )
    return "is not a flag of `vllm serve`", evidence, hint


def _value_fault(name: str, value: object, release: Release) -> tuple[str, str, str] | None:
    """Return what is wrong with a flag's value; a key of one that takes JSON has none."""
    if "." in name:
        return None
    return _kind_fault(name, value, release) or _choice_fault(name, value, release)


def _kind_fault(name: str, value: object, release: Release) -> tuple[str, str, str] | None:
    """Return what is wrong with a value that is none, one of several or no number, where the
    parser takes exactly one or a number; and with any value of a flag that takes none."""
    plain, versions = _plain(name), _data()["versions"]
    kinds: dict[str, str] = _data()["takes"].get(f"--{plain}", {})
    kind = next((one for one, runs in kinds.items() if in_runs(release.vllm, runs, versions)), "")
    if plain in _WHOLE_OR_NONE and value != "None":
        kind = "int"
    if kind in ("?", "*"):
        return None
    if kind == "0":
        if value is None or isinstance(value, bool):
            return None
        what = phrase("is true or false, not {value}", value=shown(value))
        taken, hint = phrase("no value"), phrase("write `true`, or remove it")
    elif value is None or isinstance(value, bool) or value in ("", [], ()):
        what, taken = phrase("needs a value"), phrase("a value")
        hint = phrase("remove it, or give a value")
    elif kind == "+":
        return None
    elif isinstance(value, list | tuple):
        what, taken = phrase("takes one value, not a list"), phrase("one value")
        hint = phrase("give one value; a list of JSON is written as text: `'[…]'`")
    elif kind and not _is_number(value, kind, plain):
        taken = phrase("a whole number above 0" if plain in _ABOVE_ZERO else "a whole number")
        if kind == "float":
            taken = phrase("a number from 0 on" if plain in _FROM_ZERO else "a number")
        what = phrase("must be {kind}, not {value}", kind=taken, value=shown(value))
        hint = phrase("remove it, or give a value")
    else:
        return None
    return what, phrase("vLLM {vllm} takes {values}", vllm=release.vllm, values=taken), hint


def _is_number(value: object, kind: str, plain: str) -> bool:
    if kind == "float":
        try:
            number = float(str(value))
        except ValueError:
            return False
        return isfinite(number) and (number >= 0 or plain not in _FROM_ZERO)
    read = tokens_of(value) if kind == "human_readable_int" else whole(value)
    return read is not None and (read > 0 or plain not in _ABOVE_ZERO)


def _choice_fault(name: str, value: object, release: Release) -> tuple[str, str, str] | None:
    """Return what is wrong with a value of a flag that takes some values only."""
    plain = _plain(name)
    known = choices(plain, release)
    if not known or plain in _ADDED_TO or plain.endswith(("-parser", "-backend")):
        return None
    values = map(str, value if isinstance(value, list | tuple) else [value])
    wrong = next((one for one in values if one not in known), None)
    if wrong is None:
        return None
    what = phrase("cannot be {value}", value=f"`{wrong}`")
    evidence = phrase("vLLM {vllm} takes {values}", vllm=release.vllm, values=joined(known, ", "))
    return what, evidence, did_you_mean(wrong, known) or "take one of these"


def choices(plain: str, release: Release) -> list[str]:
    """Return the values that the parser takes for a flag; none where it takes any."""
    runs: dict[str, list[str]] = _data()["choices"].get(f"--{plain}", {})
    versions = _data()["versions"]
    return next((runs[run] for run in runs if in_runs(release.vllm, run, versions)), [])


def place(plain: str, release: Release) -> str:
    """Return the hint that says where a name belongs that is no flag; "" where we know of none."""
    key = plain.replace("-", "_").lower()
    homes = [flag for flag in flags_with(key) if exists(f"--{flag}", release)]
    places = [f"`{flag}: {{{key}: …}}`" for flag in homes]
    for section in sections_of(key, release.version):
        inner = f"{{{section}: {{{key}: …}}}}" if section else f"{{{key}: …}}"
        places.append(f"`additional-config: {inner}`")
    if places:
        return phrase("write {places}", places=joined(places, " or "))
    if is_plugins(key.upper()) or key.startswith(_VARIABLES):
        return phrase("`{name}` belongs under `serve.env`", name=key.upper())
    return _SETTINGS_INSTEAD.get(key, "")


def _instead(plain: str) -> str:
    return _INSTEAD.get(plain, "remove it")


def _is_past(flag: str, release: Release) -> bool:
    """Whether this vLLM comes after all that have the flag."""
    versions: list[str] = _data()["versions"]
    last = _table()[flag].rpartition("-")[2]
    return versions.index(release.vllm) > versions.index(last)


def _later(flag: str, release: Release) -> str:
    """Return the hint that names the first release after this one with the flag."""
    first = _first_later(flag, release, has_it=True)
    if not first:
        return "remove it"
    return phrase("take vLLM-Ascend {first} or later, or remove it", first=first)


def _first_later(flag: str, release: Release, *, has_it: bool) -> str:
    """Return the first later release with the flag, or without it; "" when there is none."""
    later = later_than(release.version)
    return next((row.version for row in later if exists(flag, row) is has_it), "")


@cache
def _server_flags() -> frozenset[str]:
    """Return vLLM's own group "Frontend" without dashes, and what else starts servers."""
    listed = (flag.lstrip("-").removeprefix("no-") for flag in _data()["server"])
    return frozenset((*listed, *_MORE_OF_SERVER))


def _table() -> dict[str, str]:
    """Return the runs of vLLM versions that have a flag, by the flag."""
    table: dict[str, str] = _data()["flags"]
    return table


@cache
def _data() -> dict[str, Any]:
    text = resources.files("ropeway.engines").joinpath("vllm_flags.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
