"""Which flags `vllm serve` has in each release of vLLM-Ascend, and what took the place of others.

vllm_flags.json holds the flags of the real argument parsers, one parser for each vLLM that a
release is built on (scripts/parse-serve-lines; docs/versions.md). The plug-in adds `ascend` to the
choices of `--quantization` and no flag (vllm_ascend/platform.py, pre_register_and_update).
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from ropeway.engines.ascend_releases import RELEASES, Release, order
from ropeway.errors import Refused

# What to do about a flag that is gone, without dashes. Sources: the help texts and deprecation
# warnings of the parsers that had both, and vLLM's release notes. The rest is to be removed.
_INSTEAD = {
    "cuda-graph-sizes": "use `cudagraph-capture-sizes`",
    "device": "remove it: the plug-in says which device it is",
    "disable-log-requests": "remove it: requests are not logged unless `enable-log-requests`",
    "disable-mm-preprocessor-cache": "use `mm-processor-cache-gb: 0`",
    "enable-multimodal-encoder-data-parallel": "use `mm-encoder-tp-mode: data`",
    "eplb-log-balancedness": "use `eplb-config: {log_balancedness: …}`",
    "eplb-step-interval": "use `eplb-config: {step_interval: …}`",
    "eplb-window-size": "use `eplb-config: {window_size: …}`",
    "enable-reasoning": "remove it: `reasoning-parser` is enough",
    "guided-decoding-backend": "use `structured-outputs-config: {backend: …}`",
    "guided-decoding-disable-additional-properties": "use `structured-outputs-config`",
    "guided-decoding-disable-any-whitespace": "use `structured-outputs-config`",
    "guided-decoding-disable-fallback": "use `structured-outputs-config`",
    "num-redundant-experts": "use `eplb-config: {num_redundant_experts: …}`",
    "override-pooler-config": "use `pooler-config`",
    "rope-scaling": "use `hf-overrides: {rope_parameters: …}`",
    "rope-theta": "use `hf-overrides: {rope_parameters: …}`",
    "task": "use `runner` and `convert`",
}
# Follow from the layout, the hosts and their order; given twice, a node would get another's.
_OURS = {
    "data-parallel-external-lb",
    "data-parallel-hybrid-lb",
    "data-parallel-rank",
    "data-parallel-rpc-port",
    "data-parallel-start-rank",
    "headless",
    "master-addr",
    "master-port",
    "nnodes",
    "node-rank",
}
# Since then vLLM logs no request unless asked to (vllm-project/vllm pull request 21739).
_SILENT_SINCE = "0.10.1"


def exists(flag: str, release: Release) -> bool:
    """Whether `vllm serve` of this release has the flag (`--max-model-len`)."""
    return flag in flags(release.vllm)


def logs_requests_by_default(release: Release) -> bool:
    """Whether it logs every request unless `--disable-log-requests` is given."""
    return order(release.vllm) < order(_SILENT_SINCE)


def asked(engine_args: Mapping[str, object], name: str) -> bool:
    """Whether `serve.engine_args` gives this flag, other than by `false`."""
    return any(
        key.replace("_", "-") == name and value is not False for key, value in engine_args.items()
    )


def check(engine_args: Mapping[str, object], release: Release) -> None:
    """Refuse a user's flag that this release does not have. Raises Refused with what to do."""
    for name, value in engine_args.items():
        plain = _plain(name)
        if plain.removeprefix("no-") in _OURS:
            raise _refused(
                name,
                release,
                "is set for each host",
                "it follows from the layout",
                "remove it; `serve.layout` and `serve.backend` decide",
            )
        written = f"--no-{plain}" if value is False else f"--{plain}"
        if not exists(written, release) and not _completed(written, release):
            raise _missing(name, written, release)


