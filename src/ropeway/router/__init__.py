"""One endpoint over several replicas.

Runs inside the engine's own image on the head host, where Ropeway is not installed: the standard
library and aiohttp only, and no import from the rest of Ropeway (`archive` makes one file of it).

What is decided is pure and takes the time as an argument: `breaker` (is this replica alive?),
`balance` (which replica?), `ask` (what does a request want?), `resume` (how does a broken answer go
on?). What acts is thin: `replicas` counts, `probe` asks for tokens, `exchange` carries one request,
`server` listens.
"""
