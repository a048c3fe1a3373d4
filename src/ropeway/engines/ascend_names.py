"""The names of variables and of keys of `--additional-config`: which a release reads, and what to
say of others.

ascend_settings.json lists what each release's source reads (scripts/read-plugin-settings). `#N` is
a pull request of vllm-project/vllm-ascend.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources

from ropeway.engines.ascend_releases import (
    RELEASES,
    changes,
    in_runs,
    order,
    release_of,
    runs_in_words,
)
from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.spec.engine_args import OWN_KEY
from ropeway.spec.engine_flags import flag_name
from ropeway.suggest import did_you_mean

# From then on a key that it does not read ends the start (AscendConfig forbids others, #13838).
_STRICT_SINCE = "0.30.0rc1"
_VERSIONS = tuple(release.version for release in RELEASES)

# variable → key of --additional-config, whether "1" becomes true
KEY_OF: Mapping[str, tuple[str, bool]] = changes()["key_of"]
# What to do about a name that was removed.
_INSTEAD: Mapping[str, str] = changes()["settings_instead"]
# flag of vLLM's that takes JSON → the keys in it
KEYS_OF_FLAGS: Mapping[str, Sequence[str]] = changes()["keys_of_flags"]


def reads_variable(name: str, version: str) -> bool:
    """Whether the release's source reads this variable of the plug-in."""
    return _covers(_tables()["variables"].get(name, ""), version)


def reads_key(name: str, version: str) -> bool:
    """Whether the release's source reads this key of `--additional-config`."""
    return _covers(_tables()["keys"].get(name, ""), version)


def _reads_nested(section: str, key: str, version: str) -> bool:
    """Whether the release's source reads this key of a section, `eplb_config`."""
    return _covers(_tables()["nested"].get(f"{section}.{key}", ""), version)


def sections_of(key: str, version: str) -> list[str]:
    """Return where the release reads a key: sections, and "" for the top."""
    sections = dict.fromkeys(name.partition(".")[0] for name in _tables()["nested"])
    return [
        *([""] if reads_key(key, version) else []),
        *(
            section
            for section in sections
            if reads_key(section, version) and _reads_nested(section, key, version)
        ),
    ]


def is_section(key: str, version: str) -> bool:
    """Whether the release reads keys in this key of `--additional-config`."""
    nested = _tables()["nested"]
    return any(
        name.partition(".")[0] == key and _covers(runs, version) for name, runs in nested.items()
    )


def is_plugins(name: str) -> bool:
    """Whether a variable is one of the plug-in's."""
    return name.startswith("VLLM_ASCEND_") or name in _tables()["variables"]


def unread_notes(keys: Sequence[str], version: str) -> list[str]:
    """Return a note on keys that this release ignores and others read.

    Raises Refused for those that no release reads, and for all where they end the start.
    """
    strict = order(version) >= order(_STRICT_SINCE)
    if refused := [key for key in keys if strict or key not in _tables()["keys"]]:
        raise ignored(refused, version, "keys", "serve.engine_args, additional-config")
    if not keys:
        return []
    advice = [
        phrase("`{name}`: {line}", name=key, line=_unread(key, version, "keys")[1]) for key in keys
    ]
    note = phrase(
        "vLLM-Ascend {version} ignores keys of `additional-config` that it does not read: {advice}",
        version=version,
        advice=joined(advice),
    )
    return [note]


def ambiguous(key: str, places: Sequence[str]) -> Refused:
    """Return the error for a key at the top that a release reads in several sections."""
    words = joined((f"`{place or 'additional-config'}`" for place in places), ", ")
    return Refused(
        phrase("`{name}` may belong to several keys of `additional-config`", name=key),
        where="serve.engine_args, additional-config",
        evidence=(words,),
        hint=phrase("write it below one of them: {places}", places=words),
    )


def ignored(names: Sequence[str], version: str, kind: str, where: str) -> Refused:
    """Return the error for names that a release does not read, all of them."""
    ends = kind == "keys" and order(version) >= order(_STRICT_SINCE)
    lines = [_unread(name, version, kind) for name in names]
    if len(names) > 1:
        lines = [
            (
                phrase("`{name}`: {line}", name=name, line=evidence),
                phrase("`{name}`: {line}", name=name, line=hint),
            )
            for name, (evidence, hint) in zip(names, lines, strict=True)
        ]
    return Refused(
        phrase(
            "{names} would end the start of vLLM-Ascend {version}"
            if ends
            else "{names} would be ignored by vLLM-Ascend {version}",
            names=joined((f"`{name}`" for name in names), ", "),
            version=version,
        ),
        where=where,
        evidence=[evidence for evidence, _ in lines],
        hint=joined((hint for _, hint in lines), "\n"),
    )


def _unread(name: str, version: str, kind: str) -> tuple[str, str]:
    """Return who reads a name that this release does not read, and what to do."""
    known = _tables()[kind]
    if name in known:
        readers = phrase("releases that read it: {runs}", runs=runs_in_words(known[name]))
        return readers, _other_way(name, version)
    readable = [other for other in known if _covers(known[other], version)]
    nested = _tables()["nested"] if kind == "keys" else {}
    inner = [one.partition(".")[2] for one in nested if _covers(nested[one], version)]
    hint = _elsewhere(name) or did_you_mean(name, [*readable, *inner]) or "remove it"
    return "no release is known to read it", hint


def _elsewhere(key: str) -> str:
    """Return the hint that says where vLLM itself has a key; "" where it is none of vLLM's."""
    if ours := OWN_KEY.get(flag_name(key)):
        return phrase("did you mean {names}?", names=f"`{ours}`")
    places = (f"`{flag}: {{{key}: …}}`" for flag in flags_with(key))
    words = joined(places, " or ")
    return phrase("write {places}", places=words) if words else ""


def flags_with(key: str) -> Iterator[str]:
    """Yield vLLM's flags that take JSON with this key in it: `compilation-config`."""
    return (flag for flag, keys in KEYS_OF_FLAGS.items() if key in keys)


def _other_way(name: str, version: str) -> str:
    """Return the hint that says how to set the same in this release."""
    older = (variable for variable, (key, _) in KEY_OF.items() if key == name)
    if (variable := next(older, "")) and reads_variable(variable, version):
        return phrase("set `{variable}` in `serve.env`", variable=variable)
    return _INSTEAD.get(name, "remove it, or take one of those releases")


def _covers(runs: str, version: str) -> bool:
    row = release_of(version)
    return row is not None and in_runs(row.unread or version, runs, _VERSIONS)


@cache
def _tables() -> dict[str, dict[str, str]]:
    text = resources.files("ropeway.engines").joinpath("ascend_settings.json").read_text("utf-8")
    tables = json.loads(text)
    return {kind: tables[kind] for kind in ("variables", "keys", "nested")}
