"""Batch jobs: a file of prompts in, a file of answers out, each row committed once.

`source` reads files, `forms` makes rows of what is in them, `survey` looks at all of them before
anything is sent. `queue` decides which row goes where, `pace` how many at once, `send` asks and
judges the answer, `dispatch` what is tried again and when a `replica` has died; `run` watches over
the whole, of which `progress` tells. `journal` keeps what has come, in the order in which it came;
`manifest` says what it belongs to, and `assemble` makes the files that the user asked for.
"""
