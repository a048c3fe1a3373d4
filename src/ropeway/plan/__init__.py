"""From what was asked and what is there, what to run. Pure functions; nothing here acts."""
