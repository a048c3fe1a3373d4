"""Find the earliest root cause in the logs of all ranks, with a table of signatures."""
