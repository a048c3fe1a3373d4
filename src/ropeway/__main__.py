"""`python -m ropeway`: the command, where it is not on the PATH."""

from ropeway.cli.main import run

run()
