"""Rows to replicas: which goes where, how many at once, and what an answer means for its row."""
