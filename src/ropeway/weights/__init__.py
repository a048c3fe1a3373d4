"""A model's files from one host to all others, at about the time of one copy."""
