"""Many sshds at once (tests/sshd.py), for benchmarks of what is done on many hosts."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from sshd import client_config, sshd


@contextlib.contextmanager
def many(
    folder: Path, count: int, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """So many sshds at once: an ssh_config in which they have names, and the names."""
    names = tuple(f"npu{number:03}" for number in range(count))
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(sshd(folder, settings)) for _ in names]
        config = folder / "ssh_config"
        config.write_text(
            "".join(
                f"Host {name}\n  HostName 127.0.0.1\n  Port {server.port}\n"
                f"  UserKnownHostsFile {server.folder / 'known_hosts'}\n"
                for name, server in zip(names, servers, strict=True)
            )
            + client_config(folder / "user_key", Path("/dev/null"))
        )
        yield config, names
