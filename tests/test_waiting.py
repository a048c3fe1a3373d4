"""What tests stand on: waiting, and ports."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ports import free_port
from waiting import wait_for


def test_what_does_not_come_is_an_error_that_names_it():
    with pytest.raises(AssertionError, match="the log line"):
        wait_for(lambda: False, seconds=0.05, what="the log line")
    with pytest.raises(AssertionError, match="lines: 3"):
        wait_for(lambda: False, seconds=0.05, what=lambda: "lines: 3")


def test_no_port_is_given_twice_not_even_to_another_process():
    ours = {free_port() for _ in range(50)}
    code = "from ports import free_port; print([free_port() for _ in range(50)])"
    other = subprocess.run(
        (sys.executable, "-c", code), cwd=Path(__file__).parent, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    theirs = set(map(int, other.stdout.strip("[]\n").split(",")))
    assert (len(ours), len(theirs), ours & theirs) == (50, 50, set())


def test_a_port_that_is_taken_is_passed_over():
    with socket.create_server(("127.0.0.1", free_port() + 1)) as taken:
        assert free_port() != taken.getsockname()[1]
