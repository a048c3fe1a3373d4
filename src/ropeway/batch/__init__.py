"""Batch jobs: a file of prompts in, a file of answers out, each row committed once.

`job` is what its user names. `input/` finds and reads its files, and looks at all of them before
anything is sent; `sending/` gives rows to replicas and judges what they answer; `journal/` keeps
what has come, in the order in which it came; `output/` makes of that the files that the user asked
for. `run` watches over the whole, of which `progress` tells. `shards/` does the same in parts.
"""
