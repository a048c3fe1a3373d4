"""Why it failed: the earliest root cause in the logs of all ranks, from a table of signatures."""
