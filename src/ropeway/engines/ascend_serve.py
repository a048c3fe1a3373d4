"""What a release and a chip make of a spec's `serve`, whatever the layout: refusals and notes.

`plan` and `up` ask here, so that neither lets through what the other refuses. `#N` is an issue of
vllm-project/vllm-ascend.
"""

import json
from collections.abc import Iterator, Mapping

from ropeway.engines import ascend_flags
from ropeway.engines.ascend_names import KEYS_OF_FLAGS, is_plugins
from ropeway.engines.ascend_releases import Release, order
from ropeway.engines.ascend_settings import resolve_settings
from ropeway.engines.named_paths import relative_paths
from ropeway.engines.vllm import drafts_with_mtp
from ropeway.errors import Refused
from ropeway.hardware import CHIPS
from ropeway.models.positions import bad_factor, ropes
from ropeway.outside import parse_json
from ropeway.phrases import joined, phrase
from ropeway.spec.engine_flags import (
    config_overrides,
    flag_name,
    flag_settings,
    flag_value,
    positive,
    variable_number,
)
from ropeway.spec.errors import shown
from ropeway.spec.model import Serve

# Before, the plug-in's worker did not read it and sized the cache by itself (worker/worker.py).
KV_CACHE_BYTES_SINCE = "0.19.1rc1"
_FLOAT16_ONLY = (
    "vllm-ascend docs/source/tutorials/single_node_300i.md of v0.11.0, 310p.md of v0.13.0"
)
# Methods of drafting that need no model of their own, and what vLLM says of others without one
# (config/speculative.py of 0.32.0).
_WITHOUT_DRAFT_MODEL = ("dspark", "extract_hidden_states", "ngram", "ngram_gpu", "suffix")
_MOST_DRAFTED = 1_000_000  # more than any model's context
_NO_DRAFT_MODEL = "vLLM: num_speculative_tokens was provided but without speculative model."
_FACTOR_READ = "_get_and_verify_max_len in vllm/config/model.py"
# Variables that are a whole number above 0, and who says so.
_NUMBERS = {
    "HCCL_BUFFSIZE": "hiascend.com, CANN 8.5.0, hcclug_000076: MiB",
    "HCCL_CONNECT_TIMEOUT": "hiascend.com, envref_07_0077: seconds",
    "VLLM_ENGINE_READY_TIMEOUT_S": "vllm/envs.py: seconds",
}
# What `--compilation-config` takes beside JSON in these vLLMs (CompilationConfig.from_cli); later
# ones take `-O3` for a level, and `--compilation-config 3` ends their start.
_LEVELS, _TAKE_A_LEVEL = ("0", "1", "2", "3"), ("0.9.0", "0.9.1")
# Flags that take JSON of which no list of keys is kept: config.json's, a model's own, others.
_OPEN = (
    "attention-config", "default-chat-template-kwargs", "hf-overrides", "kernel-config",
    "limit-mm-per-prompt", "media-io-kwargs", "mm-processor-kwargs", "override-generation-config",
)  # fmt: skip
# KVTransferConfig in vllm/config/kv_transfer.py, since 0.9.0.
_ROLES = ("kv_producer", "kv_consumer", "kv_both")
_ROLES_READ = "vllm/config/kv_transfer.py: Unsupported kv_role; Please specify kv_role"
# vLLM 0.32.0: entrypoints/launchers/cli_args.py, and v1/worker/lora_model_runner_mixin.py
_ADAPTER_FORMS = "vLLM, LoRAParserAction: `name=path`, or JSON with `name` and `path`"
_LORA_IS_OFF = "vLLM: LoRA is not enabled. Use --enable-lora to enable LoRA."


def check(serve: Serve, release: Release, family: str) -> None:
    """Raise Refused for a value, a flag or a variable that cannot work, or has no effect."""
    _check_dtype(serve, family)
    _check_cache_size(serve, release)
    ascend_flags.check(serve.engine_args, release)
    _check_json(serve.engine_args, release)
    _check_role(serve.engine_args)
    _check_numbers(serve)
    _check_buffers(serve, family)
    _check_rope(serve.engine_args)
    _check_draft(serve.engine_args)
    _check_paths(serve)
    _check_adapters(serve.engine_args)
    resolve_settings(serve.env, serve.engine_args, release.version)


