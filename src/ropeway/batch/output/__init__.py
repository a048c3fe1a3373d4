"""The files that the user asked for, made from the journal, and put where they belong."""
