"""One endpoint over several replicas.

Runs inside the engine's own image on the head host, where Ropeway is not installed: the standard
library and aiohttp only, and no import from the rest of Ropeway (`archive` makes one file of it).

Decisions are pure and take the time as an argument: `breaker` (is this replica alive?), `balance`
(which replica?), `request` (what does the client want?), `resume` (how can a broken answer go on?).
What acts is thin: `replicas` keeps count, `probe` asks for tokens, `exchange` carries one request,
`server` listens.
"""