def notes(serve: Serve, release: Release, family: str) -> Iterator[str]:
    """Yield what is adapted, what a later release removed, and what was not read."""
    settings = resolve_settings(serve.env, serve.engine_args, release.version)
    yield from settings.notes
    if release.unread and (settings.config or any(map(is_plugins, serve.env))):
        yield release.unread_note
    yield from ascend_flags.notes(serve.engine_args, release)
    if family == "310P" and serve.dtype == "auto":
        yield "310P computes in float16, so `--dtype float16` is set (tutorials, 310p.md)"
    given = flag_value(serve.engine_args, "kv-cache-dtype")
    cache = "auto" if given is None else str(given)
    known = ascend_flags.choices("kv-cache-dtype", release)
    if cache not in known:
        yield phrase(
            "`kv-cache-dtype: {dtype}`: the parser of vLLM {vllm} takes {values} alone; the start "
            "fails unless the plug-in adds it",
            dtype=cache,
            vllm=release.vllm,
            values=joined(known, ", "),
        )
    if cache.startswith("fp8") and family != "950":
        yield phrase(
            "`kv-cache-dtype: {dtype}`: only 950 computes in FP8; on 910B2 a start was reported "
            "to crash (#8102)",
            dtype=cache,
        )
    draft = str(flag_settings(serve.engine_args, "speculative-config").get("model") or "")
    if draft and draft.strip("[]") not in _WITHOUT_DRAFT_MODEL:
        yield phrase(
            "weights and cache of the draft model, {model}, are not counted: less is left for the "
            "cache than is said here",
            model=draft,
        )
    for _, path in _adapters(serve.engine_args):
        if not path.startswith("/"):
            yield phrase(
                "`{path}` (serve.engine_args, lora-modules) does not begin at the root: nothing is "
                "mounted, and vLLM takes it for the name of a published adapter",
                path=path,
            )


def _check_dtype(serve: Serve, family: str) -> None:
    """Raise Refused for numbers that 310P does not compute with."""
    cache = flag_value(serve.engine_args, "kv-cache-dtype")
    for key, value in (("dtype", serve.dtype), ("engine_args, kv-cache-dtype", cache)):
        if family == "310P" and value in ("bfloat16", "float32"):
            raise Refused(
                phrase("310P computes in float16 alone, not in {dtype}", dtype=value),
                where=f"serve.{key}",
                evidence=(_FLOAT16_ONLY,),
                hint="remove it: a model in bfloat16 is loaded as float16 then",
            )


def _check_cache_size(serve: Serve, release: Release) -> None:
    if serve.kv_cache is None or order(release.version) >= order(KV_CACHE_BYTES_SINCE):
        return
    raise Refused(
        "`serve.kv_cache` has no effect in this release: its worker sizes the cache itself",
        where=f"vLLM-Ascend {release.version}",
        evidence=(
            phrase(
                "vllm_ascend/worker reads kv_cache_memory_bytes since {release}",
                release=KV_CACHE_BYTES_SINCE,
            ),
        ),
        hint="set `serve.memory`, a fraction of the NPU's memory, instead",
    )


def _check_json(engine_args: Mapping[str, object], release: Release) -> None:
    """Raise Refused for what vLLM cannot read as JSON, and for keys that another flag has."""
    for name, value in engine_args.items():
        flag = flag_name(name)
        is_level = flag == "compilation-config" and str(value) in _LEVELS
        is_pairs = flag == "limit-mm-per-prompt" and "=" in str(value)  # `image=2` of old vLLMs
        if flag not in (*KEYS_OF_FLAGS, *_OPEN) or is_pairs:
            continue
        if is_level and release.vllm in _TAKE_A_LEVEL:
            continue
        try:
            read = parse_json(value) if isinstance(value, str) else value
        except ValueError:
            read = None
        if not isinstance(read, Mapping):
            raise Refused(
                phrase("`{flag}` is not a mapping, nor JSON of one", flag=name),
                where="serve.engine_args",
                hint=phrase("write `{flag}: {{…: …}}`", flag=name),
            )
        strays = (key for key in read if flag not in _OPEN and key not in KEYS_OF_FLAGS[flag])
        for key in map(str, strays):
            if hint := ascend_flags.place(key, release):
                what = phrase("`{key}` is not a key of `{flag}`", key=key, flag=flag)
                raise Refused(what, where="serve.engine_args", hint=hint)


def _check_role(engine_args: Mapping[str, object]) -> None:
    """Raise Refused for a role in a disaggregated service that vLLM does not have."""
    settings = flag_settings(engine_args, "kv-transfer-config")
    role = settings.get("kv_role")
    if role in _ROLES or (role is None and settings.get("kv_connector") is None):
        return
    raise Refused(
        phrase("`kv_role` must be one of {roles}", roles=joined(_ROLES, ", ")),
        where="serve.engine_args, kv-transfer-config",
        evidence=(shown(role), _ROLES_READ),
        hint="the side that reads prompts is `kv_producer`, the side that answers `kv_consumer`",
    )


