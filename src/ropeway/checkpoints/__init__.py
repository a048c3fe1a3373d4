"""Small checkpoints for the local cluster: fetched, derived, and the same bytes every time.

`fetch.ensure` puts one under a folder. The recipes (`smollm2`, `padded`, `moe`, `tiny`) need numpy
and run in a process of their own, `python -m ropeway.checkpoints`.
"""
