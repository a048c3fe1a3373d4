"""A model's files from one host to all others, in about the time of one copy."""