def _check_numbers(serve: Serve) -> None:
    """Raise Refused for what must be a number, and is none that can be meant."""
    for name, source in _NUMBERS.items():
        if name in serve.env and variable_number(serve.env, name) is None:
            raise Refused(
                phrase("`{name}` must be a whole number above 0", name=name),
                where="serve.env",
                evidence=(f"{name}={serve.env[name][:120]}", source),
                hint=phrase("write `{name}: '200'`, or remove it", name=name),
            )
    settings = flag_settings(serve.engine_args, "speculative-config")
    drafted = settings.get("num_speculative_tokens", 1)
    if drafted is not None and not 0 < (positive(drafted) or 0) < _MOST_DRAFTED:
        raise Refused(
            phrase(
                "`num_speculative_tokens` must be a whole number above 0, and less than a context"
            ),
            where="serve.engine_args, speculative-config",
            evidence=(shown(drafted),),
            hint="it is how many tokens each step guesses, mostly 1 to 5",
        )


def _check_buffers(serve: Serve, family: str) -> None:
    """Raise Refused for buffers of HCCL that no chip of the family has the memory for."""
    size = variable_number(serve.env, "HCCL_BUFFSIZE") or 0
    most = max((chip.hbm_bytes for chip in CHIPS if chip.family == family), default=0)
    if most and 2 * size * 2**20 >= most:
        raise Refused(
            phrase(
                "`HCCL_BUFFSIZE` of {size:,} MiB is more than an NPU has the memory for", size=size
            ),
            where="serve.env",
            evidence=(
                phrase(
                    "each communicator has two such buffers, and NPUs have {gib:,.0f} GiB at most",
                    gib=most / 2**30,
                ),
                _NUMBERS["HCCL_BUFFSIZE"],
            ),
            hint=phrase("write `{name}: '200'`, or remove it", name="HCCL_BUFFSIZE"),
        )


def _check_rope(engine_args: Mapping[str, object]) -> None:
    """Raise Refused for a factor by which no context can be multiplied."""
    if rope := next(filter(bad_factor, ropes(config_overrides(engine_args))), None):
        raise Refused(
            phrase("`factor` must be a number above 0, not {value}", value=shown(rope["factor"])),
            where="serve.engine_args, hf-overrides",
            evidence=(_FACTOR_READ,),
            hint="write one like `factor: 4.0`, without quotes",
        )


def _check_draft(engine_args: Mapping[str, object]) -> None:
    """Raise Refused for a method of drafting that needs a model of its own, and has none."""
    settings = flag_settings(engine_args, "speculative-config")
    method = str(settings.get("method") or "draft_model")
    alone = drafts_with_mtp(engine_args) or method.strip("[]") in _WITHOUT_DRAFT_MODEL
    if not settings or settings.get("model") or alone:
        return
    raise Refused(
        phrase("`speculative-config` has no `model`, and `{method}` needs one", method=method),
        where="serve.engine_args",
        evidence=(_NO_DRAFT_MODEL,),
        hint="name it: `{model: /data/…}`, or take a method without one: `mtp`, `ngram`",
    )


def _check_paths(serve: Serve) -> None:
    """Raise Refused for a path that means another file in a container, and so is not mounted."""
    for path, where in relative_paths(serve.engine_args, serve.env):
        raise Refused(
            phrase(
                "`{path}` is not an absolute path, and containers have other working directories",
                path=path,
            ),
            where=where,
            hint=phrase("write it from the root: `/data/…`"),
        )


def _check_adapters(engine_args: Mapping[str, object]) -> None:
    """Raise Refused for adapters in a form that the engine does not read, or with LoRA off."""
    adapters = tuple(_adapters(engine_args))
    if not adapters:
        return
    where = "serve.engine_args, lora-modules"
    if unread := [text for text, path in adapters if not path]:
        raise Refused(
            phrase("`{text}` does not name an adapter", text=unread[0]),
            where=where,
            evidence=(_ADAPTER_FORMS,),
            hint="write `lora-modules: [sql=/data/lora/sql]`",
        )
    if not ascend_flags.is_given(engine_args, "enable-lora"):
        raise Refused(
            "`lora-modules` names adapters, and LoRA is off: the start fails",
            where=where,
            evidence=(_LORA_IS_OFF,),
            hint="add `enable-lora: true`, or remove the adapters",
        )


def _adapters(engine_args: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each adapter as written, with its path; "" where vLLM reads none in it."""
    given = flag_value(engine_args, "lora-modules")
    for item in given if isinstance(given, list | tuple) else (given,) if given else ():
        text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
        path = item.partition("=")[2] if isinstance(item, str) and "," not in item else ""
        if not path:  # vLLM takes it for JSON then
            try:
                read = parse_json(text)
            except ValueError:
                read = None
            path = str(read.get("path") or "") if isinstance(read, Mapping) else ""
        yield text, path
