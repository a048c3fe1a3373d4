"""What a load test sends: a module for each kind of prompts, made one by one where it is sent."""
