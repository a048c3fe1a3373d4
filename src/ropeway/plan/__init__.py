"""What to run, from a request and what is known of the hosts. Pure but for reading models."""
