"""Started by Ray in place of Python: asks the fork server (serve.py) to run a Ray worker.

It waits until the worker ends, and if it is ended itself, the worker ends too. When no fork server
answers it becomes that worker with Python, as Ray would start it. Standard library only: one of
these stays in memory for each worker.
"""

import json
import os
import socket
import sys


def main(path: str, arguments: list[str]) -> None:
    """Have the fork server at `path` run Python with these arguments, in our place."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(path)
        except OSError:
            os.execv(sys.executable, [sys.executable, *arguments])
        folder = os.getcwd()  # noqa: PTH109  pathlib would double our memory
        request = json.dumps(
            {"arguments": arguments, "environment": dict(os.environ), "folder": folder}
        ).encode()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(request))
        socket.send_fds(connection, [request], [0, 1, 2])
        connection.recv(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
