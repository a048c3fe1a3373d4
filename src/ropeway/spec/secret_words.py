"""What secrets are called: in names of variables and flags, and before a value in a text."""

SECRET_WORDS = "api[_-]?key|token|secret|passw(?:or)?d|credential"
