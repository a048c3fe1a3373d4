"""What a virtual host is spared: its files."""

from ropeway.errors import HostError
from ropeway.phrases import phrase


class WithoutFiles:
    """A host on which nothing is put: `cat` among the questions answers what its files hold."""

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:  # noqa: ARG002
        """See Host.put."""
        raise HostError(phrase("nothing can be put on a virtual host"))

    def get(self, path: str) -> bytes:
        """See Host.get."""
        raise HostError(phrase("cannot read `{path}`: a virtual host has no files", path=path))
