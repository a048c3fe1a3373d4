"""Small checkpoints for the local cluster: fetched or derived, and reproducible byte for byte.

`fetch.ensure` puts one into a folder. The recipes (`smollm2`, `padded`, `moe`, `tiny`) need numpy
and run in a process of their own, `python -m ropeway.checkpoints`.
"""
