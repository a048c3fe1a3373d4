"""What rows a job has: its files found, read, and looked at as a whole before anything is sent."""
