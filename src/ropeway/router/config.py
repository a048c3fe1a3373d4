"""The configuration: one JSON file, and a key that is in neither the file nor any argv."""

import ipaddress
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class ConfigError(ValueError):
    """The configuration is wrong; nothing was started. The text says where and why."""


@dataclass(frozen=True)
class Backend:
    """A replica's server. `url` is scheme, host and port, without `/v1` and without a slash."""

    name: str
    url: str


@dataclass(frozen=True)
class Limits:
    """Timeouts, sizes and counts. Times in seconds.

    connect_s        for a connection to a replica on the cluster's own network
    first_byte_s     for the first token of a stream, queueing and prefill included
    stall_s          between two tokens of a stream
    whole_s          for an answer that is not streamed
    drain_s          for the answers that are running at SIGTERM
    head_s           for the first request on a new connection, until its head has come
    body_s           for the rest of a request
    idle_s           for the next request on a connection
    connections      of clients at the same time, if there are files for so many
    body_bytes       size of a request
    answer_bytes     size of an answer that is not streamed
    event_bytes      size of one event of a stream
    deaths           replicas that may fail while they hold one request: it may be the cause
    failures         failures in a row that open a replica's breaker
    backoff_s        after the first failed probe; doubles to backoff_max_s
    probe_period_s   a replica that generated nothing for this long is asked for one token
    probe_timeout_s  for that token
    affinity_ratio, affinity_slack_tokens
                     a warm prefix cache is followed while its replica has at most `ratio` times and
                     `slack` more outstanding tokens than the least loaded
    """

    connect_s: float = 3.0
    first_byte_s: float = 120.0
    stall_s: float = 60.0
    whole_s: float = 1800.0
    drain_s: float = 30.0
    head_s: float = 20.0
    body_s: float = 120.0
    idle_s: float = 75.0
    connections: int = 16384
    body_bytes: int = 64 * 2**20
    answer_bytes: int = 256 * 2**20
    event_bytes: int = 16 * 2**20
    deaths: int = 2
    failures: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0
    probe_period_s: float = 10.0
    probe_timeout_s: float = 30.0
    affinity_ratio: float = 1.5
    affinity_slack_tokens: int = 4096


@dataclass(frozen=True)
class Config:
    """A router, complete. Clients must send `key`, and it is sent on to replicas; None: no key."""

    host: str
    port: int
    model: str
    backends: tuple[Backend, ...]
    limits: Limits = field(default_factory=Limits)
    key: str | None = field(default=None, repr=False)


def load(path: Path, environment: Mapping[str, str]) -> Config:
    """Read the configuration from a file.

    ```json
    {"listen": {"host": "10.0.0.1", "port": 8000}, "model": "qwen3", "key_env": "ROPEWAY_API_KEY",
     "backends": [{"name": "replica-0", "url": "http://10.0.0.1:8001"}], "limits": {"drain_s": 10}}
    ```

    `key_env` names a variable, `key_file` a file that only its owner may read. Raises ConfigError.
    """
    try:
        return parse(json.loads(path.read_text(encoding="utf-8")), environment)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(raw: Any, environment: Mapping[str, str]) -> Config:
    """Check parsed JSON. Raises ConfigError."""
    known = {"listen", "model", "backends", "limits", "key_env", "key_file"}
    top = _mapping(raw, "the file", known)
    listen = _mapping(top.get("listen"), "listen", {"host", "port"})
    host, port = _text(listen.get("host"), "listen.host"), listen.get("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ConfigError(f"listen.port: not a port: {port!r}")
    config = Config(
        host=host,
        port=port,
        model=_text(top.get("model"), "model"),
        backends=_backends(top.get("backends")),
        limits=_limits(top.get("limits", {})),
        key=_key(top, environment),
    )
    if config.key is None and not is_loopback(host):
        raise ConfigError(
            f"listen.host: {host} can be reached from other machines, and there is no API key; "
            "give key_env or key_file, or listen on 127.0.0.1"
        )
    return config


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches the host; False for names but localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _backends(raw: Any) -> tuple[Backend, ...]:
    if not isinstance(raw, list) or not raw:
        raise ConfigError("backends: not a list with at least one replica")
    backends = []
    for number, each in enumerate(raw):
        where = f"backends[{number}]"
        row = _mapping(each, where, {"name", "url"})
        url = _text(row.get("url"), f"{where}.url").rstrip("/").removesuffix("/v1")
        if not _is_server(url):
            raise ConfigError(f"{where}.url: not http://HOST:PORT: {url!r}")
        backends.append(Backend(_text(row.get("name"), f"{where}.name"), url))
    for what, values in (("name", [b.name for b in backends]), ("url", [b.url for b in backends])):
        if len(set(values)) < len(values):
            raise ConfigError(f"backends: two have the same {what}")
    return tuple(backends)


def _is_server(url: str) -> bool:
    """Whether a URL is scheme, host and a port that exists, or none: 80 or 443 then."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    named = parts.scheme in ("http", "https") and bool(parts.hostname)
    return named and not parts.path and port != 0


def _limits(raw: Any) -> Limits:
    kinds = {each.name: type(each.default) for each in fields(Limits)}
    limits = _mapping(raw, "limits", set(kinds))
    for name, value in limits.items():
        whole = kinds[name] is int
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not 0 < value < float("inf"):
            kind = "whole number" if whole else "number"
            raise ConfigError(f"limits.{name}: not a {kind} above 0: {value!r}")
    return Limits(**limits)


def _key(top: Mapping[str, Any], environment: Mapping[str, str]) -> str | None:
    if "key_env" in top and "key_file" in top:
        raise ConfigError("key_env and key_file: give one")
    if "key_env" in top:
        name = _text(top["key_env"], "key_env")
        key = environment.get(name, "")
        where = f"the variable {name}"
    elif "key_file" in top:
        where = _text(top["key_file"], "key_file")
        key = _private_text(Path(where))
    else:
        return None
    # A key is the value of a header; servers refuse or change all but ASCII without blanks.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: not an API key: empty, with blanks, or beyond ASCII")
    return key


def _private_text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"{path}: others may read the key; chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _mapping(raw: Any, where: str, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: not an object")
    if unknown := sorted(set(raw) - known):
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known are {sorted(known)}")
    return raw


def _text(raw: Any, where: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise ConfigError(f"{where}: not a string")
    return raw
