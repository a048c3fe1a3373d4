"""Flags that are passed to the engine as they are, and those that have a key of our own."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise

from ropeway.outside import parse_json
from ropeway.phrases import phrase
from ropeway.spec.engine_flags import LAYOUT_KEY, flag_name, flag_number
from ropeway.spec.errors import GIVE_KEY, Fault
from ropeway.spec.secret_shapes import is_secret
from ropeway.spec.secret_text import without_secrets

# Engine flags that have a key of their own here, without dashes. vLLM's parser takes short forms
# and unambiguous beginnings too, so those are refused with them.
OWN_KEY = {
    "tensor-parallel-size": "serve.layout",
    "tp": "serve.layout",
    "pipeline-parallel-size": "serve.layout",
    "pp": "serve.layout",
    "data-parallel-size": "serve.layout",
    "dp": "serve.layout",
    "data-parallel-size-local": "serve.layout",
    "data-parallel-backend": "serve.layout",
    "data-parallel-address": "serve.layout",
    "distributed-executor-backend": "serve.layout",
    "enable-expert-parallel": "serve.layout",
    "ep": "serve.layout",
    "max-model-len": "serve.context",
    "max-num-seqs": "serve.max_sequences",
    "dtype": "serve.dtype",
    "kv-cache-memory-bytes": "serve.kv_cache",
    "gpu-memory-utilization": "serve.memory",
    "device-memory-utilization": "serve.memory",
    "host": "serve.address",
    "port": "serve.port",
    "api-key": "serve.api_key_env",
    "model": "model",
    "served-model-name": "model.served_name",
}

# What a layout calls those of its flags that people set.
_LAYOUT = {
    "tensor-parallel-size": "TP",
    "pipeline-parallel-size": "PP",
    "data-parallel-size": "DP",
    "enable-expert-parallel": "EP",
}
_FLAG_IN_TEXT = re.compile(
    r"(?:`--(?P<quoted>[a-z-]+)`|`[^`]*`|(?<![A-Za-z0-9_-])--(?P<flag>[a-z]+(?:-[a-z]+)*))"
    r"(?P<number> \d+)?"
)

# The variable in which a program of the engine reads a secret itself, by the name of flag or key.
_READ_AS = {
    "hf_token": "HF_TOKEN",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
}

VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SHORTEST = 6
_FLAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")


def engine_argument_flags(engine_args: Mapping[str, object]) -> list[str]:
    """Return `serve.engine_args` as the engine's argv, in the order written.

    `{"block-size": 64}` → `--block-size 64`; true and null → the bare flag; false →
    `--no-flag`; a list → its values after one flag; a mapping → one JSON text. Names and texts are
    left as they are, so `block_size` stays so (vLLM reads both). A text that begins with `-` would
    be taken for a flag, so it is joined: `--flag=-x`. Those of the layout are left to it.
    """
    flags: list[str] = []
    for name, value in engine_args.items():
        if flag_name(name) in LAYOUT_KEY:
            continue
        if value is None or value is True:
            flags.append(f"--{name}")
        elif value is False:
            flags.append(f"--no-{name}")
        elif isinstance(value, list | tuple):
            flags += [f"--{name}", *(_argument(item) for item in value)]
        elif (text := _argument(value)).startswith("-"):
            flags.append(f"--{name}={text}")
        else:
            flags += [f"--{name}", text]
    return flags


def in_keys(text: str) -> str:
    """Return advice about the engine's flags in the words of a spec.

    `--max-model-len` → `serve.context`; a command between backticks stays. Advice that names none
    of the engine's flags that have a key is about another program, and stays too.
    """

    def key(match: re.Match[str]) -> str:
        flag, number = match["quoted"] or match["flag"] or "", match["number"] or ""
        if flag in _LAYOUT:
            return f"`serve.layout` {_LAYOUT[flag]}{number.strip()}"
        ours = OWN_KEY.get(flag, f"serve.engine_args.{flag}")
        return match[0] if not flag or ours == "serve.layout" else f"`{ours}`{number}"

    flags = (match["quoted"] or match["flag"] for match in _FLAG_IN_TEXT.finditer(text))
    return _FLAG_IN_TEXT.sub(key, text) if any(flag in OWN_KEY for flag in flags) else text


def flag_faults(engine_args: Mapping[str, object]) -> list[Fault]:
    """Return what is wrong with the names in `serve.engine_args`; paths begin at `serve`."""
    faults = []
    spellings: dict[str, str] = {}
    for name in engine_args:
        plain = name.lstrip("-").replace("_", "-")
        at = ("engine_args", name)
        ours = _own_key(plain.removeprefix("no-"))
        if ours == "serve.api_key_env":
            faults.append(Fault(at, "is a secret, and would be visible to others", GIVE_KEY))
        elif ours:
            faults.append(
                Fault(
                    at,
                    phrase("has a key of its own, `{ours}`", ours=ours),
                    phrase("set `{ours}` and remove this line", ours=ours),
                )
            )
        elif name.startswith("-"):
            faults.append(
                Fault(
                    at,
                    "must be written without leading dashes",
                    phrase("write `{plain}`", plain=plain),
                )
            )
        elif _FLAG_NAME.fullmatch(name) is None:
            faults.append(Fault(at, "is not the name of a flag"))
        elif plain in LAYOUT_KEY and flag_number({plain: engine_args[name]}, plain) is None:
            faults.append(Fault(at, "must be a whole number of at least 1"))
        elif spellings.setdefault(LAYOUT_KEY.get(plain, plain), name) != name:
            faults.append(
                Fault(
                    at,
                    phrase(
                        "is the same flag as `{name}`",
                        name=spellings[LAYOUT_KEY.get(plain, plain)],
                    ),
                    "keep one of the two",
                )
            )
        elif secret := _secret_in(plain, engine_args[name]):
            key = secret[0].rpartition(".")[2].strip("-").replace("-", "_").lower()
            faults.append(_secret_fault(at, plain, secret, _READ_AS.get(key, "")))
    return faults


def variable_faults(env: Mapping[str, str]) -> list[Fault]:
    """Return what is wrong with `serve.env`; paths begin at `serve`."""
    faults = []
    for name, value in env.items():
        if re.fullmatch(VARIABLE, name) is None:
            faults.append(Fault(("env", name), "is not the name of an environment variable"))
        elif secret := _secret_in(name, value):
            faults.append(_secret_fault(("env", name), name, secret, name))
    return faults


def check_variable(name: str) -> str:
    """Accept the name of a variable that holds a secret. What is none may be the secret itself, so
    it is not shown."""
    if re.fullmatch(VARIABLE, name) is None or without_secrets(name) != name:
        raise ValueError(
            phrase(
                "the name of a variable belongs here, and the secret into the shell:"
                " `export NAME=…`"
            )
        )
    return name


def _secret_in(name: str, value: object, shortest: int = 1) -> tuple[str, bool] | None:
    """Return the name of a secret that this is or has in it, be it in JSON or in a command, and
    whether the name says so; None without one.

    Special tokens and their numbers, as in `image_token: <|image|>`, are none; within mappings
    neither are words of less than six characters, as in `classifier_from_token: [no, yes]`.
    """
    if isinstance(value, Mapping):
        entry = {str(key).lower(): item for key, item in value.items()}
        # `{name: X-Api-Key, value: …}` is an entry in two keys.
        names = (entry[key] for key in ("name", "key") if isinstance(entry.get(key), str))
        pairs = [*((name, entry.get("value")) for name in names), *value.items()]
        inner = (_secret_in(str(key), item, _SHORTEST) for key, item in pairs)
        return next(filter(None, inner), None)
    if isinstance(value, list | tuple):
        named = ((name, item) for item in value)
        flags = pairwise(value)  # ["--hf-token", "hf_…"]
        texts = (pair for pair in (*named, *flags) if isinstance(pair[0], str))
        found = (_secret_in(key, item, shortest) for key, item in texts)
        return next(filter(None, found), None)
    if isinstance(value, int) and not isinstance(value, bool):
        value, shortest = str(value), _SHORTEST
    if not isinstance(value, str) or len(value) < shortest:
        return None
    if value.lstrip().startswith(("{", "[")):
        with suppress(ValueError):  # JSON as text is read as the mapping that it is
            return _secret_in(name, parse_json(value), shortest)
    if is_secret(name, value):
        return name, True
    return None if without_secrets(value) == value else (name, False)


def _secret_fault(
    at: tuple[str, str], outer: str, secret: tuple[str, bool], variable: str
) -> Fault:
    """Refuse a secret where its value would appear in commands, labels and reports.

    `outer` names what it stands in; `variable` is one that the engine reads, "" for none known.
    """
    key, by_name = secret
    if key == outer:
        reason = phrase("its name says") if by_name else phrase("its value looks like one")
    elif by_name:
        reason = phrase("the name of `{key}` in it says", key=key)
    else:
        reason = phrase("the value of `{key}` in it looks like one", key=key)
    hint = phrase(
        "set it in the shell that runs `ropeway`, as `export {name}=…`, and write "
        "`secret_env: [{name}]`",
        name=variable,
    )
    if not variable:
        hint = phrase(
            "give it in a file that the engine reads, or in a variable that it reads, which "
            "`secret_env: [NAME]` passes on"
        )
    text = phrase("holds a secret ({reason}), and would be visible to others", reason=reason)
    return Fault(at, text, hint)


def _own_key(flag: str) -> str | None:
    """Return our key for an engine flag, whole or abbreviated as the engine's parser allows."""
    if flag in OWN_KEY:
        return OWN_KEY[flag]
    completions = (key for full, key in OWN_KEY.items() if full.startswith(flag))
    return next(completions, None) if len(flag) > 3 else None


def _argument(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
