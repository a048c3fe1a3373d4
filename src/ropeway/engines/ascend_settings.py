"""Variables and `--additional-config` of vLLM-Ascend: what each release reads, and what we set.

The plug-in moved its switches from the environment into `--additional-config`, and until 0.30 it
silently ignored unknown names. So a name that a release does not read is replaced here by what the
release does read, or refused; a key that others read is only noted where it is ignored. `#N` is an
issue of vllm-project/vllm-ascend. Nothing here was verified on NPU hardware by us.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ropeway.engines.ascend_names import (
    KEY_OF,
    ambiguous,
    ignored,
    is_plugins,
    is_section,
    reads_key,
    reads_variable,
    sections_of,
    unread_notes,
)
from ropeway.engines.ascend_releases import order
from ropeway.engines.base import Node
from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.spec.engine_flags import whole, written_settings

# Ray's first release with token authentication (docs.ray.io, ray-security/token-auth), and the
# newest that the images may have (`ray>=2.47.1,<=2.48.0` in every Dockerfile since v0.11.0rc3).
RAY_TOKENS_SINCE = "2.52.0"
RAY_NEWEST = "2.48.0"


# The limits of how long HCCL waits for its peers (hiascend.com, envref_07_0077).
_CONNECT_SECONDS = (120, 7200)
# vLLM's default of VLLM_ENGINE_READY_TIMEOUT_S (vllm/envs.py).
_READY_SECONDS = 600


@dataclass(frozen=True)
class Settings:
    """The user's settings in a release's own terms.

    env     variables for the container
    config  the value of `--additional-config`; empty when the flag is left out
    notes   which variables were turned into keys
    """

    env: dict[str, str]
    config: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def resolve_settings(
    env: Mapping[str, str], engine_args: Mapping[str, object], version: str
) -> Settings:
    """Return `serve.env` and the `additional-config` of `serve.engine_args` for this release.

    A variable that became a key is turned into it. Raises Refused for names that the release
    ignores, with what replaced them, and for a variable that contradicts its key.
    """
    try:
        given = written_settings(engine_args, "additional-config")
    except ValueError as error:
        raise _bad_config(error.args[0]) from None
    config, notes = _placed(given, version)
    kept: dict[str, str] = {}
    for name, text in env.items():
        if not is_plugins(name) or reads_variable(name, version):
            kept[name] = text
            continue
        key, value = _as_key(name, text, version)
        if key in config and config[key] != value:
            raise Refused(
                phrase("`{name}` and `{key}` contradict each other", name=name, key=key),
                where="serve.env and serve.engine_args",
                evidence=(
                    f"{name}={text}",
                    f"additional-config: {key}: {json.dumps(config[key])}",
                ),
                hint=phrase(
                    "keep `{key}`: {version} does not read the variable", key=key, version=version
                ),
            )
        config[key] = value
        notes.append(
            phrase(
                "`{setting}` became `{key}` in --additional-config: {version} reads that",
                setting=f"{name}={text}",
                key=key,
                version=version,
            )
        )
    return Settings(kept, config, tuple(notes))


def _placed(given: Mapping[str, object], version: str) -> tuple[dict[str, object], list[str]]:
    """Return `additional-config` with each key where the release reads it, and what was moved.

    A release before 0.30 ignores a key in the wrong place without a word. Raises Refused for keys
    that no release reads, or that end the start, for one that has several places, and for one that
    stands in both.
    """
    for key, value in given.items():
        if value is not None and not isinstance(value, Mapping) and is_section(key, version):
            raise _bad_config(phrase("has no mapping in `{key}`", key=key))
    config = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()
    }
    unread = [key for key in given if not sections_of(key, version)]
    notes = unread_notes(unread, version)
    read = {key: value for key, value in given.items() if key not in unread}
    for section, key in [*(("", key) for key in read), *_nested_keys(read)]:
        places = sections_of(key, version)
        if section in places or not places:
            continue  # what sections read is known less well than what the top does
        if len(places) != 1:
            raise ambiguous(key, places)
        source = config if not section else config[section]
        target = config.setdefault(places[0], {}) if places[0] else config
        assert isinstance(source, dict)
        if not isinstance(target, dict):
            raise _bad_config(phrase("has no mapping in `{key}`", key=places[0]))
        value = source.pop(key)
        if target.setdefault(key, value) != value:
            raise Refused(
                phrase("`{key}` stands twice in `additional-config`", key=key),
                where="serve.engine_args",
                evidence=(f"{json.dumps(value)}, {json.dumps(target[key])}",),
                hint=phrase("keep that of `{place}`", place=places[0] or "additional-config"),
            )
        notes.append(
            phrase(
                "`{key}` was moved from `{section}` to `{place}`, where {version} reads it",
                key=key,
                section=section or "additional-config",
                place=places[0] or "additional-config",
                version=version,
            )
        )
    return config, notes


def _nested_keys(given: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for section, value in given.items():
        if isinstance(value, Mapping):
            yield from ((section, str(key)) for key in value)


def network_variables(node: Node, start_timeout: int) -> dict[str, str]:
    """Return the variables by which this host's ranks find those of other hosts.

    HCCL goes by the address first (envref_07_0073), Gloo and torch by the interface. HCCL waits for
    its peers up to `start_timeout` (seconds): hosts load weights at different speeds.
    """
    least, most = _CONNECT_SECONDS
    names = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME")
    return {
        "HCCL_IF_IP": node.address,
        **(dict.fromkeys(names, node.nic) if node.nic else {}),
        "VLLM_HOST_IP": node.address,
        "HCCL_CONNECT_TIMEOUT": str(min(max(start_timeout, least), most)),
    }


def ray_variables(ray: str = "") -> dict[str, str]:
    """Return the variables of `ray start` and vLLM: Ray hides no devices and reports no usage.

    With `ray` 2.52 or newer also its token authentication; RAY_AUTH_TOKEN holds the token.
    """
    tokens = ray and order(ray) >= order(RAY_TOKENS_SINCE)
    return {
        # Ray would hide NPUs from workers one by one; vLLM then counts from 0 and misses (#167).
        "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        **({"RAY_AUTH_MODE": "token"} if tokens else {}),
    }


def visible_devices(node: Node, *, privileged: bool) -> dict[str, str]:
    """Return the variable that lists the container's NPUs by number.

    A container with some of the host's /dev/davinciN renumbers them from 0, and this variable uses
    these numbers (measured by others on 950DT: #16256, #16309). A privileged one sees all NPUs of
    the host under the host's numbers.
    """
    numbers = node.devices if privileged and node.devices else range(node.npus)
    return {"ASCEND_RT_VISIBLE_DEVICES": ",".join(map(str, numbers))}


def engine_variables(
    version: str, start_timeout: int, *, data_over_hosts: bool, sleep: bool
) -> dict[str, str]:
    """Return what the recipes of this release set, on one host too.

    start_timeout    seconds that the API server waits for engine cores, where vLLM's are fewer
    data_over_hosts  there are data-parallel ranks on several hosts
    sleep            vLLM's sleep mode is on
    """
    era = order(version)
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if era < order("0.12.0rc1"):
        # The choice of engine, until only one was left (vllm/envs.py: gone in 0.12).
        variables["VLLM_USE_V1"] = "1"
    if era >= order("0.12.0rc1") or data_over_hosts:
        # Up to 0.11.0 only the recipe for data parallel over hosts sets these, and 100 threads
        # (tutorials/multi_node.md); those of 0.12 and 0.13 set 10, later ones mostly 1.
        old, young = era < order("0.12.0rc1"), era >= order("0.14.0rc1")
        variables["OMP_PROC_BIND"] = "false"
        variables["OMP_NUM_THREADS"] = "100" if old else "1" if young else "10"
    if order("0.12.0rc1") <= era < order("0.14.0rc1") and not sleep:
        # In every recipe of 0.13. Since 0.14.0rc1 the platform sets it by itself, and sleep mode
        # refuses it (vllm_ascend/platform.py, device_allocator/camem.py).
        variables["PYTORCH_NPU_ALLOC_CONF"] = "expandable_segments:True"
    if era >= order("0.14.0rc1") and start_timeout > _READY_SECONDS:
        variables["VLLM_ENGINE_READY_TIMEOUT_S"] = str(start_timeout)
    return variables


def _bad_config(fault: str) -> Refused:
    return Refused(
        phrase("`additional-config` {fault}", fault=fault),
        where="serve.engine_args",
        hint='write `additional-config: {"key": value}`',
    )


def _as_key(name: str, text: str, version: str) -> tuple[str, object]:
    """Return the key and value that a variable became. Raises Refused when it became none."""
    key, is_switch = KEY_OF.get(name, ("", False))
    if not key or not reads_key(key, version):
        raise ignored([name], version, "variables", "serve.env")
    number = whole(text)
    if number is None or number < 0:
        raise Refused(
            phrase("`{name}` must be a number", name=name),
            where="serve.env",
            evidence=(f"{name}={text[:120]}",),
            hint=phrase("or set `{key}` in `additional-config`", key=key),
        )
    return key, bool(number) if is_switch else number