def notes(engine_args: Mapping[str, object], release: Release) -> tuple[str, ...]:
    """Which of a user's flags a later release no longer has."""
    return tuple(
        f"`{name}` is gone from vLLM-Ascend {gone} on; {_instead(_plain(name))}"
        for name in engine_args
        if (gone := _gone_after(f"--{_plain(name)}", release))
    )


@cache
def flags(vllm: str) -> frozenset[str]:
    """All flags of `vllm serve` in this vLLM, with their dashes, short and negative forms too.

    Raises KeyError for a vLLM that no known release is built on.
    """
    place = _places()[vllm]
    return frozenset(
        flag
        for flag, runs in _table().items()
        if any(first <= place <= last for first, last in _spans(runs))
    )


def _plain(name: str) -> str:
    """`compilation_config.mode` → `compilation-config`; vLLM's parser takes such forms."""
    return name.split(".")[0].replace("_", "-")


def _completed(written: str, release: Release) -> bool:
    """Whether the parser completes it to the one flag that begins so; never a name that is gone.

    (`--device` would otherwise be completed to `--device-ids`.)
    """
    if written in _table():
        return False
    return sum(flag.startswith(written) for flag in flags(release.vllm)) == 1


def _missing(name: str, written: str, release: Release) -> Refused:
    if written in _table():
        return _refused(
            name,
            release,
            "is no flag of this release",
            f"vLLM {_told(_table()[written])} has it, and this is {release.vllm}",
            _instead(_plain(name)) if _is_past(written, release) else _later(written, release),
        )
    if written.startswith("--no-") and exists(f"--{_plain(name)}", release):
        return _refused(
            name,
            release,
            "cannot be false",
            f"there is no `{written}`",
            "remove it, or give a value",
        )
    near = difflib.get_close_matches(written, sorted(flags(release.vllm)), 1)
    return _refused(
        name,
        release,
        "is no flag of `vllm serve`",
        f"vLLM {release.vllm} has {len(flags(release.vllm))}, and not this one",
        f"did you mean `{near[0].lstrip('-')}`?" if near else "remove it",
    )


def _refused(name: str, release: Release, what: str, evidence: str, hint: str) -> Refused:
    return Refused(
        f"`{name}` {what}",
        where=f"serve.engine_args, vLLM-Ascend {release.version}",
        evidence=(evidence,),
        hint=hint,
    )


def _instead(plain: str) -> str:
    return _INSTEAD.get(plain, "remove it")


def _is_past(flag: str, release: Release) -> bool:
    """Whether this vLLM comes after all that have the flag."""
    return _places()[release.vllm] > max(last for _, last in _spans(_table()[flag]))


def _later(flag: str, release: Release) -> str:
    """The first release after this one that has the flag."""
    later = (row for row in RELEASES if order(row.version) > order(release.version))
    first = next((row.version for row in later if exists(flag, row)), None)
    return f"take vLLM-Ascend {first} or later, or remove it" if first else "remove it"


def _gone_after(flag: str, release: Release) -> str:
    """The first later release without the flag that this one has; "" while it lives."""
    if not exists(flag, release):
        return ""
    later = (row for row in RELEASES if order(row.version) > order(release.version))
    return next((row.version for row in later if not exists(flag, row)), "")


def _told(runs: str) -> str:
    """`0.9.0-0.16.0` in words."""
    return ", ".join(run.replace("-", " to ") for run in runs.split())


def _spans(runs: str) -> Iterator[tuple[int, int]]:
    for run in runs.split():
        first, last = run.split("-")
        yield _places()[first], _places()[last]


@cache
def _places() -> dict[str, int]:
    return {version: place for place, version in enumerate(_data()["versions"])}


def _table() -> dict[str, str]:
    """Flag → runs of vLLM versions that have it."""
    table: dict[str, str] = _data()["flags"]
    return table


@cache
def _data() -> dict[str, dict[str, str]]:
    text = resources.files("ropeway.engines").joinpath("vllm_flags.json").read_text("utf-8")
    data: dict[str, dict[str, str]] = json.loads(text)
    return data
