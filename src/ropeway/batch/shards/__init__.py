"""A job in parts, each of which is done by itself, on any machine that sees the job's folder."""
