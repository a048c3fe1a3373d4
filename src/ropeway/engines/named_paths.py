"""Files of hosts that `serve.engine_args` and `serve.env` name: adapters, templates, keys.

A container sees only what is mounted. Rather than a list of flags, whatever is written as an
absolute path counts, wherever it stands in a value (`name=/path`, a list, JSON); set aside is what
the image brings, what the engine writes, and what only looks like a path. Pure.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ropeway.outside import parse_json
from ropeway.spec.engine_flags import flag_name

# Folders that an image has itself: the host's must not hide them.
_OF_IMAGE = (
    "/app", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin",
    "/sys", "/tmp", "/usr", "/var", "/vllm-workspace", "/workspace",
)  # fmt: skip
# Names of flags, keys and variables whose path the engine makes or writes to.
_WRITTEN = re.compile(
    r"cache|download|dump|log_path|log_dir|output|profil|record|save|trace|uds|rpc_base|tmp",
)
# Names of variables that hold a path which is read, or several (`PYTHONPATH`, `LD_PRELOAD`).
_OF_FILES = re.compile(r"(PATH|FILE|FOLDER|DIR|CONFIG|TABLE|TEMPLATE|PLUGIN|BUNDLE|PRELOAD)$")
# Flags whose values begin with `/` and are no files: parts of URLs.
_OF_URLS = {"root_path", "disable_access_log_for_endpoints", "middleware"}
# Flags of the head's server whose files every rank reads (vLLM's lora/worker_manager.py).
_OF_RANKS = {"lora-modules"}
# Texts that a model is given or that end its answer, which may begin with `/` too.
_OF_TEXTS = re.compile(r"kwargs|prompt|stop|suffix|prefix|words|generation_config|hf_overrides")
_PATH = re.compile(r"/[^\x00\n]*[^\x00\n/]/?")
_RELATIVE = re.compile(r"(?:\.\.?|~[\w-]*)/\S")


@dataclass(frozen=True)
class NamedPath:
    """A path on the hosts, and where the spec names it: `serve.engine_args, lora-modules`.

    on_head  only the head needs it
    """

    path: str
    where: str
    on_head: bool = False

    @property
    def in_image(self) -> bool:
        """Whether it is in a folder that the image has itself, and so is looked for there."""
        return covered(self.path, _OF_IMAGE)


def named_paths(
    engine_args: Mapping[str, object],
    env: Mapping[str, str],
    of_server: Callable[[str], bool] = lambda _: False,
) -> tuple[NamedPath, ...]:
    """Return each path once, in the order written; the first place that names it counts.

    `of_server` says of a flag whether only the head gets it.
    """
    found: dict[str, NamedPath] = {}
    for flag, value in engine_args.items():
        for path in _in_value(flag, value):
            on_head = of_server(flag) and flag_name(flag) not in _OF_RANKS
            named = NamedPath(path, f"serve.engine_args, {flag}", on_head)
            before = found.setdefault(path, named)
            if before.on_head and not named.on_head:
                found[path] = named
    for name, text in env.items():
        for one in _listed(name, text) if _OF_FILES.search(name) else ():
            for path in _in_value(name, one):
                found[path] = NamedPath(path, f"serve.env, {name}")
    return tuple(found.values())


def relative_paths(
    engine_args: Mapping[str, object], env: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield each path that does not begin at the root (`./a`, `~/a`), and where the spec has it."""
    for flag, value in engine_args.items():
        for text in _texts(flag, value):
            if _RELATIVE.match(text):
                yield text, f"serve.engine_args, {flag}"
    for name, text in env.items():
        for part in _listed(name, text) if _OF_FILES.search(name) else ():
            if _RELATIVE.match(part):
                yield part, f"serve.env, {name}"


def _listed(name: str, text: str) -> list[str]:
    """Return what a variable lists: its text, or each part of one with colons as `PATH` has.

    The loader also takes spaces in `LD_PRELOAD`. Of a list, what the image brings is left out.
    """
    if not text.startswith(("/", ":", ".", "$")):  # JSON, or a URL
        return [text]
    parts = re.split(r"[:\s]" if name.endswith("PRELOAD") else ":", text)
    return parts if len(parts) == 1 else [part for part in parts if not covered(part, _OF_IMAGE)]


def _in_value(name: str, value: object) -> Iterator[str]:
    return filter(None, map(_path_of, _texts(name, value)))


def _texts(name: str, value: object) -> Iterator[str]:
    """Yield the texts in a value, at any depth, that may be paths of files: without `name=`.

    The value's own name says whether it is written or no file.
    """
    plain = name.lower().replace("-", "_")
    if plain in _OF_URLS or _WRITTEN.search(plain) or _OF_TEXTS.search(plain):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(name, item)
    elif isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            data = parse_json(value)
        except ValueError:
            return
        yield from _texts(name, data)
    elif isinstance(value, str):
        yield re.sub(r"^[\w.-]+=(?=[/.~])", "", value.strip())


def _path_of(text: str) -> str | None:
    """Return the absolute path that a text is; None for any other."""
    is_path = _PATH.fullmatch(text) and not text.startswith("//") and ":" not in text
    return text.rstrip("/") if is_path else None


def covered(path: str, folders: Iterable[str]) -> bool:
    """Whether a path lies in one of the folders, or is one."""
    return any(f"{path}/".startswith(f"{one.rstrip('/')}/") for one in folders)
