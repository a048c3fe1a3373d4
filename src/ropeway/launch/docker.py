"""Commands of a container engine, as argv: `docker`, `podman` and `nerdctl` take nearly the same.

Nothing here runs anything, and nothing quotes: an argv goes through hosts/base.py. Where podman
differs was observed with 4.3.1 (tests/test_two_hosts_podman.py); nerdctl was never run.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from ropeway.errors import Refused
from ropeway.phrases import phrase

Runtime = Literal["docker", "podman", "nerdctl"]

# What root in a container may do by Docker's default, and an engine has no use for: it makes no
# devices, no raw sockets and no other users. The rest (CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL,
# SETGID, SETUID) lets it read models of any owner and write its caches. Recipes run with more, so
# this was not verified on NPU hardware; `runtime.privileged` takes it all back.
DROPPED = (
    "AUDIT_WRITE", "MKNOD", "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETPCAP", "SYS_CHROOT",
)  # fmt: skip
# msprechecker asks for at least 655,350 open files; the router needs two for each request. Without
# this, some container engines give 1,024.
_FILES = "nofile=655350:655350"
# RDMA pins memory.
_PINNED = "memlock=-1:-1"
# What podman does by itself and Docker does not: at most 2048 threads in a container, which an
# engine passes; logs in the journal, which drops lines that come fast; our session's proxy as the
# container's, also for its own loopback; SELinux on every mount (this one was not verified).
_AS_DOCKER = (
    "--pids-limit=-1", "--log-driver=k8s-file", "--http-proxy=false",
    "--security-opt", "label=disable",
)  # fmt: skip

# containerd's limit for key and value (labels.Validate), which nerdctl stores labels with; Docker
# and podman have none, but Linux lets no argument be longer than 128 KiB (MAX_ARG_STRLEN).
_LONGEST_LABEL = {"nerdctl": 4096}
_LONGEST_ARGUMENT = 131_000


@dataclass(frozen=True)
class Mount:
    """A path of the host that the container sees. It must exist: no empty one is made."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """One container on one host, complete. Prints as JSON; holds no secret.

    host      the name of the host
    node_rank the host's number within its replica, as vLLM calls it; 0 is the head
    argv      what runs in it
    devices   paths of device files
    shm       bytes of /dev/shm; None leaves the engine's default
    secrets   its variable → ours, whose value it gets; None for a token that nobody needs to know,
              and that each start generates. `argv` reads them from NAME.secrets, beside the scripts
    """

    host: str
    name: str
    role: str
    replica: int
    node_rank: int
    image: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    shm: int | None = None
    secrets: Mapping[str, str | None] = field(default_factory=dict)
    privileged: bool = False


def check_labels(runtime: Runtime, labels: Mapping[str, str]) -> None:
    """Raise Refused for a label that is too long to be given to a container."""
    most = _LONGEST_LABEL.get(runtime, _LONGEST_ARGUMENT)
    for name, value in labels.items():
        if (length := len(f"{name}={value}".encode())) > most:
            raise Refused(
                phrase(
                    "the label `{name}` would have {length:,} bytes, and {runtime} takes {most:,}",
                    name=name, length=length, runtime=runtime, most=most,
                ),
                hint=phrase("it holds the spec: shorten that, or split the service"),
            )  # fmt: skip


def restarts_later(runtime: Runtime) -> bool:
    """Return whether the engine can be told to restart a container that already runs.

    podman 4 cannot (its `update` has no `--restart`): there `run_argv` says it, before anybody
    knows that the service works.
    """
    return runtime != "podman"


def reboot_notes(runtime: Runtime) -> tuple[str, ...]:
    """Return what a user must know who wants a service to come back after a reboot."""
    if runtime != "podman":
        return ()
    return (
        phrase(
            "podman has no daemon: after a reboot containers come back where its own service is on,"
            " so on every host, once: `systemctl enable podman-restart.service`"
        ),
    )


def run_argv(
    runtime: Runtime,
    container: Container,
    labels: Mapping[str, str],
    *,
    restart: bool = False,
    log_mb: int | None = None,
) -> tuple[str, ...]:
    """Start a container and leave it running.

    restart  restart it whenever it ends, from the start on; only where `restart_later_argv`
             cannot say so once it runs (`restarts_later`)
    log_mb   of its log, keep about the last so many megabytes

    It has the host's own network, because Ray, HCCL and gloo open ports that nobody can list in
    advance.
    """
    argv = [runtime, "run", "--detach", "--name", container.name, "--net=host"]
    if runtime == "podman":
        argv += _AS_DOCKER
    elif log_mb is not None:  # the daemon's own driver may be one that takes no size
        argv += ["--log-driver=json-file", "--log-opt=max-file=2"]
    if log_mb is not None:
        argv.append(f"--log-opt=max-size={log_mb}m")
    if restart and not restarts_later(runtime):
        # Not `unless-stopped`, which podman-restart.service passes over.
        argv += ["--restart", "always"]
    if container.privileged:
        argv.append("--privileged")
    else:
        argv += ["--security-opt", "no-new-privileges"]
        argv += [f"--cap-drop={name}" for name in DROPPED]
    for path in container.devices:
        argv += ["--device", path]
    if container.shm:
        argv += ["--shm-size", str(container.shm)]
    for limit in (_PINNED, _FILES) if container.devices else (_FILES,):
        argv += ["--ulimit", limit]
    for mount in container.mounts:
        argv += ["--mount", mount_option(mount)]
    for name, value in container.env.items():
        argv += ["--env", f"{name}={value}"]
    for name, value in labels.items():
        argv += ["--label", f"{name}={value}"]
    program, *words = container.argv  # an image may have an entrypoint of its own
    return (*argv, "--entrypoint", program, container.image, *words)


def mount_option(mount: Mount) -> str:
    """Return the value of `--mount`, which all three engines read as a line of CSV.

    Not `-v`: that cannot have a colon in a path, and makes an empty folder where none exists.
    """
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if mount.read_only:
        fields.append("readonly")
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(fields)
    return line.getvalue()


def restart_later_argv(runtime: Runtime, names: Sequence[str]) -> tuple[str, ...]:
    """Have containers that run restarted from now on; see `restarts_later`."""
    return (runtime, "update", "--restart", "unless-stopped", *names)


def restart_argv(runtime: Runtime, names: Sequence[str], seconds: int) -> tuple[str, ...]:
    """Restart containers; each has `seconds` to end by itself."""
    return (runtime, "restart", "--time", str(seconds), *names)


def remove_argv(runtime: Runtime, names: Sequence[str]) -> tuple[str, ...]:
    """End containers at once and remove them."""
    at_once = ("--time", "0") if runtime == "podman" else ()  # it waits 10 s for each otherwise
    return (runtime, "rm", "--force", *at_once, *names)


def logs_argv(
    runtime: Runtime, name: str, *, lines: int | None = None, since: str = "", follow: bool = False
) -> tuple[str, ...]:
    """Print what a container wrote, each line with its time (RFC 3339, see `in_utc`) before it."""
    tail = ("--tail", str(lines)) if lines is not None else ()
    begin = (*tail, *(("--since", since) if since else ()))
    return (runtime, "logs", "--timestamps", *begin, *(("--follow",) if follow else ()), name)


def in_utc(stamp: str) -> str:
    """Return a container engine's time as Docker writes it, `2026-11-28T07:20:40.123456789Z`.

    So times of several hosts can be sorted as text. podman prints the host's own time zone, and
    drops zeros at the end. Anything that is not a time is returned as it is.
    """
    if not (match := _STAMP.fullmatch(stamp)):
        return stamp
    whole, fraction, zone = match.groups()
    if zone != "Z":
        try:
            moment = datetime.fromisoformat(f"{whole}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            return stamp
        whole = f"{moment:%Y-%m-%dT%H:%M:%S}"
    return f"{whole}.{fraction or '':0<9}Z"


_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


def exec_argv(runtime: Runtime, name: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Run a command in a container that runs."""
    return (runtime, "exec", name, *argv)


def image_argv(runtime: Runtime, image: str) -> tuple[str, ...]:
    """Print the id of an image; fails when the host does not have it."""
    return (runtime, "image", "inspect", "--format", "{{.Id}}", image)


def image_versions_argv(runtime: Runtime, image: str, name: str) -> tuple[str, ...]:
    """Print, as JSON, the versions of the packages that matter, as the image itself has them.

    It runs in a container of this name, without an NPU.
    """
    run = (runtime, "run", "--rm", "--name", name, "--network=none")
    return (*run, "--entrypoint", "python3", image, "-c", _VERSIONS)


_VERSIONS = """\
import importlib.metadata as metadata, json
versions = {}
for name in ("vllm_ascend", "vllm", "ray", "transformers", "torch_npu"):
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""
