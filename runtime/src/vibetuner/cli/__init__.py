"""The commands that a person or a process manager runs."""
