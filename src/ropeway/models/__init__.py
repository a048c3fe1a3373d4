"""A model as numbers: what its layers are, what they weigh, what they keep of a token."""
